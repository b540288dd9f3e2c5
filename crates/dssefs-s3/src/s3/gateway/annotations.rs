//! Keeps the annotations of an object while a write replaces it.
//!
//! A copy within the store carries annotations; a PutObject and a multipart upload do not ("Annotating your objects",
//! S3 User Guide). So before such a write the gateway copies them to an empty held object, and after it to the new
//! version. The held object names the key that they belong to, and the version that is about to be replaced. After a
//! crash in between, the next start finishes the move: the ledger has the name of the held object, and what proves that
//! it still is as this host made it. Who may write there could else choose the annotations of every object.
//!
//! A store that does not know annotations says so at the first question, which is the last one then.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use dssefs_seal::crypto::{MAC_BYTES, MacKey};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::Gateway;
use super::held::held_key;
use crate::object::{ETag, Key, Prefix, UserMetadata, Version};
use crate::s3::error::{Error, Kind};
use crate::s3::ledger::HeldProof;
use crate::s3::metrics::Operation;
use crate::s3::request::{Condition, NewObject, Source};

/// The code of each annotation that was copied, by its name.
type Codes = BTreeMap<String, [u8; MAC_BYTES]>;

/// Annotations of one object that are copied at the same time, each with at most 1 MiB in memory.
const AT_ONCE_MAX: usize = 4;
/// The metadata of a held object that has annotations: the key that they belong to, in Base64.
const KEY_NAME: &str = "dssefs-annotations-of";
/// The same: the ETag of the version that they were copied from.
const ETAG_NAME: &str = "dssefs-annotations-etag";

/// The annotations of an object that is about to be replaced, in a held object.
#[derive(Clone, Debug)]
pub struct KeptAnnotations {
    /// The held object.
    held: Source,
    /// The version that they were copied from.
    of: ETag,
    proof: Arc<MacKey>,
    codes: Codes,
}

impl KeptAnnotations {
    /// The version that they were copied from.
    #[must_use]
    pub fn of(&self) -> &ETag {
        &self.of
    }

    /// Where they are, for the log.
    #[must_use]
    pub fn held(&self) -> &Key {
        &self.held.key
    }
}

impl Gateway {
    /// The names of the annotations of the object at `key`: none where the user does not want them kept
    /// ([`Connection::keeps_annotations`](crate::s3::Connection::keeps_annotations)) or the store does not know them.
    ///
    /// # Errors
    /// As S3 answers. Then the object must not be replaced: it may have some.
    pub async fn annotations(&self, key: &Key) -> Result<Vec<String>, Error> {
        if !self.asks_for_annotations.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        match self.store.annotations(key).await {
            Err(error) if error.kind == Kind::Unsupported => {
                if self.asks_for_annotations.swap(false, Ordering::Relaxed) {
                    tracing::info!("the store does not know annotations; the mount does not ask for them again");
                }
                Ok(Vec::new())
            }
            // Also of objects under customer-provided keys, which can have none.
            Err(error) if error.kind == Kind::NotFound || error.status == Some(400) && says_never(&error) => {
                Ok(Vec::new())
            }
            answer => answer,
        }
    }

