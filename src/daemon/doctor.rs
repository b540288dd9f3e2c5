//! Checks what a mount would find at its start, and what crashed mounts have left, without mounting.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{Examined, Source};
use dssefs_fs::journal;
use dssefs_fs::namespace::{self, HiddenKeys};
use dssefs_s3::escaping::shown;
use dssefs_s3::object::Key;
use dssefs_s3::policy::{KeyArn, Policy};
use dssefs_s3::s3::{Conditions, Gateway, Kind, Leftovers, ListRequest, held_prefix};
use dssefs_seal::crypto;

use super::build::probe_key;
use super::recover::{Asked, started, unreadable};
use super::resolve_key::resolve_key;
use super::spill_dir::SpillDir;
use super::{StartError, memory, prove_ciphers};

/// How many keys are looked at: 100 LISTs, which take some ten seconds.
const KEYS_MAX: u64 = 100_000;

/// What was found, in a sentence.
#[derive(Debug)]
pub enum Finding {
    /// As it should be.
    Good(String),
    /// Worth knowing.
    Remark(String),
    /// A mount would not start, or something is left that should be dealt with.
    Bad(StartError),
}

/// Looks at the store, the key, and what is left on this host. Makes no object. With `abort_leftovers` the uploads that
/// crashed mounts of this host left are aborted, and what they held is deleted; without, both are counted.
///
/// # Errors
/// There are no credentials or no Region, or the runtime cannot be started. All else is a [`Finding`].
pub fn examine(examined: &Examined, abort_leftovers: bool) -> Result<Vec<Finding>, StartError> {
    // First, as the proof makes keys.
    let memory = memory::protect();
    let mut found = vec![prove_ciphers().map_or_else(Finding::Bad, |()| {
        Finding::Good(format!("both ciphers give the published results: {}", crypto::LAYERS))
    })];
    found.extend(memory.keys.as_ref().err().map(|error| Finding::Remark(error.to_string())));
    let (directories, refused) = spill_dirs(&examined.spill_dirs);
    found.extend(refused);
    started(&memory)?.block_on(async {
        let asked = Asked::load(&examined.connection).await?;
        match resolve_key(&asked.kms, &examined.key).await {
            Err(error) => found.push(Finding::Bad(error)),
            Ok(key) => {
                let policy = Policy { key: key.clone(), context: examined.context.clone() };
                let gateway = Gateway::new(&asked.sdk, &asked.connection, examined.source.bucket.clone(), policy);
                found.extend(store(&Arc::new(gateway), examined, &directories, key.as_ref(), abort_leftovers).await);
            }
        }
        found.extend(directories.iter().flat_map(|directory| sessions(directory.path(), &examined.source)));
        Ok(found)
    })
}

/// The spill directories that are there and can be trusted, and what is wrong with others, which are not looked into.
fn spill_dirs(given: &[PathBuf]) -> (Vec<SpillDir>, Vec<Finding>) {
    let (mut trusted, mut refused) = (Vec::new(), Vec::new());
    for directory in given {
        match SpillDir::existing(directory) {
            Ok(existing) => trusted.extend(existing),
            Err(error) => refused.push(Finding::Bad(error)),
        }
    }
    (trusted, refused)
}

async fn store(
    gateway: &Arc<Gateway>,
    examined: &Examined,
    directories: &[SpillDir],
    key: Option<&KeyArn>,
    abort_leftovers: bool,
) -> Vec<Finding> {
    let source = &examined.source;
    if let Err(error) = gateway.reach(source.prefix.as_str()).await {
        return vec![Finding::Bad(StartError::store(&format!("{source} cannot be used"), &error))];
    }
    let mut found = vec![Finding::Good(format!("{source} answers"))];
    found.extend(writing(gateway, source, key).await.unwrap_or_else(|error| vec![Finding::Bad(error)]));
    if examined.connection.keeps_annotations {
        found.push(annotations(gateway, source).await.unwrap_or_else(Finding::Bad));
    }
    found.push(names(gateway, source).await.unwrap_or_else(Finding::Bad));
    for directory in directories {
        found.push(leftovers(gateway, directory.path(), source, abort_leftovers).await);
    }
    found.extend(held(gateway, source).await);
    found
}

/// What mounts of all hosts hold for open files. Only the hosts themselves know which of it is still needed.
async fn held(gateway: &Gateway, source: &Source) -> Option<Finding> {
    const AT_ONCE: u16 = 1000;
    let prefix = held_prefix(&source.prefix);
    let ask =
        ListRequest { prefix: &prefix, delimiter: false, start_after: None, continuation: None, entries_max: AT_ONCE };
    match gateway.list(&ask).await {
        Ok(page) if page.objects.is_empty() => None,
        Ok(page) => {
            let (count, bytes) = (page.objects.len(), page.objects.iter().map(|object| object.size).sum::<u64>());
            let more = if page.next.is_some() { " or more" } else { "" };
            let oldest = page.objects.iter().map(|object| object.last_modified).min();
            let days = oldest.and_then(|oldest| gateway.time().duration_since(oldest).ok()).unwrap_or_default();
            let days = days.as_secs() / (24 * 60 * 60);
            Some(Finding::Remark(format!(
                "{count}{more} objects below {prefix} hold {bytes} bytes of removed files that programs had open, \
                 the oldest for {days} days; a mount deletes its own at the last close, or at its next start; \
                 delete those of a host that is gone for good, or let a lifecycle rule do it"
            )))
        }
        Err(error) => Some(Finding::Bad(StartError::store(&format!("{prefix} cannot be listed"), &error))),
    }
}

