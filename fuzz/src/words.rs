//! What people type, what the kernel hands over, and the names of things.

use clap::{Args, FromArgMatches};
use dssefs::config::{Config, RawConfig, Source};
use dssefs_s3::object::{Bucket, Key, Name, Prefix};
use dssefs_s3::policy::{EncryptionContext, KeyArn};

/// A name, a prefix, a bucket or an ARN that is taken keeps its text and its rule, wherever it is put together with
/// others.
pub fn names(data: &[u8]) {
    let (first, second) = data.split_at(data.len() / 2);
    let named = |bytes: &[u8]| match Name::from_bytes(bytes) {
        Ok(name) => {
            assert_eq!(name.as_str().as_bytes(), bytes);
            assert!((1..=255).contains(&bytes.len()) && !bytes.contains(&b'/') && !bytes.contains(&0));
            assert!(bytes != b"." && bytes != b"..");
            Some(name)
        }
        Err(error) => {
            assert!(error.to_string().len() > 10);
            None
        }
    };
    named(data);
    if let (Some(directory), Some(file)) = (named(first), named(second)) {
        let prefix = Prefix::root().directory(&directory).unwrap();
        let key = prefix.file(&file).unwrap();
        assert_eq!(key.as_str(), format!("{directory}/{file}"));
        assert_eq!(Prefix::new(prefix.as_str()), Ok(prefix.clone()));
        assert_eq!(prefix.marker().map(|marker| marker.is_marker()), Some(true));
    }
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(prefix) = Prefix::new(text) {
        let path = prefix.as_str();
        assert!(
            path.is_empty()
                || path.ends_with('/') && path.len() <= 1024 && path[..path.len() - 1] == *text.trim_end_matches('/')
        );
        assert!(path.split_terminator('/').all(|component| Name::new(component).is_ok()), "{path}");
    }
    assert_eq!(Key::new(text).is_ok(), (1..=1024).contains(&text.len()));
    if let Ok(source) = Source::parse(text) {
        assert_eq!(Source::parse(&source.to_string()), Ok(source.clone()));
        assert_eq!(Bucket::new(source.bucket.as_str()), Ok(source.bucket));
    }
    if let Ok(arn) = KeyArn::new(text) {
        assert!(arn.as_str() == text && text.is_ascii() && !arn.region().is_empty() && text.matches(':').count() == 5);
    }
    let pairs: Vec<&str> = text.split('\n').collect();
    if let Ok(context) = EncryptionContext::parse(&pairs) {
        let read: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&context.json()).unwrap();
        assert_eq!(read.len(), pairs.len());
        assert!(context.header().is_some_and(|header| header.len() <= 2048));
        assert!(context.pairs().all(|(name, value)| !name.starts_with("aws:") && read[name] == value));
    }
}

/// A command line is refused in sentences, or becomes settings within their ranges that send nothing in the clear.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let command = RawConfig::augment_args(clap::Command::new("mount").disable_help_flag(true));
    let Ok(matches) = command.try_get_matches_from(["mount"].into_iter().chain(text.split('\n'))) else { return };
    let Ok(raw) = RawConfig::from_arg_matches(&matches) else { return };
    let config = match Config::check(&raw) {
        Ok(config) => config,
        Err(problems) => {
            assert!(!problems.0.is_empty());
            assert!(problems.0.iter().all(|problem| problem.to_string().len() > 10), "{problems:?}");
            return;
        }
    };
    assert!(config.file_mode <= 0o777 && config.dir_mode <= 0o777);
    assert!(config.memory_bytes_max >= 32 << 20 && config.metadata_ttl.as_secs() <= 24 * 3600);
    assert!(config.mountpoint.path.is_absolute() && config.spill_dir.is_absolute());
    let endpoints = [&config.connection.endpoint_url, &config.connection.kms_endpoint_url];
    for url in endpoints.into_iter().flatten() {
        let host = url.strip_prefix("http://").map(|rest| rest.split(['/', ':']).next().unwrap_or_default());
        let is_plain =
            host.is_some_and(|host| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)));
        let stays_here = |host: &str| {
            let host = host.to_ascii_lowercase();
            host == "localhost"
                || host.ends_with(".localhost")
                || host.starts_with("127.")
                || url.starts_with("http://[")
        };
        assert!(config.connection.allow_insecure_endpoint || host.is_none_or(stays_here), "{url}");
        assert!(host.is_none() || is_plain || url.starts_with("http://["), "{url} is no host of any URL");
    }
}
