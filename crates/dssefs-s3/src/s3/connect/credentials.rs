//! Credentials as every AWS program finds them, read again when their files change.
//!
//! A mount outlives the keys that a tool writes into `~/.aws/credentials` for some hours, and the SDK reads a profile
//! only once.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, Result, SharedCredentialsProvider, future};
use tokio::sync::Mutex;

use super::identity::Source;
use super::loader::Loader;
use super::profiles::profile_files;

/// How long credentials without an expiry are used before the SDK asks again and the files are checked. The SDK asks
/// some ten seconds earlier.
const LOOK_AGAIN: Duration = Duration::from_secs(20);
/// How long such credentials are used before they are fetched again: the SDK's own limit. Fetching may start a program
/// (`credential_process`).
const ENDLESS: Duration = Duration::from_secs(15 * 60);

/// Provides the credentials that the files name at present.
pub(super) struct Renewed {
    loader: Loader,
    files: Vec<PathBuf>,
    state: Mutex<State>,
}

struct State {
    provider: SharedCredentialsProvider,
    stamps: Vec<Option<Stamp>>,
    /// The newest credentials without an expiry, and when they were fetched.
    endless: Option<(Credentials, Instant)>,
    /// The source of the first credentials. A mount keeps its identity when a file is missing or half written.
    source: Option<Source>,
}

/// Differs when a file was changed or replaced: inode, length in bytes, and time of the change in nanoseconds.
type Stamp = (u64, u64, i64, i64);

impl Renewed {
    /// Begins with the provider of `config`, which `loader` has loaded. None if it has no provider.
    pub(super) fn new(config: &SdkConfig, loader: Loader) -> Option<Renewed> {
        let files = profile_files();
        let state =
            State { provider: config.credentials_provider()?, stamps: stamps(&files), endless: None, source: None };
        Some(Renewed { loader, files, state: Mutex::new(state) })
    }

    async fn credentials(&self) -> Result {
        let mut state = self.state.lock().await;
        let now = stamps(&self.files);
        if now != state.stamps {
            tracing::info!("the files of AWS profiles have changed; the daemon reads them again");
            let none = || CredentialsError::not_loaded("the profile has no credentials any more");
            let config = self.loader.load().await.map_err(CredentialsError::invalid_configuration)?;
            state.provider = config.credentials_provider().ok_or_else(none)?;
            (state.stamps, state.endless) = (now, None);
        }
        match &state.endless {
            Some((credentials, fetched)) if fetched.elapsed() < ENDLESS => return Ok(for_now(credentials)),
            _ => {}
        }
        let credentials = state.provider.provide_credentials().await?;
        let source = Source::of(&credentials);
        if *state.source.get_or_insert(source) != source {
            return Err(CredentialsError::invalid_configuration(Changed { found: source }));
        }
        if credentials.expiry().is_some() {
            state.endless = None;
            return Ok(credentials);
        }
        let given = for_now(&credentials);
        state.endless = Some((credentials, Instant::now()));
        Ok(given)
    }
}

/// The credentials that a mount began with are gone, and others were found.
#[derive(Debug, thiserror::Error)]
#[error(
    "the credentials that this mount began with are gone, and the daemon does not use those of {found} instead; mount \
     again to use them"
)]
struct Changed {
    found: Source,
}

impl ProvideCredentials for Renewed {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}

impl std::fmt::Debug for Renewed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewed").field("files", &self.files).finish_non_exhaustive()
    }
}

fn for_now(endless: &Credentials) -> Credentials {
    let mut credentials = endless.clone();
    *credentials.expiry_mut() = Some(SystemTime::now() + LOOK_AGAIN);
    credentials
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |file: &PathBuf| {
        let metadata = file.metadata().ok()?;
        Some((metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec()))
    };
    files.iter().map(stamp).collect()
}
