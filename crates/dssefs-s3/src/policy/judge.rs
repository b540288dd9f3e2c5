//! The one verdict on every answer of the store.

use std::sync::OnceLock;

use super::{Algorithm, EncryptionContext, Facts, KeyArn, Policy, Verdict};

/// Compares answers of the store with a [`Policy`], and remembers the ARN of `aws/s3`, which only an answer names.
///
/// AWS has one such key for each account and Region. Its ARN never changes, not even when the key's material is
/// rotated. So the first answer to a write pins the ARN for the life of this value, and every other ARN is a wrong key
/// from then on.
#[derive(Debug, Default)]
pub struct Judge {
    policy: Policy,
    pinned: OnceLock<KeyArn>,
}

impl Judge {
    /// Nothing is pinned yet.
    #[must_use]
    pub fn new(policy: Policy) -> Judge {
        Judge { policy, pinned: OnceLock::new() }
    }

    /// What the gateway asks of the store.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The key that answers must name; None for `aws/s3` before the first answer to a write.
    #[must_use]
    pub fn expected_key(&self) -> Option<&KeyArn> {
        self.policy.key.as_ref().or_else(|| self.pinned.get())
    }

    /// The verdict on an existing object. Before any write under `aws/s3`, as on a read-only mount, the expected key is
    /// unknown. Then every key that the answer names by its ARN is accepted.
    #[must_use]
    pub fn judge(&self, facts: &Facts) -> Verdict {
        match facts.algorithm {
            Algorithm::Unknown => Verdict::Unknown,
            Algorithm::Dsse if !self.fits_key(facts) => Verdict::WrongKey,
            Algorithm::Dsse if !self.fits_context(facts) => Verdict::WrongContext,
            Algorithm::Dsse => Verdict::Compliant,
            _ => Verdict::NotDsse,
        }
    }

    /// The verdict on the answer to a write. The first one that is compliant pins the ARN of `aws/s3`.
    #[must_use]
    pub fn judge_write(&self, facts: &Facts) -> Verdict {
        let verdict = self.judge(facts);
        let named = facts.key_arn.as_deref().and_then(|arn| KeyArn::new(arn).ok());
        match (verdict, named) {
            (Verdict::Compliant, Some(arn)) if self.policy.key.is_none() => {
                // If two first answers come at the same time, one pins the ARN, and the other is compared with it.
                let pinned = self.pinned.get_or_init(|| arn.clone());
                if *pinned == arn { Verdict::Compliant } else { Verdict::WrongKey }
            }
            (verdict, _) => verdict,
        }
    }

    fn fits_key(&self, facts: &Facts) -> bool {
        match (self.expected_key(), facts.key_arn.as_deref()) {
            (_, None) => false,
            (Some(expected), Some(arn)) => expected.as_str() == arn,
            (None, Some(arn)) => KeyArn::new(arn).is_ok(),
        }
    }

