//! A mount by the built program, which goes away whatever happens.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use super::endpoint::{ACCESS_KEY, BUCKET, Endpoint, REGION, SECRET_KEY};

const MOUNT_WITHIN: Duration = Duration::from_secs(120);
const END_WITHIN: Duration = Duration::from_secs(30);
const LOG_COMES_WITHIN: Duration = Duration::from_millis(150);
const LINE_COMES_WITHIN: Duration = Duration::from_secs(10);

/// Mounts by the name of the test's thread, for the one who has to detach them.
static MOUNTS: Mutex<BTreeMap<String, Vec<PathBuf>>> = Mutex::new(BTreeMap::new());

/// The built program, without the settings of whoever runs the tests.
pub(crate) fn dssefs() -> Command {
    // Another build of it can be tried as well.
    let program = std::env::var_os("DSSEFS").unwrap_or_else(|| env!("CARGO_BIN_EXE_dssefs").into());
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let is_setting = |name: &str| {
            name.starts_with("AWS_") || name.starts_with("DSSEFS_") || name.to_ascii_uppercase().ends_with("_PROXY")
        };
        if name.to_str().is_some_and(is_setting) {
            command.env_remove(name);
        }
    }
    // Neither profiles of the user nor the metadata service of a cloud machine.
    command.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
    command.env("AWS_EC2_METADATA_DISABLED", "true").stdin(Stdio::null());
    command
}

/// A mounted bucket.
pub(crate) struct Mount {
    daemon: Child,
    dir: TempDir,
    /// What the daemon said on standard error so far.
    log: Arc<Mutex<String>>,
}

impl Mount {
    /// Mounts the endpoint's bucket under its key.
    pub(crate) fn of(endpoint: &Endpoint) -> Mount {
        Mount::with(endpoint, &[])
    }

    /// The same, with more options.
    pub(crate) fn with(endpoint: &Endpoint, options: &[&str]) -> Mount {
        let key = ["--kms-key-id", endpoint.key_arn()];
        Mount::source(endpoint, BUCKET, &[key.as_slice(), options].concat())
    }

    /// The same, with another server at `url` between it and the endpoint.
    pub(crate) fn through(endpoint: &Endpoint, url: &str, options: &[&str]) -> Mount {
        let dir = Mount::place();
        let command = Mount::command_through(url, &dir.path().join("mnt"));
        Mount::start(dir, command, &[&["--kms-key-id", endpoint.key_arn()], options].concat())
    }

    /// The same, started by another program, such as one that sets limits.
    pub(crate) fn under(endpoint: &Endpoint, starter: &[&str], options: &[&str]) -> Mount {
        let dir = Mount::place();
        let program = Mount::command(endpoint, BUCKET, &dir.path().join("mnt"));
        let (first, arguments) = starter.split_first().expect("a program to start with");
        let mut command = Command::new(first);
        command.args(arguments).arg(program.get_program()).args(program.get_args()).stdin(Stdio::null());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Mount::start(dir, command, &[&["--kms-key-id", endpoint.key_arn()], options].concat())
    }

    /// The same by another user, who then owns the mount point; only root can become another. In a mount namespace of
    /// its own, where everybody may use the device, as udev has it, whatever it is on this machine: see [`Mount::pid`]
    /// to enter it.
    pub(crate) fn by(endpoint: &Endpoint, user: u32) -> Mount {
        const ENTER: &str =
            "mknod -m 666 \"$1/fuse\" c 10 229; mount --bind \"$1/fuse\" /dev/fuse; shift; exec setpriv \"$@\"";
        let dir = Mount::place();
        for path in [dir.path().to_owned(), dir.path().join("mnt")] {
            std::os::unix::fs::chown(path, Some(user), Some(user)).expect("root may do so");
        }
        let program = Mount::command(endpoint, BUCKET, &dir.path().join("mnt"));
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-euc", ENTER, "sh"]).arg(dir.path());
        command.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
        command.arg(program.get_program()).args(program.get_args()).stdin(Stdio::null());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Mount::start(dir, command, &["--kms-key-id", endpoint.key_arn()])
    }

    /// Mounts the endpoint's bucket with other variables in its environment; None takes one away.
    pub(crate) fn with_environment(
        endpoint: &Endpoint,
        environment: &[(&str, Option<&str>)],
        options: &[&str],
    ) -> Mount {
        let dir = Mount::place();
        let mut command = Mount::command(endpoint, BUCKET, &dir.path().join("mnt"));
        for (name, value) in environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Mount::start(dir, command, &[&["--kms-key-id", endpoint.key_arn()], options].concat())
    }

