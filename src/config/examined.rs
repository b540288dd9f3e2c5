//! What `dssefs doctor` looks at, as checked.

use std::path::{Path, PathBuf};

use super::checked::{KeyChoice, check_connection, check_key, check_spill_dir, check_style, keep};
use super::problem::Problems;
use super::raw::{RawStore, SpillKeys};
use super::source::Source;
use dssefs_s3::policy::EncryptionContext;
use dssefs_s3::s3::Connection;

/// A mount as it would be, without a place in the tree.
#[derive(Clone, Debug)]
pub struct Examined {
    /// What would be mounted.
    pub source: Source,
    /// The key of the objects that it would write.
    pub key: KeyChoice,
    /// What it would bind to each data key.
    pub context: EncryptionContext,
    /// How the store is reached.
    pub connection: Connection,
    /// Where mounts may have left something on this host; absolute paths, which need not exist.
    pub spill_dirs: Vec<PathBuf>,
}

impl Examined {
    /// Checks the options. Without a directory, both that mounts choose by themselves are looked at.
    ///
    /// # Errors
    /// Every problem there is, not only the first.
    pub fn check(
        source: &str,
        key: Option<&str>,
        context: &[String],
        spill_dir: Option<&Path>,
        store: &RawStore,
    ) -> Result<Examined, Problems> {
        let mut problems = Vec::new();
        let source = keep(&mut problems, Source::parse(source));
        let key = keep(&mut problems, check_key("--kms-key-id", key));
        let context = keep(&mut problems, EncryptionContext::parse(context));
        let connection = check_connection(&mut problems, store);
        keep(&mut problems, source.as_ref().map_or(Ok(()), |source| check_style(&source.bucket, &connection)));
        let kinds = [SpillKeys::Memory, SpillKeys::Kms].map(|keys| check_spill_dir(spill_dir, keys));
        let mut spill_dirs: Vec<PathBuf> =
            kinds.into_iter().filter_map(|checked| keep(&mut problems, checked)).collect();
        spill_dirs.dedup();
        let examined = || Some(Examined { source: source?, key: key?, context: context?, connection, spill_dirs });
        examined().filter(|_| problems.is_empty()).ok_or(Problems(problems))
    }
}
