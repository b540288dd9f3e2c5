//! The data keys of a session: a pair for each run of segments, as KMS has wrapped them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use dssefs_seal::crypto::{Envelope, FileId, Opener, Salt};
use dssefs_seal::secret::Key;

use super::{Error, at, disk, segment, sync_directory};

/// No description is longer, in bytes: two wrapped keys of some 200 bytes, and names.
const DESCRIPTION_BYTES_MAX: u64 = 64 << 10;

/// The layer that a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// aes-gcm.
    Inner,
    /// ring.
    Outer,
}

/// A data key as KMS has encrypted it. Only KMS can make a key of it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    /// The layer that the key seals.
    pub layer: Layer,
    /// The KMS key that wraps it, by its ARN.
    pub kms_key: String,
    /// `CiphertextBlob` of GenerateDataKey, in base64.
    pub wrapped: String,
}

impl Layer {
    /// As descriptions and encryption contexts name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Layer::Inner => "inner",
            Layer::Outer => "outer",
        }
    }
}

/// Two data keys, new from KMS.
pub struct NewKeys {
    /// Which pair of its session it is; the caller binds both keys to it. No two pairs of a session have the same
    /// number.
    pub number: u32,
    /// Both as KMS has wrapped them, the inner one first.
    pub wrapped: [WrappedKey; 2],
    /// That of the inner layer.
    pub inner: Key,
    /// That of the outer layer.
    pub outer: Key,
}

/// How the keys that seal come of the data keys.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Derivation {
    /// [`NewKeys::number`].
    epoch: u32,
    /// Drawn for this epoch alone.
    salt: Salt,
}

/// A run of segments that one pair of data keys has sealed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Epoch {
    pub(super) identity: FileId,
    /// Both keys as KMS has wrapped them, the inner one first.
    pub keys: [WrappedKey; 2],
    /// None in sessions of version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    derivation: Option<Derivation>,
    /// Known by the name of the file.
    #[serde(skip)]
    pub(super) first_segment: u32,
}

impl Epoch {
    /// An epoch that begins with the segment `first_segment`, and what seals it.
    pub(super) fn begin(first_segment: u32, keys: NewKeys) -> Result<(Epoch, Envelope), Error> {
        let NewKeys { number, wrapped, inner, outer } = keys;
        let (envelope, salt) = Envelope::under_data_keys(&inner, &outer)?;
        let derivation = Some(Derivation { epoch: number, salt });
        Ok((Epoch { identity: envelope.file(), keys: wrapped, derivation, first_segment }, envelope))
    }

    /// What both data keys are bound to beside the session: the number of the pair, and to each its layer. None for a
    /// session of version 1, whose keys are bound to the session alone.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        self.derivation.map(|derivation| derivation.epoch)
    }

    /// What opens the epoch's segments, under the data keys that KMS has unwrapped.
    pub(super) fn opener(&self, [inner, outer]: &[Key; 2]) -> Result<Opener, Error> {
        Ok(match &self.derivation {
            Some(derivation) => Opener::derived(self.identity, &derivation.salt, inner, outer)?,
            None => Opener::new(self.identity, inner, outer)?,
        })
    }

    /// Puts a later epoch than the first of a session on the disk, before any of its segments is there.
    pub(super) fn store(&self, session: &Path) -> Result<(), Error> {
        let path = path(session, self.first_segment);
        let file = disk::create_description(&path).map_err(at(&path))?;
        write(&file, &path, self)?;
        sync_directory(session)
    }

    /// Reads what [`Epoch::store`] has written.
    fn stored(session: &Path, first_segment: u32, is_derived: bool) -> Result<Epoch, Error> {
        let path = path(session, first_segment);
        let file = disk::open(&path).map_err(at(&path))?;
        let epoch: Epoch = read(&file, &path)?;
        Ok(Epoch { first_segment, ..epoch.checked(&path, is_derived)? })
    }

    /// Takes it from the disk again: it did not begin. When this returns it does not come back after a loss of power,
    /// beside a segment of its number that other keys have sealed.
    pub(super) fn remove(&self, session: &Path) -> io::Result<()> {
        match disk::remove(&path(session, self.first_segment)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| disk::sync_directory(session)),
        }
    }

    /// Refuses keys that were exchanged or left out, or that are not of the session's version.
    pub(super) fn checked(self, path: &Path, is_derived: bool) -> Result<Epoch, Error> {
        if [self.keys[0].layer, self.keys[1].layer] != [Layer::Inner, Layer::Outer] {
            return Err(unreadable(path, "its keys are not one of each layer".to_owned()));
        }
        if self.derivation.is_some() != is_derived {
            return Err(unreadable(path, "its keys are not of the session's version".to_owned()));
        }
        Ok(self)
    }
}

