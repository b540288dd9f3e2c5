//! The answers of a store that lies: listings, headers and bodies as they come over the network.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dssefs::namespace::{AttributeSource, Defaults, Ino, Namespace, Settings};
use dssefs::object::{Bucket, Key, Prefix};
use dssefs::policy::Policy;
use dssefs::s3::{AccessKey, Connection, Gateway, ListRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use super::input::Input;

/// More than any request that is sent here.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// A listing that never ends is found out long before.
const REQUESTS_MAX: usize = 50;

/// An answer to each request: status, headers, body.
#[derive(Clone, Default)]
struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

/// What is answered, and what was asked: the first line of each request.
#[derive(Default)]
struct Script {
    answer: Answer,
    asked: Vec<String>,
}

/// A store that answers everything alike, and a gateway to it. One for each thread; the runtime runs while it is waited on.
struct Liar {
    runtime: Runtime,
    gateway: Arc<Gateway>,
    script: Arc<Mutex<Script>>,
}

thread_local! {
    static LIAR: OnceCell<Liar> = const { OnceCell::new() };
}

impl Liar {
    fn start() -> Liar {
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
        let config = runtime.block_on(dssefs::s3::load_as(&connection, access_key)).unwrap();
        let gateway = Gateway::new(&config, &connection, Bucket::new("data").unwrap(), Policy::default());
        Liar { runtime, gateway: Arc::new(gateway), script }
    }

    /// What `ask` gives while everything is answered by `answer`, and what it asked.
    fn answering<T>(&self, answer: Answer, ask: impl AsyncFnOnce(&Arc<Gateway>) -> T) -> (T, Vec<String>) {
        let script = || self.script.lock().unwrap_or_else(PoisonError::into_inner);
        *script() = Script { answer, asked: Vec::new() };
        let value = self.runtime.block_on(ask(&self.gateway));
        let asked = std::mem::take(&mut script().asked);
        (value, asked)
    }
}

fn with_liar<T>(work: impl FnOnce(&Liar) -> T) -> T {
    LIAR.with(|liar| work(liar.get_or_init(Liar::start)))
}

async fn serve(listener: TcpListener, script: Arc<Mutex<Script>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(converse(stream, Arc::clone(&script)));
    }
}

async fn converse(mut stream: TcpStream, script: Arc<Mutex<Script>>) -> std::io::Result<()> {
    loop {
        let mut request = Vec::new();
        while !request.windows(4).any(|four| four == b"\r\n\r\n") {
            assert!(request.len() < REQUEST_BYTES_MAX);
            if stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        let line = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned();
        let answer = {
            let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
            script.asked.push(line.clone());
            assert!(script.asked.len() < REQUESTS_MAX, "the store is asked again and again");
            script.answer.clone()
        };
        let Answer { status, headers, body } = answer;
        let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await?;
        if !line.starts_with("HEAD") {
            stream.write_all(&body).await?;
        }
    }
}

/// Whatever a store answers, a listing has names that can be, each once and in order; and what it says of an object stays within what
/// stat(2) can tell.
pub fn store(data: &[u8]) {
    let mut input = Input::new(data);
    let status = [200, 200, 200, 206, 301, 403, 404, 412, 500, 503][usize::from(input.byte()) % 10];
    let headers: String = input.metadata().iter().filter_map(|(name, value)| header(name, value)).collect();
    let answer = Answer { status, headers, body: input.rest().to_vec() };
    with_liar(|liar| {
        let asked = liar.answering(answer, async |gateway| {
            let request = ListRequest {
                prefix: "d/",
                delimiter: true,
                start_after: None,
                continuation: Some("t"),
                entries_max: 1000,
            };
            match gateway.list(&request).await {
                Ok(page) => assert!(
                    page.objects
                        .iter()
                        .map(|object| &object.key)
                        .chain(&page.prefixes)
                        .all(|key| key.starts_with("d/"))
                        && page.next.as_deref() != Some("t"),
                    "what was not asked for: {page:?}"
                ),
                Err(error) => assert!(!error.remedy().is_empty() && error.to_string().len() > 10),
            }
            if let Ok(head) = gateway.head(&Key::new("d/f").unwrap()).await {
                assert!(head.meta.size <= i64::MAX as u64);
            }
            let names = Namespace::new(Arc::clone(gateway), settings());
            let Ok(entries) = names.list(Ino::ROOT).await else { return };
            assert!(entries.iter().all(|entry| entry.name.as_str() != ".dssefs"));
            assert!(entries.is_sorted_by(|one, next| one.name < next.name), "{entries:?}");
            let told: usize = entries.iter().map(|entry| entry.name.as_str().len()).sum();
            assert!(told <= data.len(), "more is listed than was answered");
        });
        assert!(asked.1.len() < REQUESTS_MAX, "{:?}", asked.1);
    });
}

/// One line of a head that an HTTP library would send.
fn header(name: &str, value: &str) -> Option<String> {
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_sound = name.bytes().all(is_name) && value.bytes().all(|byte| (32..127).contains(&byte));
    let is_ours = matches!(name, "content-length" | "transfer-encoding" | "connection" | "upgrade" | "trailer");
    (is_sound && !is_ours).then(|| format!("{name}: {value}\r\n"))
}

fn settings() -> Settings {
    Settings {
        prefix: Prefix::root(),
        defaults: Defaults { uid: 0, gid: 0, file_mode: 0o644, dir_mode: 0o755 },
        ttl: Duration::from_secs(1),
        entries_max: 1000,
        attributes: AttributeSource::Full,
        heads_in_flight_max: 2,
        rename_lease: Duration::from_secs(60),
        conditional: true,
    }
}

/// Of a list of uploads under way only those are aborted that it names, that did not end, and that the store has below this mount.
pub fn ledger(data: &[u8]) {
    const UPLOADS: [&str; 4] = ["a", "b", "c", "dd"];
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("uploads-0"), data).unwrap();
    let text = String::from_utf8_lossy(data);
    let mut named = BTreeSet::new();
    let mut lines = text.split('\n');
    if lines.next() == Some("s3://data") {
        for line in lines {
            if let Some(begun) = line.strip_prefix('+') {
                named.insert(begun);
            } else if let Some(ended) = line.strip_prefix('-') {
                named.remove(ended);
            }
        }
    }
    let upload = |id: &&str| format!("<Upload><Key>k{id}</Key><UploadId>{id}</UploadId></Upload>");
    let listed: String = UPLOADS.iter().map(upload).collect();
    let body =
        format!("<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{listed}</ListMultipartUploadsResult>");
    let answer = Answer { status: 200, headers: String::new(), body: body.into_bytes() };
    with_liar(|liar| {
        let (aborted, asked) =
            liar.answering(answer, async |gateway| gateway.abort_leftovers(directory.path(), "s3://data", "").await);
        let deleted: Vec<&String> = asked.iter().filter(|line| line.starts_with("DELETE")).collect();
        let expected: Vec<&str> = UPLOADS.into_iter().filter(|id| named.contains(id)).collect();
        assert_eq!((aborted, deleted.len()), (expected.len(), expected.len()), "{asked:?}");
        for id in expected {
            assert!(
                deleted
                    .iter()
                    .any(|line| line.contains(&format!("/k{id}?")) && line.contains(&format!("uploadId={id}")))
            );
        }
    });
}
