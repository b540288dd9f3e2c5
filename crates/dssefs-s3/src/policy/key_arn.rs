//! The ARN of a KMS key.

use std::fmt;

/// The ARN of a KMS key, the one form of its name that S3 answers with and that can therefore be compared.
///
/// Rule: the pattern of `SSEKMSKeyArn` in the S3 API model,
/// `arn:aws[a-zA-Z0-9-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[a-zA-Z0-9-]+`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyArn(String);

/// A text that is not the ARN of a KMS key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not the ARN of a KMS key; it should look like \
     arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
)]
pub struct KeyArnError(String);

impl KeyArn {
    /// Checks `text`.
    ///
    /// # Errors
    /// Anything else than a key's ARN: ids, aliases and the ARNs of aliases are resolved by KMS first.
    pub fn new(text: &str) -> Result<KeyArn, KeyArnError> {
        let fields: Vec<&str> = text.splitn(6, ':').collect();
        let valid = match fields.as_slice() {
            ["arn", partition, "kms", region, account, resource] => {
                partition.strip_prefix("aws").is_some_and(|rest| all(rest, |b| b.is_ascii_alphanumeric() || b == b'-'))
                    && some(region, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                    && account.len() == 12
                    && all(account, |b| b.is_ascii_digit())
                    && resource
                        .strip_prefix("key/")
                        .is_some_and(|id| some(id, |b| b.is_ascii_alphanumeric() || b == b'-'))
            }
            _ => false,
        };
        if valid { Ok(KeyArn(text.to_owned())) } else { Err(KeyArnError(text.to_owned())) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The Region that the key lives in; the bucket must be there too.
    #[must_use]
    pub fn region(&self) -> &str {
        self.0.split(':').nth(3).unwrap_or_default()
    }
}

impl fmt::Display for KeyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn all(text: &str, rule: impl Fn(u8) -> bool) -> bool {
    text.bytes().all(rule)
}

fn some(text: &str, rule: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && all(text, rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arns_of_keys_are_taken() {
        for text in [
            "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/mrk-0123456789abcdef",
        ] {
            assert_eq!(KeyArn::new(text).map(|arn| arn.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(KeyArn::new("arn:aws:kms:us-east-1:111122223333:key/a").unwrap().region(), "us-east-1");
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            "alias/data",
            "arn:aws:kms:us-east-1:111122223333:alias/data",
            "arn:aws:kms:us-east-1:11112222333:key/a",
            "arn:aws:kms::111122223333:key/a",
            "arn:aws:kms:us-east-1:111122223333:key/",
            "arn:aws:kms:us-east-1:111122223333:key/a b",
            "arn:aws:s3:us-east-1:111122223333:key/a",
            " arn:aws:kms:us-east-1:111122223333:key/a",
        ] {
            assert!(KeyArn::new(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn each_field_has_exactly_the_characters_and_the_length_of_the_rule() {
        let good = "arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/0a1b";
        assert!(KeyArn::new(good).is_ok());
        for (field, wrong) in [
            ("arn:", "ARN:"),
            ("aws-us-gov", "aws_us"),
            ("aws-us-gov", "xaws"),
            ("aws-us-gov", ""),
            (":kms:", ":kms2:"),
            ("us-gov-west-1", "US-gov-west-1"),
            ("us-gov-west-1", "us_gov"),
            ("111122223333", "1111222233334"),
            ("111122223333", "11112222333a"),
            ("key/", "keys/"),
            ("key/", "/key/"),
            ("0a1b", "0a1b/"),
            ("0a1b", "0a1b:x"),
            ("0a1b", "0a1b\n"),
        ] {
            let text = good.replace(field, wrong);
            assert_ne!(text, good);
            assert_eq!(KeyArn::new(&text), Err(KeyArnError(text.clone())), "{text}");
        }
    }
}
