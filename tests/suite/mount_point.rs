//! Where a mount is: on the directory that was checked, and nowhere else; and what ends it ends no other.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use dssefs_emulator::faults::{Fault, Rule};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::{
    BUCKET, Endpoint, MINUTE, Mount, STALE, attribute, commit, deadline, dssefs, eventually, mountinfo_has, needs_root,
};

const USER: u32 = 65_534;
/// How long the proof of the bucket is held back.
const HELD_MS: u64 = 3_000;
/// Its own 5 s for programs and 5 s for tasks, and a busy machine.
const END_WITHIN: Duration = Duration::from_secs(40);

/// A directory with a mount point two levels down, and what the daemon says.
struct Place {
    endpoint: Endpoint,
    dir: TempDir,
}

/// A daemon, which goes away whatever happens.
struct Daemon {
    /// In the foreground the daemon, else what started it.
    child: Child,
    /// The daemon in the background.
    background: Option<Pid>,
    /// Where mounts of it may be left.
    top: PathBuf,
}

impl Place {
    fn new() -> Place {
        let place = Place { endpoint: Endpoint::start(), dir: tempfile::tempdir().unwrap() };
        fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for path in ["a", "a/mnt", "elsewhere", "elsewhere/mnt"] {
            fs::create_dir(place.at(path)).unwrap();
        }
        place
    }

    fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        std::thread::sleep(Duration::from_millis(150));
        fs::read_to_string(self.at("log")).unwrap_or_default()
    }

    fn said(&self) -> String {
        fs::read_to_string(self.at("out")).unwrap_or_default()
    }

    fn command(&self, point: &Path) -> Command {
        let mut command = Mount::command(&self.endpoint, BUCKET, point);
        command.args(["--kms-key-id", self.endpoint.key_arn(), "--spill-dir"]).arg(self.at("spill"));
        command.arg("--log-file").arg(self.at("log"));
        command
    }

    /// Gives code and words of a mount that ends at once.
    fn refused(&self, point: &Path, more: &[&OsStr]) -> (Option<i32>, String) {
        let output = self.command(point).args(more).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn start(&self, mut command: Command) -> Daemon {
        let [out, errors] = ["out", "err"].map(|name| File::create(self.at(name)).unwrap());
        let child = command.arg("--foreground").stdin(Stdio::null()).stdout(out).stderr(errors).spawn().unwrap();
        Daemon { child, background: None, top: self.dir.path().to_owned() }
    }

    /// The same by a user without privileges, to whom all of it then belongs, in a mount namespace where everybody may
    /// use the device.
    fn start_by_user(&self, point: &Path) -> Daemon {
        const ENTER: &str =
            "mknod -m 666 \"$1/fuse\" c 10 229; mount --bind \"$1/fuse\" /dev/fuse; shift; exec setpriv \"$@\"";
        for path in ["", "a", "a/mnt", "elsewhere", "elsewhere/mnt"] {
            chown(self.at(path), Some(USER), Some(USER)).unwrap();
        }
        let program = self.command(point);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-euc", ENTER, "sh"]).arg(self.dir.path());
        command.args([format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".to_owned()]);
        command.arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        self.start(command)
    }

    /// Runs `work` while the daemon waits for an answer of the store, before it mounts.
    fn while_proving(&self, start: impl FnOnce() -> Daemon, work: impl FnOnce()) -> Daemon {
        self.endpoint.inject_faults(vec![Rule::on("CreateMultipartUpload", Fault::DelayMs(HELD_MS)).times(1)]);
        let daemon = start();
        eventually("the bucket is being proved", MINUTE, || self.endpoint.struck() > 0);
        work();
        assert_eq!(self.said(), "", "the mount does not answer yet");
        daemon
    }

    /// `a` becomes a link to `elsewhere`; what it was is `moved`.
    fn swap(&self) {
        fs::rename(self.at("a"), self.at("moved")).unwrap();
        symlink("elsewhere", self.at("a")).unwrap();
    }

    fn answers(&self, daemon: &mut Daemon) {
        let mut answers = || self.said().contains(" is mounted at ") || daemon.ended_by_itself();
        eventually("the mount answers or ends", MINUTE, &mut answers);
        assert!(self.said().contains(" is mounted at "), "{}", self.log());
    }
}

impl Daemon {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn ended_by_itself(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + END_WITHIN;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the daemon did not end within {END_WITHIN:?}");
    }

    /// The mounts that the daemon sees below the directory of the test: place and type.
    fn mounts(&self) -> Vec<(PathBuf, String)> {
        mounts_of(&self.pid().to_string(), &self.top)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The topmost first; those of another namespace went with it.
        for (point, _) in mounts_of("self", &self.top).into_iter().rev() {
            let _ = unmount(&point, UnmountFlags::DETACH);
        }
        let Some(pid) = self.background else { return };
        let process = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
        let end = Instant::now() + END_WITHIN;
        while process.exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        if process.exists() {
            let _ = kill_process(pid, Signal::KILL);
            assert!(std::thread::panicking(), "the daemon {pid:?} lives on after its mount is gone");
        }
    }
}

fn mounts_of(process: &str, top: &Path) -> Vec<(PathBuf, String)> {
    let table = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap_or_default();
    let parsed = table.lines().filter_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        let point = fields.split(' ').nth(4)?.replace("\\012", "\n").replace("\\040", " ").replace("\\134", "\\");
        Some((PathBuf::from(point), rest.split(' ').next()?.to_owned()))
    });
    parsed
        .filter(|(point, kind)| point.starts_with(top) && !kind.contains("devtmpfs") && !point.ends_with("fuse"))
        .collect()
}

