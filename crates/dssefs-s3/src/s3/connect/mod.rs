//! Sets the SDK up: credentials, Region, TLS, retries, time limits. Reports all errors before the mount.

mod address;
mod certificates;
mod client;
mod identity;
mod pool;
mod proxy;
mod resolve;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::config::{Credentials, ProvideCredentials, SharedHttpClient};

use super::credentials::Renewed;
use super::error_chain::{caused_by, error_chain};
use address::{Rule, is_private};
use client::{Network, Reuse};

pub use address::InsecureEndpoint;
pub use identity::IdentityError;
pub(in crate::s3) use identity::Source;
pub(in crate::s3) use pool::SentTwice;
pub use proxy::ProxyError;

/// How long a body may stall before the request fails. The SDK's own five seconds cut off long copies and completions,
/// during which S3 is silent.
const STALL_GRACE: Duration = Duration::from_secs(20);
/// The pause before a retry is a random part of this, which doubles each time, up to the SDK's 20 s.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the store is and how to reach it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The bucket's Region; None: from the environment or the profile.
    pub region: Option<String>,
    /// The profile of the shared configuration files; None: `AWS_PROFILE` or `default`.
    pub profile: Option<String>,
    /// Another endpoint for S3 than AWS's own.
    pub endpoint_url: Option<String>,
    /// Another endpoint for KMS than AWS's own.
    pub kms_endpoint_url: Option<String>,
    /// Bucket in the path and not in the host name, for servers that need it.
    pub force_path_style: bool,
    /// Certificates (PEM) trusted in addition to the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Allow plain http to hosts other than this one: object content and KMS data keys go over the network in the
    /// clear.
    pub allow_insecure_endpoint: bool,
    /// Attempts at each request, the first included; 1 or more.
    pub attempts_max: u32,
    /// The time that one attempt may take; requests that move much are given more.
    pub attempt_timeout: Duration,
    /// The time that all attempts at a request may take together.
    pub operation_timeout: Duration,
    /// Requests in a second that cost a KMS call, retries included; 0: as many as there are.
    pub kms_requests_per_second_max: u32,
    /// Sign a digest of each body, as bucket policies may demand (`s3:x-amz-content-sha256`). It takes a second of CPU
    /// for each GB, and holds each body in memory as a whole. Without it bodies rely on TLS; their checksum is signed
    /// in any case.
    pub sign_payload: bool,
}

impl Default for Connection {
    fn default() -> Connection {
        Connection {
            region: None,
            profile: None,
            endpoint_url: None,
            kms_endpoint_url: None,
            force_path_style: false,
            ca_bundle: None,
            allow_insecure_endpoint: false,
            attempts_max: 8,
            attempt_timeout: Duration::from_secs(30),
            operation_timeout: Duration::from_secs(180),
            kms_requests_per_second_max: 0,
            sign_payload: false,
        }
    }
}

/// A long-term access key.
#[derive(Clone)]
pub struct AccessKey {
    /// Its public name.
    pub id: String,
    /// What requests are signed with.
    pub secret: String,
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why these settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No option, variable or profile names a Region.
    #[error("no Region is set; give --region, set AWS_REGION, or add `region = ...` to the profile")]
    NoRegion,
    /// No provider had any.
    #[error(
        "no AWS credentials were found ({0}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile, or a role"
    )]
    NoCredentials(String),
    /// The file of certificates cannot be used.
    #[error("the certificates in {path} cannot be read: {source}; give a file with PEM certificates")]
    CaBundle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// See [`InsecureEndpoint`].
    #[error(transparent)]
    Insecure(#[from] InsecureEndpoint),
    /// See [`IdentityError`].
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// See [`ProxyError`].
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// TLS could not be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// Loads the configuration that S3 and KMS share, with the credentials that every AWS program would find: environment,
/// profile, SSO, process, web identity, container, instance. Asks their provider once, and makes no other request.
///
/// # Errors
/// [`ConnectError`] says what is missing or wrong, and what to do.
pub async fn load(connection: &Connection) -> Result<SdkConfig, ConnectError> {
    settle(connection, None).await
}

/// The same with given credentials, such as those of an endpoint in this process.
///
/// # Errors
/// As [`load`].
pub async fn load_as(connection: &Connection, access_key: AccessKey) -> Result<SdkConfig, ConnectError> {
    settle(connection, Some(access_key)).await
}

async fn settle(connection: &Connection, access_key: Option<AccessKey>) -> Result<SdkConfig, ConnectError> {
    let given = [&connection.endpoint_url, &connection.kms_endpoint_url];
    given.into_iter().flatten().try_for_each(|url| connection.check(url))?;
    let network = Network::new(connection)?;
    network.proxies().log();
    // A stricter rule, which no option lifts, holds for the fetching of credentials.
    let loader = Loader { connection: connection.clone(), http: network.client(Rule::Credentials, Reuse::Kept) };
    let config = match access_key {
        None => loader.load().await?,
        Some(_) => loader.load_any().await,
    };
    config.endpoint_url().map_or(Ok(()), |url| connection.check(url))?;
    config.region().ok_or(ConnectError::NoRegion)?;
    let mut settled = config.to_builder();
    if let Some(AccessKey { id, secret }) = access_key {
        settled.set_credentials_provider(Some(SharedCredentialsProvider::new(Credentials::new(
            id, secret, None, None, "given",
        ))));
    } else if let Some(renewed) = Renewed::new(&config, loader) {
        settled.set_credentials_provider(Some(SharedCredentialsProvider::new(renewed)));
    }
    settled.set_http_client(Some(network.client(connection.rule(), Reuse::Kept)));
    let config = settled.build();
    check_credentials(&config).await?;
    Ok(config)
}

/// `config` for requests whose answers contain keys: each has a connection of its own, which ends with the answer. A
/// connection that is kept would hold the answer in its buffers; closing it frees and wipes them.
///
/// # Errors
/// As [`load`].
pub fn without_reuse(config: &SdkConfig, connection: &Connection) -> Result<SdkConfig, ConnectError> {
    let http = Network::new(connection)?.client(connection.rule(), Reuse::Never);
    Ok(config.to_builder().http_client(http).build())
}

/// Loads the SDK configuration of this connection, and loads it again when the files of profiles have changed.
pub(super) struct Loader {
    connection: Connection,
    http: SharedHttpClient,
}

impl Loader {
    /// The configuration according to the present environment and profiles, with the provider that they name.
    pub(super) async fn load(&self) -> Result<SdkConfig, IdentityError> {
        let profile = self.connection.profile.as_deref();
        identity::check(profile).await?;
        let config = self.load_any().await;
        let Some(profile) = profile else { return Ok(config) };
        let credentials = identity::of_profile(profile, &config);
        Ok(config.to_builder().credentials_provider(credentials).build())
    }

    /// The same without a check of the identity: for a caller that has credentials already.
    async fn load_any(&self) -> SdkConfig {
        let connection = &self.connection;
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .http_client(self.http.clone())
            .retry_config(retries(connection))
            .timeout_config(timeouts(connection))
            .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(STALL_GRACE).build());
        if let Some(profile) = &connection.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = connection.region.clone() {
            loader = loader.region(Region::new(region));
        }
        loader.load().await
    }
}

