//! One method for each request of the kernel: decode, spawn, encode.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;

use super::convert::{
    allocation, believed, expect, fh, file_attr, handle, ino, is_hidden_from, name, privileges_of, sought,
    special_kind, time_change,
};
use super::directory_reply::{self, Listed};
use dssefs_fs::vfs::{
    Access, DirEntry, ErrnoStyle, Error, Ino, Kind, Node, Opened, Place, Privileges, RenameMode, SetAttributes, Vfs,
};
use dssefs_seal::secret::PlainBuf;

/// Requests that the kernel may have open in the background (read-ahead, direct I/O), and the number from which on it
/// calls the device congested. The kernel's own 12 would leave fast stores idle.
const BACKGROUND_MAX: u16 = 64;

/// Answers the kernel out of a [`Vfs`].
pub struct Adapter {
    vfs: Arc<Vfs>,
    tasks: Handle,
    ttl: Duration,
    style: ErrnoStyle,
    /// The kernel's, from which all requests come; None before the mount.
    device: Option<Arc<OwnedFd>>,
}

/// The most that one copy_file_range may answer, in bytes: the answer has 32 bits, and whole pages leave the next one
/// aligned.
const COPY_BYTES_MAX: u64 = 0xFFFF_F000;

/// A number goes to another node only after the kernel has forgotten the first one, so all are of one generation.
const GENERATION: Generation = Generation(0);

impl Adapter {
    /// An adapter whose tasks run on `tasks`; the kernel believes names and attributes for `ttl`.
    #[must_use]
    pub fn new(vfs: Arc<Vfs>, tasks: Handle, ttl: Duration, style: ErrnoStyle) -> Adapter {
        Adapter { vfs, tasks, ttl, style, device: None }
    }

    /// The same, with the device from which all of its requests will come.
    pub(super) fn answering(self, device: OwnedFd) -> Adapter {
        Adapter { device: Some(Arc::new(device)), ..self }
    }

    /// Runs `work`, and then `answer` with what came of it.
    fn spawn<T, F>(&self, operation: &'static str, work: F, answer: impl FnOnce(Result<T, Errno>) + Send + 'static)
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let style = self.style;
        self.tasks.spawn(async move { answer(work.await.map_err(|error| report(operation, &error, style))) });
    }

    fn access(request: &Request, flags: OpenFlags) -> Access {
        Access {
            read: flags.acc_mode() != OpenAccMode::O_WRONLY,
            write: flags.acc_mode() != OpenAccMode::O_RDONLY,
            append: flags.0 & libc::O_APPEND != 0,
            truncate: flags.0 & libc::O_TRUNC != 0,
            privileges: privileges_of(request),
            uid: request.uid(),
        }
    }

    /// A handle that can only write needs no pages in the kernel, and without them a write costs a third of the CPU
    /// time.
    fn open_flags(flags: OpenFlags, keep_cache: bool) -> FopenFlags {
        let mut answer = FopenFlags::empty();
        if flags.acc_mode() == OpenAccMode::O_WRONLY {
            answer |= FopenFlags::FOPEN_DIRECT_IO;
        }
        if keep_cache {
            answer |= FopenFlags::FOPEN_KEEP_CACHE;
        }
        answer
    }
}

/// An errno for the program, and one line in the log if a person should hear of it.
fn report(operation: &'static str, error: &Error, style: ErrnoStyle) -> Errno {
    let number = error.errno(style).0;
    if error.is_trouble() {
        let remedy = error.remedy().unwrap_or_default();
        tracing::error!(operation, errno = number, %error, remedy, "a call failed");
    } else {
        tracing::debug!(operation, errno = number, %error, "a call was answered with an error");
    }
    Errno::from_i32(number)
}

