//! Journals as they are in the store. Any writer may have put one there, so a mount proves each before it acts on it.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use dssefs_seal::crypto::MacKey;

use super::DirectoryRenames;
use super::authenticator::NoKey;
use super::form::FormError;
use super::intent::{Heading, Intent};
use super::signed::{LINE_BYTES_MAX, Line, Place};
use dssefs_s3::object::{ByteRange, Key, Prefix, Version};
use dssefs_s3::policy::Verdict;
use dssefs_s3::s3::{self, Gateway, Head};

/// A journal that a mount of `root` has written, with what is still to be read of it.
pub(super) struct Proved {
    pub(super) key: Key,
    pub(super) version: Version,
    root: Prefix,
    signer: Arc<MacKey>,
    line: Line,
    /// What was read together with the line.
    start: Bytes,
    size: u64,
}

/// Why a journal in the store cannot be acted on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error(transparent)]
    Store(#[from] s3::Error),
    #[error(transparent)]
    Form(#[from] FormError),
    #[error("it is {0}, so not of a mount with these settings")]
    NotOurs(Verdict),
    /// This mount cannot find out whether the move that it names is under way.
    #[error("{error}")]
    Unproved { heading: Box<Heading>, error: NoKey },
}

impl Proved {
    pub(super) fn heading(&self) -> &Heading {
        self.line.heading()
    }

    /// When it was written, by the store's clock.
    pub(super) fn written(&self) -> SystemTime {
        self.line.written()
    }

    /// Reads the objects, as many as the proved line announces.
    pub(super) async fn intent(self, gateway: &Gateway) -> Result<(Key, Version, Intent), Unreadable> {
        let mut text = self.start.slice((self.line.length() as usize).min(self.start.len())..).to_vec();
        if let Some(rest) = ByteRange::new(self.start.len() as u64, self.size) {
            text.extend_from_slice(&range(gateway, &self.key, &self.version, rest).await?);
        }
        let place = Place { bucket: gateway.bucket().as_str(), root: &self.root, key: &self.key };
        let intent = self.line.intent(&self.signer, place, &text)?;
        Ok((self.key, self.version, intent))
    }
}

impl DirectoryRenames {
    /// Reads the first line of the journal at `key`, of a mount of `root`, and proves it. Only one that was stored as
    /// this mount stores is acted on. One HEAD came before; one GET of at most [`LINE_BYTES_MAX`], and what the
    /// authenticator asks of KMS.
    pub(super) async fn prove(&self, key: &Key, head: &Head, root: &Prefix) -> Result<Proved, Unreadable> {
        let verdict = self.gateway.judge(&head.encryption.facts);
        if verdict != Verdict::Compliant {
            return Err(Unreadable::NotOurs(verdict));
        }
        let (version, size, stored) = (head.meta.version.clone(), head.meta.size, head.meta.last_modified);
        let first = ByteRange::new(0, size.min(LINE_BYTES_MAX)).ok_or(FormError::NoJournal)?;
        let start = range(&self.gateway, key, &version, first).await?;
        let line = Line::parse(&start)?;
        let signer = match self.settings.authenticator.find(line.key(), root).await {
            Ok(signer) => signer,
            Err(error) => return Err(Unreadable::Unproved { heading: Box::new(line.heading().clone()), error }),
        };
        let place = Place { bucket: self.gateway.bucket().as_str(), root, key };
        line.is_proved(&signer, place, size, stored.max(SystemTime::UNIX_EPOCH))?;
        Ok(Proved { key: key.clone(), version, root: root.clone(), signer, line, start, size })
    }
}

async fn range(gateway: &Gateway, key: &Key, version: &Version, range: ByteRange) -> Result<Bytes, s3::Error> {
    let mut tries = gateway.body_retries();
    loop {
        let download = gateway.get(key, Some(version), Some(range)).await?;
        match download.collect(range.len()).await {
            Err(error) if tries.again(&error).await => {}
            text => return text,
        }
    }
}
