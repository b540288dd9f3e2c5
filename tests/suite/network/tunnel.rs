//! A proxy that knows CONNECT, and a store that speaks TLS under a name that no DNS has.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Leads each tunnel to one address, whatever it was asked for, and refuses everything else.
pub(super) struct Tunnel {
    pub(super) address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
    _runtime: Runtime,
}

impl Tunnel {
    pub(super) fn to(target: SocketAddr) -> Tunnel {
        let runtime = runtime();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::<Mutex<Vec<u8>>>::default();
        let sink = Arc::clone(&heard);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, target, Arc::clone(&sink)));
            }
        });
        Tunnel { address, heard, _runtime: runtime }
    }

    /// What was asked of the proxy itself since the last time.
    pub(super) fn take(&self) -> String {
        let heard = std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner));
        String::from_utf8_lossy(&heard).into_owned()
    }
}

async fn serve(mut client: TcpStream, target: SocketAddr, sink: Arc<Mutex<Vec<u8>>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    sink.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&head);
    if !head.starts_with(b"CONNECT ") {
        return client.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    }
    let mut server = TcpStream::connect(target).await?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// TLS in front of an endpoint that has none.
pub(super) struct TlsStore {
    pub(super) address: SocketAddr,
    ca: NamedTempFile,
    _runtime: Runtime,
}

impl TlsStore {
    pub(super) fn before(url: &str, name: &str) -> TlsStore {
        let target = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let ca = NamedTempFile::new().unwrap();
        std::fs::write(ca.path(), certificate.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let secret = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], secret.into())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let runtime = runtime();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, target) = (acceptor.clone(), target.clone());
                tokio::spawn(async move {
                    let mut client = acceptor.accept(client).await?;
                    let mut server = TcpStream::connect(target).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        TlsStore { address, ca, _runtime: runtime }
    }

    /// The certificate to trust.
    pub(super) fn ca(&self) -> &Path {
        self.ca.path()
    }
}
