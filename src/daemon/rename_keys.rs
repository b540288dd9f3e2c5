//! The keys that sign journals of directories' renames: a data key of KMS, or else one that this host keeps.
//!
//! The journals lie in the bucket, where more people may write than may use the KMS key directly. A data key is made at
//! the first rename, and each journal has it in wrapped form; KMS gives it back only for the same source and purpose.
//! Where KMS cannot be had, because the mount has no key of its own (`aws/s3`) or may not call KMS directly, 32 random
//! bytes in the spill directory take its place. They lie there in the clear: what they prove is "a mount of this user
//! on this host", and that user reads the directory anyhow.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lru::LruCache;
use rustix::process::geteuid;

use crate::config::Source;
use dssefs_fs::namespace::{Authenticator, KeyName, NoKey, OwnKey};
use dssefs_s3::kms::{self, Kms};
use dssefs_s3::object::Prefix;
use dssefs_s3::policy::KeyArn;
use dssefs_seal::crypto::{MAC_BYTES, MacKey};

/// What the data keys are for, as KMS and CloudTrail have it.
const PURPOSE: &str = "rename";
/// The file in the spill directory that has the host's key.
const FILE: &str = "rename-key";
/// How long KMS is waited for, as a mount that starts waits as well.
const KMS_WAIT_MAX: Duration = Duration::from_secs(10);
/// After KMS gave no data key, how long the host's key is used before KMS is asked again.
const KMS_PAUSE: Duration = Duration::from_secs(600);
/// Wrapped keys whose answers are remembered, refusals too: an attacker may put any number of them into the bucket.
const REMEMBERED_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// The longest CiphertextBlob that KMS takes, in bytes (Decrypt, KMS API reference).
const WRAPPED_BYTES_MAX: usize = 6144;

/// A key with its name.
#[derive(Clone)]
struct Named {
    name: KeyName,
    key: Arc<MacKey>,
}

/// The keys of one mount.
pub(super) struct RenameKeys {
    kms: Kms,
    /// The KMS key of the mount; none is `aws/s3`, which makes no data keys for programs.
    arn: Option<KeyArn>,
    source: Source,
    spill_dir: PathBuf,
    /// The data key of this mount, or when KMS gave none last. Held while KMS is asked, so that it is asked once.
    made: tokio::sync::Mutex<Option<Result<Named, Instant>>>,
    host: Mutex<Option<Named>>,
    /// What KMS said of wrapped keys; None for what it has not wrapped.
    unwrapped: Mutex<LruCache<String, Option<Arc<MacKey>>>>,
}

impl fmt::Debug for RenameKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RenameKeys").field("arn", &self.arn).field("source", &self.source).finish_non_exhaustive()
    }
}

impl RenameKeys {
    /// Makes no request and no file.
    pub(super) fn new(kms: &Kms, arn: Option<&KeyArn>, source: Source, spill_dir: &Path) -> Arc<RenameKeys> {
        Arc::new(RenameKeys {
            kms: kms.clone(),
            arn: arn.cloned(),
            source,
            spill_dir: spill_dir.to_owned(),
            made: tokio::sync::Mutex::new(None),
            host: Mutex::new(None),
            unwrapped: Mutex::new(LruCache::new(REMEMBERED_MAX)),
        })
    }

    fn host(&self) -> MutexGuard<'_, Option<Named>> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unwrapped(&self) -> MutexGuard<'_, LruCache<String, Option<Arc<MacKey>>>> {
        self.unwrapped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One kms:GenerateDataKey for each mount that renames a directory.
    async fn of_kms(&self, arn: &KeyArn) -> Option<Named> {
        let mut made = self.made.lock().await;
        match &*made {
            Some(Ok(named)) => return Some(named.clone()),
            Some(Err(failed)) if failed.elapsed() < KMS_PAUSE => return None,
            _ => {}
        }
        match self.new_data_key(arn).await {
            Ok(named) => {
                *made = Some(Ok(named.clone()));
                Some(named)
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    "KMS gives no data key to sign the journals of directories' renames, \
                     so a key in the spill directory does: \
                     only a mount of this host with this --spill-dir can settle a rename \
                     that a crash leaves in the middle; \
                     allow kms:GenerateDataKey and \
                     kms:Decrypt for kms:EncryptionContext:dssefs:purpose = {PURPOSE} to let any mount do so"
                );
                *made = Some(Err(Instant::now()));
                None
            }
        }
    }

