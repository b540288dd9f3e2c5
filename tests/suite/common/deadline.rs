//! A limit on the time of a test.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::mount;

/// Runs `body` in a thread of its own. After `limit`, detaches every mount of this process, which ends the waiting of
/// each thread that hangs on one, and fails.
pub(crate) fn deadline(limit: Duration, body: impl FnOnce() + Send + 'static) {
    boxed_deadline(limit, Box::new(body));
}

/// Not generic: the compiler would make what starts a thread again for each of hundreds of tests.
fn boxed_deadline(limit: Duration, body: Box<dyn FnOnce() + Send>) {
    let (sender, receiver) = channel();
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let run = move || {
        // Only the outcome crosses the border; what a panic left behind is not looked at again.
        let outcome = catch_unwind(AssertUnwindSafe(body));
        let _ = sender.send(outcome);
    };
    let worker = std::thread::Builder::new().name(name.clone()).spawn(run).expect("a thread can be started");
    match receiver.recv_timeout(limit) {
        Ok(outcome) => {
            worker.join().expect("the worker catches its panics");
            outcome.unwrap_or_else(|panic| resume_unwind(panic));
        }
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            mount::detach_of(&name);
            panic!("the test was not done after {limit:?}; its mounts are detached");
        }
    }
}

#[test]
#[should_panic(expected = "was not done after")]
fn a_test_that_hangs_fails() {
    deadline(Duration::from_millis(50), || std::thread::sleep(Duration::from_secs(2)));
}

#[test]
#[should_panic(expected = "one is not two")]
fn a_panic_passes_through() {
    deadline(Duration::from_secs(5), || assert_eq!(1, 2, "one is not two"));
}
