//! A limit on every wait.
//!
//! A call on a FUSE file system may wait for its server, and the kernel lets no signal end that wait once the server
//! has read the request. A thread that waits so keeps its whole process from ending. So a second process makes all
//! calls, and announces each with the time that it may take. The process that the caller waits for only listens: when a
//! step takes longer, it kills the other, says so, and ends. The other one goes when its call returns.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_parent_process_death_signal};

use super::Arguments;
use crate::cli::background::own_program;
use crate::cli::exit::Exit;
use crate::cli::say;
use dssefs_s3::escaping::shown;

/// For a step that is not known yet, and for the end of a process after its last step.
const START_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// The side that makes the calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched(bool);

impl Watched {
    /// This process was started by [`supervise`]. It ends with that one.
    pub(super) fn begin() -> Watched {
        // Without it, a call that returns late would go on with an unmount that its caller has given up.
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
        Watched(true)
    }

    /// Announces a step that may take `limit`, in whole seconds; `what` completes "it did not answer in time: ...".
    pub(super) fn step(self, limit: Duration, what: &str) {
        if !self.0 {
            return;
        }
        let mut stdout = io::stdout().lock();
        let announced = writeln!(stdout, "{} {what}", limit.as_secs()).and_then(|()| stdout.flush());
        if announced.is_err() {
            // The supervisor is gone, and with it the limit.
            std::process::exit(Exit::Internal as i32);
        }
    }

    #[cfg(test)]
    pub(super) fn unwatched() -> Watched {
        Watched(false)
    }
}

/// Runs `dssefs umount` as a process of its own, and ends as it ends, or when a step of it takes too long.
pub(super) fn supervise(arguments: &Arguments) -> Exit {
    let mut command = Command::new(own_program());
    command.args(["umount", "--watched"]);
    if arguments.force {
        command.arg("--force");
    }
    command.arg("--").arg(&arguments.mountpoint);
    match command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
        Ok(child) => follow(child, arguments),
        Err(error) => {
            say(&format!("the process that unmounts could not be started: {error}"));
            Exit::Internal
        }
    }
}

fn follow(mut child: Child, arguments: &Arguments) -> Exit {
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else { return Exit::Internal };
    let steps = read_steps(stdout);
    // Forwarded and not inherited: the caller may wait for the end of its pipe, and the other process may outlive this
    // one.
    let told = forward(stderr);
    let (mut limit, mut what) = (START_WITHIN, "starting".to_owned());
    loop {
        match steps.recv_timeout(limit) {
            Ok(step) => (limit, what) = step,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => return give_up(&mut child, arguments, limit, &what),
        }
    }
    let Some(status) = ended(&mut child) else { return give_up(&mut child, arguments, START_WITHIN, "ending") };
    // A message that this terminal does not take is no reason to wait without end.
    let _ = told.recv_timeout(START_WITHIN);
    Exit::of(status)
}

fn give_up(child: &mut Child, arguments: &Arguments, limit: Duration, what: &str) -> Exit {
    // Not waited for: the kernel may keep it until its call returns.
    let _ = child.kill();
    say(&format!(
        "{} did not answer within {} s ({what}), so its unmount was given up; \
         end the process that serves it, then try again",
        shown(&arguments.mountpoint),
        limit.as_secs()
    ));
    Exit::Fuse
}

fn ended(child: &mut Child) -> Option<ExitStatus> {
    let end = Instant::now() + START_WITHIN;
    while Instant::now() < end {
        match child.try_wait() {
            Ok(None) => sleep(POLL),
            Ok(status) => return status,
            Err(_) => return None,
        }
    }
    None
}

fn read_steps(stdout: ChildStdout) -> Receiver<(Duration, String)> {
    let (sender, receiver) = channel();
    spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let step = line.split_once(' ').and_then(|(seconds, what)| Some((seconds.parse().ok()?, what.to_owned())));
            let Some((seconds, what)) = step else { return };
            if sender.send((Duration::from_secs(seconds), what)).is_err() {
                return;
            }
        }
    });
    receiver
}

fn forward(mut stderr: ChildStderr) -> Receiver<()> {
    let (sender, receiver) = channel();
    spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(length) = stderr.read(&mut chunk) {
            if length == 0 || io::stderr().write_all(chunk.get(..length).unwrap_or_default()).is_err() {
                break;
            }
        }
        // The receiver is gone when it has waited long enough.
        let _ = sender.send(());
    });
    receiver
}