/// Whether objects can be written as they must be, and under conditions.
async fn writing(gateway: &Arc<Gateway>, source: &Source, key: Option<&KeyArn>) -> Result<Vec<Finding>, StartError> {
    let unproved = |error| StartError::store(&format!("{source} cannot be written with DSSE-KMS"), &error);
    let conditions = gateway.probe_conditions(&probe_key(&source.prefix)?).await.map_err(unproved)?;
    let key = key.map_or_else(|| "the AWS managed key aws/s3".to_owned(), KeyArn::to_string);
    let kept = match conditions {
        Conditions::Kept => Finding::Good("the store keeps the conditions of writes".to_owned()),
        Conditions::Broken(how) => Finding::Bad(StartError::conditions(source, &how)),
        Conditions::Unknown(error) => Finding::Remark(format!(
            "these credentials may not find out whether the store keeps the conditions of writes ({error})"
        )),
    };
    Ok(vec![Finding::Good(format!("it answers writes with aws:kms:dsse under {key}")), kept])
}

/// Whether a mount may ask for the annotations of objects, which it does before it replaces one. Asks for those of the
/// first object. Of one that is not there S3 says AccessDenied to credentials that may not list the bucket.
async fn annotations(gateway: &Gateway, source: &Source) -> Result<Finding, StartError> {
    let prefix = source.prefix.as_str();
    let ask = ListRequest { prefix, delimiter: false, start_after: None, continuation: None, entries_max: 1 };
    let listed = gateway.list(&ask).await.map_err(|error| StartError::store("objects cannot be listed", &error))?;
    let (key, exists) = match listed.objects.into_iter().find_map(|object| Key::new(object.key).ok()) {
        Some(key) => (key, true),
        None => (probe_key(&source.prefix)?, false),
    };
    Ok(match gateway.annotations(&key).await {
        Ok(_) => Finding::Good("annotations of objects can be asked for, or the store knows none".to_owned()),
        Err(error) if !exists && matches!(error.kind, Kind::AccessDenied { .. }) => Finding::Remark(format!(
            "these credentials may not find out whether they may list annotations, while no object is there ({error})"
        )),
        Err(error) => Finding::Bad(StartError::store("annotations of objects cannot be listed", &error)),
    })
}

/// Which keys a mount hides because they cannot be names.
async fn names(gateway: &Gateway, source: &Source) -> Result<Finding, StartError> {
    let found = HiddenKeys::find(gateway, &source.prefix, KEYS_MAX).await.map_err(|error| match error {
        namespace::Error::Store(error) => StartError::store(&format!("{source} cannot be listed"), &error),
        error => StartError::Internal(format!("{source} cannot be listed: {error}")),
    })?;
    let keys = match found.more {
        true => format!("the first {} keys of {source}", found.looked_at),
        false => format!("the {} keys of {source}", found.looked_at),
    };
    if found.count == 0 {
        return Ok(Finding::Good(format!("{keys} can all be names of files")));
    }
    let first: Vec<String> = found.first.iter().map(|key| format!("\"{}\"", shown(key))).collect();
    let rest = if found.count > first.len() as u64 { ", ..." } else { "" };
    Ok(Finding::Remark(format!(
        "mounts hide {} of {keys}, which cannot be names of files: {}{rest}; \
         with another client of S3, copy an object to another key to use it, or delete it: rmdir and rm -rf cannot",
        found.count,
        first.join(", ")
    )))
}

async fn leftovers(gateway: &Gateway, directory: &Path, source: &Source, abort: bool) -> Finding {
    let (at, place) = (source.to_string(), directory.display());
    if abort {
        let Leftovers { uploads, held } = gateway.abort_leftovers(directory, &at, &source.prefix).await;
        return Finding::Good(format!(
            "{uploads} uploads and {held} held objects that crashed mounts noted in {place} were aborted and deleted"
        ));
    }
    match gateway.count_leftovers(directory, &at) {
        Ok(none) if none.is_empty() => {
            Finding::Good(format!("{place} notes no upload and no held object of a crashed mount"))
        }
        Ok(Leftovers { uploads, held }) => Finding::Remark(format!(
            "{place} notes {uploads} uploads and {held} held objects of crashed mounts; \
             the next mount ends them, and --abort-leftovers does now"
        )),
        Err(error) => Finding::Bad(StartError::Argument(format!("{place} cannot be read: {error}"))),
    }
}

/// The sessions of mounts that have ended. Their keys are not asked for: that is what `dssefs recover` does.
fn sessions(directory: &Path, source: &Source) -> Vec<Finding> {
    let place = directory.display();
    let (ended, unusable) = match journal::sessions_to_count(directory) {
        Ok(found) => found,
        Err(error) => return vec![Finding::Bad(error.into())],
    };
    let of_this = ended.into_iter().filter(|session| session.source == source.to_string());
    let (aside, of_this): (Vec<_>, Vec<_>) = of_this.partition(journal::Session::is_aside);
    let (aside, of_this) = (aside.len(), of_this.len());
    let remarks = [
        (of_this, "of mounts that have ended; the next mount sends what is in them"),
        (aside, "that were damaged; what was whole in them has been dealt with"),
    ];
    let remarks = remarks.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| {
        Finding::Remark(format!("{place} has {count} sessions {what}, and dssefs recover {place} list names it"))
    });
    remarks.chain(unreadable(unusable).map(|error| Finding::Bad(error.into()))).collect()
}
