//! The daemon gives up what it does not need, before it has threads and before it hears from the network.
//!
//! An attacker who takes the daemon over by a bad answer has the content that passes through it. They get nothing else
//! of this host:
//!
//! * The daemon drops its capabilities, all of them if it can read and write its own files without ([`privileges`]).
//! * Landlock allows it only the directories that [`grants`] names.
//! * seccomp refuses the system calls that a file system never makes ([`calls`]).
//!
//! A confined thread confines those that it starts later, and no other. So this happens before the runtime starts.
//! Mounting and unmounting cannot be done from inside. The mount helper (`fuse`), which stays outside, does them.
//!
//! A mount goes on when the kernel lacks a layer, unless `--sandbox require` says otherwise. The log names what is
//! lacking.

mod calls;
mod denied;
mod grants;
mod landlocked;
mod privileges;
mod profile;

use crate::config::{Config, Sandbox};
use dssefs_seal::secret::KeysUnlocked;

use super::StartError;

use grants::Grants;

/// Confines this thread and all that it will start, for the rest of their lives. Returns what holds now, in a few
/// words.
///
/// # Errors
/// A layer is lacking, or keys lie in memory that cannot be locked, and `--sandbox require` insists on both.
pub(super) fn confine(config: &Config, keys: Result<(), KeysUnlocked>) -> Result<String, StartError> {
    if config.sandbox == Sandbox::Off {
        return Ok("sandbox=off".to_owned());
    }
    if let (Err(error), Sandbox::Require) = (keys, config.sandbox) {
        return Err(StartError::Fuse(format!("{error}, or mount without --sandbox require")));
    }
    let grants = Grants::of(config);
    if grants.runs_programs {
        tracing::info!(
            "the profile's credential_process runs inside the sandbox: \
             it may read everything, and write below HOME and the temporary directories only"
        );
    }
    let layers = [
        ("capabilities", privileges::drop_unneeded(&grants)),
        ("landlock", landlocked::restrict(&grants)),
        ("seccomp", calls::restrict(&grants)),
    ];
    let mut states = Vec::new();
    for (layer, outcome) in layers {
        match outcome {
            Ok(state) => states.push(format!("{layer}={state}")),
            Err(lack) if config.sandbox == Sandbox::Require => return Err(StartError::Fuse(required(layer, &lack))),
            Err(lack) => {
                tracing::warn!(
                    layer, %lack,
                    "a layer of the sandbox is missing; --sandbox require would refuse to mount"
                );
                states.push(format!("{layer}=none"));
            }
        }
    }
    Ok(states.join(" "))
}

/// Why a layer does not hold.
#[derive(Debug, thiserror::Error)]
enum Lack {
    #[error("this kernel does not have it, or has it turned off")]
    Unsupported,
    #[error("this kernel has only a part of it")]
    Partial,
    #[error("the kernel refuses it: {0}")]
    Refused(String),
}

fn required(layer: &str, lack: &Lack) -> String {
    format!(
        "the sandbox is not whole ({layer}: {lack}); \
         use a kernel that has it (Linux 6.2 or later with Landlock and seccomp), or mount without --sandbox require"
    )
}