    /// As [`Mount::with`], of an endpoint that is reached by another URL than its own.
    pub(crate) fn at(endpoint: &Endpoint, url: &str, options: &[&str]) -> Mount {
        let dir = Mount::place();
        let command = Mount::command_at(url, BUCKET, &dir.path().join("mnt"));
        Mount::start(dir, command, &[&["--kms-key-id", endpoint.key_arn()], options].concat())
    }

    /// Mounts any source with exactly these options.
    pub(crate) fn source(endpoint: &Endpoint, source: &str, options: &[&str]) -> Mount {
        let dir = Mount::place();
        let command = Mount::command(endpoint, source, &dir.path().join("mnt"));
        Mount::start(dir, command, options)
    }

    /// As [`Mount::with`], with these variables in its environment.
    pub(crate) fn with_variables(endpoint: &Endpoint, options: &[&str], variables: &[(&str, &Path)]) -> Mount {
        let dir = Mount::place();
        let mut command = Mount::command(endpoint, BUCKET, &dir.path().join("mnt"));
        command.envs(variables.iter().copied());
        Mount::start(dir, command, &[&["--kms-key-id", endpoint.key_arn()], options].concat())
    }

    /// The same, of a mount that is killed as soon as `fatal` holds, or when it answers. It may also kill itself. Gives
    /// whether it came to its end before it answered.
    pub(crate) fn killed_while_it_starts(
        endpoint: &Endpoint,
        options: &[&str],
        variables: &[(&str, &Path)],
        fatal: impl Fn() -> bool,
    ) -> bool {
        let dir = Mount::place();
        let mut command = Mount::command(endpoint, BUCKET, &dir.path().join("mnt"));
        command.envs(variables.iter().copied()).arg("--foreground");
        command.args(["--kms-key-id", endpoint.key_arn()]).args(options);
        let daemon = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        register(dir.path().join("mnt"));
        let mut mount = Mount { daemon, dir, log: Arc::default() };
        mount.keep_log();
        let deadline = Instant::now() + MOUNT_WITHIN;
        while !(mount.has_ended() || fatal() || mountinfo_has(&mount.path())) {
            assert!(Instant::now() < deadline, "the mount neither answers nor ends\n{}", mount.log());
            std::thread::sleep(Duration::from_millis(2));
        }
        let at_once = fatal() || mount.has_ended();
        if !mount.has_ended() {
            mount.signal(Signal::KILL);
            mount.ended().expect("a killed process ends");
        }
        at_once
    }

    /// As [`Mount::with`], with its standard error where the test wants it.
    pub(crate) fn with_stderr(endpoint: &Endpoint, options: &[&str], stderr: Stdio) -> Mount {
        let dir = Mount::place();
        let command = Mount::command(endpoint, BUCKET, &dir.path().join("mnt"));
        Mount::start_with(dir, command, &[&["--kms-key-id", endpoint.key_arn()], options].concat(), stderr)
    }

