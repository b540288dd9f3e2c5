//! The HTTP client. It refuses requests that would go in the clear, chooses a proxy or none for each request, and adds
//! the host to errors.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::config::{RuntimeComponents, SharedHttpClient};
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;

use super::address::{Rule, Way, authority};
use super::certificates::read_certificates;
use super::connection::{ConnectError, Connection};
use super::pool::{IDLE_CONNECTIONS_MAX, Pool, has_too_many_headers, idle_time_max};
use super::proxy::Proxies;
use super::resolve::Resolver;
use crate::s3::bounds::{Exceeded, bounded};

/// With the feature `fips`, TLS takes all its cryptography from the FIPS module, and offers only what FIPS 140-3
/// approves.
#[cfg(feature = "fips")]
const TLS: CryptoMode = CryptoMode::AwsLcFips;
#[cfg(not(feature = "fips"))]
const TLS: CryptoMode = CryptoMode::AwsLc;

/// Whether connections are kept for later requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reuse {
    Kept,
    Never,
}

/// What all HTTP clients of a connection share.
#[derive(Clone)]
pub(super) struct Network {
    trusted: TlsContext,
    proxies: Arc<Proxies>,
    attempt_timeout: Duration,
}

impl Network {
    pub(super) fn new(connection: &Connection) -> Result<Network, ConnectError> {
        let mut trusted = TrustStore::default();
        if let Some(path) = connection.ca_bundle.as_deref() {
            trusted = trusted.with_pem_certificate(read_certificates(path)?);
        }
        let trusted = TlsContext::builder()
            .with_trust_store(trusted)
            .build()
            .map_err(|error| ConnectError::Tls(error.to_string()))?;
        let proxies = Arc::new(Proxies::of_environment()?);
        Ok(Network { trusted, proxies, attempt_timeout: connection.attempt_timeout })
    }

    pub(super) fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// A client that sends what `rule` allows, and limits the answers.
    pub(super) fn client(&self, rule: Rule, reuse: Reuse) -> SharedHttpClient {
        let client = Client { network: self.clone(), rule, reuse, routes: Mutex::default() };
        bounded(SharedHttpClient::new(client), self.attempt_timeout)
    }

    fn pool(&self, settings: &Settings, reuse: Reuse, proxy: Option<ProxyConfig>) -> Arc<Pool> {
        let (network, settings) = (self.clone(), settings.clone());
        Arc::new(Pool::new(move || {
            let mut builder = Connector::builder()
                .connector_settings(settings.http())
                .pool_idle_timeout(idle_time_max())
                .pool_max_idle_per_host(if reuse == Reuse::Kept { IDLE_CONNECTIONS_MAX } else { 0 });
            builder.set_proxy_config(proxy.clone());
            let builder = builder.tls_provider(tls::Provider::Rustls(TLS)).tls_context(network.trusted.clone());
            SharedHttpConnector::new(builder.build_with_resolver(Resolver))
        }))
    }
}

/// The time limits of connections. Each combination has a pool of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Settings {
    connect: Option<Duration>,
    read: Option<Duration>,
}

impl Settings {
    fn http(&self) -> HttpConnectorSettings {
        let mut builder = HttpConnectorSettings::builder();
        builder.set_connect_timeout(self.connect).set_read_timeout(self.read);
        builder.build()
    }
}

struct Client {
    network: Network,
    rule: Rule,
    reuse: Reuse,
    routes: Mutex<HashMap<Settings, Arc<Routes>>>,
}

impl HttpClient for Client {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        let settings = Settings { connect: settings.connect_timeout(), read: settings.read_timeout() };
        let mut known = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let routes = known.entry(settings).or_insert_with_key(|settings| Arc::new(self.routes(settings)));
        SharedHttpConnector::new(Routed(Arc::clone(routes)))
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        Some(ConnectorMetadata::new("hyper", Some("1.x".into())))
    }
}

impl Client {
    fn routes(&self, settings: &Settings) -> Routes {
        let pool = |proxy| self.network.pool(settings, self.reuse, proxy);
        let proxies = &self.network.proxies;
        let direct = pool(None);
        let through = |proxy: &Option<super::proxy::Proxy>| match proxy {
            Some(proxy) => Route { pool: pool(Some(proxy.config.clone())), proxy: Some(proxy.shown.clone()) },
            None => Route { pool: Arc::clone(&direct), proxy: None },
        };
        Routes {
            rule: self.rule,
            tls: through(&proxies.https),
            clear: through(&proxies.http),
            direct: Route { pool: Arc::clone(&direct), proxy: None },
            proxies: Arc::clone(proxies),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("rule", &self.rule).field("reuse", &self.reuse).finish_non_exhaustive()
    }
}

/// Chooses the pool for each request.
#[derive(Debug)]
struct Routes {
    rule: Rule,
    direct: Route,
    tls: Route,
    clear: Route,
    proxies: Arc<Proxies>,
}

#[derive(Clone, Debug)]
struct Route {
    pool: Arc<Pool>,
    proxy: Option<String>,
}

#[derive(Debug)]
struct Routed(Arc<Routes>);

impl HttpConnector for Routed {
    fn call(&self, mut request: HttpRequest) -> HttpConnectorFuture {
        let routes = &self.0;
        let route = match routes.rule.way(request.uri()) {
            Err(refused) => return HttpConnectorFuture::ready(Err(ConnectorError::user(refused.into()))),
            Ok(_) if routes.proxies.excepts(request.uri()) => &routes.direct,
            Ok(Way::Direct) => &routes.direct,
            Ok(Way::Tls) => &routes.tls,
            Ok(Way::Clear) => &routes.clear,
        };
        let Route { pool, proxy } = route.clone();
        let mut host = authority(request.uri()).to_owned();
        if let Some(proxy) = proxy {
            host = format!("{host} (by the proxy {proxy}, unless NO_PROXY names it)");
        }
        let connection = request.extension::<CaptureSmithyConnection>().cloned().unwrap_or_default();
        request.add_extension(connection.clone());
        HttpConnectorFuture::new(async move {
            pool.send(request).await.map_err(|error| {
                if has_too_many_headers(&error) {
                    return ConnectorError::other(Exceeded::HeaderCount.into(), None);
                }
                let connected = connection.get().is_some();
                about(error, |source| Unreached { host, connected, source })
            })
        })
    }
}

/// A failure with its host, which hyper does not name.
#[derive(Debug)]
struct Unreached {
    host: String,
    connected: bool,
    source: Box<dyn StdError + Send + Sync>,
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.connected { "the connection broke to" } else { "there is no connection to" };
        write!(f, "{what} {}", self.host)
    }
}

impl StdError for Unreached {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}

/// The same error with a wrapped source. The properties that the SDK decides by stay the same.
fn about(error: ConnectorError, wrap: impl FnOnce(Box<dyn StdError + Send + Sync>) -> Unreached) -> ConnectorError {
    let (is_timeout, is_user, is_io) = (error.is_timeout(), error.is_user(), error.is_io());
    let (kind, metadata) = (error.as_other(), error.connection_metadata().cloned());
    if is_user {
        return error;
    }
    let source = Box::new(wrap(error.into_source()));
    let wrapped = match (is_timeout, is_io) {
        (true, _) => ConnectorError::timeout(source),
        (_, true) => ConnectorError::io(source),
        _ => ConnectorError::other(source, kind),
    };
    match metadata {
        Some(metadata) => wrapped.with_connection(metadata),
        None => wrapped,
    }
}