impl Connection {
    /// Whether bodies must be signed: an option says so, or nothing else protects them on the way.
    pub(super) fn signs_bodies(&self) -> bool {
        let private = self.endpoint_url.as_deref().is_some_and(is_private);
        self.sign_payload || (self.allow_insecure_endpoint && !private)
    }

    /// Nothing goes to other hosts in the clear, unless an option allows it.
    fn rule(&self) -> Rule {
        if self.allow_insecure_endpoint { Rule::AnyContent } else { Rule::Content }
    }

    fn check(&self, url: &str) -> Result<(), InsecureEndpoint> {
        self.rule().way(url).map(drop)
    }
}

fn retries(connection: &Connection) -> RetryConfig {
    RetryConfig::standard().with_max_attempts(connection.attempts_max.max(1)).with_initial_backoff(FIRST_BACKOFF)
}

fn timeouts(connection: &Connection) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(connection.attempt_timeout)
        .operation_timeout(connection.operation_timeout)
        .build()
}

async fn check_credentials(config: &SdkConfig) -> Result<(), ConnectError> {
    let provider =
        config.credentials_provider().ok_or_else(|| ConnectError::NoCredentials("no provider".to_owned()))?;
    match provider.provide_credentials().await {
        Ok(found) => {
            let key = identity::last_four(&found);
            tracing::info!(source = %Source::of(&found), access_key_id = key, "AWS credentials were found");
            Ok(())
        }
        Err(error) => Err(match caused_by::<InsecureEndpoint>(&error) {
            Some(InsecureEndpoint::Credentials(url)) => InsecureEndpoint::Credentials(url.clone()).into(),
            _ => ConnectError::NoCredentials(error_chain(&error)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_insecure_endpoint_needs_its_flag() {
        let mut connection = Connection::default();
        assert!(connection.check("http://10.0.0.1").is_err());
        connection.allow_insecure_endpoint = true;
        assert_eq!(connection.check("http://10.0.0.1"), Ok(()));
    }

    #[test]
    fn bodies_are_signed_where_nothing_else_vouches_for_them() {
        let signs = |url: Option<&str>, insecure, asked| {
            let endpoint_url = url.map(str::to_owned);
            let connection = Connection {
                endpoint_url,
                allow_insecure_endpoint: insecure,
                sign_payload: asked,
                ..Connection::default()
            };
            connection.signs_bodies()
        };
        assert!(!signs(None, false, false));
        assert!(!signs(Some("http://127.0.0.1:9000"), true, false));
        assert!(!signs(Some("https://store.corp"), true, false));
        assert!(signs(Some("http://store.corp"), true, false));
        assert!(signs(None, true, false), "the address may come from the environment");
        assert!(signs(None, false, true));
    }

    #[test]
    fn a_secret_is_not_shown() {
        let shown = format!("{:?}", AccessKey { id: "AKIA".into(), secret: "wJalr".into() });
        assert!(shown.contains("AKIA") && !shown.contains("wJalr"), "{shown}");
    }

    #[tokio::test]
    async fn what_is_missing_is_said_before_any_request() {
        let refused = async |connection: Connection| load(&connection).await.map(drop).unwrap_err();
        let insecure = Connection { endpoint_url: Some("http://10.0.0.1".into()), ..Connection::default() };
        assert!(matches!(refused(insecure).await, ConnectError::Insecure(_)));
        let insecure = Connection { kms_endpoint_url: Some("http://10.0.0.1".into()), ..Connection::default() };
        assert!(matches!(refused(insecure).await, ConnectError::Insecure(_)));
        let bundle = Connection { ca_bundle: Some("/nonexistent/ca.pem".into()), ..Connection::default() };
        assert!(matches!(refused(bundle).await, ConnectError::CaBundle { .. }));
    }
}
