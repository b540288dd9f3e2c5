//! The files of AWS profiles.

use std::path::PathBuf;

/// The shared configuration files of the AWS SDKs, which hold profiles ("Shared config and credentials files", AWS SDKs
/// and Tools Reference Guide), whether they exist or not.
#[must_use]
pub fn profile_files() -> Vec<PathBuf> {
    let of = |variable, name| named_by(variable).or_else(|| Some(named_by("HOME")?.join(".aws").join(name)));
    let files = [of("AWS_CONFIG_FILE", "config"), of("AWS_SHARED_CREDENTIALS_FILE", "credentials")];
    files.into_iter().flatten().collect()
}

/// The path that a variable of the environment holds; a leading `~/` is the home directory, as for the SDK.
#[must_use]
pub fn named_by(variable: &str) -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os(variable).filter(|value| !value.is_empty())?);
    match path.strip_prefix("~") {
        Ok(rest) => Some(PathBuf::from(std::env::var_os("HOME")?).join(rest)),
        Err(_) => Some(path),
    }
}
