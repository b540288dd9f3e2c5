//! Sets the SDK up: credentials, Region, TLS, retries, time limits. Reports all errors before the mount.

mod address;
mod certificates;
mod client;
mod connection;
mod credentials;
mod identity;
mod loader;
mod pool;
mod profiles;
mod proxy;
mod resolve;

use aws_config::SdkConfig;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::config::{Credentials, ProvideCredentials};

use super::error_chain::{caused_by, error_chain};
use address::Rule;
use client::{Network, Reuse};
use credentials::Renewed;
use identity::Source;
use loader::Loader;

pub use address::InsecureEndpoint;
pub use connection::{AccessKey, ConnectError, Connection};
pub use identity::IdentityError;
pub(in crate::s3) use pool::SentTwice;
pub use profiles::{named_by, profile_files};
pub use proxy::ProxyError;

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
    // 1. Refuse endpoints in the clear, and set up TLS and proxies.
    let given = [&connection.endpoint_url, &connection.kms_endpoint_url];
    given.into_iter().flatten().try_for_each(|url| connection.check(url))?;
    let network = Network::new(connection)?;
    network.proxies().log();
    // 2. Load environment and profiles. A stricter rule, which no option lifts, holds for the fetching of credentials.
    let loader = Loader { connection: connection.clone(), http: network.client(Rule::Credentials, Reuse::Kept) };
    let config = match access_key {
        None => loader.load().await?,
        Some(_) => loader.load_any().await,
    };
    // 3. Check what they name.
    config.endpoint_url().map_or(Ok(()), |url| connection.check(url))?;
    config.region().ok_or(ConnectError::NoRegion)?;
    // 4. Set the provider of credentials and the HTTP client, and fetch credentials once.
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