fn ours(point: PathBuf) -> (PathBuf, String) {
    (point, "fuse.dssefs".to_owned())
}

fn tmpfs(point: &Path) {
    mount("somebody", point, "tmpfs", MountFlags::empty(), None).unwrap();
}

#[test]
fn a_parent_replaced_by_a_link_while_the_bucket_is_proved_leads_roots_mount_nowhere_else() {
    if needs_root("mounts by root itself") {
        return;
    }
    deadline(MINUTE * 2, || {
        let place = Place::new();
        let command = place.command(&place.at("a/mnt"));
        let mut daemon = place.while_proving(|| place.start(command), || place.swap());
        place.answers(&mut daemon);
        assert_eq!(daemon.mounts(), [ours(place.at("moved/mnt"))]);
        assert!(
            place.said().contains(&format!("is mounted at {} (", place.at("moved/mnt").display())),
            "{}",
            place.said()
        );
        commit(&place.at("moved/mnt/file"), b"content").unwrap();
        assert_eq!(place.endpoint.content("file"), b"content");
        daemon.terminate();
        assert!(daemon.ended().success(), "{}", place.log());
        assert!(mounts_of("self", place.dir.path()).is_empty());
    });
}

#[test]
fn a_parent_replaced_by_a_link_while_the_bucket_is_proved_leads_a_users_mount_nowhere_else() {
    if needs_root("becomes another user") {
        return;
    }
    deadline(MINUTE * 2, || {
        let place = Place::new();
        let mut daemon = place.while_proving(|| place.start_by_user(&place.at("a/mnt")), || place.swap());
        place.answers(&mut daemon);
        assert_eq!(daemon.mounts(), [ours(place.at("moved/mnt"))]);
        assert!(
            place.said().contains(&format!("is mounted at {} (", place.at("moved/mnt").display())),
            "{}",
            place.said()
        );
        daemon.terminate();
        assert!(daemon.ended().success(), "{}", place.log());
        assert!(!place.log().contains("cannot be unmounted and stays"), "{}", place.log());
    });
}

#[test]
fn a_directory_removed_while_the_bucket_is_proved_is_an_error_and_its_successor_stays_as_it_is() {
    if needs_root("mounts by root itself") {
        return;
    }
    deadline(MINUTE * 2, || {
        let place = Place::new();
        let replace = || {
            fs::remove_dir(place.at("a/mnt")).unwrap();
            fs::create_dir(place.at("a/mnt")).unwrap();
        };
        let command = place.command(&place.at("a/mnt"));
        let mut daemon = place.while_proving(|| place.start(command), replace);
        assert_eq!(daemon.ended().code(), Some(7));
        assert!(mounts_of("self", place.dir.path()).is_empty());
    });
}