/// All epochs of a session that begins with `first`, oldest first, without those of whose segments none is left. These
/// are not looked into either: one that was being stored when the power went is there in part, and nothing was sealed
/// under it.
pub(super) fn epochs(session: &Path, first: &Epoch) -> Result<Vec<Epoch>, Error> {
    let segments = numbers(session, segment::number)?;
    let later = numbers(session, epoch_number)?;
    let ends = later.iter().copied().chain([u32::MAX]);
    let used = |begin: u32, end: u32| begin < end && segments.range(begin..end).next().is_some();
    let mut epochs = Vec::new();
    for (begin, end) in [first.first_segment].into_iter().chain(later.iter().copied()).zip(ends) {
        if used(begin, end) {
            epochs.push(if begin == first.first_segment {
                first.clone()
            } else {
                Epoch::stored(session, begin, first.derivation.is_some())?
            });
        }
    }
    Ok(epochs)
}

/// Removes the keys of epochs of whose segments none is left, once `newest` is the one that seals.
pub(super) fn remove_unused(session: &Path, newest: u32) -> Result<(), Error> {
    let segments = numbers(session, segment::number)?;
    let firsts = numbers(session, epoch_number)?;
    let ends = firsts.iter().skip(1).copied().chain([u32::MAX]);
    // A segment that another thread has just removed must not come back after a loss of power without its keys.
    sync_directory(session)?;
    for (first, end) in firsts.iter().zip(ends) {
        if *first != newest && segments.range(*first..end).next().is_none() {
            let path = path(session, *first);
            disk::remove(&path).map_err(at(&path))?;
        }
    }
    Ok(())
}

/// The numbers in the names of a session's files.
pub(super) fn numbers(session: &Path, number: impl Fn(&str) -> Option<u32>) -> Result<BTreeSet<u32>, Error> {
    let mut numbers = BTreeSet::new();
    for entry in fs::read_dir(session).map_err(at(session))? {
        let name = entry.map_err(at(session))?.file_name();
        numbers.extend(name.to_str().and_then(&number));
    }
    Ok(numbers)
}

/// Writes a description, which is on the disk when this returns.
pub(super) fn write(file: &File, path: &Path, described: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(described).expect("a description has only strings and numbers");
    disk::write_description(file, path, &text).map_err(at(path))
}

/// Reads a description of any kind from `file`, which lies at `path`.
pub(super) fn read<T: DeserializeOwned>(file: &File, path: &Path) -> Result<T, Error> {
    let mut text = Vec::new();
    file.take(DESCRIPTION_BYTES_MAX).read_to_end(&mut text).map_err(at(path))?;
    serde_json::from_slice(&text).map_err(|error| unreadable(path, error.to_string()))
}

pub(super) fn unreadable(path: &Path, reason: String) -> Error {
    Error::Unreadable { path: path.to_owned(), reason }
}

fn path(session: &Path, first_segment: u32) -> PathBuf {
    session.join(format!("keys-{first_segment:08}.json"))
}

/// The way back from a file's name, for those that [`path`] gives.
fn epoch_number(name: &str) -> Option<u32> {
    let number = name.strip_prefix("keys-")?.strip_suffix(".json")?.parse().ok()?;
    path(Path::new(""), number).as_os_str().eq(name).then_some(number)
}
