//! Finds the caller's identity: the sources of credentials are those of the AWS CLI, in its order.
//!
//! A profile that is named explicitly wins over keys in the environment. One that does not exist is an error (botocore,
//! `create_credential_resolver` and `ProfileNotFound`). A key in the environment needs both halves: with one of them
//! the SDK would use the profile, and then the instance's role, without notice.

use std::fmt;

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::credential_feature::AwsCredentialFeature as Feature;
use aws_credential_types::provider::SharedCredentialsProvider;

use super::super::error_chain::error_chain;
use super::profiles::profile_files;

/// Why the caller's identity is unclear.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// No file has the named profile.
    #[error("there is no profile {name:?} (named by {by}) in {files}; write its section, or name another profile")]
    NoProfile {
        /// Its name.
        name: String,
        /// The option or variable that names it.
        by: &'static str,
        /// The files of profiles.
        files: String,
    },
    /// The SDK cannot read the files of profiles.
    #[error("the files of AWS profiles ({files}) cannot be read: {reason}; correct them")]
    Files {
        /// The files of profiles.
        files: String,
        /// What is wrong.
        reason: String,
    },
    /// One half of an access key.
    #[error("{set} is set in the environment and {missing} is not; set both, or neither")]
    HalfKey {
        /// The variable that is set.
        set: &'static str,
        /// The variable that is not.
        missing: &'static str,
    },
}

/// Checks options and variables that name the caller, before the SDK uses them. `given` is the profile of an option.
pub(super) async fn check(given: Option<&str>) -> Result<(), IdentityError> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let ambient = || variable("AWS_PROFILE").map(|name| (name, "AWS_PROFILE"));
    let named = given.map(|name| (name.to_owned(), "--profile or DSSEFS_PROFILE")).or_else(ambient);
    if let Some((name, by)) = named {
        find(name, by).await?;
    }
    if given.is_some() {
        return Ok(());
    }
    let secret = variable("AWS_SECRET_ACCESS_KEY").or_else(|| variable("SECRET_ACCESS_KEY"));
    match (variable("AWS_ACCESS_KEY_ID"), secret) {
        (Some(_), None) => Err(IdentityError::HalfKey { set: "AWS_ACCESS_KEY_ID", missing: "AWS_SECRET_ACCESS_KEY" }),
        (None, Some(_)) => Err(IdentityError::HalfKey { set: "AWS_SECRET_ACCESS_KEY", missing: "AWS_ACCESS_KEY_ID" }),
        _ => Ok(()),
    }
}

async fn find(name: String, by: &'static str) -> Result<(), IdentityError> {
    // The names of these types are deprecated or of other crates, and their defaults are the files and the environment
    // of this process.
    let loaded = aws_config::profile::load(&Default::default(), &Default::default(), &Default::default(), None).await;
    let files = profile_files().iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(" and ");
    match loaded {
        Ok(profiles) if profiles.get_profile(&name).is_some() => Ok(()),
        Ok(_) => Err(IdentityError::NoProfile { name, by, files }),
        Err(error) => Err(IdentityError::Files { files, reason: error_chain(&error) }),
    }
}

/// The credentials of a profile that is named explicitly. If it names none: those of the container or of the instance.
/// Does not look at the environment.
pub(super) fn of_profile(name: &str, config: &SdkConfig) -> SharedCredentialsProvider {
    let mut settings = ProviderConfig::without_region()
        .with_region(config.region().cloned())
        .with_behavior_version(Some(BehaviorVersion::v2026_01_12()))
        .with_use_fips(config.use_fips())
        .with_use_dual_stack(config.use_dual_stack());
    if let Some(http) = config.http_client() {
        settings = settings.with_http_client(http);
    }
    if let Some(retries) = config.retry_config() {
        settings = settings.with_retry_config(retries.clone());
    }
    if let Some(timeouts) = config.timeout_config() {
        settings = settings.with_timeout_config(timeouts.clone());
    }
    let profile = ProfileFileCredentialsProvider::builder().configure(&settings).profile_name(name).build();
    let container = EcsCredentialsProvider::builder().configure(&settings).build();
    let instance = ImdsCredentialsProvider::builder().configure(&settings).build();
    SharedCredentialsProvider::new(
        CredentialsProviderChain::first_try("Profile", profile)
            .or_else("EcsContainer", container)
            .or_else("Ec2InstanceMetadata", instance),
    )
}

/// Where credentials come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::s3) enum Source {
    Environment,
    WebIdentity,
    Profile,
    Container,
    Instance,
    Other,
}

impl Source {
    /// By the properties that the SDK attaches to the credentials.
    pub(in crate::s3) fn of(credentials: &Credentials) -> Source {
        let noted = credentials.get_property::<Vec<Feature>>().map(Vec::as_slice).unwrap_or_default();
        let has = |feature| noted.contains(&feature);
        if has(Feature::CredentialsProfile) {
            Source::Profile
        } else if has(Feature::CredentialsEnvVars) {
            Source::Environment
        } else if has(Feature::CredentialsEnvVarsStsWebIdToken) || has(Feature::CredentialsStsAssumeRoleWebId) {
            Source::WebIdentity
        } else if has(Feature::CredentialsHttp) {
            Source::Container
        } else if has(Feature::CredentialsImds) {
            Source::Instance
        } else {
            Source::Other
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Environment => "keys in the environment",
            Source::WebIdentity => "a web identity named in the environment",
            Source::Profile => "a profile",
            Source::Container => "the container",
            Source::Instance => "the instance",
            Source::Other => "another source",
        })
    }
}

/// The last four characters of an access key, for the log.
pub(super) fn last_four(credentials: &Credentials) -> String {
    let id = credentials.access_key_id();
    let last: Vec<char> = id.chars().rev().take(if id.len() > 8 { 4 } else { 0 }).collect();
    format!("...{}", last.into_iter().rev().filter(|c| !c.is_control()).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_has_four_characters_of_a_long_key_only() {
        let of = |id: &str| last_four(&Credentials::new(id, "secret", None, None, "test"));
        assert_eq!(of("AKIAIOSFODNN7EXAMPLE"), "...MPLE");
        assert_eq!(of("dssefs"), "...");
    }
}
