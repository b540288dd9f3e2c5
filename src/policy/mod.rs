//! The DSSE-KMS settings of a mount, and the one verdict on every answer of the store.
//!
//! Attributes, audit, doctor and the gateway all speak through [`Policy::judge`], so they cannot disagree. This room does no
//! I/O. It uses no other room.

mod context;
mod key_arn;
mod verdict;

pub use context::{ContextError, EncryptionContext};
pub use key_arn::{KeyArn, KeyArnError};
pub use verdict::{Algorithm, Evidence, Facts, Observation, Verdict};

/// The algorithm that every object of a mount is asked to have: dual-layer server-side encryption with AWS KMS keys
/// ("Specifying dual-layer server-side encryption with AWS KMS keys", S3 User Guide).
pub const ALGORITHM: &str = "aws:kms:dsse";

/// What a mount asks of the store, and holds its answers to. There is no way to ask for less than DSSE-KMS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The key that answers must name. None: the AWS managed key `aws/s3`, whose ARN is reported and not compared.
    pub key: Option<KeyArn>,
    /// What is bound to each data key beside the object's ARN; often empty.
    pub context: EncryptionContext,
}

impl Policy {
    /// Holds what the store said against what was asked.
    #[must_use]
    pub fn judge(&self, facts: &Facts) -> Verdict {
        match (&facts.algorithm, &self.key) {
            (Algorithm::Unknown, _) => Verdict::Unknown,
            (Algorithm::Dsse, None) => Verdict::Compliant,
            (Algorithm::Dsse, Some(key)) if facts.key_arn.as_deref() == Some(key.as_str()) => Verdict::Compliant,
            (Algorithm::Dsse, Some(_)) => Verdict::WrongKey,
            _ => Verdict::NotDsse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:kms:eu-west-1:111122223333:key/0a1b";

    fn facts(algorithm: Option<&str>, key: Option<&str>) -> Facts {
        Facts::from_headers(algorithm, key, None, None)
    }

    #[test]
    fn only_dsse_under_the_expected_key_is_compliant() {
        let policy = Policy { key: Some(KeyArn::new(ARN).unwrap()), ..Policy::default() };
        assert_eq!(policy.judge(&facts(Some(ALGORITHM), Some(ARN))), Verdict::Compliant);
        assert_eq!(
            policy.judge(&facts(Some(ALGORITHM), Some("arn:aws:kms:eu-west-1:111122223333:key/x"))),
            Verdict::WrongKey
        );
        assert_eq!(policy.judge(&facts(Some(ALGORITHM), None)), Verdict::WrongKey);
        for other in ["aws:kms", "AES256", "aws:fsx", "aws:kms:dsse ", "AWS:KMS:DSSE", ""] {
            assert_eq!(policy.judge(&facts(Some(other), Some(ARN))), Verdict::NotDsse, "{other:?}");
        }
        assert_eq!(policy.judge(&facts(None, Some(ARN))), Verdict::NotDsse);
        assert_eq!(policy.judge(&Facts::unknown()), Verdict::Unknown);
    }

    #[test]
    fn without_a_key_asked_for_any_key_is_reported_and_none_is_compared() {
        let policy = Policy::default();
        assert_eq!(policy.judge(&facts(Some(ALGORITHM), Some(ARN))), Verdict::Compliant);
        assert_eq!(policy.judge(&facts(Some(ALGORITHM), None)), Verdict::Compliant);
        assert_eq!(policy.judge(&facts(Some("aws:kms"), Some(ARN))), Verdict::NotDsse);
    }

    #[test]
    fn a_customer_provided_key_is_not_dsse() {
        let facts = Facts::from_headers(None, None, None, Some("AES256"));
        assert_eq!(facts.algorithm, Algorithm::SseC);
        assert_eq!(Policy::default().judge(&facts), Verdict::NotDsse);
    }
}
