//! Setting the SDK up: credentials, Region, TLS, retries, time limits. Everything that can be wrong is said before the mount.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::config::{Credentials, ProvideCredentials, RuntimeComponents, SharedHttpClient};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;

use super::aws::told;
use super::bounds::bounded;
use super::credentials::Renewed;

/// How long a body may stand still before the request is given up. Five seconds, the SDK's own, cut off long copies and
/// completions, during which S3 is silent.
const STALL_GRACE: Duration = Duration::from_secs(20);
/// The pause before a retry is a random part of this, which doubles each time, up to the SDK's 20 s.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the store is and how it is talked to.
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
    /// Bucket in the path and not in the host name, for servers that ask for it.
    pub force_path_style: bool,
    /// Certificates (PEM) trusted beside the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Allow plain http to hosts other than this one: object content and KMS data keys go over the network in the clear.
    pub allow_insecure_endpoint: bool,
    /// Attempts at each request, the first included; 1 or more.
    pub attempts_max: u32,
    /// The time that one attempt may take; requests that move much are given more.
    pub attempt_timeout: Duration,
    /// The time that all attempts at a request may take together.
    pub operation_timeout: Duration,
    /// Requests in a second that cost a KMS call, retries included; 0: as many as there are.
    pub kms_requests_per_second_max: u32,
    /// Sign a digest of each body, as bucket policies may demand (`s3:x-amz-content-sha256`). It takes a second of CPU for each
    /// GB, and each body is held in memory as a whole. Without it bodies rely on TLS, their checksum is signed nevertheless.
    pub sign_payload: bool,
}

/// Connections to one host that wait for the next request: no more than there are requests under way at some time, which others bound.
const CONNECTIONS_IDLE_MAX: usize = usize::MAX;

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

/// Why the store cannot be talked to with these settings.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither given nor found.
    #[error("no Region is set; give --region, set AWS_REGION, or add `region = ...` to the profile")]
    NoRegion,
    /// The chain of providers ended without any.
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
    /// TLS could not be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// An endpoint that would carry content in the clear.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the endpoint {0} is plain http, and content would cross the network in the clear; use https, or --allow-insecure-endpoint"
)]
pub struct InsecureEndpoint(String);

/// Settles the configuration that S3 and KMS share, with the credentials that every AWS program would find: environment,
/// profile, SSO, process, web identity, container, instance. Asks their provider once, and makes no other request.
///
/// # Errors
/// [`ConnectError`] says what is missing or wrong and what to do.
pub async fn load(connection: &Connection) -> Result<SdkConfig, ConnectError> {
    settle(connection, None).await
}

/// The same with credentials that are known already, such as those of an endpoint in this process.
///
/// # Errors
/// As [`load`].
pub async fn load_as(connection: &Connection, access_key: AccessKey) -> Result<SdkConfig, ConnectError> {
    settle(connection, Some(access_key)).await
}

async fn settle(connection: &Connection, access_key: Option<AccessKey>) -> Result<SdkConfig, ConnectError> {
    let given = [&connection.endpoint_url, &connection.kms_endpoint_url];
    given.into_iter().flatten().try_for_each(|url| connection.check(url))?;
    let http = http_client(connection, CONNECTIONS_IDLE_MAX)?;
    let loader = loader(connection, http.clone());
    let config = loader().load().await;
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
    settled.set_http_client(Some(connection.guard(http)));
    let config = settled.build();
    check_credentials(&config).await?;
    Ok(config)
}

/// `config` for requests whose answers have keys in them: each has a connection of its own, which ends with the answer. One that is kept for
/// the next request has the last answer in its buffers until then; what is closed is freed, and thereby wiped.
///
/// # Errors
/// As [`load`].
pub fn without_reuse(config: &SdkConfig, connection: &Connection) -> Result<SdkConfig, ConnectError> {
    let http = connection.guard(http_client(connection, 0)?);
    Ok(config.to_builder().http_client(http).build())
}

/// What every SDK configuration of this connection begins with.
fn loader(connection: &Connection, http: SharedHttpClient) -> impl Fn() -> ConfigLoader + Send + Sync + use<> {
    let (region, profile) = (connection.region.clone().map(Region::new), connection.profile.clone());
    let (retries, timeouts) = (retries(connection), timeouts(connection));
    move || {
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .http_client(http.clone())
            .retry_config(retries.clone())
            .timeout_config(timeouts.clone())
            .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(STALL_GRACE).build());
        if let Some(profile) = &profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = &region {
            loader = loader.region(region.clone());
        }
        loader
    }
}

impl Connection {
    /// Whether bodies must be signed: asked for, or nothing else vouches for them on the way.
    pub(super) fn signs_bodies(&self) -> bool {
        let private = self.endpoint_url.as_deref().is_some_and(is_private);
        self.sign_payload || (self.allow_insecure_endpoint && !private)
    }

    /// Lets `http` send nothing in the clear to other hosts, unless that is asked for.
    fn guard(&self, http: SharedHttpClient) -> SharedHttpClient {
        if self.allow_insecure_endpoint { http } else { SharedHttpClient::new(TlsOnly(http)) }
    }

