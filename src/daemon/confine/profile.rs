//! What the shared configuration files of AWS make the SDK open or run later, each time credentials are renewed.
//!
//! The format is that of "Shared config and credentials files" (AWS SDKs and Tools Reference Guide). The SDK itself
//! reads the files. This module only searches them for the three settings that matter, in the profile and in its
//! sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The settings of each profile, from both files.
#[derive(Debug, Default)]
pub(super) struct Profiles(BTreeMap<String, BTreeMap<String, String>>);

/// What one profile and its sources need.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// `credential_process`: a program is run.
    pub(super) runs_programs: bool,
    /// `web_identity_token_file` and `ca_bundle`.
    pub(super) files: Vec<PathBuf>,
}

impl Profiles {
    /// Adds the profiles of one file: sections `[profile NAME]` or `[NAME]`. Sections of other kinds have a kind before
    /// their name.
    pub(super) fn add(&mut self, text: &str) {
        let mut current = None;
        for line in text.lines() {
            if let Some(section) = line.trim_end().strip_prefix('[') {
                let section = section.split(']').next().unwrap_or_default().trim();
                let name = section.strip_prefix("profile").map_or(section, str::trim);
                current = Some(name.trim_matches('"').to_owned());
            } else if let (Some(profile), Some((name, value))) = (&current, setting(line)) {
                self.0.entry(profile.clone()).or_default().insert(name, value);
            }
        }
    }

    /// What `profile` needs, and those that its `source_profile` leads to.
    pub(super) fn needs(&self, profile: &str) -> Needs {
        let (mut needs, mut seen, mut next) = (Needs::default(), BTreeSet::new(), Some(profile));
        while let Some((name, settings)) =
            next.filter(|name| seen.insert(*name)).and_then(|name| self.0.get_key_value(name))
        {
            tracing::debug!(profile = name, "looked for what the credentials need");
            needs.runs_programs |= settings.contains_key("credential_process");
            let files = ["web_identity_token_file", "ca_bundle"].into_iter().filter_map(|name| settings.get(name));
            needs.files.extend(files.map(PathBuf::from));
            next = settings.get("source_profile").map(String::as_str);
        }
        needs
    }
}

/// A line `name = value`. Indented lines belong to a setting with settings of its own, none of which matters here.
fn setting(line: &str) -> Option<(String, String)> {
    if line.starts_with([' ', '\t', '#', ';']) {
        return None;
    }
    let (name, value) = line.split_once('=')?;
    Some((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "\
[default]
region = eu-west-1
# credential_process = /bin/none
[profile work]
role_arn = arn:aws:iam::111122223333:role/work
source_profile = vault
s3 =
  credential_process = nested
[profile \"vault\"]
Credential_Process = /usr/bin/vault get
source_profile = work
[profile pod]
web_identity_token_file = /var/run/secrets/token
ca_bundle=/etc/own/ca.pem
[sso-session work]
credential_process = not a profile
";

    fn profiles() -> Profiles {
        let mut profiles = Profiles::default();
        profiles.add(CONFIG);
        profiles.add("[old]\naws_access_key_id = AKIA\ncredential_process=/bin/old\n");
        profiles
    }

    #[test]
    fn source_profiles_are_followed_and_circles_end() {
        assert!(profiles().needs("work").runs_programs);
        assert!(profiles().needs("vault").runs_programs);
        assert!(profiles().needs("old").runs_programs);
    }

    #[test]
    fn comments_nested_settings_and_other_sections_need_nothing() {
        for profile in ["default", "missing"] {
            assert_eq!(profiles().needs(profile), Needs::default(), "{profile}");
        }
    }

    #[test]
    fn the_files_of_a_profile_are_named() {
        let files = ["/var/run/secrets/token", "/etc/own/ca.pem"].map(PathBuf::from).to_vec();
        assert_eq!(profiles().needs("pod"), Needs { runs_programs: false, files });
    }
}
