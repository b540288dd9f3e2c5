//! A firewall between a mount and its endpoint: it forwards bytes, forgets connections, and loses answers.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::common::{Endpoint, Mount};

pub(super) struct Relay {
    url: String,
    shared: Arc<Shared>,
    /// Ends what runs on it when it is dropped.
    _runtime: Runtime,
}

#[derive(Default)]
struct Shared {
    /// One for each connection, dead or alive.
    connections: Mutex<Vec<Arc<AtomicBool>>>,
    made: AtomicUsize,
    resets: AtomicUsize,
    lost: AtomicUsize,
    /// The beginning of the request whose answer is lost next.
    losing: Mutex<Option<String>>,
}

impl Relay {
    /// Listens on the loopback, and forwards to the host of `url`.
    pub(super) fn to(url: &str) -> Relay {
        let target = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::<Shared>::default();
        let state = Arc::clone(&shared);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, target.clone(), Arc::clone(&state)));
            }
        });
        Relay { url, shared, _runtime: runtime }
    }

    /// A mount whose requests all go through this.
    pub(super) fn mount(&self, endpoint: &Endpoint, options: &[&str]) -> Mount {
        Mount::at(endpoint, &self.url, options)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Forgets all connections: each answers the next byte with a reset. Gives how many there are.
    pub(super) fn forget(&self) -> usize {
        let mut connections = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        // What only this list still holds is closed.
        connections.retain(|dead| Arc::strong_count(dead) > 1);
        connections.iter().for_each(|dead| dead.store(true, Ordering::SeqCst));
        connections.len()
    }

    /// How many connections there were so far.
    pub(super) fn made(&self) -> usize {
        self.shared.made.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub(super) fn open(&self) -> usize {
        let connections = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.iter().filter(|dead| Arc::strong_count(dead) > 1).count()
    }

    /// The next request that begins so is carried out, and answered with a reset.
    pub(super) fn lose_the_answer_to(&self, request: &str) {
        *self.shared.losing.lock().unwrap_or_else(PoisonError::into_inner) = Some(request.to_owned());
    }

    pub(super) fn resets(&self) -> usize {
        self.shared.resets.load(Ordering::SeqCst)
    }

    pub(super) fn lost(&self) -> usize {
        self.shared.lost.load(Ordering::SeqCst)
    }
}

async fn forward(mut client: TcpStream, target: String, shared: Arc<Shared>) {
    let dead = Arc::<AtomicBool>::default();
    shared.made.fetch_add(1, Ordering::SeqCst);
    shared.connections.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&dead));
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let (mut from_client, mut from_server) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut is_losing = false;
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(length @ 1..) = read else { return };
                if dead.load(Ordering::SeqCst) {
                    shared.resets.fetch_add(1, Ordering::SeqCst);
                    return reset(client);
                }
                is_losing |= shared.loses(&from_client[..length]);
                if server.write_all(&from_client[..length]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut from_server) => {
                let Ok(length @ 1..) = read else { return };
                // The invitation to send the body is no answer yet.
                if is_losing && !from_server[..length].starts_with(b"HTTP/1.1 100") {
                    shared.lost.fetch_add(1, Ordering::SeqCst);
                    return reset(client);
                }
                if client.write_all(&from_server[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Shared {
    fn loses(&self, request: &[u8]) -> bool {
        let mut losing = self.losing.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = losing.as_ref().is_some_and(|text| request.starts_with(text.as_bytes()));
        if begins {
            *losing = None;
        }
        begins
    }
}

/// Closing with a linger of nothing is a reset (socket(7), SO_LINGER).
fn reset(client: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).expect("a socket lingers as it is told");
    drop(client);
}
