//! Ends a mount: saves every file that can be saved, and names those that cannot.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::fuse::Unmounter;
use dssefs_fs::journal::Journal;
use dssefs_fs::vfs::{JournalCoverage, SaveExtent, Unsaved, Vfs};
use dssefs_s3::s3::Gateway;

use super::{ExitReport, Hangup, Owner, StartError, exit_report};

/// How long programs have to close their files after the mount was taken out of the tree, and tasks to end after the
/// last commit.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// The pause between two looks at whether a thread still holds the journal.
const HELD_PAUSE: Duration = Duration::from_millis(10);

/// Bounds the time that the end of a mount takes, also when the store is dead.
///
/// Saving goes on while the store shows signs of life: it answers any request, or takes a byte. After `stop_timeout`
/// without a sign each request has another second and then fails. Its file goes into the journal, if there is one, or
/// into the list of what was lost.
pub(super) struct Ending {
    pub(super) gateway: Arc<Gateway>,
    pub(super) stop_timeout: Duration,
    /// Where the process that unmounts reads how the saving ended.
    pub(super) spill_dir: PathBuf,
}

impl Ending {
    fn begin(&self) {
        self.gateway.start_deadline(self.stop_timeout);
    }
}

/// SIGTERM, SIGINT, and SIGHUP as the owner wants it. Made before the mount is announced: from then on these signals
/// end the mount and not the process.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
    /// SIGHUP, where it means that the log was renamed.
    pub(super) of_log: Option<Signal>,
}

impl Signals {
    /// Needs the context of the runtime.
    pub(super) fn new(meaning: Hangup) -> io::Result<Signals> {
        // Without a handler, a write beyond RLIMIT_FSIZE would end this process instead of failing (setrlimit(2)).
        drop(signal(SignalKind::from_raw(libc::SIGXFSZ))?);
        // Also where it is ignored: a process with a handler for a signal is not ended by it.
        let hangup = signal(SignalKind::hangup())?;
        let (hangup, of_log) = match meaning {
            Hangup::Ends => (Some(hangup), None),
            Hangup::ReopensLog => (None, Some(hangup)),
            Hangup::Ignored => (None, None),
        };
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Signals { terminate, interrupt, hangup, of_log })
    }

    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! { _ = self.terminate.recv() => {}, _ = self.interrupt.recv() => {}, _ = hangup => {} }
    }
}

/// Opens the log again at each SIGHUP, which logrotate(8) sends after it has renamed the log.
pub(super) async fn reopen_log(mut hangups: Signal, unmounter: Arc<Unmounter>, owner: Arc<dyn Owner>) {
    while hangups.recv().await.is_some() {
        let unmounter = Arc::clone(&unmounter);
        match tokio::task::spawn_blocking(move || unmounter.open_log()).await {
            Ok(Ok(file)) => owner.log_to(file),
            Ok(Err(error)) => tracing::error!(%error, "the log cannot be opened again; it goes on in the old file"),
            Err(_) => return,
        }
    }
}

/// Waits for a signal that ends the mount, saves all changes, and unmounts. Returns when programs that still had files
/// open had their time to close them. A second signal cuts each wait short.
pub(super) async fn on_signal(mut signals: Signals, vfs: Arc<Vfs>, ending: &Ending, unmounter: Arc<Unmounter>) {
    // 1. Wait for the first signal. The kernel and the shell may both send SIGHUP when a terminal goes: only the first
    //    one counts.
    signals.next().await;
    signals.hangup = None;
    ending.begin();
    tracing::info!(unsaved = vfs.unsaved_count(), "asked to stop: saving changes and unmounting");
    // 2. Save while the mount is still there. The commits run in a task of their own, because a commit that is dropped
    //    halfway loses its upload, which may have the only copy of its parts.
    let mut saving = tokio::spawn(async move { vfs.save_all(SaveExtent::Promised).await });
    tokio::select! { _ = &mut saving => {}, () = signals.next() => {} }
    // 3. Unmount. The daemon ends whether or not the kernel lets go, and the connection ends with the daemon.
    let unmounting = tokio::task::spawn_blocking(move || unmounter.unmount());
    match tokio::time::timeout(GRACE, unmounting).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => {
            tracing::error!(
                %error,
                "the mount cannot be unmounted and stays without its daemon; unmount it with `dssefs umount`"
            );
        }
        Ok(Err(_)) | Err(_) => {
            tracing::error!(
                "the mount was not unmounted in time and stays without its daemon; unmount it with `dssefs umount`"
            );
        }
    }
    // 4. Give programs time to close their files. The kernel ends the connection when the last one is closed, which
    //    ends the daemon before this wait is over.
    tokio::select! { () = tokio::time::sleep(GRACE) => {}, () = signals.next() => {} }
    tracing::warn!("programs still have files open on the mount; they get errors from now on");
}

