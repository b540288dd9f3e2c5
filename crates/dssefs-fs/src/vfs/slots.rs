//! How many files and directories each user has open: one user must not fill the memory of all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Error;

/// For root, and for the user whose daemon this is: so many times as much as for others.
const PRIVILEGED_TIMES: u32 = 16;

/// What is open of one kind, by user.
#[derive(Debug)]
pub(crate) struct Slots {
    what: &'static str,
    count_max: u32,
    /// The user whose daemon this is.
    owner: u32,
    users: Mutex<HashMap<u32, Open>>,
}

#[derive(Debug, Default)]
struct Open {
    count: u32,
    /// Whether the log has a line of a refusal since the user had nothing open.
    logged: bool,
}

/// The right to have one more open; given back on drop.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    pub(crate) uid: u32,
}

impl Slots {
    /// Each user may have `count_max` open of `what` (a plural).
    pub(crate) fn new(what: &'static str, count_max: u32, owner: u32) -> Arc<Slots> {
        Arc::new(Slots { what, count_max, owner, users: Mutex::default() })
    }

    /// Whether the user may have more than others.
    pub(crate) fn is_privileged(&self, uid: u32) -> bool {
        uid == 0 || uid == self.owner
    }

    /// One more for the user `uid`.
    ///
    /// # Errors
    /// [`Error::TooManyOpen`]; the log has one line of it.
    pub(crate) fn take(self: &Arc<Self>, uid: u32) -> Result<Slot, Error> {
        let count_max = if self.is_privileged(uid) { self.count_max * PRIVILEGED_TIMES } else { self.count_max };
        let mut users = self.users();
        let open = users.entry(uid).or_default();
        if open.count < count_max {
            open.count += 1;
            return Ok(Slot { slots: Arc::clone(self), uid });
        }
        let error = Error::TooManyOpen { uid, what: self.what, count_max };
        if !std::mem::replace(&mut open.logged, true) {
            tracing::warn!(%error, "further ones are refused until then (EMFILE)");
        }
        Err(error)
    }

    fn users(&self) -> MutexGuard<'_, HashMap<u32, Open>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut users = self.slots.users();
        if let Some(open) = users.get_mut(&self.uid) {
            open.count -= 1;
            if open.count == 0 {
                users.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: u32 = 1000;
    const OTHER: u32 = 65_534;

    #[test]
    fn a_user_who_has_all_that_one_may_have_is_refused_and_others_are_not() {
        let slots = Slots::new("files", 2, OWNER);
        let held: Vec<Slot> = (0..2).map(|_| slots.take(OTHER).unwrap()).collect();
        let refused = slots.take(OTHER).unwrap_err();
        assert!(matches!(refused, Error::TooManyOpen { uid: OTHER, count_max: 2, .. }), "{refused}");
        slots.take(OTHER + 1).unwrap();
        drop(held);
        slots.take(OTHER).unwrap();
        assert!(slots.users().is_empty(), "a user with nothing open takes no room");
    }

    #[test]
    fn root_and_the_mount_s_user_may_have_more() {
        let slots = Slots::new("files", 2, OWNER);
        for uid in [0, OWNER] {
            let held: Vec<Slot> = (0..32).map(|_| slots.take(uid).unwrap()).collect();
            assert!(slots.take(uid).is_err());
            drop(held);
        }
    }
}
