//! Extended attributes: what the store said of each object's encryption, and how that is known.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::namespace::xattr::is_reported;
use crate::namespace::{Ino, Kind};
use crate::spill::Location;
use dssefs_s3::policy::{Algorithm, EncryptionContext, Verdict};
use dssefs_s3::s3::{BucketFacts, Head, Versioning};

use crate::vfs::file::File;
use crate::vfs::{Error, Vfs};

/// The names that every file and directory has, in the order in which they are listed.
const NAMES: [&str; 14] = [
    "user.dsse.verdict",
    "user.dsse.algorithm",
    "user.dsse.key-arn",
    "user.dsse.bucket-key",
    "user.dsse.context",
    "user.dsse.evidence",
    "user.dsse.verified-at",
    "user.dsse.request-id",
    "user.dsse.object",
    "user.dsse.etag",
    "user.dsse.storage-class",
    "user.dsse.local",
    "user.dsse.local.layers",
    "user.dsse.last-error",
];

/// The names that every directory has beside those.
const DIRECTORY_NAMES: [&str; 2] = [HIDDEN, MARKER_BYTES];
const HIDDEN: &str = "user.dsse.hidden";
const MARKER_BYTES: &str = "user.dsse.marker-bytes";

/// The names that the root has beside those.
const ROOT_NAMES: [&str; 8] = [
    "user.dsse.bucket.default-algorithm",
    "user.dsse.bucket.default-key",
    "user.dsse.bucket.versioning",
    "user.dsse.mount.pid",
    "user.dsse.mount.unsaved",
    "user.dsse.mount.version",
    "user.dsse.mount.settings",
    "user.dsse.mount.protection",
];

/// What begins the names of programs, and of ours.
pub(in crate::vfs) const USER: &[u8] = b"user.";

/// What the root's attributes say.
#[derive(Clone, Debug)]
pub struct MountFacts {
    /// The bucket's settings as they were at the start.
    pub bucket: BucketFacts,
    /// The encryption context that each write is sent with.
    pub context: EncryptionContext,
    /// The mount's options in one line.
    pub settings: String,
    /// The version of the program.
    pub version: &'static str,
    /// The two libraries and their versions that seal what rests on this host.
    pub layers: String,
    /// What the process has given up, in a few words.
    pub protection: String,
    /// The directory of spill and journal.
    pub spill_dir: PathBuf,
}

/// What is known of one file or directory.
struct Known {
    /// What the store said; none for what has no object (a directory without marker, a file never sent).
    head: Option<Arc<Head>>,
    /// Why the store could not say anything.
    failure: Option<String>,
    file: Option<Arc<File>>,
    key: Option<String>,
}

impl Vfs {
    /// The names of the attributes, each followed by NUL: those that report, and those that programs have set. No
    /// request while the object is known.
    ///
    /// # Errors
    /// The store cannot be asked: a list without the names that programs have set would be read as if there were none.
    pub async fn list_attributes(&self, ino: Ino) -> Result<Vec<u8>, Error> {
        // The kernel keeps `user.*` from everything else (xattr(7)), so that names alone would be of no use.
        let kind = self.attributes(ino).await?.kind;
        if !matches!(kind, Kind::File | Kind::Directory) {
            return Ok(Vec::new());
        }
        let mut list = self.reported_names(ino, kind);
        for name in self.user_names(ino).await? {
            list.extend_from_slice(&name);
            list.push(0);
        }
        Ok(list)
    }