    /// Copies the annotations `names` of the version `of` at `key` to a held object of a mount of `root`, until
    /// [`Gateway::put_annotations_back`] or [`Gateway::release_annotations`]. `tags` are those of the object, because
    /// policies may go by them.
    ///
    /// # Errors
    /// As S3 answers. The held object is gone then, or in the ledger.
    pub async fn keep_annotations(
        self: &Arc<Self>,
        names: Vec<String>,
        (key, of): (&Key, &ETag),
        root: &Prefix,
        tags: Option<String>,
    ) -> Result<KeptAnnotations, Error> {
        // 1. Make the held object.
        let name = self.commit_id().ok_or_else(|| {
            self.failure(Kind::Local, Operation::PutObject, key).because("the system gives no random bytes")
        })?;
        let held = held_key(root, name.as_str()).map_err(|error| {
            self.failure(Kind::Local, Operation::PutObject, key)
                .because(format!("the mount's prefix is too long to hold annotations below it: {error}"))
        })?;
        let proof = MacKey::random().map_err(|error| {
            self.failure(Kind::Local, Operation::PutObject, key)
                .because(format!("there is no key to prove that annotations stay as they are: {error}"))
        })?;
        if let Some(ledger) = self.ledger.get() {
            ledger.holds(name.as_str());
        }
        let object = NewObject { user: belonging_to(key, of), tags, ..NewObject::at(held.clone()) };
        let made = match self.put(&object, Arc::new(Bytes::new()), &Condition::Absent).await {
            Ok(made) => made.into_inner(),
            Err(error) => {
                self.note_failed_hold(name.as_str(), &error);
                return Err(error);
            }
        };
        // 2. Copy the annotations to it.
        let held = Source { key: held, version: made.version, size: 0 };
        let mut kept = KeptAnnotations { held, of: of.clone(), proof: Arc::new(proof), codes: Codes::new() };
        let codes = Mutex::new(Codes::new());
        let note = |name: &str, payload: &[u8]| {
            let code = kept.proof.mac(&[name.as_bytes(), payload]);
            codes.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), code);
            Ok(())
        };
        let to = (&kept.held.key, &kept.held.version.etag);
        let copied = self.copy_annotations(names.iter(), key, to, note).await;
        kept.codes = codes.into_inner().unwrap_or_else(PoisonError::into_inner);
        // 3. Note what proves them, before the object that has them is replaced.
        let code = code_of_all(&kept.proof, &kept.held.key, &belonging_to(key, of), &kept.codes);
        let proof = HeldProof { key: *kept.proof.expose(), code };
        let noted = copied.and_then(|()| match self.ledger.get().map(|ledger| ledger.proves(name.as_str(), &proof)) {
            Some(Err(error)) => Err(self
                .failure(Kind::Local, Operation::PutObjectAnnotation, key)
                .because(format!("the list of held objects cannot be written: {error}"))
                .into()),
            _ => Ok(()),
        });
        if let Err(error) = noted {
            self.release_annotations(&kept).await;
            return Err(error);
        }
        Ok(kept)
    }

    /// Copies kept annotations to the version that has replaced theirs, and releases them.
    ///
    /// # Errors
    /// As S3 answers, and [`Kind::Integrity`] if another program has changed them. They are still held then, and the
    /// next start copies those that are as they were.
    pub async fn put_annotations_back(
        &self,
        kept: &KeptAnnotations,
        key: &Key,
        version: &Version,
    ) -> Result<(), Error> {
        let check = |name: &str, payload: &[u8]| {
            self.check_annotation(&kept.held.key, (&kept.proof, &kept.codes), name, payload)
        };
        self.copy_annotations(kept.codes.keys(), &kept.held.key, (key, &version.etag), check).await?;
        self.release_annotations(kept).await;
        Ok(())
    }

    /// Deletes what [`Gateway::keep_annotations`] has made. What cannot be deleted now is deleted at the next start.
    pub async fn release_annotations(&self, kept: &KeptAnnotations) {
        if let Err(error) = self.release(&kept.held).await {
            let remedy = error.remedy();
            tracing::warn!(
                key = %kept.held.key, %error, remedy,
                "an object that held annotations could not be deleted; the next mount deletes it"
            );
        }
    }

    /// Copies annotations from one object to the version of another, unless `look` refuses one.
    pub(super) async fn copy_annotations(
        &self,
        names: impl Iterator<Item = &String>,
        from: &Key,
        (to, version): (&Key, &ETag),
        look: impl Fn(&str, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let copy = async |name: &String| {
            let payload = self.store.annotation(from, name).await?;
            look(name, &payload)?;
            self.store.annotate(to, version, name, payload).await
        };
        stream::iter(names).map(copy).buffer_unordered(AT_ONCE_MAX).try_collect().await
    }

    /// Finishes the move of annotations that a crash has interrupted: if the version that they belong to has been
    /// replaced, the object that stands there gets those that it does not have. `user` is the metadata of `held`, and
    /// `proof` what the ledger says of it. Returns what may be done with the held object.
    pub(super) async fn finish_annotations(
        &self,
        held: &Key,
        user: &UserMetadata,
        proof: &HeldProof,
        root: &Prefix,
    ) -> Result<Finished, Error> {
        let Some((key, of)) = belongs_to(user).filter(|(key, _)| key.as_str().starts_with(root.as_str())) else {
            return Ok(Finished::IsNotOurs);
        };
        // 1. Read all of them once, and believe them together or not at all.
        let no_key = |error| self.failure(Kind::Local, Operation::GetObjectAnnotation, held).because(error).into();
        let mac = MacKey::from_bytes(&proof.key).map_err(|error| -> Error { no_key(error.to_string()) })?;
        let mut codes = Codes::new();
        for name in self.store.annotations(held).await? {
            let payload = self.store.annotation(held, &name).await?;
            codes.insert(name.clone(), mac.mac(&[name.as_bytes(), &payload]));
        }
        if code_of_all(&mac, held, user, &codes) != proof.code {
            return Ok(Finished::IsNotOurs);
        }
        // 2. Look whether their object was replaced. Asked also where the user does not want annotations kept now:
        //    these were promised to be.
        let now = match self.etag(&key).await? {
            None => return Ok(Finished::IsOurs),
            Some(etag) if etag == of => return Ok(Finished::IsOurs),
            Some(etag) => etag,
        };
        let there = self.store.annotations(&key).await?;
        // 3. Copy those that are missing.
        let missing: Vec<&String> = codes.keys().filter(|name| !there.contains(name)).collect();
        let check = |name: &str, payload: &[u8]| self.check_annotation(held, (&mac, &codes), name, payload);
        self.copy_annotations(missing.iter().copied(), held, (&key, &now), check).await?;
        if !missing.is_empty() {
            let count = missing.len();
            tracing::info!(%key, count, "annotations that a crash had separated from their object are back");
        }
        Ok(Finished::IsOurs)
    }

    /// Refuses an annotation of the held object that another program has changed.
    fn check_annotation(
        &self,
        held: &Key,
        (mac, codes): (&MacKey, &Codes),
        name: &str,
        payload: &[u8],
    ) -> Result<(), Error> {
        if codes.get(name).is_some_and(|code| mac.verifies(&[name.as_bytes(), payload], code)) {
            return Ok(());
        }
        let failure = self.failure(Kind::Integrity, Operation::GetObjectAnnotation, held);
        Err(failure.because(format!("another program has changed the held annotation {name:?}")).into())
    }
}

