//! What the tests stand on.

mod deadline;
mod endpoint;
mod fault;
pub(crate) mod hostile_store;
pub(crate) mod journal;
pub(crate) mod kept;
mod mount;
mod scenario;
pub(crate) mod store;

pub(crate) use deadline::deadline;
pub(crate) use endpoint::{ACCESS_KEY, BUCKET, Endpoint, SECRET_KEY, client};
pub(crate) use fault::{denied, failure, unavailable};
pub(crate) use mount::{Detached, Mount, dssefs, mountinfo_has};
pub(crate) use scenario::scenario;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use dssefs_emulator::Counters;
use rustix::process::geteuid;

/// What most tests may take. Generous, because the machine may be busy; a test that hangs is what it is for.
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// Longer than twice the mount's default `--metadata-ttl`: what the mount believed for so long, the kernel may believe
/// again.
pub(crate) const STALE: Duration = Duration::from_millis(2_200);

/// Bytes that do not repeat, and are the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // Xorshift (Marsaglia 2003): not random, but not compressible either.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The seed of a randomised test: from the environment, else from the clock; printed, so that a failure can be
/// repeated.
pub(crate) fn seed() -> u64 {
    let clock = || std::time::UNIX_EPOCH.elapsed().map_or(1, |now| now.subsec_nanos().into());
    let seed = std::env::var("DSSEFS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(clock);
    println!("DSSEFS_SEED={seed}");
    seed
}

/// Whether a test cannot be done by this user. It says why, and `scripts/suite` counts it as skipped.
pub(crate) fn needs_root(why: &str) -> bool {
    let is_missing = !geteuid().is_root();
    if is_missing {
        println!("skipped: {why}");
    }
    is_missing
}

/// Waits until `holds`, and fails after `limit`.
pub(crate) fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come true within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The error number of a failure.
pub(crate) fn errno<T>(result: io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or_else(|| panic!("not an error of the system: {error}")),
    }
}

/// Creates, writes and commits a file, with the error of each; `std::fs::write` drops that of close(2).
pub(crate) fn commit(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Copies content to `path` by cp(1), which tells what close(2) said. Gives its complaint when it failed.
pub(crate) fn cp(content: &[u8], path: &Path) -> Result<(), String> {
    let source = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(source.path(), content).expect("the local disk takes it");
    let output =
        std::process::Command::new("cp").env("LC_ALL", "C").arg(source.path()).arg(path).output().expect("cp is there");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Content that was sent to the endpoint.
pub(crate) fn sent_bytes(counters: &Counters) -> u64 {
    ["PutObject", "UploadPart"].iter().map(|name| counters.operation(name).body_bytes_in).sum()
}

/// The names in a directory, in order, without a stat(2) of any.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("the directory can be listed");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// An attribute as text.
pub(crate) fn attribute(path: &Path, name: &str) -> io::Result<String> {
    match xattr::get(path, name)? {
        Some(value) => Ok(String::from_utf8_lossy(&value).into_owned()),
        None => Err(io::Error::from_raw_os_error(libc::ENODATA)),
    }
}

/// The same of an open file, which may have lost its name.
pub(crate) fn attribute_of(file: &std::fs::File, name: &str) -> io::Result<String> {
    use xattr::FileExt as _;
    match file.get_xattr(name)? {
        Some(value) => Ok(String::from_utf8_lossy(&value).into_owned()),
        None => Err(io::Error::from_raw_os_error(libc::ENODATA)),
    }
}