    async fn new_data_key(&self, arn: &KeyArn) -> Result<Named, String> {
        let source = self.source.to_string();
        let made = tokio::time::timeout(KMS_WAIT_MAX, self.kms.data_key(arn, &binding(&source))).await;
        let made = made.map_err(|_| late())?.map_err(|error| error.to_string())?;
        let wrapped = base64_simd::STANDARD.encode_to_string(&made.wrapped);
        let key = Arc::new(MacKey::new(made.key));
        self.unwrapped().put(cached(&source, &wrapped), Some(Arc::clone(&key)));
        Ok(Named { name: KeyName::Kms { arn: arn.to_string(), wrapped }, key })
    }

    /// At most one kms:Decrypt for each wrapped key. It is asked for under this mount's own KMS key alone: a key that
    /// an attacker has would unwrap what the attacker has wrapped.
    async fn unwrap(&self, arn: &str, wrapped: &str, root: &Prefix) -> Result<Arc<MacKey>, NoKey> {
        let Some(own) = self.arn.as_ref().filter(|own| own.as_str() == arn) else {
            return Err(NoKey::Elsewhere(format!(
                "it is signed under the KMS key {arn:?}, and this mount has another (--kms-key-id)"
            )));
        };
        let source = Source { bucket: self.source.bucket.clone(), prefix: root.clone() }.to_string();
        let remembered = self.unwrapped().get(&cached(&source, wrapped)).cloned();
        let forged = || NoKey::Forged(format!("KMS has not wrapped it for a rename in {source}"));
        match remembered {
            Some(Some(key)) => return Ok(key),
            Some(None) => return Err(forged()),
            None => {}
        }
        let blob = base64_simd::STANDARD.decode_to_vec(wrapped).ok();
        let blob = blob.filter(|blob| (1..=WRAPPED_BYTES_MAX).contains(&blob.len())).ok_or_else(forged)?;
        let answer = tokio::time::timeout(KMS_WAIT_MAX, self.kms.unwrap(own, &blob, &binding(&source))).await;
        let answer = answer.map_err(|_| NoKey::Unavailable(late()))?;
        let answer = match answer {
            Ok(key) => Some(Arc::new(MacKey::new(key))),
            Err(kms::Error::NotWrappedHere { .. }) => None,
            Err(error) => return Err(NoKey::Unavailable(error.to_string())),
        };
        self.unwrapped().put(cached(&source, wrapped), answer.clone());
        answer.ok_or_else(forged)
    }

    /// The key of this host, made when there is none. One that cannot be kept lives as long as the mount does.
    fn of_host(&self) -> Result<Named, String> {
        let mut host = self.host();
        if let Some(named) = &*host {
            return Ok(named.clone());
        }
        let key = read_key(&self.spill_dir).and_then(|read| match read {
            Some(key) => Ok(key),
            None => make_key(&self.spill_dir),
        });
        let key = match key {
            Ok(key) => key,
            Err(error) => {
                let directory = self.spill_dir.display();
                tracing::warn!(
                    %error,
                    "{directory}/{FILE} cannot be used to sign the journals of directories' renames: \
                     a rename that a crash leaves in the middle \
                     stays so, with both names, until it is settled by hand"
                );
                MacKey::random().map_err(|error| error.to_string())?
            }
        };
        let named = named(key);
        *host = Some(named.clone());
        Ok(named)
    }

    fn find_host(&self, id: &str) -> Result<Arc<MacKey>, NoKey> {
        let has = |named: &Named| matches!(&named.name, KeyName::Host { id: own } if own == id);
        if let Some(named) = self.host().as_ref().filter(|named| has(named)) {
            return Ok(Arc::clone(&named.key));
        }
        // An unusable file is told of when a key is needed.
        let kept = read_key(&self.spill_dir).ok().flatten().map(named);
        match kept.filter(has) {
            Some(named) => Ok(named.key),
            None => Err(NoKey::Elsewhere(format!(
                "it is signed with the key {:?} of a host or spill directory that is not this one",
                id.chars().take(2 * MAC_BYTES).collect::<String>()
            ))),
        }
    }
}

