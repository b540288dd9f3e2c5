//! Waiting for the local disk, which may take long: a disk that is written faster than it is makes its writers wait.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

/// Does `work`, which waits for the disk, while the other tasks of this thread of the runtime go on in another thread.
/// Anywhere else it is simply done.
pub(super) fn beside_other_tasks<T>(work: impl FnOnce() -> T) -> T {
    let has_other_threads = |runtime: Handle| runtime.runtime_flavor() == RuntimeFlavor::MultiThread;
    if Handle::try_current().is_ok_and(has_other_threads) { block_in_place(work) } else { work() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn tasks_go_on_while_every_thread_of_the_runtime_waits_for_the_disk() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (done, waited_for) = channel();
        let disk = runtime.spawn(async move {
            let late = beside_other_tasks(|| waited_for.recv_timeout(Duration::from_secs(20)));
            late.expect("another task ends the waiting")
        });
        runtime.block_on(async {
            tokio::spawn(async move { done.send(7).unwrap() }).await.unwrap();
            assert_eq!(disk.await.unwrap(), 7);
        });
    }

    #[test]
    fn without_a_runtime_and_in_one_of_one_thread_it_is_simply_done() {
        assert_eq!(beside_other_tasks(|| 1), 1);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(async { beside_other_tasks(|| 2) }), 2);
    }
}
