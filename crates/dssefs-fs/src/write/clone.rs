//! A file whose bytes are those of another object: noted at once, copied by the store when the file is committed.

use std::ops::Range;
use std::sync::Arc;

use dssefs_s3::object::Key;
use dssefs_s3::s3::Stored;

use super::commit::CommitSnapshot;
use super::{Base, CommitTarget, Error, Target, Writer};

impl Writer {
    /// Makes the bytes `range` of `source` the same bytes of this file, without moving any, and then calls `taken`,
    /// before any commit can begin. False, and nothing done, unless the file ends where `range` begins and is a copy of
    /// that same object up to there; an empty file always is.
    ///
    /// This mount must not replace or delete `source` before the caller has called [`Writer::let_go_of`].
    pub async fn adopt(&self, source: &Base, range: Range<u64>, taken: impl FnOnce()) -> bool {
        // A commit that is under way would end with its own object as the base.
        let _turn = self.turn.lock().await;
        let done = self.state().adopt(source, &range);
        if done {
            taken();
        }
        done
    }

    /// The objects of other files whose keys `goes` names are about to be replaced or deleted: what is still to be
    /// copied from them is taken onto this host. A version that can be named outlives its name.
    ///
    /// # Errors
    /// [`Error::Copy`]: the bytes cannot be read or kept; nothing is changed then.
    pub async fn let_go_of(self: &Arc<Self>, goes: impl Fn(&Key) -> bool) -> Result<(), Error> {
        // Asked before the mutex is taken: the destination has one of its own.
        let own = match self.destination.commit_target() {
            CommitTarget::Object(target) => Some(target.object.key),
            CommitTarget::Removed | CommitTarget::Lost => None,
        };
        let leans = |base: &Base| own.as_ref() != Some(&base.key) && goes(&base.key) && base.version.id.is_none();
        let leant_on = || self.state().base.clone().filter(leans);
        if leant_on().is_none() {
            return Ok(());
        }
        let Err(error) = Box::pin(self.resolve_or_materialize(leans)).await else { return Ok(()) };
        match leant_on() {
            // Another writer has made the copy impossible. There is nothing left to protect, and the commit of the copy
            // reports it.
            Some(_) if error.disposition().is_lost_copy() && self.has_evicted() => Ok(()),
            Some(base) if may_be_lost(&error) && self.is_gone(&base).await => Ok(()),
            _ => {
                let key = own.map_or_else(|| "a file without a name".to_owned(), |key| key.to_string());
                Err(Error::Copy { key, error: Box::new(error) })
            }
        }
    }

    /// Resolves ambiguous commits first: a copy that the store has made needs nothing of its source.
    async fn resolve_or_materialize(self: &Arc<Self>, leans: impl Fn(&Base) -> bool) -> Result<(), Error> {
        // A commit under way counts on what it has found itself.
        self.resolve_after_commits().await?;
        self.materialize_base_if(leans).await
    }

    /// The object that the whole file is an unchanged copy of, if there is one.
    pub(super) fn copied_whole<'a>(&self, commit: &'a CommitSnapshot) -> Option<&'a Base> {
        let base = commit.base.as_ref()?;
        let whole = commit.size > 0 && commit.size == commit.base_len && commit.size == base.size;
        (whole && self.buffer.present().is_empty()).then_some(base)
    }

    pub(super) async fn copy_whole(
        &self,
        base: &Base,
        commit: &CommitSnapshot,
        target: &Target,
    ) -> Result<Stored, Error> {
        Ok(self.engine.gateway.copy(base, &target.object, &commit.condition).await?.into_inner())
    }
}

fn may_be_lost(error: &Error) -> bool {
    error.disposition().is_lost_copy() || matches!(error, Error::InUpload)
}