#[test]
fn what_another_program_mounts_there_while_the_bucket_is_proved_is_neither_hidden_nor_unmounted() {
    if needs_root("mounts a file system") {
        return;
    }
    deadline(MINUTE * 2, || {
        let place = Place::new();
        let command = place.command(&place.at("a/mnt"));
        let mut daemon = place.while_proving(|| place.start(command), || tmpfs(&place.at("a/mnt")));
        assert_eq!(daemon.ended().code(), Some(7));
        let said = fs::read_to_string(place.at("err")).unwrap();
        assert!(said.contains("another program meanwhile"), "{said}");
        assert_eq!(mounts_of("self", place.dir.path()), [(place.at("a/mnt"), "tmpfs".to_owned())]);
    });
}

/// Mounts on `a/mnt`, swaps, and mounts somebody else's file system at the old name.
fn ended_after_a_swap(place: &Place, mut daemon: Daemon) {
    place.answers(&mut daemon);
    place.swap();
    tmpfs(&place.at("elsewhere/mnt"));
    commit(&place.at("elsewhere/mnt/theirs"), b"content").unwrap();
    daemon.terminate();
    assert!(daemon.ended().success(), "{}", place.log());
    assert_eq!(mounts_of("self", place.dir.path()), [(place.at("elsewhere/mnt"), "tmpfs".to_owned())]);
    assert!(!place.log().contains("cannot be unmounted and stays"), "{}", place.log());
}

#[test]
fn after_a_swap_a_signal_unmounts_roots_own_mount_and_not_the_one_at_the_old_name() {
    if needs_root("mounts a file system") {
        return;
    }
    deadline(MINUTE * 2, || {
        let place = Place::new();
        let command = place.command(&place.at("a/mnt"));
        ended_after_a_swap(&place, place.start(command));
    });
}

#[test]
fn after_a_swap_a_signal_unmounts_a_users_own_mount_and_not_the_one_at_the_old_name() {
    if needs_root("becomes another user") {
        return;
    }
    deadline(MINUTE * 2, || {
        let place = Place::new();
        let mut daemon = place.start_by_user(&place.at("a/mnt"));
        place.answers(&mut daemon);
        // In the daemon's namespace.
        let inside = |script: &str| {
            let mut enter = Command::new("nsenter");
            enter
                .args(["--mount", "--target", &daemon.pid().to_string(), "sh", "-euc", script, "sh"])
                .arg(place.dir.path());
            assert!(enter.status().unwrap().success(), "{script}");
        };
        place.swap();
        inside("mount -t tmpfs somebody \"$1/elsewhere/mnt\"");
        let other = inside_keeper(&daemon);
        daemon.terminate();
        assert!(daemon.ended().success(), "{}", place.log());
        let left = mounts_of(&other.0.id().to_string(), place.dir.path());
        assert_eq!(left, [(place.at("elsewhere/mnt"), "tmpfs".to_owned())], "{}", place.log());
    });
}

/// A process that keeps the daemon's mount namespace when that has ended.
struct Keeper(Child);

