//! `dssefs serve`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use super::complain;
use super::exit::Exit;
use super::logging::{self, Place};
use crate::config::{Log, LogFormat};
use dssefs_emulator::{Options, Server, faults};
use dssefs_s3::escaping::shown;

/// The arguments of `dssefs serve`.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Where to listen; port 0 takes any that is free
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9090")]
    listen: SocketAddr,
    /// Listen on an address that other hosts can reach: with the keys below, they may then read and write everything
    #[arg(long)]
    allow_non_loopback: bool,
    /// Keep buckets, objects and keys here [default: a temporary directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Speak https with a generated certificate
    #[arg(long)]
    tls: bool,
    /// The Region to claim
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// The access key that requests must be signed with
    #[arg(long, default_value = "dssefs")]
    access_key: String,
    /// And its secret
    #[arg(long, default_value = "dssefs-secret")]
    secret_key: String,
    /// A JSON file of faults to commit
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
    /// Create this bucket if it is missing; may be given again
    #[arg(long, value_name = "NAME")]
    bucket: Vec<String>,
    /// Say more; -vv says everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// Why the endpoint does not serve.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("no temporary directory could be made ({0}); name a directory with --data")]
    Temporary(#[source] std::io::Error),
    #[error("{} cannot be read ({error}); name a readable file with --faults", path.display())]
    FaultsUnreadable { path: PathBuf, error: std::io::Error },
    #[error("{} is not a plan of faults: {error}", path.display())]
    FaultsInvalid { path: PathBuf, error: serde_json::Error },
    #[error("the endpoint cannot start")]
    Start(#[from] dssefs_emulator::Error),
    #[error("the system refuses what the endpoint needs: {0}")]
    System(#[from] std::io::Error),
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let log = Log { file: None, format: LogFormat::Text, verbosity: arguments.verbose };
    let served = logging::start(&log, Place::Foreground).map_err(ServeError::System).and_then(|logging| {
        logging.start_thread();
        block_on(arguments)
    });
    match served {
        Ok(()) => Exit::Ok,
        Err(error) => {
            complain(&error);
            exit_of(&error)
        }
    }
}

fn exit_of(error: &ServeError) -> Exit {
    match error {
        ServeError::System(_) => Exit::Internal,
        _ => Exit::Usage,
    }
}

fn block_on(arguments: &Arguments) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(arguments))
}

async fn serve(arguments: &Arguments) -> Result<(), ServeError> {
    let home = Home::of(arguments.data.as_deref())?;
    let faults = arguments.faults.as_deref().map(read_faults).transpose()?.unwrap_or_default();
    let options = Options {
        listen: arguments.listen,
        tls: arguments.tls,
        region: arguments.region.clone(),
        access_key: arguments.access_key.clone(),
        secret_key: arguments.secret_key.clone(),
        faults,
        allow_non_loopback: arguments.allow_non_loopback,
        buckets: arguments.bucket.clone(),
        ..Options::new(home.path().to_owned())
    };
    // The signals are taken before the endpoint is announced.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let server = Server::start(options).await?;
    introduce(&server, arguments, home.path());
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    server.stop().await;
    Ok(())
}

fn read_faults(path: &Path) -> Result<faults::Plan, ServeError> {
    let text = std::fs::read(path).map_err(|error| ServeError::FaultsUnreadable { path: path.to_owned(), error })?;
    serde_json::from_slice(&text).map_err(|error| ServeError::FaultsInvalid { path: path.to_owned(), error })
}

/// What a person pastes, and what a script waits for: the first line is always the URL.
fn introduce(server: &Server, arguments: &Arguments, data: &Path) {
    println!("serving S3 and KMS at {}", server.url());
    println!("# content rests in the clear in {}: for development and tests only", shown(data));
    println!("export AWS_ENDPOINT_URL={}", server.url());
    println!("export AWS_ACCESS_KEY_ID={}", arguments.access_key);
    println!("export AWS_SECRET_ACCESS_KEY={}", arguments.secret_key);
    println!("export AWS_REGION={0} AWS_DEFAULT_REGION={0}", arguments.region);
    if server.certificate_pem().is_some() {
        println!("export AWS_CA_BUNDLE={}", data.join("certificate.pem").display());
    }
}

/// The data directory: the user's, or one that goes away with the process.
enum Home {
    Given(PathBuf),
    Temporary(TempDir),
}

impl Home {
    fn of(given: Option<&Path>) -> Result<Home, ServeError> {
        match given {
            Some(path) => Ok(Home::Given(std::path::absolute(path)?)),
            None => tempfile::Builder::new()
                .prefix("dssefs-serve-")
                .tempdir()
                .map(Home::Temporary)
                .map_err(ServeError::Temporary),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Home::Given(path) => path,
            Home::Temporary(dir) => dir.path(),
        }
    }
}
