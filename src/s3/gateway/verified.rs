//! Judging answers, and undoing what was stored wrongly.

use std::ops::Deref;

use super::Gateway;
use crate::metrics::Operation;
use crate::object::{ETag, Key, Version};
use crate::policy::{Algorithm, Facts, Policy, Verdict};
use crate::s3::error::{Aftermath, Error, Kind};
use crate::s3::request::Stored;

/// What the store proved to be under DSSE-KMS and the expected key. Only the gateway can make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// The proved value.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Who else has the content of an object that is being stored: it is deleted again if its encryption proves wrong, unless that would lose
/// what was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// This host, or another object.
    Held,
    /// The version that it replaces, so nobody in a bucket that keeps no versions.
    Predecessor,
    /// Nobody: parts were sent that this host has no copy of.
    Nowhere,
}

impl Backing {
    /// Of what is made out of `source` at `key`.
    #[must_use]
    pub fn of_copy(source: &Key, key: &Key) -> Backing {
        if source == key { Backing::Predecessor } else { Backing::Held }
    }

    fn survives_without(self, version: &Version) -> bool {
        match self {
            Backing::Held => true,
            Backing::Predecessor => version.id.is_some(),
            Backing::Nowhere => false,
        }
    }
}

impl Gateway {
    /// Judges an object that was stored, and takes it back if it is not what was asked for.
    pub(super) async fn verify(
        &self,
        operation: Operation,
        key: &Key,
        stored: Stored,
        backing: Backing,
    ) -> Result<Verified<Stored>, Error> {
        let verdict = self.policy.judge(&stored.encryption.facts);
        if verdict == Verdict::Compliant {
            return Ok(Verified(stored));
        }
        let (undone, aftermath) = self.take_back(key, &stored.version, backing).await;
        let why = format!("{}; {undone}", said(&self.policy, &stored.encryption.facts));
        let error = self.mismatch(operation, key, verdict, stored.encryption.request_id, &why);
        Err(error.leaving(aftermath))
    }

    /// Deletes what was stored wrongly, unless nobody else has its content. What has become of it.
    async fn take_back(&self, key: &Key, version: &Version, backing: Backing) -> (String, Aftermath) {
        if !backing.survives_without(version) {
            let text = "the object stays as it is, because nothing else has its content: write it anew when the store encrypts as asked";
            return (text.to_owned(), Aftermath::Stays(version.clone()));
        }
        // Where the store keeps versions, the one before is the object again.
        let deleted = if version.id.is_some() { Aftermath::Nothing } else { Aftermath::Deleted };
        match self.expunge(key, version).await {
            Ok(()) => ("the object was deleted again".to_owned(), deleted),
            Err(error) => (
                format!("the object is still there, because it could not be deleted again: {error}"),
                Aftermath::Stays(version.clone()),
            ),
        }
    }

    /// Judges an answer before anything was stored.
    pub(super) fn verify_upload(
        &self,
        operation: Operation,
        key: &Key,
        facts: &Facts,
        request_id: Option<String>,
    ) -> Result<(), Error> {
        match self.policy.judge(facts) {
            Verdict::Compliant => Ok(()),
            verdict => Err(self.mismatch(operation, key, verdict, request_id, &said(&self.policy, facts))),
        }
    }

    /// Judges the answer to a part. Some servers say nothing there; what they do say must fit.
    pub(super) fn verify_part(&self, operation: Operation, key: &Key, facts: &Facts) -> Result<(), Error> {
        if part_fits(&self.policy, facts) {
            return Ok(());
        }
        Err(self.mismatch(operation, key, self.policy.judge(facts), None, &said(&self.policy, facts)))
    }

    fn mismatch(
        &self,
        operation: Operation,
        key: &Key,
        verdict: Verdict,
        request_id: Option<String>,
        why: &str,
    ) -> Error {
        self.count_mismatch();
        let mut failure = self.failure(Kind::Mismatch { verdict }, operation, key).because(why);
        failure.request_id = request_id;
        let error = Error::from(failure);
        tracing::error!(%error, "the store did not prove what was asked of it");
        error
    }