fn inside_keeper(daemon: &Daemon) -> Keeper {
    let mut enter = Command::new("nsenter");
    let child = enter.args(["--mount", "--target", &daemon.pid().to_string(), "sleep", "120"]).spawn().unwrap();
    let keeper = Keeper(child);
    let namespace = |process: u32| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    eventually("it is inside", MINUTE, || namespace(keeper.0.id()) == namespace(daemon.pid()));
    keeper
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_mount_that_another_covers_is_left_to_it_and_its_daemon_ends_and_says_so() {
    if needs_root("mounts a file system") {
        return;
    }
    deadline(MINUTE * 2, || {
        let place = Place::new();
        let point = place.at("a/mnt");
        let mut daemon = place.start(place.command(&point));
        place.answers(&mut daemon);
        tmpfs(&point);
        daemon.terminate();
        daemon.ended();
        assert!(place.log().contains("cannot be unmounted and stays"), "{}", place.log());
        let left = mounts_of("self", place.dir.path());
        assert_eq!(left.last(), Some(&(point, "tmpfs".to_owned())), "{left:?}");
    });
}

#[test]
fn a_mount_that_somebody_has_moved_is_found_and_unmounted() {
    if needs_root("moves a mount") {
        return;
    }
    deadline(MINUTE * 2, || {
        let place = Place::new();
        // A mount below a shared one cannot be moved.
        tmpfs(&place.at("a"));
        rustix::mount::mount_change(place.at("a"), rustix::mount::MountPropagationFlags::PRIVATE).unwrap();
        for name in ["a/mnt", "a/other"] {
            fs::create_dir(place.at(name)).unwrap();
        }
        let mut daemon = place.start(place.command(&place.at("a/mnt")));
        place.answers(&mut daemon);
        rustix::mount::mount_move(place.at("a/mnt"), place.at("a/other")).unwrap();
        daemon.terminate();
        assert!(daemon.ended().success(), "{}", place.log());
        assert_eq!(mounts_of("self", place.dir.path()), [(place.at("a"), "tmpfs".to_owned())]);
    });
}

#[test]
fn a_serving_mount_is_not_busy_by_its_own_processes() {
    if needs_root("unmounts by umount(2)") {
        return;
    }
    deadline(MINUTE, || {
        let place = Place::new();
        let mut daemon = place.start(place.command(&place.at("a/mnt")));
        place.answers(&mut daemon);
        unmount(place.at("a/mnt"), UnmountFlags::empty()).unwrap();
        assert!(daemon.ended().success(), "{}", place.log());
    });
}

#[test]
fn a_second_mount_on_one_directory_is_code_2_and_names_the_first() {
    deadline(MINUTE * 2, || {
        let place = Place::new();
        let point = place.at("a/mnt");
        let mut daemon = place.start(place.command(&point));
        place.answers(&mut daemon);
        for more in [&[][..], &[OsStr::new("--foreground")]] {
            let (code, said) = place.refused(&point, more);
            assert_eq!(code, Some(2), "{said}");
            let words =
                [format!("s3://{BUCKET} (fuse.dssefs) is mounted at"), format!("dssefs umount {}", point.display())];
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
        }
        assert_eq!(daemon.mounts().len(), 1);
        kill_process(Pid::from_child(&daemon.child), Signal::KILL).unwrap();
        daemon.ended();
        // The kernel answers for a dead mount as long as it believes what it was told.
        std::thread::sleep(STALE);
        let (code, said) = place.refused(&point, &[]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("its daemon is gone") && said.contains("`dssefs umount "), "{said}");
        assert_eq!(mounts_of("self", place.dir.path()).len(), 1);
    });
}

#[test]
fn a_mount_over_another_file_system_is_code_2_and_names_it() {
    if needs_root("mounts a file system") {
        return;
    }
    deadline(MINUTE, || {
        let place = Place::new();
        let point = place.at("a/mnt");
        tmpfs(&point);
        let (code, said) = place.refused(&point, &[]);
        let _ = unmount(&point, UnmountFlags::DETACH);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("somebody (tmpfs) is mounted at"), "{said}");
    });
}

#[test]
fn a_file_or_a_directory_that_holds_the_spill_or_the_log_is_no_mount_point() {
    deadline(MINUTE, || {
        let place = Place::new();
        let point = place.at("a/mnt");
        fs::write(place.at("file"), "").unwrap();
        symlink("mnt", place.at("a/link")).unwrap();
        let [inside, through_link, around, log] =
            [point.join("spill"), place.at("a/link/spill"), place.at("a"), point.join("log")]
                .map(PathBuf::into_os_string);
        let cases: [(PathBuf, [OsString; 2], &str); 5] = [
            (place.at("file"), ["-v".into(), "-v".into()], "is not a directory"),
            (point.clone(), ["--spill-dir".into(), inside], "--spill-dir"),
            (point.clone(), ["--spill-dir".into(), through_link], "--spill-dir"),
            (point.clone(), ["--spill-dir".into(), around], "--spill-dir"),
            (point, ["--log-file".into(), log], "--log-file"),
        ];
        for (point, more, word) in cases {
            let mut command = Mount::command(&place.endpoint, BUCKET, &point);
            let output = command.args(["--kms-key-id", place.endpoint.key_arn()]).args(&more).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{more:?}: {said}");
            assert!(said.contains(word), "{more:?}: {said}");
        }
    });
}

