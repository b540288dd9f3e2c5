//! Words with a descriptor, from one process to another (unix(7), `SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// The longest message, in bytes: an errno and a sentence, or the path of a mount point.
pub(super) const WORDS_BYTES_MAX: usize = 8192;

/// Sends words, which must not be empty, and a descriptor.
pub(super) fn send(words: &[u8], descriptor: impl AsFd, socket: &UnixStream) -> io::Result<()> {
    let descriptors = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // There is room for one descriptor, and one is pushed.
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(socket, &[IoSlice::new(words)], &mut control, SendFlags::empty())?;
    Ok(())
}

/// The next words, none at the end, and the descriptor that came with them.
pub(super) fn receive(socket: &UnixStream) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut words = vec![0; WORDS_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut words)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    words.truncate(received.bytes);
    let passed = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((words, passed))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn words_and_a_descriptor_arrive_together() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(b"0/mnt\n", &writer, &theirs).unwrap();
        drop((writer, theirs));
        let (words, passed) = receive(&ours).unwrap();
        assert_eq!(words, b"0/mnt\n");
        std::fs::File::from(passed.unwrap()).write_all(b"through it").unwrap();
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!(read, "through it");
        let (words, passed) = receive(&ours).unwrap();
        assert!(words.is_empty() && passed.is_none());
    }
}
