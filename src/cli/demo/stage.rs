//! What the tour needs: an endpoint with a bucket and a key, and the mount as a process of its own. All of it goes away
//! again.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::super::background::own_program;
use super::super::exit::Exit;
use dssefs_emulator::kms::NewKey;
use dssefs_emulator::{Counters, Options, Server};
use dssefs_s3::escaping::shown;

pub(super) const BUCKET: &str = "demo";
pub(super) const REGION: &str = "us-east-1";
pub(super) const ACCESS_KEY: &str = "dssefs-demo";
pub(super) const SECRET_KEY: &str = "dssefs-demo-secret";

/// Small, so that some files in the making are enough to need the spill.
const MEMORY: &str = "32MiB";
const MOUNT_WITHIN: Duration = Duration::from_secs(30);
const UNMOUNT_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// Why there is no stage.
#[derive(Debug, thiserror::Error)]
pub(super) enum StageError {
    #[error("fusermount3 is missing, which mounts for users other than root; install it with apt-get install fuse3")]
    HelperMissing,
    #[error(
        "/dev/fuse cannot be used ({0}); load the module with modprobe fuse, or give the container --device /dev/fuse"
    )]
    NoFuse(#[source] io::Error),
    #[error("{} cannot be made a mount point: {error}", path.display())]
    Mountpoint { path: PathBuf, error: io::Error },
    #[error("the endpoint cannot start")]
    Endpoint(#[from] dssefs_emulator::Error),
    #[error("the endpoint gives no key")]
    Key(#[from] dssefs_emulator::kms::Exception),
    #[error("the mount did not come up; what it said is above")]
    Mount(Exit),
    #[error("the mount did not answer within {} s", MOUNT_WITHIN.as_secs())]
    MountSilent,
    #[error("the system refuses what the tour needs: {0}")]
    System(#[source] io::Error),
}

impl StageError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            StageError::HelperMissing | StageError::NoFuse(_) | StageError::MountSilent => Exit::Fuse,
            StageError::Mountpoint { .. } => Exit::Usage,
            StageError::Mount(exit) => *exit,
            StageError::Endpoint(_) | StageError::Key(_) | StageError::System(_) => Exit::Internal,
        }
    }
}

/// The endpoint, the mount, and the directory in which both keep their things.
pub(super) struct Stage<'a> {
    // In the order in which they are taken down.
    mount: Mount,
    endpoint: Endpoint<'a>,
    scratch: TempDir,
}

impl<'a> Stage<'a> {
    pub(super) fn build(runtime: &'a Runtime, mountpoint: Option<&Path>) -> Result<Stage<'a>, StageError> {
        check_machine()?;
        let scratch = tempfile::Builder::new().prefix("dssefs-demo-").tempdir().map_err(StageError::System)?;
        let endpoint = Endpoint::start(runtime, &scratch.path().join("endpoint"))?;
        let mountpoint = mountpoint.map_or_else(|| scratch.path().join("mnt"), Path::to_owned);
        let made = std::fs::create_dir_all(&mountpoint).and_then(|()| std::path::absolute(&mountpoint));
        let mountpoint = made.map_err(|error| StageError::Mountpoint { path: mountpoint.clone(), error })?;
        let mount = Mount::start(&endpoint, mountpoint, scratch.path().join("spill"))?;
        Ok(Stage { mount, endpoint, scratch })
    }

    pub(super) fn mountpoint(&self) -> &Path {
        &self.mount.point
    }

    /// A directory on the local disk for comparisons.
    pub(super) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    pub(super) fn spill_dir(&self) -> &Path {
        &self.mount.spill_dir
    }

    pub(super) fn daemon(&self) -> u32 {
        self.mount.daemon.id()
    }

    pub(super) fn key_arn(&self) -> &str {
        &self.endpoint.key_arn
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.endpoint.server.address()
    }

    pub(super) fn counters(&self) -> Counters {
        self.endpoint.server.counters()
    }

    pub(super) fn reset_counters(&self) {
        self.endpoint.server.reset_counters();
    }

    /// What another client needs to reach the endpoint.
    pub(super) fn environment(&self) -> [(&'static str, String); 5] {
        self.endpoint.environment()
    }

    /// Waits until the user interrupts, or the mount ends.
    pub(super) fn wait(&self, interrupted: &AtomicBool) {
        while !interrupted.load(Ordering::Relaxed) && Path::new(&format!("/proc/{}/fd", self.daemon())).exists() {
            thread::sleep(POLL);
        }
    }

    /// The mount first, as it writes to the endpoint; a panic on the way takes the same road through `Drop`.
    pub(super) fn take_down(self) {
        let Stage { mount, endpoint, scratch } = self;
        drop(mount);
        endpoint.stop();
        drop(scratch);
    }
}

/// What would otherwise fail later and with fewer words.
fn check_machine() -> Result<(), StageError> {
    std::fs::File::options().read(true).write(true).open("/dev/fuse").map_err(StageError::NoFuse)?;
    let helper = || Command::new("fusermount3").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if geteuid().is_root() || helper().is_ok() { Ok(()) } else { Err(StageError::HelperMissing) }
}

struct Endpoint<'a> {
    runtime: &'a Runtime,
    server: Server,
    key_arn: String,
}

impl<'a> Endpoint<'a> {
    fn start(runtime: &'a Runtime, data: &Path) -> Result<Endpoint<'a>, StageError> {
        let options = Options {
            region: REGION.to_owned(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            buckets: vec![BUCKET.to_owned()],
            ..Options::new(data.to_owned())
        };
        let server = runtime.block_on(Server::start(options))?;
        let key_arn = server.kms().create_key(NewKey::default())?.arn;
        Ok(Endpoint { runtime, server, key_arn })
    }

    fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", self.server.url()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_DEFAULT_REGION", REGION.to_owned()),
        ]
    }

