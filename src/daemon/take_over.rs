//! The start of a mount that keeps a journal: it sends what earlier mounts left, or takes it over into its own session.

use std::path::Path;
use std::sync::Arc;

use dssefs_fs::journal::{self, EntryId, Journal, Left};
use dssefs_fs::write::{Engine, Kept};
use dssefs_s3::kms::Kms;

use super::recover::{Outcome, send_all, usable};
use super::{StartError, sessions};

/// Sends what earlier mounts of `source` left. What cannot be sent now goes over into `journal`, sealed under new keys,
/// for the next start or for `dssefs recover`. The sessions that are returned are not needed any more.
///
/// # Errors
/// A session cannot be opened, or has no room in `journal`. All that went over is still where it came from.
pub(super) async fn take_over(
    kms: &Kms,
    engine: &Arc<Engine>,
    source: &str,
    directory: &Path,
    journal: &Journal,
) -> Result<Vec<Left>, StartError> {
    let mut recovered = Vec::new();
    let (sessions, mut unusable) = sessions::ended(source, directory).await?;
    unusable.retain(|error| !matches!(error, journal::Error::InUse(session) if session == journal.directory()));
    for session in usable((sessions, unusable)) {
        let at = session.directory.clone();
        let left = sessions::open(kms, session).await.map_err(|error| unopened(&at, error))?;
        let count = left.entries().count();
        if count > 0 {
            tracing::info!(files = count, session = %at.display(), "sending what an earlier mount left");
        }
        recovered.push(left);
    }
    for Outcome { session, entry, key, error, .. } in send_all(&recovered, |_| Ok(Arc::clone(engine))).await? {
        let Some(reason) = error else { continue };
        tracing::error!(%key, %reason, "what an earlier mount left could not be stored; it is kept for dssefs recover");
        carry_over(&recovered[session], entry, &reason, journal)?;
    }
    Ok(recovered)
}

/// Seals an entry again, under the keys of `journal`. A description that this version cannot read is carried over as it
/// is.
fn carry_over(left: &Left, entry: EntryId, reason: &str, journal: &Journal) -> Result<(), StartError> {
    let Some((_, entry)) = left.entries().find(|(id, _)| *id == entry) else { return Ok(()) };
    let told = |kept| Kept { reason: Some(reason.to_owned()), ..kept }.encode();
    let description = entry.description.as_slice();
    let description = Kept::decode(description).map_or_else(|_| description.to_vec(), told);
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
