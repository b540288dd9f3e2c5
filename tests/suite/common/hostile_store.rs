//! A server between mount and endpoint that passes most requests on, and answers some by itself, as no honest store
//! would.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What was asked: a request's method and target, as they were sent.
pub(crate) struct Asked {
    pub(crate) method: String,
    /// The path and the query, escaped.
    pub(crate) target: String,
}

impl Asked {
    /// The value of a parameter, still escaped.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    /// Whether it is a listing below this prefix, which has no character that needs escaping but slashes.
    pub(crate) fn lists(&self, prefix: &str) -> bool {
        let wanted = prefix.replace('/', "%2F");
        self.parameter("list-type").is_some() && self.parameter("prefix").is_some_and(|told| told.starts_with(&wanted))
    }

    /// Whether it reads or looks at this object.
    pub(crate) fn is_of(&self, method: &str, key: &str) -> bool {
        let path = self.target.split('?').next().unwrap_or_default();
        self.method == method && path.strip_suffix(key).is_some_and(|rest| rest.ends_with('/'))
    }
}

/// A lie: what goes to the mount's connection, which is closed after it. None: the endpoint is asked.
pub(crate) type Lie = Box<dyn FnOnce(&mut TcpStream) -> io::Result<()> + Send>;

/// The server. It ends when it is dropped.
pub(crate) struct HostileStore {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    lies: Arc<AtomicU64>,
    accepting: Option<JoinHandle<()>>,
}

impl HostileStore {
    /// Listens before the endpoint at `url`; `lie` decides of each request.
    pub(crate) fn before(url: &str, lie: impl Fn(&Asked) -> Option<Lie> + Send + Sync + 'static) -> HostileStore {
        let upstream: SocketAddr =
            url.strip_prefix("http://").expect("plain http").parse().expect("an address and a port");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (stopped, lies) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (lie, counted, stop) = (Arc::new(lie), Arc::clone(&lies), Arc::clone(&stopped));
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (lie, counted) = (Arc::clone(&lie), Arc::clone(&counted));
                // The mount may end a connection at any time; that is what some tests wait for.
                std::thread::spawn(move || drop(serve(stream, upstream, &*lie, &counted)));
            }
        });
        HostileStore { address, stopped, lies, accepting: Some(accepting) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many requests it has answered by itself.
    pub(crate) fn lies(&self) -> u64 {
        self.lies.load(Ordering::Relaxed)
    }
}

impl Drop for HostileStore {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// One request and its answer.
fn serve(
    mut client: TcpStream,
    upstream: SocketAddr,
    lie: &dyn Fn(&Asked) -> Option<Lie>,
    lies: &AtomicU64,
) -> io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let begin = head.len();
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
        let line = head[begin..].to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut words = head.split(' ').map(str::to_owned);
    let asked = Asked { method: words.next().unwrap_or_default(), target: words.next().unwrap_or_default() };
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    if let Some(lie) = lie(&asked) {
        lies.fetch_add(1, Ordering::Relaxed);
        return lie(&mut client);
    }
    let mut store = TcpStream::connect(upstream)?;
    // One request for each connection, so that the end of an answer is the end of the connection.
    store.write_all(head.trim_end().as_bytes())?;
    store.write_all(b"\r\nconnection: close\r\n\r\n")?;
    store.write_all(&body)?;
    io::copy(&mut store, &mut client).map(drop)
}

/// An answer of this status with these headers and this body, with its true length.
pub(crate) fn whole(status: u16, headers: &str, body: &str) -> Lie {
    let text =
        format!("HTTP/1.1 {status} Lie\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    Box::new(move |client| client.write_all(text.as_bytes()))
}

/// An answer that begins with `head` and goes on with `piece` for `bytes_max` bytes, in chunks; the mount may hang up
/// before.
pub(crate) fn endless(status: u16, head: &'static str, piece: &'static str, bytes_max: usize) -> Lie {
    Box::new(move |client| {
        write!(client, "HTTP/1.1 {status} Lie\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n")?;
        write!(client, "{:x}\r\n{head}\r\n", head.len())?;
        let chunk = piece.repeat((64 << 10) / piece.len());
        for _ in 0..bytes_max / chunk.len() {
            write!(client, "{:x}\r\n{chunk}\r\n", chunk.len())?;
        }
        client.write_all(b"0\r\n\r\n")
    })
}
