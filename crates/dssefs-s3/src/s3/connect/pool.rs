//! Keeps connections for later requests, and replaces them when they turn out to be dead.
//!
//! A firewall or a NAT that forgets idle connections answers the next packet on each of them with a reset. The store is
//! healthy, so such a reset does not count as a failed attempt: the request goes out again on a connection of a new
//! pool, and the old pool is dropped.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;
use aws_smithy_runtime_api::client::http::{HttpConnector, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;

use crate::s3::error_chain::causes;

/// Connections to one host that wait for the next request, at most. More requests than that at once are rare, and each
/// connection costs some 50 KB of buffers; those beyond it are closed behind their answer.
pub(super) const IDLE_CONNECTIONS_MAX: usize = 64;
/// How long a connection may wait for its next request, in seconds. The firewalls and NATs that forget soonest do so
/// after a minute, and a new connection costs two or three round trips.
pub(super) const IDLE_SECONDS_MAX: u64 = 30;
/// How many connections are remembered as having answered. Beyond that all are forgotten; at worst a reset then counts
/// as an attempt.
const REMEMBERED_MAX: usize = 4096;

/// Marks an answer to the second copy of a request. The first copy had no answer, and may have been carried out as
/// well.
#[derive(Clone, Copy, Debug)]
pub(in crate::s3) struct SentTwice;

type Make = dyn Fn() -> SharedHttpConnector + Send + Sync;

/// The connections for one kind of requests.
pub(super) struct Pool {
    make: Box<Make>,
    current: Mutex<Arc<Generation>>,
}

/// Connections that are kept and dropped together.
struct Generation {
    connector: SharedHttpConnector,
    /// The local addresses of the connections that have answered before.
    answered: Mutex<HashSet<SocketAddr>>,
}

impl Pool {
    pub(super) fn new(make: impl Fn() -> SharedHttpConnector + Send + Sync + 'static) -> Pool {
        let first = Generation::of(make());
        Pool { make: Box::new(make), current: Mutex::new(first) }
    }

    /// Sends a request, and sends it once more on a new connection if an idle connection turned out to be dead. The
    /// second answer has the mark [`SentTwice`].
    ///
    /// # Errors
    /// As the connection fails; also when the second one does.
    pub(super) async fn send(&self, mut request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let connection = match request.extension::<CaptureSmithyConnection>() {
            Some(connection) => connection.clone(),
            None => {
                let connection = CaptureSmithyConnection::new();
                request.add_extension(connection.clone());
                connection
            }
        };
        let copy = request.try_clone();
        let generation = Arc::clone(&self.current());
        let outcome = generation.connector.call(request).await;
        let address = connection.get().and_then(|connection| connection.local_addr());
        let error = match outcome {
            Ok(answer) => {
                generation.remember(address);
                return Ok(answer);
            }
            Err(error) => error,
        };
        let Some(mut copy) = copy.filter(|_| has_broken(&error) && generation.forget(address)) else {
            return Err(error);
        };
        tracing::debug!("an idle connection turned out to be dead; the daemon sends the request again on a new one");
        let fresh = self.after(&generation);
        copy.add_extension(connection.clone());
        let mut answer = fresh.connector.call(copy).await?;
        fresh.remember(connection.get().and_then(|connection| connection.local_addr()));
        answer.add_extension(SentTwice);
        Ok(answer)
    }

    /// The generation after `old`, whose idle connections are not used any more.
    fn after(&self, old: &Arc<Generation>) -> Arc<Generation> {
        let mut current = self.current();
        if Arc::ptr_eq(&current, old) {
            *current = Generation::of((self.make)());
        }
        Arc::clone(&current)
    }

    fn current(&self) -> MutexGuard<'_, Arc<Generation>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generation {
    fn of(connector: SharedHttpConnector) -> Arc<Generation> {
        Arc::new(Generation { connector, answered: Mutex::default() })
    }

    fn remember(&self, address: Option<SocketAddr>) {
        let mut answered = self.answered();
        if answered.len() >= REMEMBERED_MAX {
            answered.clear();
        }
        answered.extend(address);
    }

    /// Forgets this connection, and returns whether it had answered before.
    fn forget(&self, address: Option<SocketAddr>) -> bool {
        address.is_some_and(|address| self.answered().remove(&address))
    }

    fn answered(&self) -> MutexGuard<'_, HashSet<SocketAddr>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

/// How long a connection waits for its next request.
pub(super) fn idle_time_max() -> Duration {
    Duration::from_secs(IDLE_SECONDS_MAX)
}

/// Whether the connection ended before the answer. A time limit that ran out does not show that.
fn has_broken(error: &ConnectorError) -> bool {
    (error.is_io() || error.as_other().is_some()) && !has_too_many_headers(error)
}

/// Whether the answer had more headers than the HTTP library reads. Decides by the text, as the library has no type for
/// this error.
pub(super) fn has_too_many_headers(error: &ConnectorError) -> bool {
    causes(error).any(|cause| cause.to_string() == "message head is too large")
}