/// Makes the last commits, after the kernel let go of the mount, and reports what failed.
pub(super) async fn save(vfs: &Vfs, ending: &Ending) -> Result<(), StartError> {
    ending.begin();
    exit_report::report_saving(&ending.spill_dir);
    let failed = vfs.save_all(SaveExtent::All).await;
    vfs.store_directory_times().await;
    for Unsaved { name, error, kept } in &failed {
        let fate = match kept {
            JournalCoverage::All => "kept for the next mount",
            JournalCoverage::Older => "lost with this process; an older state of them is kept for the next mount",
            JournalCoverage::Nothing => "lost with this process",
        };
        tracing::error!(name, %error, remedy = error.remedy(), "changes are {fate}");
    }
    let kept = failed.iter().filter(|unsaved| unsaved.kept == JournalCoverage::All).count() as u64;
    ExitReport { kept, lost: failed.len() as u64 - kept }.write(&ending.spill_dir);
    vfs.abandon().await;
    unsaved(&failed).map_or(Ok(()), Err)
}

/// What the exit code and the last message say of the files that failed; None: there are none.
fn unsaved(failed: &[Unsaved]) -> Option<StartError> {
    let [Unsaved { name, error, .. }, ..] = failed else { return None };
    let what = match failed.len() {
        1 => format!("the changes of {name}"),
        many => format!("the changes of {many} files, {name} among them,"),
    };
    let fate = match failed.iter().filter(|unsaved| unsaved.kept != JournalCoverage::All).count() {
        0 => "they are kept: the next mount sends them, and dssefs recover lists them".to_owned(),
        lost if lost == failed.len() => "they are lost".to_owned(),
        lost => format!("{lost} of them are lost"),
    };
    let remedy = error.remedy().map_or_else(String::new, |remedy| format!(". {remedy}"));
    Some(StartError::Unsaved(format!("{what} could not be saved ({error}); {fate}{remedy}")))
}

/// Closes the journal. It is removed if no entry in it is needed any more, and stays otherwise.
pub(super) fn close(journal: Option<Arc<Journal>>) {
    let Some(journal) = journal else { return };
    // A thread that has served the kernel may hold it a moment longer than the runtime.
    let end = Instant::now() + GRACE;
    while Arc::strong_count(&journal) > 1 && Instant::now() < end {
        std::thread::sleep(HELD_PAUSE);
    }
    let kept = journal.live_count();
    match Arc::into_inner(journal).map(Journal::close) {
        Some(Ok(())) | None if kept == 0 => {}
        Some(Err(error)) => {
            tracing::error!(%error, "the journal could not be closed; the next mount still reads it");
        }
        _ => tracing::warn!(files = kept, "the journal keeps files for the next mount; dssefs recover lists them"),
    }
}

#[cfg(test)]
mod tests {
    use dssefs_fs::vfs::Error;
    use dssefs_s3::object::{Bucket, Key};
    use dssefs_s3::s3::{Failure, Kind, Operation};

    use super::*;

    #[test]
    fn the_last_message_names_a_file_its_fate_and_the_remedy() {
        let (bucket, key) = (Bucket::new("tests").unwrap(), Key::new("file").unwrap());
        let refused = Failure::new(Kind::KeyDisabled, Operation::PutObject, &bucket, Some(&key));
        let file = |kept| Unsaved { name: "file".to_owned(), error: Error::Stale, kept };
        let failed = [Unsaved { error: Error::Store(refused.into()), ..file(JournalCoverage::Nothing) }];
        let said = unsaved(&failed).unwrap().to_string();
        assert!(said.starts_with("the changes of file could not be saved (PutObject of s3://tests/file"), "{said}");
        assert!(said.ends_with("; they are lost. Enable the KMS key again (kms:EnableKey)."), "{said}");
        let said = unsaved(&[file(JournalCoverage::All)]).unwrap().to_string();
        assert!(said.ends_with("; they are kept: the next mount sends them, and dssefs recover lists them"), "{said}");
        assert!(unsaved(&[]).is_none());
    }
}
