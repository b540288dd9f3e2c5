//! Answers that many tests script.

use dssefs_emulator::faults::Fault;

/// An error of the store or of KMS, by its status and its code.
pub(crate) fn failure(status: u16, code: &str) -> Fault {
    Fault::Failure { status, code: code.to_owned(), message: "scripted".to_owned() }
}

/// What no further try can change: it is told at once.
pub(crate) fn denied() -> Fault {
    failure(403, "AccessDenied")
}

/// What may pass: it is tried again.
pub(crate) fn unavailable() -> Fault {
    failure(503, "ServiceUnavailable")
}
