//! The start of a mount that keeps a journal: it sends what earlier mounts left, or takes it over into its own session.

use std::path::Path;
use std::sync::Arc;

use dssefs_fs::journal::{self, EntryId, Journal, RecoveredSession};
use dssefs_fs::write::{Engine, PendingChanges};
use dssefs_s3::kms::Kms;
use dssefs_s3::s3::Gateway;

use super::recover::{Outcome, send_all, usable};
use super::{StartError, sessions};

/// What a start has made of earlier sessions.
pub(super) struct TakenOver {
    /// The sessions that are not needed any more.
    pub(super) sessions: Vec<RecoveredSession>,
    /// Whether these were all sessions of the source, read as they were written. No other journal needs an upload then.
    pub(super) is_all: bool,
}

/// Sends what earlier mounts of `source` left. What cannot be sent now goes over into `journal`, sealed under new keys,
/// for the next start or for `dssefs recover`.
///
/// # Errors
/// A session cannot be opened, or has no room in `journal`. All that went over is still where it came from.
pub(super) async fn take_over(
    kms: &Kms,
    (engine, gateway): (&Arc<Engine>, &Gateway),
    source: &str,
    directory: &Path,
    journal: &Journal,
) -> Result<TakenOver, StartError> {
    // 1. Open the sessions.
    let mut recovered = Vec::new();
    let (sessions, mut unusable) = sessions::ended(source, directory).await?;
    unusable.retain(|error| !matches!(error, journal::Error::InUse(session) if session == journal.directory()));
    let is_every = unusable.iter().all(|error| matches!(error, journal::Error::OfAnother { .. }));
    for session in usable((sessions, unusable)) {
        let at = session.directory.clone();
        let left = sessions::open(kms, session).await.map_err(|error| unopened(&at, error))?;
        let count = left.entries().count();
        if count > 0 {
            tracing::info!(files = count, session = %at.display(), "sending what an earlier mount left");
        }
        recovered.push(left);
    }
    // 2. Note which uploads the entries need, so that this start aborts the others and the next one none of these.
    let is_all = note_needed_uploads(&recovered, gateway)? && is_every;
    // 3. Send the entries, or seal them again.
    for Outcome { session, entry, key, error, .. } in send_all(&recovered, |_| Ok(Arc::clone(engine))).await? {
        let Some(reason) = error else { continue };
        tracing::error!(%key, %reason, "what an earlier mount left could not be stored; it is kept for dssefs recover");
        carry_over(&recovered[session], entry, &reason, journal)?;
    }
    Ok(TakenOver { sessions: recovered, is_all })
}

/// False when parts of a session cannot be read, which may need other uploads.
fn note_needed_uploads(recovered: &[RecoveredSession], gateway: &Gateway) -> Result<bool, StartError> {
    let mut is_all = recovered.iter().all(|left| left.damage().is_empty());
    for (_, entry) in recovered.iter().flat_map(RecoveredSession::entries) {
        match PendingChanges::decode(entry.description.as_slice()) {
            Ok(PendingChanges { upload: Some(upload), .. }) => gateway.let_outlive(&upload.id).map_err(|error| {
                StartError::Argument(format!("the list of uploads in the spill directory cannot be written: {error}"))
            })?,
            Ok(_) => {}
            Err(_) => is_all = false,
        }
    }
    Ok(is_all)
}

/// Seals an entry again, under the keys of `journal`. A description that this version cannot read is carried over as it
/// is.
fn carry_over(left: &RecoveredSession, entry: EntryId, reason: &str, journal: &Journal) -> Result<(), StartError> {
    let Some((_, entry)) = left.entries().find(|(id, _)| *id == entry) else { return Ok(()) };
    let told = |kept| PendingChanges { reason: Some(reason.to_owned()), ..kept }.encode();
    let description = entry.description.as_slice();
    let description = PendingChanges::decode(description).map_or_else(|_| description.to_vec(), told);
    let mut draft = journal.draft(&description, None)?;
    for piece in left.content(entry) {
        let (offset, bytes) = piece?;
        draft.add(offset, bytes.as_slice())?;
    }
    draft.finish()?;
    Ok(())
}

/// A mount without that session would lack files that a program has closed, and make new ones under their names.
fn unopened(session: &Path, error: StartError) -> StartError {
    error.reworded(|error| {
        format!(
            "what an earlier mount left in {} cannot be opened: {error}. To mount without those files, \
             move that directory away; dssefs recover opens it there once its keys can be used again",
            session.display()
        )
    })
}
