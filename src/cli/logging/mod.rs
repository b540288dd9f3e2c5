//! The log: what is in it and where it goes. It blocks no caller.
//!
//! Nothing about the log may touch a file of the mount. A line that cannot be written is counted and not a panic, and
//! a caller that logs does not wait for a stopped terminal.

mod line;
mod queue;
mod target;

use std::fs::File;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::Arc;

use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};
use crate::daemon::is_late_answer;

use queue::Queue;
use target::Target;

pub(super) use target::needs_stderr;

/// Whether the process keeps a terminal, which decides where a log without a file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Foreground,
    Background,
}

/// The log of this process. Its last lines are written when this is dropped.
pub(super) struct Logging(Arc<Queue>);

/// Starts the log of this process.
///
/// # Errors
/// The file cannot be opened for appending, or is no regular file.
pub(super) fn start(log: &Log, place: Place) -> io::Result<Logging> {
    let target = Target::choose(log.file.as_deref(), place)?;
    let directives = match log.verbosity {
        0 if target.is_for_a_person(place) => "warn",
        0 => "warn,dssefs=info",
        1 => "warn,dssefs=debug",
        _ => "debug,dssefs=trace",
    };
    Ok(start_with(target, log.format, directives))
}

/// Starts the log of a command that does one thing and ends: warnings and errors, on standard error.
pub(super) fn start_of_command() -> Logging {
    start_with(Target::Terminal, LogFormat::Text, "warn")
}

/// The libraries below say at most warnings, until everything is asked for; `DSSEFS_LOG` overrides.
fn start_with(target: Target, format: LogFormat, directives: &str) -> Logging {
    let queue = Arc::new(Queue::new(target));
    let lines = Lines { queue: Arc::clone(&queue), format };
    let filter = EnvFilter::try_from_env("DSSEFS_LOG").unwrap_or_else(|_| EnvFilter::new(directives));
    // A failure would otherwise be printed on standard error, which panics when standard error is what is broken.
    let plain = tracing_subscriber::fmt().log_internal_errors(false).with_env_filter(filter);
    let plain = plain.with_ansi(false).with_writer(lines);
    match format {
        LogFormat::Text => plain.finish().with(discreet()).init(),
        LogFormat::Json => plain.json().finish().with(discreet()).init(),
    }
    std::panic::set_hook(Box::new(report));
    Logging(queue)
}

impl Logging {
    /// From now on a thread of their own writes the lines. Not before this process is confined: a thread stays as free
    /// as the one that starts it.
    pub(super) fn start_thread(&self) {
        if let Err(error) = self.0.start_thread() {
            tracing::warn!(%error, "the log has no thread of its own: each caller that logs waits for it");
        }
    }

    /// Goes on in another file.
    pub(super) fn move_to(&self, file: File) {
        self.0.move_to(file);
        tracing::info!("the log goes on here");
    }

    /// Waits until the lines so far are written, but not for ever.
    pub(super) fn finish(&self) {
        self.0.finish();
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.finish();
    }
}

/// What no filter can ask for: at the level TRACE, the SDK prints the bodies of requests and answers, which are content
/// and keys. The library complains of answers that the kernel has had already.
fn discreet<S: Subscriber>() -> impl Layer<S> {
    filter_fn(is_discreet).with_max_level_hint(LevelFilter::TRACE)
}

fn is_discreet(metadata: &Metadata<'_>) -> bool {
    if metadata.target() == "fuser::reply" && is_late_answer() {
        return false;
    }
    let ours = metadata.target() == "dssefs" || metadata.target().starts_with("dssefs::");
    ours || *metadata.level() <= tracing::Level::DEBUG
}

/// Where, and not what: the message of a panic may quote a name or content.
fn report(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current().name().unwrap_or_default().to_owned();
    tracing::error!(place, thread, "something that should not happen (a panic); please report it");
}

/// Takes lines from the formatter, each in one piece.
struct Lines {
    queue: Arc<Queue>,
    format: LogFormat,
}

/// One event's line on its way.
struct Line<'a>(&'a Lines);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.queue.push(match self.0.format {
            LogFormat::Text => line::in_one_line(line),
            LogFormat::Json => line::in_json(line),
        });
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{catch_unwind, set_hook, take_hook};
    use std::sync::Mutex;

    use super::*;

    /// What `work` logs under `directives`.
    fn logged(directives: &str, work: impl FnOnce()) -> String {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_env_filter(EnvFilter::new(directives));
        let subscriber = subscriber.with_writer(Arc::new(Lent(Arc::clone(&lines)))).finish().with(discreet());
        tracing::subscriber::with_default(subscriber, work);
        String::from_utf8(lines.lock().unwrap().clone()).unwrap()
    }

    struct Lent(Arc<Mutex<Vec<u8>>>);

    impl Write for &Lent {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_logged_with_its_place_and_not_with_what_it_quotes() {
        let log = logged("info", || {
            let usual = take_hook();
            set_hook(Box::new(report));
            let panic = catch_unwind(|| panic!("{}", "CONTENT"));
            set_hook(usual);
            assert!(panic.is_err());
        });
        assert!(log.contains("src/cli/logging/mod.rs:") && !log.contains("CONTENT"), "{log}");
    }

    #[test]
    fn no_filter_gets_more_than_debug_out_of_the_libraries() {
        let log = logged("trace", || {
            tracing::trace!("ours");
            tracing::trace!(target: "aws_smithy_runtime", "a body");
            tracing::trace!(target: "dssefsx", "of a like name");
            tracing::debug!(target: "aws_smithy_runtime", "an attempt");
        });
        assert!(log.contains("ours") && log.contains("an attempt"), "{log}");
        assert!(!log.contains("a body") && !log.contains("of a like name"), "{log}");
    }
}
