//! Answers readdir(3), also about entries whose type is not known.
//!
//! The kernel hands types on as they come, and DT_UNKNOWN tells programs to ask (readdir(3)). The library has no word
//! for it. So an answer with an unknown type goes to the kernel's device from here, in the kernel's form (`struct
//! fuse_out_header` and `struct fuse_dirent`, linux/fuse.h). The library's own answer then comes too late: the kernel
//! knows no such request any more and says ENOENT, which [`is_late_answer`] keeps out of the log.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;

use fuser::{Errno, FileType, ReplyDirectory, RequestId};

use super::convert::{file_type, inode_number};
use dssefs_fs::vfs::{Ino, Kind};

const HEADER_BYTES: usize = 16;

thread_local! {
    static IS_LATE_ANSWER: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is just giving an answer that the kernel has had already.
#[must_use]
pub fn is_late_answer() -> bool {
    IS_LATE_ANSWER.get()
}

/// An entry of a directory: its number, where a reader goes on after it, its type and its name.
pub(super) type Listed<'a> = (Ino, u64, Option<Kind>, &'a str);

/// Answers with as many entries as there is room for. `device` is the one from which the request came: the kernel takes
/// the answer on no other one.
pub(super) fn answer<'a>(
    mut reply: ReplyDirectory,
    request: RequestId,
    device: &OwnedFd,
    entries: impl Iterator<Item = Listed<'a>> + Clone,
) {
    // The library counts the room, and has the answer itself if all types are known.
    let fits = |(ino, next, kind, name): &Listed<'_>| {
        let told = kind.map_or(FileType::RegularFile, file_type);
        !reply.add(inode_number(*ino), *next, told, name)
    };
    let count = entries.clone().take_while(fits).count();
    let told = entries.take(count);
    if told.clone().all(|(_, _, kind, _)| kind.is_some()) {
        return reply.ok();
    }
    match send(device, request.0, told) {
        Ok(()) => {
            IS_LATE_ANSWER.set(true);
            reply.ok();
            IS_LATE_ANSWER.set(false);
        }
        // The request or the mount is gone, and its answer is wanted no more; else the program gets an error.
        Err(error) => reply.error(error.raw_os_error().map_or(Errno::EIO, Errno::from_i32)),
    }
}

fn send<'a>(device: &OwnedFd, request: u64, entries: impl Iterator<Item = Listed<'a>>) -> io::Result<()> {
    let mut bytes = vec![0; HEADER_BYTES];
    for (ino, next, kind, name) in entries {
        append(&mut bytes, ino, next, kind, name);
    }
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes[8..HEADER_BYTES].copy_from_slice(&request.to_ne_bytes());
    // The kernel takes an answer whole or not at all.
    rustix::io::write(device, &bytes)?;
    Ok(())
}

/// One `struct fuse_dirent` with its name, filled up to a multiple of 8 bytes.
fn append(bytes: &mut Vec<u8>, ino: Ino, next: u64, kind: Option<Kind>, name: &str) {
    // A name of a file has at most 255 bytes.
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&ino.0.to_ne_bytes());
    bytes.extend_from_slice(&next.to_ne_bytes());
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&u32::from(type_code(kind)).to_ne_bytes());
    bytes.extend_from_slice(name.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

/// The type as getdents64(2) has it.
fn type_code(kind: Option<Kind>) -> u8 {
    match kind {
        None => libc::DT_UNKNOWN,
        Some(Kind::File) => libc::DT_REG,
        Some(Kind::Directory) => libc::DT_DIR,
        Some(Kind::Symlink) => libc::DT_LNK,
        Some(Kind::Fifo) => libc::DT_FIFO,
        Some(Kind::Socket) => libc::DT_SOCK,
        Some(Kind::CharacterDevice(_)) => libc::DT_CHR,
        Some(Kind::BlockDevice(_)) => libc::DT_BLK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_form_that_the_kernel_reads() {
        let mut bytes = Vec::new();
        append(&mut bytes, Ino(0x0102), 3, None, "name");
        append(&mut bytes, Ino(4), 5, Some(Kind::Symlink), "12345678");
        let words: Vec<u64> = bytes.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect();
        let text = |text: &[u8; 8]| u64::from_ne_bytes(*text);
        let word = |low: u32, high: u32| {
            let halves = [low.to_ne_bytes(), high.to_ne_bytes()].concat();
            u64::from_ne_bytes(halves.try_into().unwrap())
        };
        assert_eq!(words[..4], [0x0102, 3, word(4, 0), text(b"name\0\0\0\0")]);
        assert_eq!(words[4..], [4, 5, word(8, 10), text(b"12345678")]);
    }
}