    fn check(&self, url: &str) -> Result<(), InsecureEndpoint> {
        if self.allow_insecure_endpoint || is_private(url) { Ok(()) } else { Err(InsecureEndpoint(url.to_owned())) }
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
        Ok(_) => Ok(()),
        Err(error) => Err(ConnectError::NoCredentials(told(&error))),
    }
}

/// With the feature `fips`, TLS takes all of its cryptography from the FIPS module, and offers only what FIPS 140-3 approves of.
#[cfg(feature = "fips")]
const TLS: CryptoMode = CryptoMode::AwsLcFips;
#[cfg(not(feature = "fips"))]
const TLS: CryptoMode = CryptoMode::AwsLc;

/// Keeps at most `idle_max` connections to each host for later requests.
fn http_client(connection: &Connection, idle_max: usize) -> Result<SharedHttpClient, ConnectError> {
    let mut trusted = TrustStore::default();
    if let Some(path) = connection.ca_bundle.as_deref() {
        trusted = trusted.with_pem_certificate(read_certificates(path)?);
    }
    let context = TlsContext::builder()
        .with_trust_store(trusted)
        .build()
        .map_err(|error| ConnectError::Tls(error.to_string()))?;
    let client = aws_smithy_http_client::Builder::new()
        .pool_max_idle_per_host(idle_max)
        .tls_provider(tls::Provider::Rustls(TLS))
        .tls_context(context)
        .build_https();
    Ok(bounded(client, connection.attempt_timeout))
}

/// The TLS library panics over a file that is not made of certificates, and it would do so at the first request.
fn read_certificates(path: &Path) -> Result<Vec<u8>, ConnectError> {
    let unusable = |source| ConnectError::CaBundle { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(unusable)?;
    if is_certificates(&text) {
        Ok(text.into_bytes())
    } else {
        Err(unusable(io::Error::new(io::ErrorKind::InvalidData, "there is no PEM certificate in it, or a broken one")))
    }
}

/// Whether `text` has at least one `CERTIFICATE` block and each is Base64 of something that begins as DER certificates do,
/// with a SEQUENCE (RFC 7468, X.690).
fn is_certificates(text: &str) -> bool {
    let blocks: Vec<&str> = text.split("-----BEGIN CERTIFICATE-----").skip(1).collect();
    let decodes = |block: &&str| {
        let Some((body, _)) = block.split_once("-----END CERTIFICATE-----") else { return false };
        let body: String = body.split_ascii_whitespace().collect();
        base64_simd::STANDARD.decode_to_vec(body).is_ok_and(|der| der.first() == Some(&0x30))
    };
    !blocks.is_empty() && blocks.iter().all(decodes)
}

/// Whether what is sent to `url` is out of others' sight: https, or this host itself.
fn is_private(url: &str) -> bool {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    scheme.eq_ignore_ascii_case("https") || (scheme.eq_ignore_ascii_case("http") && is_loopback(host(rest)))
}

fn host(rest: &str) -> &str {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

/// `localhost` and the names below it are the host itself by RFC 6761, 6.3.
fn is_loopback(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An HTTP client that refuses plain http to other hosts, wherever the address came from: a flag, a variable of the
/// environment, a profile, or a redirection.
#[derive(Debug)]
struct TlsOnly(SharedHttpClient);

impl HttpClient for TlsOnly {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(TlsOnlyConnector(self.0.http_connector(settings, components)))
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.0.connector_metadata()
    }
}

#[derive(Debug)]
struct TlsOnlyConnector(SharedHttpConnector);

impl HttpConnector for TlsOnlyConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        if is_private(request.uri()) {
            return self.0.call(request);
        }
        let endpoint: String = request.uri().split('/').take(3).collect::<Vec<_>>().join("/");
        HttpConnectorFuture::ready(Err(ConnectorError::user(InsecureEndpoint(endpoint).into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_host_only() {
        for url in [
            "https://s3.eu-west-1.amazonaws.com",
            "HTTPS://minio.corp:9000/",
            "http://127.0.0.1:9000",
            "http://127.8.8.8",
            "http://localhost:80/x",
            "http://data.localhost:9000/key?x=@evil",
            "http://[::1]:9000/",
        ] {
            assert!(is_private(url), "{url}");
        }
        for url in [
            "http://s3.amazonaws.com",
            "http://localhost.evil.com",
            "http://127.0.0.1@evil.com/",
            "http://evil.com/127.0.0.1",
            "http://evil.com#@127.0.0.1",
            "http://10.0.0.1",
            "http://[2001:db8::1]/",
            "127.0.0.1:9000",
            "",
        ] {
            assert!(!is_private(url), "{url}");
        }
    }

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

    #[test]
    fn a_file_of_certificates_is_checked_before_it_is_used() {
        let good = "comment\n-----BEGIN CERTIFICATE-----\nMAMC\nAQE=\n-----END CERTIFICATE-----\n";
        assert!(is_certificates(good));
        assert!(is_certificates(&good.repeat(2)));
        for text in
            ["", "MAMCAQE=", &good.replace("MAMC", "!!!!"), &good.replace("MAMC", "AAMC"), &good.replace("END", "")]
        {
            assert!(!is_certificates(text), "{text}");
        }
        let missing = read_certificates(Path::new("/nonexistent/ca.pem")).unwrap_err();
        assert!(missing.to_string().starts_with("the certificates in /nonexistent/ca.pem cannot be read"), "{missing}");
    }
}