impl Authenticator for RenameKeys {
    fn own(&self) -> BoxFuture<'_, Result<OwnKey, String>> {
        async {
            let of_kms = match &self.arn {
                Some(arn) => self.of_kms(arn).await,
                None => None,
            };
            let Named { name, key } = match of_kms {
                Some(named) => named,
                None => self.of_host()?,
            };
            Ok((name, key))
        }
        .boxed()
    }

    fn find<'a>(&'a self, name: &'a KeyName, root: &'a Prefix) -> BoxFuture<'a, Result<Arc<MacKey>, NoKey>> {
        async move {
            Ok(match name {
                KeyName::Kms { arn, wrapped } => self.unwrap(arn, wrapped, root).await?,
                KeyName::Host { id } => self.find_host(id)?,
            })
        }
        .boxed()
    }
}

/// KMS gives the key back only for the same mount, and never for what wrapped another kind of key.
fn binding(source: &str) -> [(&'static str, &str); 2] {
    [("dssefs:source", source), ("dssefs:purpose", PURPOSE)]
}

fn cached(source: &str, wrapped: &str) -> String {
    format!("{wrapped} {source}")
}

fn late() -> String {
    format!("KMS did not answer within {} s", KMS_WAIT_MAX.as_secs())
}

/// The name of a host's key is a code that it makes, which tells nothing of it.
fn named(key: MacKey) -> Named {
    let id = key.mac(&[b"dssefs rename key"]).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    Named { name: KeyName::Host { id }, key: Arc::new(key) }
}

/// The key that the spill directory has; None where it has none.
///
/// # Errors
/// What is wrong with the file. A key that others could read or have put there proves nothing.
fn read_key(directory: &Path) -> io::Result<Option<MacKey>> {
    let mut options = OpenOptions::new();
    let no_follow = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = options.read(true).custom_flags(no_follow.bits().cast_signed()).open(directory.join(FILE));
    let file = match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    require_own(&file)?;
    let mut bytes = zeroize::Zeroizing::new([0; MAC_BYTES]);
    (&file).read_exact(&mut *bytes)?;
    MacKey::from_bytes(&bytes).map(Some).map_err(io::Error::other)
}

fn require_own(file: &File) -> io::Result<()> {
    let meta = file.metadata()?;
    let wrong = |what: String| Err(io::Error::other(format!("{what}; remove the file, and a new one is made")));
    if !meta.is_file() || meta.len() != MAC_BYTES as u64 {
        return wrong(format!("it is no file of {MAC_BYTES} bytes"));
    }
    if meta.uid() != geteuid().as_raw() {
        return wrong(format!("it belongs to another user ({})", meta.uid()));
    }
    if meta.mode() & 0o077 != 0 || meta.nlink() != 1 {
        return wrong(format!("others may use it (mode {:04o}, {} names)", meta.mode() & 0o7777, meta.nlink()));
    }
    Ok(())
}

/// Makes the key's file under another name, so that no mount ever reads a half of it. Of two mounts that begin together
/// one wins.
fn make_key(directory: &Path) -> io::Result<MacKey> {
    let key = MacKey::random().map_err(io::Error::other)?;
    let mut file = tempfile::Builder::new().prefix(".rename-key-").tempfile_in(directory)?;
    file.write_all(key.expose())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(directory.join(FILE)) {
        Ok(_) => {
            File::open(directory)?.sync_all()?;
            Ok(key)
        }
        Err(taken) if taken.error.kind() == io::ErrorKind::AlreadyExists => {
            read_key(directory)?.ok_or_else(|| io::Error::other("it was removed at the same moment"))
        }
        Err(error) => Err(error.error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn id(key: MacKey) -> KeyName {
        named(key).name
    }

    #[test]
    fn the_key_of_a_host_is_made_once_and_is_private() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read_key(directory.path()).unwrap().is_none());
        let made = id(make_key(directory.path()).unwrap());
        assert_eq!(id(make_key(directory.path()).unwrap()), made, "the second finds the first's");
        assert_eq!(id(read_key(directory.path()).unwrap().unwrap()), made);
        let meta = fs::metadata(directory.path().join(FILE)).unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o7777), (32, 0o600));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_that_others_could_have_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(FILE);
        make_key(directory.path()).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            assert!(read_key(directory.path()).is_err(), "{mode:o}");
        }
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        assert!(read_key(directory.path()).is_ok());
        fs::hard_link(&file, directory.path().join("other")).unwrap();
        assert!(read_key(directory.path()).is_err(), "another name");
        fs::remove_file(&file).unwrap();
        symlink("other", &file).unwrap();
        assert!(read_key(directory.path()).is_err(), "a link");
        fs::remove_file(&file).unwrap();
        fs::write(&file, [0; 31]).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        assert!(read_key(directory.path()).is_err(), "too short");
    }
}
