//! The names by which a key may be called: key id, key ARN, alias, alias ARN.

use super::exception::Exception;

/// A name that belongs to this account and Region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// A key id: a UUID, or `mrk-` and 32 hexadecimal digits.
    Id(String),
    /// An alias, with its `alias/`.
    Alias(String),
}

/// A name that belongs elsewhere, or nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stray {
    /// No form of a name at all.
    Malformed(String),
    /// An ARN of this other Region.
    Region(String),
    /// An ARN of another account.
    Account(String),
}

impl Name {
    /// Reads a name, without asking whether the key exists.
    pub(super) fn parse(name: &str, region: &str, account: &str) -> Result<Name, Stray> {
        match name.strip_prefix("arn:") {
            Some(rest) => from_arn(name, rest, region, account),
            None if name.starts_with("alias/") => Ok(Name::Alias(name.to_owned())),
            None if is_key_id(name) => Ok(Name::Id(name.to_owned())),
            None => Err(Stray::Malformed(name.to_owned())),
        }
    }
}

impl Stray {
    /// What KMS answers to a `user` that asked for `action`.
    pub(super) fn exception(&self, user: &str, action: &str) -> Exception {
        match self {
            Stray::Malformed(name) => Exception::bad_key_id(name),
            Stray::Region(region) => Exception::other_region(region),
            Stray::Account(arn) => Exception::denied_elsewhere(user, action, arn),
        }
    }
}

/// Checks the name of an alias that is to be made or deleted (KMS API reference, CreateAlias).
pub(super) fn new_alias(alias: &str) -> Result<String, Exception> {
    let name = alias.strip_prefix("alias/").unwrap_or_default();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "/_-".contains(c);
    if name.is_empty() || alias.len() > 256 || !name.chars().all(allowed) {
        return Err(Exception::validation(
            "The alias must be `alias/` and up to 250 of a-z, A-Z, 0-9, `/`, `_` and `-`.",
        ));
    }
    if name.starts_with("aws/") {
        return Err(Exception::validation("Aliases that start with `alias/aws/` are reserved for AWS managed keys."));
    }
    Ok(alias.to_owned())
}

/// `rest` is what follows `arn:`, that is `aws:kms:REGION:ACCOUNT:key/ID`.
fn from_arn(arn: &str, rest: &str, region: &str, account: &str) -> Result<Name, Stray> {
    let mut fields = rest.splitn(5, ':');
    let mut field = || fields.next().unwrap_or_default();
    let (_partition, service, arn_region, arn_account, resource) = (field(), field(), field(), field(), field());
    if service != "kms" {
        return Err(Stray::Malformed(arn.to_owned()));
    }
    if arn_region != region {
        return Err(Stray::Region(arn_region.to_owned()));
    }
    if arn_account != account {
        return Err(Stray::Account(arn.to_owned()));
    }
    match resource.strip_prefix("key/") {
        Some(id) if is_key_id(id) => Ok(Name::Id(id.to_owned())),
        None if resource.starts_with("alias/") => Ok(Name::Alias(resource.to_owned())),
        _ => Err(Stray::Malformed(arn.to_owned())),
    }
}

fn is_key_id(text: &str) -> bool {
    let hexadecimal = |part: &str, length| part.len() == length && part.bytes().all(|b| b.is_ascii_hexdigit());
    match text.strip_prefix("mrk-") {
        Some(digits) => hexadecimal(digits, 32),
        None => {
            let parts: Vec<&str> = text.split('-').collect();
            parts.len() == 5 && parts.iter().zip([8, 4, 4, 4, 12]).all(|(part, length)| hexadecimal(part, length))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "12345678-1234-1234-1234-1234567890ab";

    fn parse(name: &str) -> Result<Name, Stray> {
        Name::parse(name, "us-east-1", "111122223333")
    }

    #[test]
    fn ids_arns_and_aliases_are_understood() {
        assert_eq!(parse(ID), Ok(Name::Id(ID.into())));
        assert_eq!(
            parse("mrk-1234567890abcdef1234567890abcdef"),
            Ok(Name::Id("mrk-1234567890abcdef1234567890abcdef".into()))
        );
        assert_eq!(parse(&format!("arn:aws:kms:us-east-1:111122223333:key/{ID}")), Ok(Name::Id(ID.into())));
        assert_eq!(parse("arn:aws:kms:us-east-1:111122223333:alias/a/b"), Ok(Name::Alias("alias/a/b".into())));
        assert_eq!(parse("alias/aws/s3"), Ok(Name::Alias("alias/aws/s3".into())));
    }

    #[test]
    fn other_regions_other_accounts_and_nonsense_are_told_apart() {
        let arn = |region: &str, account: &str| format!("arn:aws:kms:{region}:{account}:key/{ID}");
        assert_eq!(parse(&arn("eu-west-1", "111122223333")), Err(Stray::Region("eu-west-1".into())));
        let elsewhere = arn("us-east-1", "999999999999");
        assert_eq!(parse(&elsewhere), Err(Stray::Account(elsewhere)));
        for nonsense in ["", "aws/s3", "fake-key-id", "arn:aws:kms:us-east-1:111122223333:key/x", "mrk-12"] {
            assert_eq!(parse(nonsense), Err(Stray::Malformed(nonsense.into())));
        }
    }

    #[test]
    fn reserved_and_malformed_aliases_cannot_be_made() {
        assert!(new_alias("alias/team/key_1-a").is_ok());
        for bad in ["key", "alias/", "alias/aws/s3", "alias/a b", &format!("alias/{}", "a".repeat(251))] {
            assert!(new_alias(bad).is_err(), "{bad}");
        }
    }
}
