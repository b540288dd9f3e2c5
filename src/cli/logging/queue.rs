//! A queue of log lines for a reader that may be slow.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::target::Target;

/// What waits for a terminal that is stopped, or a pipe without a reader. Lines that come after are lost, and counted.
const QUEUE_BYTES_MAX: usize = 1 << 20;
/// How long the end of the process waits for its last lines to be taken.
const FINISH_WITHIN: Duration = Duration::from_secs(2);
/// Enough to format a line. Where all memory is locked, so is this.
const STACK_BYTES: usize = 256 << 10;

/// The lines, in order, and their one writer: the thread, once it runs, and before that the caller that logs.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    target: Mutex<Target>,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that were dropped and not yet reported.
    lost: u64,
    has_thread: bool,
    writing: bool,
    /// Where lines go from the next one on.
    next_file: Option<File>,
}

impl Queue {
    pub(super) fn new(target: Target) -> Queue {
        Queue { state: Mutex::default(), changed: Condvar::new(), target: Mutex::new(target) }
    }

    pub(super) fn start_thread(self: &Arc<Self>) -> io::Result<()> {
        let queue = Arc::clone(self);
        let thread = std::thread::Builder::new().name("log".to_owned()).stack_size(STACK_BYTES);
        // It ends with the process.
        thread.spawn(move || queue.serve())?;
        self.state().has_thread = true;
        Ok(())
    }

    pub(super) fn push(&self, line: Vec<u8>) {
        let mut state = self.state();
        if !state.has_thread {
            drop(state);
            let lost = u64::from(self.target().write(&line).is_err());
            self.state().lost += lost;
        } else if state.bytes + line.len() > QUEUE_BYTES_MAX {
            state.lost += 1;
        } else {
            state.bytes += line.len();
            state.lines.push_back(line);
            self.changed.notify_all();
        }
    }

    pub(super) fn move_to(&self, file: File) {
        self.state().next_file = Some(file);
    }

    /// Waits for the lines so far, unless the reader takes none.
    pub(super) fn finish(&self) {
        let unwritten = |state: &mut State| state.has_thread && (state.writing || !state.lines.is_empty());
        drop(self.changed.wait_timeout_while(self.state(), FINISH_WITHIN, unwritten));
    }

    fn serve(&self) {
        loop {
            let (line, file) = self.next();
            let mut target = self.target();
            if let Some(file) = file {
                *target = Target::File(file);
            }
            let written = target.write(&line).is_ok();
            drop(target);
            self.tell_of_lost(written);
            self.state().writing = false;
            self.changed.notify_all();
        }
    }

    fn next(&self) -> (Vec<u8>, Option<File>) {
        let mut state = self.state();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.writing = true;
                return (line, state.next_file.take());
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Where lines are written again, and there is room for one more: what is missing is missing before that one.
    fn tell_of_lost(&self, written: bool) {
        let mut state = self.state();
        state.lost += u64::from(!written);
        if !written || state.lost == 0 || state.bytes > QUEUE_BYTES_MAX / 2 {
            return;
        }
        let lines = std::mem::take(&mut state.lost);
        drop(state);
        tracing::error!(
            lines,
            "lines of the log are missing here: they could not be written, or not as fast as they came"
        );
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn target(&self) -> MutexGuard<'_, Target> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::time::Instant;

    use super::*;

    fn pipe() -> (io::PipeReader, Queue) {
        let (reader, writer) = io::pipe().unwrap();
        (reader, Queue::new(Target::File(File::from(OwnedFd::from(writer)))))
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read_and_what_fits_is_written_when_it_does() {
        let (mut reader, queue) = pipe();
        let queue = Arc::new(queue);
        queue.start_thread().unwrap();
        let line = [&[b'x'; 4095][..], b"\n"].concat();
        let lines = 2 * QUEUE_BYTES_MAX / line.len();
        (0..lines).for_each(|_| queue.push(line.clone()));
        let begun = Instant::now();
        queue.finish();
        assert!(begun.elapsed() < FINISH_WITHIN * 10, "the end waits, but not for ever");
        let lost = usize::try_from(queue.state().lost).unwrap();
        assert!(lost > 0 && lost < lines, "{lost} of {lines}");
        let mut taken = vec![0; (lines - lost) * line.len()];
        reader.read_exact(&mut taken).unwrap();
        assert!(taken == line.repeat(lines - lost));
    }

    #[test]
    fn lines_that_nobody_can_take_are_counted_with_and_without_the_thread() {
        let (reader, queue) = pipe();
        let queue = Arc::new(queue);
        drop(reader);
        queue.push(b"before\n".to_vec());
        assert_eq!(queue.state().lost, 1);
        queue.start_thread().unwrap();
        queue.push(b"after\n".to_vec());
        queue.finish();
        assert_eq!(queue.state().lost, 2);
    }

    #[test]
    fn lines_go_to_the_new_file_from_the_next_one_on() {
        let (mut reader, queue) = pipe();
        let queue = Arc::new(queue);
        queue.start_thread().unwrap();
        queue.push(b"old\n".to_vec());
        queue.finish();
        let (mut new_reader, new) = io::pipe().unwrap();
        queue.move_to(File::from(OwnedFd::from(new)));
        queue.push(b"new\n".to_vec());
        queue.finish();
        let mut taken = [0; 4];
        new_reader.read_exact(&mut taken).unwrap();
        assert_eq!(taken, *b"new\n");
        let mut old = String::new();
        reader.read_to_string(&mut old).unwrap();
        assert_eq!(old, "old\n", "the old file is closed");
    }
}
