//! `dssefs umount` by root of a file system that an unprivileged user serves, and that claims to be a mount of dssefs.
//!
//! The incident: its attributes named a process of that user and a spill directory that was a link, which the file
//! system answered differently each time. Root made a file that belonged to the user in a directory of root.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, ReplyAttr, ReplyData, ReplyEntry,
    ReplyXattr, Request, Session, SessionACL,
};
use rustix::mount::{MountFlags, mount};
use tempfile::TempDir;

use crate::common::kept::told;
use crate::common::{Detached, MINUTE, deadline, dssefs, mountinfo_has, needs_root};

const USER: u32 = 65_534;
const LINK: INodeNo = INodeNo(2);

/// What the file system does not answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Silent {
    Never,
    Attributes,
    Names,
    Status,
}

#[derive(Default)]
struct Unanswered {
    attributes: Mutex<Vec<ReplyXattr>>,
    names: Mutex<Vec<ReplyEntry>>,
    status: Mutex<Vec<ReplyAttr>>,
}

/// A file system with one name in it: `link`, a symbolic link to the second directory at its second reading, else to
/// the first.
struct Hostile {
    pid: u32,
    spill_dir: PathBuf,
    link: [PathBuf; 2],
    readings: AtomicU32,
    silent: Silent,
    /// Requests that wait for their answers.
    unanswered: Unanswered,
}

