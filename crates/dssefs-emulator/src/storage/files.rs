//! Names and atomic writes of the record files.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// Suffix of a file that is not true yet; [`super::recovery`] removes such files.
pub(super) const UNFINISHED: &str = "unfinished";

/// Prefix of a bucket's directory that is not true yet, or no longer. No bucket name has capitals, so that no bucket is
/// ever taken for a leftover.
pub(super) const UNFINISHED_DIR: &str = "UNFINISHED-";

/// A fresh name below `root` for such a directory.
pub(super) fn unfinished_dir(root: &Path) -> io::Result<PathBuf> {
    Ok(root.join(format!("{UNFINISHED_DIR}{}", random_hex::<16>()?)))
}

/// The file name of a key's record: the SHA-256 of the key, since a key may hold what no file name may.
pub(super) fn record_name(key: &str) -> String {
    format!("{}.json", hex(&Sha256::digest(key.as_bytes())))
}

/// Writes `record` so that `path` holds either the old record or the new one, whenever the process dies.
pub(super) fn write_record<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    let unfinished = path.with_extension(UNFINISHED);
    private_file().truncate(true).open(&unfinished)?.write_all(&serde_json::to_vec(record)?)?;
    fs::rename(&unfinished, path)
}

/// Makes a directory, and those above it, that no other user can look into; content rests here in the clear. One that
/// is there already, and belongs to this process's user alone, is closed to others.
pub(crate) fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let facts = fs::metadata(path)?;
    // Not a directory for all users, such as /tmp (sticky), nor one that belongs to another user.
    let is_own = facts.uid() == rustix::process::geteuid().as_raw() && facts.mode() & 0o1000 == 0;
    if is_own && facts.mode() & 0o777 != 0o700 {
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// How a file is made that no other user can read.
pub(crate) fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

/// Reads a record; an unreadable one is an error that names the file.
pub(super) fn read_record<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    serde_json::from_slice(&fs::read(path)?).map_err(|source| {
        let sentence = format!("{} is not a record of this endpoint: {source}; move it away", path.display());
        io::Error::new(io::ErrorKind::InvalidData, sentence)
    })
}

/// `2 * BYTES` hexadecimal digits from the system's generator: names of bodies, version ids, upload ids, ETags.
pub(crate) fn random_hex<const BYTES: usize>() -> io::Result<String> {
    let mut bytes = [0; BYTES];
    let mut filled = 0;
    while filled < BYTES {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(hex(&bytes))
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