/// A daemon in the background on `point`, with what its starter was told.
fn in_background(place: &Place, mut command: Command, point: &Path) -> (Daemon, String) {
    let [out, errors] = ["out", "err"].map(|name| File::create(place.at(name)).unwrap());
    let mut child = command.stdin(Stdio::null()).stdout(out).stderr(errors).spawn().unwrap();
    let status = child.wait().unwrap();
    // The child of the test is the starter; the daemon is no child of it, and ends with its mount.
    let mut daemon = Daemon { child, background: None, top: place.dir.path().to_owned() };
    let errors = fs::read_to_string(place.at("err")).unwrap();
    assert!(status.success(), "{}: {status} {errors}", point.display());
    let pid = attribute(point, "user.dsse.mount.pid").expect("the daemon serves");
    daemon.background = Pid::from_raw(pid.parse().unwrap());
    (daemon, errors)
}

/// Line breaks, an escape, blanks, and bytes that are no UTF-8.
const NAMES: [&[u8]; 4] = [b"a\nb", b"\n", b"x \x1b[2J\\012", b"\xff\n\xfe"];

#[test]
fn a_mount_point_of_any_name_is_mounted_on_in_the_background_and_its_line_is_one_line() {
    deadline(MINUTE * 3, || {
        let place = Place::new();
        for name in NAMES {
            let point = place.at(OsStr::from_bytes(name));
            fs::create_dir(&point).unwrap();
            let (daemon, _) = in_background(&place, place.command(&point), &point);
            let said = place.said();
            assert!(said.lines().count() == 1 && said.contains(" is mounted at "), "{said:?}");
            assert!(!said.trim_end().contains(char::is_control), "{said:?}");
            std::thread::sleep(Duration::from_millis(500));
            let pid = attribute(&point, "user.dsse.mount.pid").expect("the daemon serves");
            commit(&point.join("file"), name).unwrap();
            assert_eq!(place.endpoint.content("file"), name);
            kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::TERM).unwrap();
            eventually("it is unmounted", MINUTE, || {
                fs::read_dir(&point).is_ok_and(|mut names| names.next().is_none())
            });
            eventually("the daemon has ended", MINUTE, || !Path::new("/proc").join(&pid).exists());
            drop(daemon);
        }
    });
}

#[test]
fn a_prefix_with_line_breaks_forges_neither_a_line_nor_a_setting() {
    deadline(MINUTE * 2, || {
        let place = Place::new();
        let point = place.at("a/mnt");
        let prefix = "p\ns3: is mounted at y sandbox=on\\,suid";
        let source = format!("{BUCKET}/{prefix}");
        let mut command = Mount::command(&place.endpoint, &source, &point);
        command
            .args(["--kms-key-id", place.endpoint.key_arn(), "--sandbox", "off", "--spill-dir"])
            .arg(place.at("spill"));
        command.arg("--log-file").arg(place.at("log"));
        let (daemon, _) = in_background(&place, command, &point);
        assert_eq!(place.said().lines().count(), 1, "{}", place.said());
        let settings = attribute(&point, "user.dsse.mount.settings").unwrap();
        assert!(
            settings.lines().count() == 1 && settings.split(' ').any(|setting| setting == "sandbox=off"),
            "{settings}"
        );
        assert!(!settings.split(' ').any(|setting| setting == "sandbox=on"), "{settings}");
        commit(&point.join("file"), b"content").unwrap();
        assert_eq!(place.endpoint.content(&format!("{prefix}/file")), b"content");
        assert!(place.log().lines().all(|line| line.starts_with("20")), "{}", place.log());
        drop(daemon);
    });
}