    fn place() -> TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("mnt")).expect("a mount point");
        dir
    }

    fn start(dir: TempDir, command: Command, options: &[&str]) -> Mount {
        Mount::start_with(dir, command, options, Stdio::piped())
    }

    fn start_with(dir: TempDir, mut command: Command, options: &[&str], stderr: Stdio) -> Mount {
        command.arg("--foreground").args(options);
        if !options.contains(&"--spill-dir") {
            command.arg("--spill-dir").arg(dir.path().join("spill"));
        }
        let daemon = command.stdout(Stdio::piped()).stderr(stderr).spawn().expect("the program starts");
        // The command keeps the other end of a pipe that it was given.
        drop(command);
        register(dir.path().join("mnt"));
        let mut mount = Mount { daemon, dir, log: Arc::default() };
        mount.keep_log();
        mount.wait_until_it_answers();
        mount
    }

    /// `dssefs mount SOURCE DIR` with what it needs to reach the endpoint, and nothing more.
    pub(crate) fn command(endpoint: &Endpoint, source: &str, dir: &Path) -> Command {
        Mount::command_at(&endpoint.url(), source, dir)
    }

    /// `dssefs mount` of the endpoint's bucket, whose requests go to another server at `url`.
    pub(crate) fn command_through(url: &str, dir: &Path) -> Command {
        Mount::command_at(url, BUCKET, dir)
    }

    fn command_at(url: &str, source: &str, dir: &Path) -> Command {
        let mut command = dssefs();
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command.arg("mount").arg(source).arg(dir).args(["--region", REGION, "--force-path-style"]);
        command.args(["--endpoint-url", url, "--kms-endpoint-url", url]);
        command
    }

    fn keep_log(&mut self) {
        let Some(stderr) = self.daemon.stderr.take() else { return };
        let log = Arc::clone(&self.log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&line);
                log.push('\n');
            }
        });
    }

    fn wait_until_it_answers(&mut self) {
        let stdout = self.daemon.stdout.take().expect("a pipe");
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = String::new();
            let read = stdout.read_line(&mut line);
            let _ = sender.send(line);
            // Whatever comes later has somewhere to go.
            let _ = read.and_then(|_| stdout.read_to_end(&mut Vec::new()));
        });
        let line = receiver.recv_timeout(MOUNT_WITHIN).unwrap_or_default();
        if !line.contains(" is mounted at ") {
            // What the daemon said last is still on its way here.
            std::thread::sleep(Duration::from_secs(1));
            let ended = self.daemon.try_wait();
            panic!("the mount did not answer: {line:?}, {ended:?}\n{}", self.log());
        }
    }

    /// The root of the mount.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// A path in the mount.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn spill_dir(&self) -> PathBuf {
        self.dir.path().join("spill")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// What the daemon said so far. It writes its log by a thread of its own, so that a line may come a moment after
    /// the call that it tells of has returned.
    pub(crate) fn log(&self) -> String {
        std::thread::sleep(LOG_COMES_WITHIN);
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first line of what the daemon says for which `wanted` holds. Waits for it; gives nothing when it does not
    /// come.
    pub(crate) fn line(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + LINE_COMES_WITHIN;
        loop {
            let found = {
                let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
                log.lines().find(|line| wanted(line)).map(str::to_owned)
            };
            if found.is_some() || Instant::now() > deadline {
                return found;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The largest memory that the daemon ever had, in bytes (proc_pid_status(5), VmHWM).
    pub(crate) fn memory_bytes_peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the daemon runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line of the peak");
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kibibytes * 1024
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.daemon), signal).expect("the daemon takes a signal");
    }

    /// Whether the daemon has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.daemon.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Ends the daemon as a service manager does, and gives its status.
    pub(crate) fn end(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().unwrap_or_else(|| panic!("the daemon did not end within {END_WITHIN:?}\n{}", self.log()))
    }

    /// Waits for the daemon to end by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + END_WITHIN;
        while Instant::now() < deadline {
            if let Some(status) = self.daemon.try_wait().expect("a child can be waited for") {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

impl Drop for Mount {
    /// Asks, waits, and then detaches: the temporary directory must not be emptied through a living mount.
    fn drop(&mut self) {
        if self.daemon.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = kill_process(Pid::from_child(&self.daemon), Signal::TERM);
            if self.ended().is_none() {
                detach(&self.path());
                let _ = self.daemon.kill();
                let _ = self.daemon.wait();
            }
        }
        if mountinfo_has(&self.path()) {
            detach(&self.path());
        }
        if std::thread::panicking() {
            println!("the daemon said:\n{}", self.log());
        }
    }
}

/// Whether something is mounted there.
pub(crate) fn mountinfo_has(path: &Path) -> bool {
    // Another test may have mounted on a name that is not UTF-8.
    let mounts = std::fs::read("/proc/self/mountinfo").expect("the list of mounts");
    String::from_utf8_lossy(&mounts).lines().any(|line| line.split(' ').nth(4).map(Path::new) == Some(path))
}

/// Detaches the mounts of a test that hangs.
pub(crate) fn detach_of(test: &str) {
    let mounts = MOUNTS.lock().unwrap_or_else(PoisonError::into_inner).remove(test).unwrap_or_default();
    mounts.iter().filter(|path| mountinfo_has(path)).for_each(|path| detach(path));
}

fn register(path: PathBuf) {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    MOUNTS.lock().unwrap_or_else(PoisonError::into_inner).entry(test).or_default().push(path);
}

/// A mount point of a daemon in the background: no child of the test, so it is detached in the end, which ends the
/// daemon.
pub(crate) struct Detached(pub(crate) PathBuf);

impl Drop for Detached {
    fn drop(&mut self) {
        if mountinfo_has(&self.0) {
            detach(&self.0);
        }
    }
}

/// Takes the mount out of sight and aborts its connection, so that whoever waits on it gets an error.
fn detach(path: &Path) {
    abort(path);
    if geteuid().is_root() {
        let _ = unmount(path, UnmountFlags::DETACH);
    } else {
        let _ = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(path).status();
    }
}

/// fusectl: writing to `abort` fails every request under way. The connection's number is the device's minor number,
/// which is read from the list of mounts, as stat(2) would hang.
fn abort(path: &Path) {
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mounts = String::from_utf8_lossy(&mounts);
    let ours = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(4).map(Path::new) == Some(path));
    if let Some(minor) = ours.and_then(|fields| fields.get(2)?.split_once(':').map(|(_, minor)| minor.to_owned())) {
        // Without fusectl there is still the detaching.
        let _ = std::fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1");
    }
}