/// What an interrupted move of annotations has come to.
pub(super) enum Finished {
    /// They are where they belong, or of no use.
    IsOurs,
    /// Another program has made or changed the held object.
    IsNotOurs,
}

/// Proves a held object with all of its annotations, and whose they are.
fn code_of_all(mac: &MacKey, held: &Key, user: &UserMetadata, codes: &Codes) -> [u8; MAC_BYTES] {
    let entry = |name: &str| user.get(name).map_or("", String::as_str);
    let whose = [held.as_str(), entry(KEY_NAME), entry(ETAG_NAME)].map(str::as_bytes);
    let each = codes.iter().flat_map(|(name, code)| [name.as_bytes(), code]);
    mac.mac(&whose.into_iter().chain(each).collect::<Vec<_>>())
}

/// Whether an answer of 400 says that this object can have no annotations, and not that the caller or the key is wrong.
fn says_never(error: &Error) -> bool {
    matches!(error.kind, Kind::Protocol | Kind::KeyUnusable)
        && error
            .code
            .as_deref()
            .is_some_and(|code| matches!(code, "InvalidRequest" | "InvalidArgument" | "UnsupportedOperation"))
}

fn belonging_to(key: &Key, of: &ETag) -> UserMetadata {
    let key = base64_simd::STANDARD.encode_to_string(key.as_str());
    UserMetadata::from([(KEY_NAME.to_owned(), key), (ETAG_NAME.to_owned(), of.as_str().to_owned())])
}

fn belongs_to(user: &UserMetadata) -> Option<(Key, ETag)> {
    let key = base64_simd::STANDARD.decode_to_vec(user.get(KEY_NAME)?).ok()?;
    let key = Key::new(String::from_utf8(key).ok()?).ok()?;
    Some((key, ETag::new(user.get(ETAG_NAME)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_object_names_the_longest_key_within_the_metadata() {
        let (key, etag) = (Key::new("é".repeat(512)).unwrap(), ETag::new("\"0123456789abcdef0123456789abcdef-10000\""));
        let user = belonging_to(&key, &etag);
        assert_eq!(belongs_to(&user), Some((key.clone(), etag)));
        assert!(NewObject { user, ..NewObject::at(key) }.has_room_for_commit());
    }

    #[test]
    fn other_metadata_names_nothing() {
        for key in ["", "%%%", "/w=="] {
            let user =
                UserMetadata::from([(KEY_NAME.to_owned(), key.to_owned()), (ETAG_NAME.to_owned(), "e".to_owned())]);
            assert_eq!(belongs_to(&user), None, "{key:?}");
        }
        assert_eq!(belongs_to(&UserMetadata::new()), None);
    }
}
