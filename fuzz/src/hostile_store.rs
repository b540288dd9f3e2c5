//! A store and a KMS that lie: whatever they are asked, they answer the bytes of an input.

use std::cell::OnceCell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dssefs_s3::kms::Kms;
use dssefs_s3::object::Bucket;
use dssefs_s3::policy::{KeyArn, Policy};
use dssefs_s3::s3::{AccessKey, Connection, Gateway};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use super::input::Input;

/// The key of the mount.
pub const KEY: &str = "arn:aws:kms:us-east-1:111122223333:key/0a1b";

const STATUSES: [u16; 10] = [200, 200, 200, 206, 301, 403, 404, 412, 500, 503];
/// More than any request that is sent here.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// A listing that never ends is found out long before.
pub const REQUESTS_MAX: usize = 50;

/// An answer to each request: status, headers, body.
#[derive(Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// A status, headers as in [`Input::metadata`], and the rest as the body. What else the status byte says comes with
    /// it.
    pub fn read(input: &mut Input<'_>) -> (Answer, u8) {
        let byte = input.byte();
        let status = STATUSES[usize::from(byte) % STATUSES.len()];
        let headers = input.metadata().iter().filter_map(|(name, value)| header(name, value)).collect();
        (Answer { status, headers, body: input.rest().to_vec() }, byte / STATUSES.len() as u8)
    }

    /// The value of a header, as HTTP reads it.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
    }
}

/// What is answered, and what was asked: the first line of each request.
#[derive(Default)]
struct Script {
    answer: Answer,
    asked: Vec<String>,
}

/// A store and a KMS that answer everything alike, and the ways to them. One for each thread; the runtime runs while it
/// is waited on.
pub struct HostileStore {
    runtime: Runtime,
    pub gateway: Arc<Gateway>,
    pub kms: Kms,
    script: Arc<Mutex<Script>>,
}

thread_local! {
    static HOSTILE_STORE: OnceCell<HostileStore> = const { OnceCell::new() };
}

impl HostileStore {
    fn start() -> HostileStore {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let script = Arc::<Mutex<Script>>::default();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let connection = Connection {
            region: Some("us-east-1".into()),
            endpoint_url: Some(format!("http://{}", listener.local_addr().unwrap())),
            force_path_style: true,
            attempts_max: 1,
            attempt_timeout: Duration::from_secs(5),
            operation_timeout: Duration::from_secs(5),
            ..Connection::default()
        };
        runtime.spawn(serve(listener, Arc::clone(&script)));
        let access_key = AccessKey { id: "id".into(), secret: "secret".into() };
        let config = runtime.block_on(dssefs_s3::s3::load_as(&connection, access_key)).unwrap();
        let policy = Policy { key: KeyArn::new(KEY).ok(), ..Policy::default() };
        let gateway = Arc::new(Gateway::new(&config, &connection, Bucket::new("data").unwrap(), policy));
        let kms = Kms::new(&config, connection.endpoint_url.as_deref());
        HostileStore { runtime, gateway, kms, script }
    }

    /// What `ask` gives while everything is answered by `answer`, and what it asked.
    pub fn answering<T>(&self, answer: &Answer, ask: impl AsyncFnOnce(&Arc<Gateway>) -> T) -> (T, Vec<String>) {
        let script = || self.script.lock().unwrap_or_else(PoisonError::into_inner);
        *script() = Script { answer: answer.clone(), asked: Vec::new() };
        let value = self.runtime.block_on(ask(&self.gateway));
        let asked = std::mem::take(&mut script().asked);
        (value, asked)
    }
}

pub fn with_hostile_store<T>(work: impl FnOnce(&HostileStore) -> T) -> T {
    HOSTILE_STORE.with(|store| work(store.get_or_init(HostileStore::start)))
}

async fn serve(listener: TcpListener, script: Arc<Mutex<Script>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(converse(stream, Arc::clone(&script)));
    }
}

async fn converse(mut stream: TcpStream, script: Arc<Mutex<Script>>) -> std::io::Result<()> {
    while let Some(line) = receive(&mut stream).await? {
        let answer = {
            let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
            script.asked.push(line.clone());
            assert!(script.asked.len() < REQUESTS_MAX, "the store is asked again and again");
            script.answer.clone()
        };
        let Answer { status, headers, body } = answer;
        let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n", body.len());
        let body = if line.starts_with("HEAD") { &[] } else { &body[..] };
        // At once, as the second of two small packets would wait for the answer to the first (RFC 896).
        stream.write_all(&[head.as_bytes(), body].concat()).await?;
    }
    Ok(())
}

/// The first line of a request that has come whole; None when the connection ends.
async fn receive(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut request = Vec::new();
    loop {
        let head = request.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        if let Some(head) = head.map(|end| String::from_utf8_lossy(&request[..end]).to_lowercase())
            && request.len() >= head.len() + body_bytes(&head)
        {
            return Ok(Some(String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned()));
        }
        assert!(request.len() < REQUEST_BYTES_MAX);
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(None);
        }
    }
}

/// Bytes that follow a head of a request, which is in small letters.
fn body_bytes(head: &str) -> usize {
    assert!(!head.contains("\r\ntransfer-encoding:"));
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.map_or(0, |text| text.trim().parse().unwrap())
}

/// One line of a head that an HTTP library would send.
fn header(name: &str, value: &str) -> Option<String> {
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_sound = name.bytes().all(is_name) && value.bytes().all(|byte| (32..127).contains(&byte));
    let is_ours = matches!(name, "content-length" | "transfer-encoding" | "connection" | "upgrade" | "trailer");
    (is_sound && !is_ours).then(|| format!("{name}: {value}\r\n"))
}