macro_rules! checked_name {
    ($self:ident, $operation:literal, $name:expr, $reply:ident) => {
        match name($name) {
            Ok(name) => name,
            Err(error) => return $reply.error(report($operation, &error.into(), $self.style)),
        }
    };
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // The daemon clears set-user-id bits when the kernel asks for it with a write; the mount is nosuid, too. So the
        // kernel need not ask for security.capability before each write. A file that is opened with O_TRUNC is emptied
        // by its open, and stored when it is closed, not twice.
        let wanted = [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_AUTO_INVAL_DATA,
        ];
        // Not FUSE_ASYNC_DIO: the kernel would send the pieces of one large write with O_DIRECT all at once. With
        // O_APPEND the daemon would not know in which order to append them.
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "the kernel does not offer this");
            }
        }
        // Both are clipped by the kernel, which is all that an error here means.
        let _ = config.set_max_background(BACKGROUND_MAX);
        let _ = config.set_congestion_threshold(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEntry) {
        let child = checked_name!(self, "lookup", child, reply);
        let (vfs, ttl) = (Arc::clone(&self.vfs), self.ttl);
        self.spawn("lookup", async move { vfs.lookup(ino(parent), &child).await }, move |node| {
            entry(reply, ttl, &node);
        });
    }

    fn forget(&self, _request: &Request, node: INodeNo, count: u64) {
        self.vfs.forget(ino(node), count);
    }

    fn getattr(&self, _request: &Request, node: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let (vfs, ttl, node) = (Arc::clone(&self.vfs), self.ttl, ino(node));
        self.spawn("getattr", async move { vfs.attributes(node).await }, move |attributes| match attributes {
            Ok(attributes) => reply.attr(&believed(&attributes, ttl), &file_attr(node, &attributes)),
            Err(errno) => reply.error(errno),
        });
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (vfs, ttl, node) = (Arc::clone(&self.vfs), self.ttl, ino(node));
        let change = SetAttributes {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(time_change),
            mtime: mtime.map(time_change),
            fh: handle.map(fh),
            privileges: privileges_of(request),
        };
        self.spawn(
            "setattr",
            async move { vfs.set_attributes(node, change).await },
            move |attributes| match attributes {
                Ok(attributes) => reply.attr(&believed(&attributes, ttl), &file_attr(node, &attributes)),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, child: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let child = checked_name!(self, "mkdir", child, reply);
        let (vfs, ttl) = (Arc::clone(&self.vfs), self.ttl);
        let (mode, uid, gid) = (mode & !umask & 0o7777, request.uid(), request.gid());
        let work = async move { vfs.mkdir(ino(parent), &child, mode, uid, gid).await };
        self.spawn("mkdir", work, move |node| entry(reply, ttl, &node));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let child = checked_name!(self, "mknod", child, reply);
        let (vfs, ttl) = (Arc::clone(&self.vfs), self.ttl);
        let owner = (mode & !umask & 0o7777, request.uid(), request.gid());
        let work = async move {
            match special_kind(mode, device) {
                Some(kind) => vfs.make_special(ino(parent), &child, kind, owner).await,
                None => vfs.make_file(ino(parent), &child, owner).await,
            }
        };
        self.spawn("mknod", work, move |node| entry(reply, ttl, &node));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        let child = checked_name!(self, "unlink", child, reply);
        let vfs = Arc::clone(&self.vfs);
        self.spawn("unlink", async move { vfs.unlink(ino(parent), &child).await }, |done| empty(reply, done));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        let child = checked_name!(self, "rmdir", child, reply);
        let vfs = Arc::clone(&self.vfs);
        self.spawn("rmdir", async move { vfs.rmdir(ino(parent), &child).await }, |done| empty(reply, done));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, child: &OsStr, target: &Path, reply: ReplyEntry) {
        let child = checked_name!(self, "symlink", child, reply);
        let (vfs, ttl, owner) = (Arc::clone(&self.vfs), self.ttl, (request.uid(), request.gid()));
        let target = Bytes::copy_from_slice(target.as_os_str().as_encoded_bytes());
        let work = async move { vfs.symlink(ino(parent), &child, target, owner).await };
        self.spawn("symlink", work, move |node| entry(reply, ttl, &node));
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        let vfs = Arc::clone(&self.vfs);
        self.spawn("readlink", async move { vfs.readlink(ino(node)).await }, |target| match target {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        });
    }

    fn link(&self, _request: &Request, _node: INodeNo, _parent: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        reply.error(report("link", &Error::HardLink, self.style));
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        child: &OsStr,
        new_parent: INodeNo,
        new_child: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let child = checked_name!(self, "rename", child, reply);
        let new_child = checked_name!(self, "rename", new_child, reply);
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else {
            let error = Error::Invalid("S3 cannot exchange two objects in one step");
            return reply.error(report("rename", &error, self.style));
        };
        let vfs = Arc::clone(&self.vfs);
        let work = async move { vfs.rename((ino(parent), &child), (ino(new_parent), &new_child), mode).await };
        self.spawn("rename", work, |done| empty(reply, done));
    }

    fn open(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (vfs, access) = (Arc::clone(&self.vfs), Self::access(request, flags));
        let work = async move { vfs.open(ino(node), access).await };
        self.spawn("open", work, move |opened| match opened {
            Ok(Opened { fh, keep_cache }) => reply.opened(handle(fh), Self::open_flags(flags, keep_cache)),
            Err(errno) => reply.error(errno),
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let child = checked_name!(self, "create", child, reply);
        let (vfs, ttl, flags) = (Arc::clone(&self.vfs), self.ttl, OpenFlags(flags));
        let owner = (mode & !umask & 0o7777, request.uid(), request.gid());
        let access = Self::access(request, flags);
        let work = async move { vfs.create(ino(parent), &child, owner, access).await };
        self.spawn("create", work, move |created| match created {
            Ok((node, fh)) => {
                let attr = file_attr(node.ino, &node.attributes);
                let ttl = believed(&node.attributes, ttl);
                reply.created(&ttl, &attr, GENERATION, handle(fh), Self::open_flags(flags, true));
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn read(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let vfs = Arc::clone(&self.vfs);
        self.spawn("read", async move { vfs.read(fh(handle), offset, size).await }, |bytes| match bytes {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        });
    }

    fn write(
        &self,
        request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (vfs, data) = (Arc::clone(&self.vfs), PlainBuf::copy_of(data));
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let written_back = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let place = if written_back { Place::Kernel(offset) } else { Place::Program(offset) };
        let kills = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let privileges = if kills { Privileges::Drop { gid: request.gid() } } else { Privileges::Keep };
        let work = async move { vfs.write(fh(handle), place, data.as_slice(), privileges).await };
        self.spawn("write", work, move |done| match done {
            Ok(()) => reply.written(length),
            Err(errno) => reply.error(errno),
        });
    }

    fn flush(&self, _request: &Request, _node: INodeNo, handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let vfs = Arc::clone(&self.vfs);
        self.spawn("close", async move { vfs.flush(fh(handle)).await }, |done| empty(reply, done));
    }

    fn fsync(&self, _request: &Request, _node: INodeNo, handle: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        let vfs = Arc::clone(&self.vfs);
        self.spawn("fsync", async move { vfs.fsync(fh(handle)).await }, |done| empty(reply, done));
    }

    fn release(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let vfs = Arc::clone(&self.vfs);
        let work = async move {
            vfs.release(fh(handle)).await;
            Ok(())
        };
        self.spawn("release", work, |done| empty(reply, done));
    }

    fn opendir(&self, request: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.vfs.open_directory(ino(node), request.uid()) {
            Ok(fh) => reply.opened(handle(fh), FopenFlags::empty()),
            Err(error) => reply.error(report("opendir", &error, self.style)),
        }
    }

    fn readdir(&self, request: &Request, node: INodeNo, handle: FileHandle, offset: u64, reply: ReplyDirectory) {
        let Some(device) = self.device.clone() else { return reply.error(Errno::EIO) };
        let request = request.unique();
        let vfs = Arc::clone(&self.vfs);
        let node = ino(node);
        let dots = [(node, "."), (vfs.parent(node), "..")];
        let work = async move { vfs.entries(fh(handle), offset == 0).await };
        self.spawn("readdir", work, move |entries| match entries {
            Ok(entries) => directory_reply::answer(reply, request, &device, from_offset(dots, &entries, offset)),
            Err(errno) => reply.error(errno),
        });
    }

    fn releasedir(&self, _request: &Request, _node: INodeNo, handle: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.vfs.release_directory(fh(handle));
        reply.ok();
    }

    fn fsyncdir(&self, _request: &Request, _node: INodeNo, _handle: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        // Names are in the store when the call that made them returns, so there is nothing to wait for.
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _node: INodeNo, reply: ReplyStatfs) {
        let it = self.vfs.statfs();
        let (blocks, files) = (it.blocks, it.files);
        reply.statfs(blocks, blocks, blocks, files, files, it.block_bytes, it.name_bytes_max, it.block_bytes);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _answer_bytes: u32,
        reply: ReplyIoctl,
    ) {
        // Programs ask each file whether it is a terminal.
        reply.error(Errno::ENOTTY);
    }

    fn lseek(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        // The kernel knows the rest by itself.
        let found = match (sought(whence), u64::try_from(offset)) {
            (Some(sought), Ok(offset)) => self.vfs.seek(fh(handle), offset, sought),
            // There is no data before the beginning either (lseek(2), as ext4 and XFS answer).
            (Some(_), Err(_)) => Err(Error::PastEnd),
            (None, _) => Err(Error::Invalid("only data and holes are looked for here")),
        };
        match found.map_err(|error| report("lseek", &error, self.style)) {
            Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            Err(errno) => reply.error(errno),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _from: INodeNo,
        from_handle: FileHandle,
        from_offset: u64,
        _to: INodeNo,
        to_handle: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let vfs = Arc::clone(&self.vfs);
        let (from, to) = ((fh(from_handle), from_offset), (fh(to_handle), to_offset));
        let privileges = privileges_of(request);
        let work = async move { vfs.copy_range(from, to, length.min(COPY_BYTES_MAX), privileges).await };
        self.spawn("copy_file_range", work, move |copied| match copied {
            Ok(copied) => reply.written(u32::try_from(copied).unwrap_or(u32::MAX)),
            // After EOPNOTSUPP the kernel copies by reading and writing.
            Err(errno) => reply.error(errno),
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let vfs = Arc::clone(&self.vfs);
        let (range, privileges) = (offset..offset.saturating_add(length), privileges_of(request));
        let work = async move {
            let what = allocation(mode).ok_or(Error::Unsupported("this mode of fallocate"))?;
            vfs.allocate(fh(handle), range, what, privileges).await
        };
        self.spawn("fallocate", work, |done| empty(reply, done));
    }

    fn setxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (vfs, name, value) = (Arc::clone(&self.vfs), name.as_encoded_bytes().to_vec(), value.to_vec());
        let hidden = is_hidden_from(request, &name);
        let work = async move {
            if hidden {
                Err(Error::NoAttribute)
            } else {
                vfs.set_attribute(ino(node), &name, &value, expect(flags)).await
            }
        };
        self.spawn("setxattr", work, |done| empty(reply, done));
    }

    fn removexattr(&self, _request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, name) = (Arc::clone(&self.vfs), name.as_encoded_bytes().to_vec());
        let work = async move { vfs.remove_attribute(ino(node), &name).await };
        self.spawn("removexattr", work, |done| empty(reply, done));
    }

    fn getxattr(&self, request: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (vfs, name) = (Arc::clone(&self.vfs), name.as_encoded_bytes().to_vec());
        let hidden = is_hidden_from(request, &name);
        let work = async move { if hidden { Err(Error::NoAttribute) } else { vfs.attribute(ino(node), &name).await } };
        self.spawn("getxattr", work, move |value| match value {
            Ok(value) => sized(reply, &value, size),
            Err(errno) => reply.error(errno),
        });
    }

    fn listxattr(&self, _request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let vfs = Arc::clone(&self.vfs);
        let work = async move { vfs.list_attributes(ino(node)).await };
        self.spawn("listxattr", work, move |names| match names {
            Ok(names) => sized(reply, &names, size),
            Err(errno) => reply.error(errno),
        });
    }
}

/// Answers a call that finds or makes a name.
fn entry(reply: ReplyEntry, ttl: Duration, node: &Result<Node, Errno>) {
    match node {
        Ok(Node { ino, attributes, .. }) => {
            reply.entry(&believed(attributes, ttl), &file_attr(*ino, attributes), GENERATION);
        }
        Err(errno) => reply.error(*errno),
    }
}

fn empty(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// The protocol of extended attributes: a size of 0 asks for the length alone.
fn sized(reply: ReplyXattr, value: &[u8], size: u32) {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    match size {
        0 => reply.size(length),
        size if size < length => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}

/// The entries from `offset` on. An entry's offset is its place; the next one is what the kernel asks for then.
fn from_offset<'a>(
    dots: [(Ino, &'a str); 2],
    entries: &'a [DirEntry],
    offset: u64,
) -> impl Iterator<Item = Listed<'a>> + Clone {
    let dots = dots.map(|(ino, name)| (ino, Some(Kind::Directory), name));
    let listed = entries.iter().map(|entry| (entry.ino, entry.kind, entry.name.as_str()));
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let all = (1..).zip(dots.into_iter().chain(listed)).skip(from);
    all.map(|(next, (ino, kind, name))| (ino, next, kind, name))
}