    /// The value of one attribute: one HEAD at most. Names that neither report nor begin with `user.` are answered from
    /// memory.
    ///
    /// # Errors
    /// [`Error::NoAttribute`], and the store cannot be asked.
    pub async fn attribute(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, Error> {
        match name.strip_prefix(USER) {
            Some(rest) if is_reported(rest) => self.reported(ino, name).await,
            Some(rest) => self.user_attribute(ino, rest).await,
            None => self.reported(ino, name).await,
        }
    }

    fn reported_names(&self, ino: Ino, kind: Kind) -> Vec<u8> {
        if !self.settings.list_attributes {
            return Vec::new();
        }
        let directory: &[&str] = if kind == Kind::Directory { &DIRECTORY_NAMES } else { &[] };
        let root: &[&str] = if ino == Ino::ROOT { &ROOT_NAMES } else { &[] };
        NAMES.iter().chain(directory).chain(root).flat_map(|name| name.bytes().chain([0])).collect()
    }

    async fn reported(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, Error> {
        let name = str::from_utf8(name).map_err(|_| Error::NoAttribute)?;
        if ino == Ino::ROOT
            && let Some(value) = self.root_attribute(name)
        {
            return Ok(value.into_bytes());
        }
        if name == HIDDEN {
            let kind = self.attributes(ino).await?.kind;
            return if kind == Kind::Directory { Ok(self.hidden(ino).into_bytes()) } else { Err(Error::NoAttribute) };
        }
        let name = match name {
            "s3.etag" => "user.dsse.etag",
            "s3.storage-class" => "user.dsse.storage-class",
            other => other,
        };
        let is_known = NAMES.contains(&name) || (name == MARKER_BYTES && self.is_directory(ino).await);
        if !is_known {
            return Err(Error::NoAttribute);
        }
        // A listed name always has a value, if an empty one: getfattr -d complains of every other.
        let known = self.known(ino, name).await?;
        Ok(self.value(&known, name).unwrap_or_default().into_bytes())
    }

    fn root_attribute(&self, name: &str) -> Option<String> {
        let MountFacts { bucket, settings, version, protection, .. } = &self.settings.facts;
        Some(match name {
            "user.dsse.bucket.default-algorithm" => bucket.default_encryption.algorithm.to_string(),
            "user.dsse.bucket.default-key" => {
                bucket.default_encryption.key_arn.clone().unwrap_or_else(|| "unknown".to_owned())
            }
            "user.dsse.bucket.versioning" => versioning(bucket.versioning).to_owned(),
            "user.dsse.mount.pid" => std::process::id().to_string(),
            "user.dsse.mount.unsaved" => self.unsaved_count().to_string(),
            crate::vfs::REPORT_ATTRIBUTE => self.unsaved_report_json()?,
            "user.dsse.mount.version" => (*version).to_owned(),
            "user.dsse.mount.settings" => settings.clone(),
            "user.dsse.mount.protection" => format!("{protection} {}", dssefs_seal::secret::protection()),
            _ => return None,
        })
    }

    /// How many keys of a directory are hidden, and the first of them, quoted and escaped.
    fn hidden(&self, directory: Ino) -> String {
        let Some(hidden) = self.namespace.hidden_in(directory) else { return "unknown".to_owned() };
        let first = hidden.first.iter().map(|key| format!(" {key:?}"));
        std::iter::once(hidden.count.to_string()).chain(first).collect()
    }

    async fn known(&self, ino: Ino, name: &str) -> Result<Known, Error> {
        let file = self.files.find(ino);
        let key = self.namespace.key(ino).map(|key| key.to_string());
        let local_only =
            name.starts_with("user.dsse.local") || name == "user.dsse.last-error" || name == "user.dsse.object";
        let never_stored = file.as_ref().is_some_and(|file| file.state().head.is_none());
        if (local_only && file.is_some()) || never_stored {
            let head = file.as_ref().and_then(|file| file.state().head.clone()).map(Arc::new);
            return Ok(Known { head, failure: None, file, key });
        }
        match self.namespace.head(ino).await {
            Ok(head) => Ok(Known { head: Some(head), failure: None, file, key }),
            Err(crate::namespace::Error::NotFound) if self.is_directory(ino).await => {
                Ok(Known { head: None, failure: None, file, key: None })
            }
            Err(error @ crate::namespace::Error::NotFound) => {
                match file.as_ref().and_then(|file| file.state().head.clone()) {
                    Some(head) => {
                        Ok(Known { head: Some(Arc::new(head)), failure: Some(Error::from(error).advice()), file, key })
                    }
                    None => Err(error.into()),
                }
            }
            Err(error) => Ok(Known { head: None, failure: Some(Error::from(error).advice()), file, key }),
        }
    }

    async fn is_directory(&self, ino: Ino) -> bool {
        self.namespace.attributes(ino).await.is_ok_and(|attributes| attributes.kind == Kind::Directory)
    }

    fn value(&self, known: &Known, name: &str) -> Option<String> {
        let encryption = known.head.as_ref().map(|head| &head.encryption);
        let facts = encryption.map(|encryption| &encryption.facts);
        let meta = known.head.as_ref().map(|head| &head.meta);
        match name {
            "user.dsse.verdict" => Some(self.verdict(known).to_string()),
            "user.dsse.algorithm" => Some(facts.map_or(&Algorithm::Unknown, |facts| &facts.algorithm).to_string()),
            "user.dsse.key-arn" => facts?.key_arn.clone(),
            "user.dsse.bucket-key" => Some(facts?.bucket_key.to_string()),
            "user.dsse.context" => Some(self.context(known)),
            "user.dsse.evidence" => Some(encryption?.evidence.to_string()),
            "user.dsse.verified-at" => rfc3339(encryption?.verified_at),
            "user.dsse.request-id" => encryption?.request_id.clone(),
            "user.dsse.object" => known.key.as_ref().map(|key| self.object(key, known)),
            "user.dsse.etag" => Some(meta?.version.etag.to_string()),
            "user.dsse.storage-class" => Some(meta?.storage_class.clone()),
            "user.dsse.local" => Some(location(known).to_owned()),
            "user.dsse.local.layers" => Some(self.settings.facts.layers.clone()),
            "user.dsse.last-error" => last_error(known),
            MARKER_BYTES => Some(meta?.size.to_string()),
            _ => None,
        }
    }

    /// Changes that are not in the store come first: a claim about the old object would be read as one about the file.
    fn verdict(&self, known: &Known) -> Verdict {
        if known.file.as_ref().is_some_and(|file| file.is_dirty()) {
            return Verdict::Pending;
        }
        known.head.as_ref().map_or(Verdict::Unknown, |head| self.gateway.judge(&head.encryption.facts))
    }

    /// The store never shows a context again. It is known of what this mount has written, if the answer to that named
    /// it; and where none was asked for and none was answered.
    fn context(&self, known: &Known) -> String {
        use dssefs_s3::policy::Evidence;
        let own = |head: &&Arc<Head>| !matches!(head.encryption.evidence, Evidence::Head | Evidence::Get);
        let context = known.head.as_ref().filter(own).and_then(|head| match &head.encryption.facts.context {
            Some(header) => EncryptionContext::answered(header),
            None => Some(self.settings.facts.context.clone()).filter(EncryptionContext::is_empty),
        });
        context.map_or_else(|| "unknown".to_owned(), |context| context.json())
    }

    fn object(&self, key: &str, known: &Known) -> String {
        let version = known.head.as_ref().and_then(|head| head.meta.version.id.as_ref());
        let query = version.map_or_else(String::new, |id| format!("?versionId={}", id.as_str()));
        format!("s3://{}/{key}{query}", self.gateway.bucket())
    }
}

/// Whether the mount reports under exactly this name, on some file or directory.
pub(in crate::vfs) fn is_report(name: &[u8]) -> bool {
    NAMES.iter().chain(&DIRECTORY_NAMES).chain(&ROOT_NAMES).any(|known| known.as_bytes() == name)
}

fn location(known: &Known) -> &'static str {
    match known.file.as_ref().map_or(Location::None, |file| file.location()) {
        Location::None => "none",
        Location::Memory => "memory",
        Location::Spilled => "spilled",
    }
}

fn last_error(known: &Known) -> Option<String> {
    let of_file = known.file.as_ref().and_then(|file| file.state().last_error.clone());
    of_file.or_else(|| known.failure.clone())
}

fn versioning(versioning: Versioning) -> &'static str {
    match versioning {
        Versioning::Enabled => "enabled",
        Versioning::Suspended => "suspended",
        Versioning::Off => "off",
        Versioning::Unknown => "unknown",
    }
}

