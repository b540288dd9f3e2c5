//! The embedded S3 + KMS endpoint behind `dssefs serve` and `dssefs demo`, and under the tests.
//!
//! It speaks the protocols of S3 and KMS for DSSE-KMS objects. It keeps its data in one directory, counts requests, and
//! injects faults from a plan. It does not protect data. Its keys are stored next to its
//! objects, so it is for development, demonstrations and tests.
//!
//! It uses no other crate of dssefs. If it shared a wrong header name or algorithm with the client, it would confirm
//! the mistake.

#![forbid(unsafe_code)]

pub mod counters;
pub mod faults;
pub mod kms;
pub mod operation;
pub mod s3;
mod server;
mod storage;

use std::fs::{File, TryLockError};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use counters::Counters;
pub use server::CertificateError;

use faults::{Faults, Plan};
use kms::Kms;
use kms::signature::Credentials;
use server::{Certificate, Router};

/// How the endpoint is to run.
#[derive(Clone)]
pub struct Options {
    /// Where to listen; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The directory for all data of the endpoint. It is created if it is missing. One endpoint at a time may use it.
    pub data: PathBuf,
    /// Whether to speak TLS, with a certificate of its own.
    pub tls: bool,
    /// The Region it plays, such as `us-east-1`.
    pub region: String,
    /// The account it plays: 12 digits.
    pub account: String,
    /// The one access key it knows.
    pub access_key: String,
    /// The secret of that access key.
    pub secret_key: String,
    /// The faults to inject.
    pub faults: Plan,
    /// Whether `listen` may be an address that other hosts can reach.
    pub allow_non_loopback: bool,
    /// Buckets to create when they are missing.
    pub buckets: Vec<String>,
}

impl Options {
    /// A plain endpoint on a free port of the loopback, with test credentials, in `us-east-1`.
    #[must_use]
    pub fn new(data: PathBuf) -> Options {
        Options {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            data,
            tls: false,
            region: "us-east-1".to_owned(),
            account: "111122223333".to_owned(),
            access_key: "dssefs".to_owned(),
            secret_key: "dssefs-secret".to_owned(),
            faults: Plan::default(),
            allow_non_loopback: false,
            buckets: Vec::new(),
        }
    }
}

/// Why the endpoint does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Other hosts could reach it.
    #[error(
        "{address} can be reached from other hosts, and this endpoint protects nothing; listen on 127.0.0.1, or allow \
         it explicitly."
    )]
    NotLoopback {
        /// The address asked for.
        address: SocketAddr,
    },
    /// A setting that no AWS account could have.
    #[error("`{value}` cannot be the {name}: {rule}.")]
    Setting {
        /// The name of the setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
    /// The data directory.
    #[error("The data directory {} cannot be used.", path.display())]
    Data {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Two endpoints on one directory would overwrite each other.
    #[error("Another endpoint uses {}; stop it, or choose another directory.", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The address.
    #[error("Listening on {address} is not possible.")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// A running endpoint. Dropping it stops it too, without waiting; its directory is free again once its requests have
/// ended.
pub struct Server {
    address: SocketAddr,
    certificate_pem: Option<String>,
    router: Arc<Router>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Server {
    /// Starts the endpoint; it answers once this returns. Needs a Tokio runtime.
    ///
    /// # Errors
    /// An address that other hosts can reach without permission, impossible settings, and errors of the system.
    pub async fn start(options: Options) -> Result<Server, Error> {
        check(&options)?;
        let data = options.data.clone();
        let lock = lock(&data)?;
        let in_data = |source| Error::Data { path: data.clone(), source };
        let kms = Kms::open(&data.join("kms"), &options.region, &options.account).map_err(in_data)?;
        let kms = Arc::new(kms);
        let endpoint = s3::Endpoint::open(&data.join("s3"), Arc::clone(&kms), &options.region, &options.account);
        let endpoint = endpoint.map_err(in_data)?;
        for bucket in &options.buckets {
            endpoint.ensure_bucket(bucket).map_err(in_data)?;
        }
        let certificate = options.tls.then(|| Certificate::open(&data)).transpose()?;
        let (listener, address) = listen(options.listen).await?;
        let credentials = Credentials { access_key: options.access_key, secret_key: options.secret_key };
        let faults = Faults::new(options.faults);
        let router = Arc::new(Router::new(endpoint, kms, credentials, (options.region, address.port()), faults));
        let (stop, stopped) = watch::channel(false);
        let (certificate_pem, acceptor) = certificate.map(Certificate::into_parts).unzip();
        let serving = server::serve(listener, acceptor, Arc::clone(&router), stopped);
        // The directory stays locked until the last request has ended, also when the server was only dropped.
        let serving = tokio::spawn(async move {
            serving.await;
            drop(lock);
        });
        Ok(Server { address, certificate_pem, router, stop, serving })
    }

    /// The address to give to clients, such as `http://127.0.0.1:9000`.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.certificate_pem.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", reachable(self.address))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate to trust, when it speaks TLS; the same is in `certificate.pem` of the data directory.
    #[must_use]
    pub fn certificate_pem(&self) -> Option<&str> {
        self.certificate_pem.as_deref()
    }

    /// The counters so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.router.state.counters()
    }

    /// Starts the counters, and the log of KMS calls, from zero.
    pub fn reset_counters(&self) {
        self.router.state.reset_counters();
    }

    /// Replaces the plan of faults.
    pub fn set_faults(&self, plan: Plan) {
        self.router.state.faults.replace(plan);
    }

    /// The rules of the plan and their counts.
    #[must_use]
    pub fn faults(&self) -> Vec<faults::Standing> {
        self.router.state.faults.standing()
    }

    /// Its keys.
    #[must_use]
    pub fn kms(&self) -> &Arc<Kms> {
        &self.router.state.kms
    }

    /// Accepts no more requests, and returns when those under way are finished, or after five seconds.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.serving.await {
            tracing::error!(%error, "the endpoint stopped because of a bug of its own");
        }
    }
}

