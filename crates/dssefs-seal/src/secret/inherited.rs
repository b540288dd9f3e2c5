//! Descriptors that the starter of this process has left open.

use std::io;

use rustix::fd::BorrowedFd;
use rustix::io::{FdFlags, fcntl_getfd};

/// Closes every descriptor beyond the three standard ones that this process was started with: a daemon that keeps one
/// keeps the lock, the pipe or the file system of the starter busy.
///
/// They are told from our own by the close-on-exec flag. This process was started by execve(2), which leaves only those
/// without it, and all that this program opens has it.
///
/// # Errors
/// /proc is not mounted.
pub fn close_inherited() -> io::Result<()> {
    let listed = std::fs::read_dir("/proc/self/fd")?;
    let numbers = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    // A list first: the directory has a descriptor of its own while it is read.
    for number in numbers.collect::<Vec<_>>().into_iter().filter(|number| *number > 2) {
        // SAFETY: the number is not negative, so not -1, and the borrow ends with the call. If it is no longer open,
        // the call fails.
        let flags = fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) });
        if flags.is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC)) {
            // SAFETY: without the flag it was there before this program ran, so no value of this program owns it or
            // borrows it.
            unsafe { rustix::io::close(number) };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::io::fcntl_setfd;

    use super::*;

    /// Set for the process in which the test closes: the others of this process have descriptors too.
    const CHILD: &str = "DSSEFS_TEST_INHERITED_CHILD";

    #[test]
    fn what_the_starter_left_open_is_closed_and_what_is_our_own_stays() {
        let name = "secret::inherited::tests::what_the_starter_left_open_is_closed_and_what_is_our_own_stays";
        if let Some(given) = std::env::var_os(CHILD) {
            let given = std::path::Path::new("/proc/self/fd").join(given);
            assert!(given.exists(), "it is inherited");
            let mut own = tempfile::tempfile().unwrap();
            close_inherited().unwrap();
            assert!(!given.exists());
            io::Write::write_all(&mut own, b"content").unwrap();
            return;
        }
        let file = tempfile::tempfile().unwrap();
        fcntl_setfd(&file, FdFlags::empty()).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        let number = std::os::fd::AsRawFd::as_raw_fd(&file).to_string();
        let output = child.args(["--exact", name]).env(CHILD, number).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