#[test]
fn arguments_behind_two_dashes_are_taken_in_the_background_too() {
    deadline(MINUTE, || {
        let place = Place::new();
        let point = place.at("a/mnt");
        let mut command = Mount::command(&place.endpoint, "unused", &point);
        let options: Vec<OsString> = command.get_args().skip(3).map(OsStr::to_owned).collect();
        let keys: Vec<(OsString, OsString)> =
            command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
        command = dssefs();
        command.envs(keys).arg("mount").args(options).args(["--kms-key-id", place.endpoint.key_arn(), "--spill-dir"]);
        command.arg(place.at("spill")).arg("--log-file").arg(place.at("log")).arg("--").arg(BUCKET).arg(&point);
        let (_daemon, _) = in_background(&place, command, &point);
        assert!(mountinfo_has(&point));
    });
}

/// Starts a mount from a shell that has taken a lock by a descriptor, and a pipe by another.
#[test]
fn a_lock_and_a_pipe_of_the_starting_shell_are_free_when_the_shell_has_ended() {
    deadline(MINUTE * 2, || {
        let place = Place::new();
        let point = place.at("a/mnt");
        let program = place.command(&point);
        let mut shell = Command::new("sh");
        let (lock, end) = (place.at("lock"), place.at("held"));
        shell.args(["-euc", "exec 8>\"$2\" 9>\"$1\"; flock -n 9; shift 2; exec \"$@\"", "sh"]).arg(&lock).arg(&end);
        shell.arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let (_daemon, _) = in_background(&place, shell, &point);
        let free = Command::new("flock").args(["-n"]).arg(&lock).arg("true").status().unwrap();
        assert!(free.success(), "the lock is still taken");
        let pid = attribute(&point, "user.dsse.mount.pid").unwrap();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        for process in children.split_whitespace().chain([pid.as_str()]) {
            let open = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
            let names: Vec<PathBuf> = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).collect();
            assert!(!names.contains(&lock) && !names.contains(&end), "{process}: {names:?}");
        }
    });
}

#[test]
fn a_directory_with_content_is_mounted_on_with_a_warning() {
    deadline(MINUTE, || {
        let place = Place::new();
        let point = place.at("a/mnt");
        fs::write(point.join("hidden"), "").unwrap();
        let (daemon, _) = in_background(&place, place.command(&point), &point);
        assert!(place.log().contains("the directory is not empty"), "{}", place.log());
        drop(daemon);
        assert!(point.join("hidden").exists());
    });
}

/// The kernel takes 255 bytes of what it shows as the source.
#[test]
fn a_long_prefix_is_mounted() {
    deadline(MINUTE, || {
        let place = Place::new();
        let (prefix, point) = (format!("{}/{}", "p".repeat(200), "\u{e9}".repeat(100)), place.at("a/mnt"));
        let mut command = Mount::command(&place.endpoint, &format!("{BUCKET}/{prefix}"), &point);
        command.args(["--kms-key-id", place.endpoint.key_arn(), "--spill-dir"]).arg(place.at("spill"));
        let _daemon = place.start(command);
        eventually("it is mounted", MINUTE, || mountinfo_has(&point));
        fs::write(point.join("file"), b"content").unwrap();
        assert_eq!(place.endpoint.content(&format!("{prefix}/file")), b"content");
    });
}

/// Only root can: the directory was made, proved to be closed, and held open.
#[test]
fn a_spill_directory_replaced_while_the_bucket_is_proved_is_code_2() {
    deadline(MINUTE * 2, || {
        let place = Place::new();
        let command = place.command(&place.at("a/mnt"));
        let replace = || {
            fs::rename(place.at("spill"), place.at("spill-before")).unwrap();
            fs::create_dir(place.at("spill")).unwrap();
            fs::set_permissions(place.at("spill"), fs::Permissions::from_mode(0o700)).unwrap();
        };
        let mut daemon = place.while_proving(|| place.start(command), replace);
        assert_eq!(daemon.ended().code(), Some(2), "{}", place.log());
        let said = format!("{}{}", place.log(), fs::read_to_string(place.at("err")).unwrap());
        assert!(said.contains("was replaced while the mount started"), "{said}");
        assert_eq!(fs::read_dir(place.at("spill")).unwrap().count(), 0, "nothing is left in the new one");
        assert!(mounts_of("self", place.dir.path()).is_empty());
    });
}