fn check(options: &Options) -> Result<(), Error> {
    if !options.listen.ip().to_canonical().is_loopback() && !options.allow_non_loopback {
        return Err(Error::NotLoopback { address: options.listen });
    }
    let setting = |name, value: &str, rule| Err(Error::Setting { name, value: value.to_owned(), rule });
    let in_region = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if options.region.is_empty() || !options.region.bytes().all(in_region) {
        return setting("Region", &options.region, "a Region is written with a-z, 0-9 and `-`");
    }
    if options.account.len() != 12 || !options.account.bytes().all(|byte| byte.is_ascii_digit()) {
        return setting("account", &options.account, "an account is 12 digits");
    }
    if options.access_key.is_empty() || options.access_key.contains(['/', ',', ' ']) {
        return setting("access key", &options.access_key, "it needs a character, and no `/`, `,` or space");
    }
    Ok(())
}

fn lock(data: &Path) -> Result<File, Error> {
    let in_data = |source| Error::Data { path: data.to_owned(), source };
    storage::private_directory(data).map_err(in_data)?;
    let file = storage::private_file().truncate(false).open(data.join("lock")).map_err(in_data)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: data.to_owned() }),
        Err(TryLockError::Error(source)) => Err(in_data(source)),
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// The address that a client on this host can use: `0.0.0.0` and `::` are no destinations.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, v6.port()).into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut Options)) -> Error {
        let mut options = Options::new(PathBuf::new());
        change(&mut options);
        check(&options).unwrap_err()
    }

    #[test]
    fn an_address_that_others_can_reach_must_be_allowed() {
        let open = SocketAddr::from(([0, 0, 0, 0], 0));
        assert!(matches!(refusal(|options| options.listen = open), Error::NotLoopback { .. }));
        let allowed = Options { listen: open, allow_non_loopback: true, ..Options::new(PathBuf::new()) };
        assert!(check(&allowed).is_ok());
    }

    #[test]
    fn settings_that_aws_could_not_have_are_refused() {
        assert!(matches!(refusal(|options| options.region = "EU".into()), Error::Setting { name: "Region", .. }));
        assert!(matches!(refusal(|options| options.account = "1".into()), Error::Setting { name: "account", .. }));
        assert!(matches!(refusal(|options| options.access_key.clear()), Error::Setting { name: "access key", .. }));
    }

    #[test]
    fn the_url_is_one_that_a_client_can_use() {
        let reach = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(reach("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(reach("[::]:80"), "[::1]:80");
        assert_eq!(reach("127.0.0.2:80"), "127.0.0.2:80");
    }
}
