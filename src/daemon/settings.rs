//! How the root's attributes and the log show the options.

use std::fmt::Display;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::config::{Commit, Config, KeyChoice, Sandbox, without_credentials};
use dssefs_fs::namespace::AttributeSource;
use dssefs_fs::vfs::{ErrnoStyle, NoncompliantRead};
use dssefs_s3::policy::KeyArn;

/// A value with a blank or a line break could else write a setting of its own.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'"');

/// As the SDK finds it: in variables, profiles, or by itself.
const CHAIN: &str = "chain";

/// The options that an auditor asks for, in one line of `name=value`. `key` is the key as it was resolved.
pub(super) fn summary(config: &Config, key: Option<&KeyArn>) -> String {
    let store = &config.connection;
    let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let url = |given: Option<&str>, variable: &str| match given {
        Some(url) => without_credentials(url),
        None => endpoint_of_environment(variable).unwrap_or_else(|| CHAIN.to_owned()),
    };
    let mut line = Line::default();
    line.add("source", config.source());
    line.add("read-only", config.read_only);
    line.add("on-noncompliant-read", reads(config.on_noncompliant_read));
    line.add("last-writer-wins", config.last_writer_wins);
    line.add("kms-key", key.map_or_else(|| "aws/s3".to_owned(), KeyArn::to_string));
    line.add("endpoint-url", url(store.endpoint_url.as_deref(), "AWS_ENDPOINT_URL_S3"));
    line.add("kms-endpoint-url", url(store.kms_endpoint_url.as_deref(), "AWS_ENDPOINT_URL_KMS"));
    line.add("allow-insecure-endpoint", store.allow_insecure_endpoint);
    line.add("force-path-style", store.force_path_style);
    line.add("sign-payload", store.sign_payload);
    line.add("annotations", if store.keeps_annotations { "keep" } else { "ignore" });
    line.add("request-payer", store.request_payer);
    line.add("expected-bucket-owner", store.expected_bucket_owner.as_deref().unwrap_or("any"));
    line.add("region", store.region.as_deref().unwrap_or(CHAIN));
    line.add("profile", store.profile.as_deref().unwrap_or(CHAIN));
    line.add("ca-bundle", store.ca_bundle.as_deref().map_or_else(|| "none".to_owned(), path));
    line.add("sandbox", sandbox(config.sandbox));
    line.add("allow-other", config.allow_other);
    line.add("attributes", if config.attributes == AttributeSource::Full { "full" } else { "listing" });
    line.add("errno", if config.errno == ErrnoStyle::Native { "native" } else { "posix" });
    line.add("commit", if config.commit == Commit::Close { "close" } else { "background" });
    line.add("spill-keys", if config.journal_keys.is_some() { "kms" } else { "memory" });
    if let Some(keys) = &config.journal_keys {
        line.add("spill-kms-keys", keys.wrapping.each_ref().map(named).join(","));
    }
    line.add("memory", config.memory_bytes_max);
    line.add("spill", config.spill_bytes_max);
    line.add("spill-dir", path(&config.spill_dir));
    line.add("log-file", config.log.file.as_deref().map_or_else(|| "none".to_owned(), path));
    line.0
}

#[derive(Default)]
struct Line(String);

impl Line {
    fn add(&mut self, name: &str, value: impl Display) {
        let value = value.to_string();
        let gap = if self.0.is_empty() { "" } else { " " };
        self.0 += &format!("{gap}{name}={}", utf8_percent_encode(&value, ESCAPED));
    }
}

/// What the SDK takes where no option names an endpoint.
fn endpoint_of_environment(variable: &str) -> Option<String> {
    let given = [variable, "AWS_ENDPOINT_URL"].into_iter().find_map(|name| std::env::var(name).ok());
    given.filter(|url| !url.is_empty()).map(|url| without_credentials(&url))
}

fn named(key: &KeyChoice) -> String {
    match key {
        KeyChoice::Managed => "aws/s3".to_owned(),
        KeyChoice::Arn(arn) => arn.to_string(),
        KeyChoice::Resolve(text) => text.clone(),
    }
}

fn reads(style: NoncompliantRead) -> &'static str {
    match style {
        NoncompliantRead::Serve => "serve",
        NoncompliantRead::Refuse => "refuse",
    }
}

fn sandbox(sandbox: Sandbox) -> &'static str {
    match sandbox {
        Sandbox::On => "on",
        Sandbox::Off => "off",
        Sandbox::Require => "require",
    }
}

/// Warns of the options that take a protection away, and of a directory whose content nobody sees from now on.
pub(super) fn warn_of_dangers(config: &Config) {
    if config.connection.allow_insecure_endpoint {
        tracing::warn!(
            "--allow-insecure-endpoint: content and signatures may travel in the clear, \
             and the network between is trusted; use https"
        );
    }
    if config.last_writer_wins {
        tracing::warn!(
            "--last-writer-wins: a commit replaces what another host has stored meanwhile, and neither host is told; \
             let one host alone write"
        );
    }
    if config.sandbox == Sandbox::Off {
        tracing::warn!(
            "--sandbox off: an attacker who takes over this process has all rights of its user on this host"
        );
    }
    if config.mountpoint.has_content() {
        let mountpoint = config.mountpoint.path.display();
        tracing::warn!(
            %mountpoint,
            "the directory is not empty; what is in it cannot be seen until the end of the mount"
        );
    }
}