fn rfc3339(time: SystemTime) -> Option<String> {
    let time = OffsetDateTime::from(time);
    time.replace_nanosecond(0).ok()?.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../../../docs/SEMANTICS.md");

    /// The names in the first column of each table of the section, one list for each table.
    fn documented() -> Vec<Vec<&'static str>> {
        let section = PAGE.split("\n## ").find(|section| section.starts_with("Extended attributes\n")).unwrap();
        let mut tables = Vec::<Vec<&str>>::new();
        for line in section.lines() {
            match line.strip_prefix("| ").and_then(|row| row.split(" | ").next()) {
                Some("name") => tables.push(Vec::new()),
                Some(cell) => tables.last_mut().unwrap().extend(cell.split(", ").map(|name| name.trim_matches('`'))),
                None => {}
            }
        }
        tables
    }

    fn sorted<'a>(names: &[&'a str]) -> Vec<&'a str> {
        let mut names = names.to_vec();
        names.sort_unstable();
        names
    }

    #[test]
    fn semantics_lists_every_attribute() {
        let tables: Vec<_> = documented().iter().map(|names| sorted(names)).collect();
        assert_eq!(tables, [sorted(&NAMES), sorted(&DIRECTORY_NAMES), sorted(&ROOT_NAMES)]);
    }
}
