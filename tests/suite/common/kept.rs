//! Mounts that keep their changes on the local disk, their death, and what `dssefs recover` says of what they left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dssefs_emulator::faults::Rule;
use rustix::process::Signal;
use tempfile::TempDir;

use super::{ACCESS_KEY, Endpoint, Mount, SECRET_KEY, dssefs, unavailable};

/// The first file of a session's journal.
pub(crate) const SEGMENT: &str = "segment-00000000";

/// Uploads fail for as long as its faults are not cleared.
pub(crate) fn refuse_uploads(endpoint: &Endpoint) {
    endpoint.inject_faults(
        ["PutObject", "CompleteMultipartUpload"].map(|name| Rule::on(name, unavailable()).times(0)).to_vec(),
    );
}

pub(crate) fn mount(endpoint: &Endpoint, spill: &TempDir, more: &[&str]) -> Mount {
    let spill = spill.path().to_str().unwrap();
    Mount::with(endpoint, &[&["--spill-keys", "kms", "--spill-dir", spill], more].concat())
}

pub(crate) fn background(endpoint: &Endpoint, spill: &TempDir) -> Mount {
    mount(endpoint, spill, &["--commit", "background"])
}

/// The daemon dies as by a loss of power, but for the page cache of the local disk.
pub(crate) fn kill(mut mount: Mount) {
    mount.signal(Signal::KILL);
    mount.ended().expect("a killed process ends");
}

/// The sessions that mounts have, or left.
pub(crate) fn sessions_in(spill: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(spill.path()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_dir()).collect()
}

/// The one that there is.
pub(crate) fn session(spill: &TempDir) -> PathBuf {
    let mut sessions = sessions_in(spill);
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    sessions.remove(0)
}

pub(crate) fn copy_session(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Nothing is left, not even a list of uploads.
pub(crate) fn is_empty(spill: &TempDir) -> bool {
    fs::read_dir(spill.path()).unwrap().next().is_none()
}

pub(crate) fn recover(endpoint: &Endpoint, spill: &TempDir, action: &[&str]) -> Output {
    ask(endpoint, "recover").arg(spill.path()).args(action).output().unwrap()
}

/// A command that mounts nothing and asks the store.
pub(crate) fn ask(endpoint: &Endpoint, name: &str) -> Command {
    let mut command = dssefs();
    command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    command.args([name, "--region", "us-east-1", "--force-path-style", "--endpoint-url", &endpoint.url()]);
    command.args(["--kms-endpoint-url", &endpoint.url()]);
    command
}

pub(crate) fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