impl Hostile {
    fn attributes(ino: INodeNo) -> FileAttr {
        let (kind, perm) = if ino == INodeNo::ROOT { (FileType::Directory, 0o755) } else { (FileType::Symlink, 0o777) };
        let time = SystemTime::UNIX_EPOCH;
        FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: USER,
            gid: USER,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Hostile {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.as_bytes() {
            _ if self.silent == Silent::Names => self.unanswered.names.lock().unwrap().push(reply),
            b"link" => reply.entry(&Duration::ZERO, &Hostile::attributes(LINK), Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if self.silent == Silent::Status {
            return self.unanswered.status.lock().unwrap().push(reply);
        }
        reply.attr(&Duration::ZERO, &Hostile::attributes(ino));
    }

    fn readlink(&self, _: &Request, _: INodeNo, reply: ReplyData) {
        let reading = self.readings.fetch_add(1, Ordering::SeqCst);
        reply.data(self.link[usize::from(reading == 1)].as_os_str().as_bytes());
    }

    fn getxattr(&self, _: &Request, _: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = match name.to_str() {
            _ if self.silent == Silent::Attributes => return self.unanswered.attributes.lock().unwrap().push(reply),
            Some("user.dsse.mount.pid") => self.pid.to_string(),
            Some("user.dsse.mount.unsaved.files") => serde_json::json!({
                "closed": 0, "kept": 0, "open": 0, "trying": false, "bytes_sent": 0,
                "spill_dir": self.spill_dir, "files": [],
            })
            .to_string(),
            _ => return reply.error(Errno::ENODATA),
        };
        if size == 0 { reply.size(u32::try_from(value.len()).unwrap()) } else { reply.data(value.as_bytes()) }
    }
}

/// The user's mount and the process that it names, which ends with the test.
struct Foreign {
    process: Child,
    /// Before the place, so that this is not emptied through the mount.
    point: Detached,
    place: TempDir,
}

impl Foreign {
    /// Mounted as fusermount3 mounts for that user; `spill_dir` is below the mount, or absolute.
    fn mount(spill_dir: &str, silent: Silent) -> Foreign {
        let place = TempDir::new().unwrap();
        fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
        let [point, own, victim, program] = ["mnt", "own", "victim", "dssefs"].map(|name| place.path().join(name));
        for (directory, mode) in [(&point, 0o755), (&own, 0o700), (&victim, 0o700), (&victim.join("sub"), 0o700)] {
            fs::create_dir(directory).unwrap();
            fs::set_permissions(directory, Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(own.join("sub")).unwrap();
        for path in [&point, &own, &own.join("sub")] {
            chown(path, Some(USER), Some(USER)).unwrap();
        }
        fs::copy("/bin/sleep", &program).unwrap();
        let process = Command::new(&program).arg("600").uid(USER).gid(USER).spawn().unwrap();
        let hostile = Hostile {
            pid: process.id(),
            spill_dir: point.join(spill_dir),
            link: [own, victim],
            readings: AtomicU32::new(0),
            silent,
            unanswered: Unanswered::default(),
        };
        let foreign = Foreign { process, point: Detached(point), place };
        foreign.serve(hostile);
        foreign
    }

    fn serve(&self, hostile: Hostile) {
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let data = format!("fd={},rootmode=40000,user_id={USER},group_id={USER},allow_other\0", device.as_raw_fd());
        let data = std::ffi::CString::from_vec_with_nul(data.into_bytes()).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("s3://tests", &self.point.0, "fuse.dssefs", flags, data.as_c_str()).unwrap();
        let session = Session::from_fd(hostile, device.into(), SessionACL::All, Config::default()).unwrap();
        // It ends with the mount.
        std::thread::spawn(move || session.run());
    }

    fn umount(&self) -> Output {
        dssefs().arg("umount").arg(&self.point.0).output().unwrap()
    }

    fn victim(&self) -> PathBuf {
        self.place.path().join("victim")
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn changed(directory: &Path) -> (i64, i64) {
    let metadata = fs::metadata(directory).unwrap();
    (metadata.mtime(), metadata.mtime_nsec())
}

#[test]
fn root_unmounting_a_users_file_system_writes_nothing_where_its_link_leads() {
    if needs_root("only root can be deceived into a directory of root") {
        return;
    }
    for spill_dir in ["link", "link/sub"] {
        deadline(MINUTE * 2, move || {
            let foreign = Foreign::mount(spill_dir, Silent::Never);
            let victim = foreign.victim();
            let before = [changed(&victim), changed(&victim.join("sub"))];
            let output = foreign.umount();
            assert_eq!((entries(&victim), entries(&victim.join("sub"))), (vec!["sub".to_owned()], Vec::new()));
            assert_eq!([changed(&victim), changed(&victim.join("sub"))], before, "nothing was made and removed again");
            // The process that it names does not end, and is not waited for without end.
            assert_eq!(output.status.code(), Some(13), "{}", told(&output));
            assert!(told(&output).contains("process"), "{}", told(&output));
            assert!(!mountinfo_has(&foreign.point.0), "{}", told(&output));
        });
    }
}

#[test]
fn a_spill_directory_of_another_user_is_refused() {
    if needs_root("only root can be deceived into a directory of root") {
        return;
    }
    deadline(MINUTE * 2, || {
        let victim = TempDir::new().unwrap();
        fs::set_permissions(victim.path(), Permissions::from_mode(0o755)).unwrap();
        let foreign = Foreign::mount(victim.path().to_str().unwrap(), Silent::Never);
        let output = foreign.umount();
        assert!(told(&output).contains("belongs to user 0, and the mount to user 65534"), "{}", told(&output));
        assert_eq!(entries(victim.path()), Vec::<String>::new());
        assert_eq!(output.status.code(), Some(13), "{}", told(&output));
    });
}

#[test]
fn a_file_system_that_never_answers_is_given_up_with_code_7() {
    if needs_root("only root can be made to wait by another user") {
        return;
    }
    for silent in [Silent::Attributes, Silent::Names] {
        deadline(MINUTE * 2, move || {
            let foreign = Foreign::mount("sub", silent);
            let output = foreign.umount();
            assert_eq!(output.status.code(), Some(7), "{}", told(&output));
            assert!(told(&output).contains("did not answer within"), "{}", told(&output));
            assert!(mountinfo_has(&foreign.point.0));
        });
    }
}

#[test]
fn mounting_over_a_file_system_that_never_answers_ends_with_code_2() {
    if needs_root("only root can be made to wait by another user") {
        return;
    }
    deadline(MINUTE, || {
        let foreign = Foreign::mount("sub", Silent::Status);
        let output = dssefs().args(["mount", "tests"]).arg(&foreign.point.0).args(["--region", "us-east-1"]).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", told(&output));
        assert!(told(&output).contains("fuse.dssefs"), "{}", told(&output));
    });
}
