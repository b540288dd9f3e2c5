//! The wait for the daemon's end, after the unmount.
//!
//! The daemon ends when the kernel has let go of the file system and what was left is saved. The kernel does not let go
//! while another mount of it exists: then the wait would have no end.

use std::time::{Duration, Instant};

use super::holders::{self, Holder};
use super::process::Process;
use super::saves::TOLD_EVERY;
use super::watch::Watched;
use crate::cli::say;
use crate::daemon::ReportFile;
use crate::mounts::Mount;

/// After this time the wait ends, and what holds the file system is named.
const HELD: Duration = Duration::from_secs(10);
/// The same where it is held and nothing is seen that holds it: a daemon on a busy host needs a moment until it says
/// that it saves.
const HELD_UNSEEN: Duration = Duration::from_secs(30);
/// How long a daemon may save. It gives up by itself when the store is silent (`--stop-timeout`).
const SAVING: Duration = Duration::from_hours(1);
/// The same of another user's daemon, which could take as long as it likes.
const SAVING_OF_OTHERS: Duration = Duration::from_mins(5);
/// How long a look at the processes of this host and at the report file may take.
const LOOK_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(200);
/// The pause between two looks at what holds the file system.
const HOLDERS_POLL: Duration = Duration::from_secs(1);

/// Why the wait is over.
#[derive(Debug)]
pub(super) enum End {
    /// The process has ended.
    Ended,
    /// It lives, and so does the file system: these hold it, or nothing that can be seen.
    Held(Vec<Holder>),
    /// It lives, and saves for longer than is waited.
    Slow(Duration),
}

/// What is known at a moment.
struct Seen {
    since_unmount: Duration,
    /// What the daemon says of itself; None: it has nowhere to say it.
    is_saving: Option<bool>,
    is_own: bool,
    holders: Vec<Holder>,
}

/// Waits until the daemon ends, or holds out no prospect of it.
pub(super) fn wait_for_end(
    daemon: &Process,
    file: Option<&ReportFile>,
    gone: &Mount,
    is_own: bool,
    watched: Watched,
) -> End {
    let begun = Instant::now();
    let mut told = begun;
    let mut looked = None::<Instant>;
    let mut holders = Vec::new();
    loop {
        watched.step(LOOK_WITHIN, "waiting for its daemon");
        if daemon.ends_within(POLL) {
            return End::Ended;
        }
        let is_saving = file.map(ReportFile::is_saving);
        if is_saving != Some(true) && looked.is_none_or(|looked| looked.elapsed() >= HOLDERS_POLL) {
            holders = holders::of(gone);
            looked = Some(Instant::now());
        }
        let seen = Seen { since_unmount: begun.elapsed(), is_saving, is_own, holders: holders.clone() };
        if told.elapsed() >= TOLD_EVERY {
            say(&format!("unmounted; its daemon (process {}) {}", daemon.pid(), state(&seen)));
            told = Instant::now();
        }
        if let Some(end) = verdict(seen) {
            return end;
        }
    }
}

fn state(seen: &Seen) -> String {
    match seen.holders.first() {
        _ if seen.is_saving == Some(true) => "is still saving changes".to_owned(),
        Some(holder) => format!("waits, as the file system is still mounted elsewhere: {holder}"),
        None => "has not ended yet".to_owned(),
    }
}

/// None: it is waited on.
fn verdict(seen: Seen) -> Option<End> {
    let saving_max = match (seen.is_own, seen.is_saving) {
        (true, _) => SAVING,
        (false, Some(_)) => SAVING_OF_OTHERS,
        // It has nowhere to say that it saves, so nothing speaks for a longer wait.
        (false, None) => HELD_UNSEEN,
    };
    match seen.is_saving {
        Some(true) => {}
        _ if !seen.holders.is_empty() => return (seen.since_unmount >= HELD).then_some(End::Held(seen.holders)),
        Some(false) => return (seen.since_unmount >= HELD_UNSEEN).then_some(End::Held(Vec::new())),
        None => {}
    }
    (seen.since_unmount >= saving_max).then_some(End::Slow(saving_max))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(seconds: u64, is_saving: Option<bool>, is_own: bool, holders: &[Holder]) -> &'static str {
        let seen = Seen { since_unmount: Duration::from_secs(seconds), is_saving, is_own, holders: holders.to_vec() };
        match verdict(seen) {
            None => "waits",
            Some(End::Ended) => "ended",
            Some(End::Held(found)) => {
                if found.is_empty() {
                    "held unseen"
                } else {
                    "held"
                }
            }
            Some(End::Slow(_)) => "slow",
        }
    }

    #[test]
    fn a_file_system_that_is_held_is_not_waited_for_and_a_daemon_that_saves_is() {
        let holder = [Holder::here("/bound".into())];
        assert_eq!(ends(9, Some(false), true, &holder), "waits");
        assert_eq!(ends(10, Some(false), true, &holder), "held");
        assert_eq!(ends(10, None, true, &holder), "held");
        assert_eq!(ends(29, Some(false), true, &[]), "waits");
        assert_eq!(ends(30, Some(false), true, &[]), "held unseen");
        assert_eq!(ends(600, Some(true), true, &[]), "waits");
        assert_eq!(ends(600, None, true, &[]), "waits");
    }

    #[test]
    fn no_daemon_is_waited_for_without_end() {
        for is_saving in [Some(true), Some(false), None] {
            assert_ne!(ends(3_600, is_saving, true, &[]), "waits", "{is_saving:?}");
            assert_ne!(ends(300, is_saving, false, &[]), "waits", "{is_saving:?}");
        }
    }
}