    /// Takes back exactly this version, which this mount has stored: by its id for good, or, without one, only as long as it is the
    /// object. Somebody else's object that replaced it stays.
    ///
    /// # Errors
    /// As S3 answers.
    pub async fn expunge(&self, key: &Key, version: &Version) -> Result<(), Error> {
        match &version.id {
            Some(id) => self.store.delete(key, Some(id), None).await,
            None => self.delete_version(key, &version.etag).await.map(drop),
        }
    }

    /// Deletes an object if it still is this version, as [`Gateway::delete`] does: old versions remain in a bucket that keeps them.
    /// True when nothing is there afterwards, false when it is another version now, which stays. A store that does not know
    /// conditional deletes is asked first what the object is.
    ///
    /// # Errors
    /// As S3 answers.
    pub async fn delete_version(&self, key: &Key, etag: &ETag) -> Result<bool, Error> {
        match self.store.delete(key, None, Some(etag)).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind == Kind::NotFound => Ok(true),
            // Also what a second attempt is told when the answer to the first was lost, in a bucket that keeps versions.
            Err(error) if error.kind == Kind::PreconditionFailed => Ok(self.etag_now(key).await?.is_none()),
            Err(error) if error.kind == Kind::Unsupported => match self.etag_now(key).await? {
                Some(now) if now == *etag => self.store.delete(key, None, None).await.map(|()| true),
                now => Ok(now.is_none()),
            },
            Err(error) => Err(error),
        }
    }

    async fn etag_now(&self, key: &Key) -> Result<Option<ETag>, Error> {
        match self.store.head(key).await {
            Ok(head) => Ok(Some(head.meta.version.etag)),
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether each header of a part's answer is absent or right.
fn part_fits(policy: &Policy, facts: &Facts) -> bool {
    match policy.judge(facts) {
        Verdict::Compliant => true,
        Verdict::WrongKey => facts.key_arn.is_none(),
        Verdict::NotDsse => facts.algorithm == Algorithm::None && facts.key_arn.is_none(),
        Verdict::Pending | Verdict::Unknown => false,
    }
}

fn said(policy: &Policy, facts: &Facts) -> String {
    let key = |arn: Option<&str>| arn.map_or(String::new(), |arn| format!(" under {arn}"));
    format!(
        "the store answered {}{}, and aws:kms:dsse{} was asked for",
        facts.algorithm,
        key(facts.key_arn.as_deref()),
        key(policy.key.as_ref().map(crate::policy::KeyArn::as_str)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::KeyArn;

    const ARN: &str = "arn:aws:kms:eu-west-1:111122223333:key/0a1b";

    #[test]
    fn a_parts_answer_may_be_silent_but_not_wrong() {
        let policy = Policy { key: Some(KeyArn::new(ARN).unwrap()), ..Policy::default() };
        let fits =
            |sse: Option<&str>, key: Option<&str>| part_fits(&policy, &Facts::from_headers(sse, key, None, None));
        assert!(fits(Some("aws:kms:dsse"), Some(ARN)));
        assert!(fits(Some("aws:kms:dsse"), None));
        assert!(fits(None, None));
        assert!(!fits(Some("aws:kms:dsse"), Some("arn:other")));
        assert!(!fits(None, Some("arn:other")));
        assert!(!fits(Some("AES256"), None));
        assert!(!fits(Some("aws:kms"), Some(ARN)));
        assert!(!part_fits(&policy, &Facts::from_headers(None, None, None, Some("AES256"))));
        assert!(!part_fits(&policy, &Facts::unknown()));
    }

    #[test]
    fn a_mismatch_names_what_was_said_and_what_was_asked() {
        let policy = Policy { key: Some(KeyArn::new(ARN).unwrap()), ..Policy::default() };
        assert_eq!(
            said(&policy, &Facts::from_headers(Some("AES256"), None, None, None)),
            format!("the store answered AES256, and aws:kms:dsse under {ARN} was asked for")
        );
    }
}