    fn fits_context(&self, facts: &Facts) -> bool {
        let fits = |header: &String| EncryptionContext::answered(header).as_ref() == Some(&self.policy.context);
        facts.context.as_ref().is_none_or(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ALGORITHM;

    const ARN: &str = "arn:aws:kms:eu-west-1:111122223333:key/0a1b";
    const OTHER: &str = "arn:aws:kms:eu-west-1:111122223333:key/x";

    fn facts(algorithm: Option<&str>, key: Option<&str>) -> Facts {
        Facts::from_headers(algorithm, key, None, None)
    }

    #[test]
    fn only_dsse_under_the_expected_key_is_compliant() {
        let judge = Judge::new(Policy { key: Some(KeyArn::new(ARN).unwrap()), ..Policy::default() });
        assert_eq!(judge.judge(&facts(Some(ALGORITHM), Some(ARN))), Verdict::Compliant);
        assert_eq!(judge.judge(&facts(Some(ALGORITHM), Some(OTHER))), Verdict::WrongKey);
        assert_eq!(judge.judge(&facts(Some(ALGORITHM), None)), Verdict::WrongKey);
        for other in ["aws:kms", "AES256", "aws:fsx", "aws:kms:dsse ", "AWS:KMS:DSSE", ""] {
            assert_eq!(judge.judge(&facts(Some(other), Some(ARN))), Verdict::NotDsse, "{other:?}");
        }
        assert_eq!(judge.judge(&facts(None, Some(ARN))), Verdict::NotDsse);
        assert_eq!(judge.judge(&Facts::unknown()), Verdict::Unknown);
    }

    #[test]
    fn without_a_key_asked_for_the_first_answer_to_a_write_pins_it() {
        let judge = Judge::default();
        assert_eq!(judge.judge(&facts(Some(ALGORITHM), Some(OTHER))), Verdict::Compliant, "nothing is expected yet");
        assert_eq!(judge.judge_write(&facts(Some("aws:kms"), Some(OTHER))), Verdict::NotDsse);
        assert_eq!(judge.expected_key(), None, "reading pins nothing, nor does a bad answer");
        assert_eq!(judge.judge_write(&facts(Some(ALGORITHM), Some(ARN))), Verdict::Compliant);
        assert_eq!(judge.expected_key().map(KeyArn::as_str), Some(ARN));
        for judged in [Judge::judge, Judge::judge_write] {
            assert_eq!(judged(&judge, &facts(Some(ALGORITHM), Some(ARN))), Verdict::Compliant);
            assert_eq!(judged(&judge, &facts(Some(ALGORITHM), Some(OTHER))), Verdict::WrongKey);
        }
    }

    #[test]
    fn an_answer_that_names_no_key_or_no_arn_is_never_compliant() {
        for judge in [Judge::default(), Judge::new(Policy { key: KeyArn::new(ARN).ok(), ..Policy::default() })] {
            for key in [None, Some(""), Some("alias/aws/s3"), Some("0a1b"), Some("arn:aws:kms:eu-west-1:1:key/a")] {
                assert_eq!(judge.judge(&facts(Some(ALGORITHM), key)), Verdict::WrongKey, "{key:?}");
                assert_eq!(judge.judge_write(&facts(Some(ALGORITHM), key)), Verdict::WrongKey, "{key:?}");
            }
        }
    }

    #[test]
    fn a_context_that_is_answered_must_be_the_one_that_was_asked_for() {
        let context = EncryptionContext::parse(&["project=x"]).unwrap();
        let judge = Judge::new(Policy { context: context.clone(), ..Policy::default() });
        let good = || facts(Some(ALGORITHM), Some(ARN));
        assert_eq!(judge.judge_write(&good()), Verdict::Compliant, "no answer says nothing");
        assert_eq!(judge.judge_write(&good().with_context(context.header().as_deref())), Verdict::Compliant);
        let other = EncryptionContext::parse(&["project=y"]).unwrap();
        for header in [other.header().as_deref().unwrap(), "e30=", "no base64!"] {
            assert_eq!(judge.judge_write(&good().with_context(Some(header))), Verdict::WrongContext, "{header}");
        }
        assert_eq!(
            Judge::default().judge_write(&good().with_context(context.header().as_deref())),
            Verdict::WrongContext
        );
    }

    #[test]
    fn a_customer_provided_key_is_not_dsse() {
        let facts = Facts::from_headers(None, None, None, Some("AES256"));
        assert_eq!(facts.algorithm, Algorithm::SseC);
        assert_eq!(Judge::default().judge(&facts), Verdict::NotDsse);
    }

    #[test]
    fn a_key_that_only_looks_like_the_expected_one_is_wrong() {
        let pinned = Judge::default();
        assert_eq!(pinned.judge_write(&facts(Some(ALGORITHM), Some(ARN))), Verdict::Compliant);
        let given = Judge::new(Policy { key: KeyArn::new(ARN).ok(), ..Policy::default() });
        let longer = format!("{ARN}1");
        let (shorter, cased) = (&ARN[..ARN.len() - 1], ARN.replace("0a1b", "0A1b"));
        let elsewhere = [ARN.replace("111122223333", "111122223334"), ARN.replace("eu-west-1", "eu-west-2")];
        let alike = [longer.as_str(), shorter, &cased, &elsewhere[0], &elsewhere[1]];
        for judge in [&given, &pinned] {
            for key in alike {
                assert!(KeyArn::new(key).is_ok(), "{key} is an ARN that a key may have");
                assert_eq!(judge.judge(&facts(Some(ALGORITHM), Some(key))), Verdict::WrongKey, "{key}");
                assert_eq!(judge.judge_write(&facts(Some(ALGORITHM), Some(key))), Verdict::WrongKey, "{key}");
            }
            assert_eq!(judge.expected_key().map(KeyArn::as_str), Some(ARN));
        }
    }

    #[test]
    fn an_answer_that_is_wrong_in_two_ways_is_named_by_the_worse_one() {
        let context = EncryptionContext::parse(&["project=x"]).unwrap();
        let judge = Judge::new(Policy { key: KeyArn::new(ARN).ok(), ..Policy::default() });
        let other_context = |facts: Facts| facts.with_context(context.header().as_deref());
        assert_eq!(judge.judge(&other_context(facts(Some("aws:kms"), Some(OTHER)))), Verdict::NotDsse);
        assert_eq!(judge.judge(&other_context(facts(Some(ALGORITHM), Some(OTHER)))), Verdict::WrongKey);
        assert_eq!(judge.judge(&other_context(facts(Some(ALGORITHM), Some(ARN)))), Verdict::WrongContext);
    }

    #[test]
    fn a_write_that_is_not_compliant_pins_no_key() {
        let context = EncryptionContext::parse(&["project=x"]).unwrap();
        let judge = Judge::default();
        let wrong_context = facts(Some(ALGORITHM), Some(OTHER)).with_context(context.header().as_deref());
        assert_eq!(judge.judge_write(&wrong_context), Verdict::WrongContext);
        assert_eq!(judge.expected_key(), None);
        assert_eq!(judge.judge_write(&facts(Some(ALGORITHM), Some(ARN))), Verdict::Compliant);
    }
}