    fn stop(self) {
        self.runtime.block_on(self.server.stop());
    }
}

/// The mount, as `dssefs mount --foreground` in a process group of its own, which Ctrl-C in this terminal does not
/// reach.
struct Mount {
    daemon: Child,
    point: PathBuf,
    spill_dir: PathBuf,
}

impl Mount {
    fn start(endpoint: &Endpoint<'_>, point: PathBuf, spill_dir: PathBuf) -> Result<Mount, StageError> {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(own_program());
        forget_settings(&mut command);
        command.envs(endpoint.environment()).args(["mount", "--foreground", "--force-path-style"]);
        command
            .args(["--endpoint-url", &endpoint.server.url(), "--kms-key-id", &endpoint.key_arn, "--memory", MEMORY])
            .arg("--spill-dir")
            .arg(&spill_dir);
        command.arg(BUCKET).arg(&point).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let daemon = command.spawn().map_err(StageError::System)?;
        let mut mount = Mount { daemon, point, spill_dir };
        let line = mount.first_line()?;
        println!("{}", line.trim_end());
        Ok(mount)
    }

    /// The line that says that the mount answers.
    fn first_line(&mut self) -> Result<String, StageError> {
        let Some(stdout) = self.daemon.stdout.take() else { return Err(StageError::MountSilent) };
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line).map(|_| line);
            // The receiver is gone when it has waited long enough.
            let _ = sender.send(read);
        });
        match receiver.recv_timeout(MOUNT_WITHIN) {
            Ok(Ok(line)) if !line.is_empty() => Ok(line),
            Ok(_) => Err(StageError::Mount(self.daemon.wait().map_or(Exit::Internal, Exit::of))),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(StageError::MountSilent),
        }
    }

    fn ended_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.daemon.try_wait() {
                Ok(None) if Instant::now() < deadline => thread::sleep(POLL),
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
    }
}

/// Settings of this shell would change what is shown.
fn forget_settings(command: &mut Command) {
    let ours = |name: &str| name.starts_with("DSSEFS_") || name.starts_with("AWS_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)) {
        command.env_remove(name);
    }
}

impl Drop for Mount {
    /// Asks first; a daemon that does not listen is cut off from the kernel, so that nothing hangs on it.
    fn drop(&mut self) {
        if let Err(error) = kill_process(Pid::from_child(&self.daemon), Signal::TERM) {
            tracing::debug!(%error, "the daemon had ended before");
        }
        if self.ended_within(UNMOUNT_WITHIN).is_some() {
            return;
        }
        eprintln!("the mount does not end by itself; it is detached and its process killed");
        detach(&self.point);
        if let Err(error) = self.daemon.kill().and_then(|()| self.daemon.wait()) {
            eprintln!("process {} could not be killed: {error}", self.daemon.id());
        }
    }
}

fn detach(point: &Path) {
    let detached = if geteuid().is_root() {
        unmount(point, UnmountFlags::DETACH).is_ok()
    } else {
        Command::new("fusermount3").args(["-u", "-z", "--"]).arg(point).status().is_ok_and(|status| status.success())
    };
    if !detached {
        let point = shown(point);
        eprintln!("{point} could not be unmounted; try umount -l {point}");
    }
}
