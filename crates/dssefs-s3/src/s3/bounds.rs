//! Limits on the answers of a server: bytes, elements and headers, and the time that content may take.
//!
//! The HTTP client enforces them below the SDK, so they hold for S3, KMS and the providers of credentials alike. Only
//! the content of an object may be as long as the object. The SDK reads every other body into memory before it parses
//! it.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_sdk_s3::config::{RuntimeComponents, SharedHttpClient};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::StatusCode;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::object::{header_text, is_raw};

/// The longest answer without a list, in bytes: 1 MiB. AWS's longest is an error of a few KiB; JSON of KMS, STS
/// and SSO is shorter than 64 KiB.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// What one entry of a list adds, in bytes: a key of 1,024 bytes ("Naming Amazon S3 objects", S3 User Guide), each byte
/// as `%XX` or as `&#x1F;`, and 2 KiB for its other elements (ListObjectsV2, ListMultipartUploads, S3 API reference).
const ENTRY_BYTES_MAX: u64 = 6 * 1024 + 2048;
/// The most tags of XML in an answer without a list. Parsed, an empty element can be thirty times as large as
/// its text.
const ANSWER_TAGS_MAX: u64 = 4096;
/// What one entry of a list adds in tags: S3 uses 28 at most, for an object with an owner and a restored copy.
const ENTRY_TAGS_MAX: u64 = 64;
/// The most entries of a list whose request names no number ("max-uploads", ListMultipartUploads, S3 API reference).
const ENTRIES_MAX: u64 = 1000;
/// All headers of an answer, in bytes: 16 KiB. S3 takes 8 KB of them with a request, 2 KB of that user metadata
/// ("Working with object metadata", S3 User Guide), and adds few of its own. The HTTP library itself stops at 100
/// headers and 408 KiB.
const HEADERS_BYTES_MAX: u64 = 16 << 10;

/// What a slow line moves at least, in bytes per second. Requests that move more than a few MiB get time for it.
const SLOWEST_BYTES_PER_SECOND: u64 = 1024 * 1024;

/// An answer that is longer than any honest one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::s3) enum Exceeded {
    /// Its body.
    #[error("the answer's body is longer than {0} bytes, the most that an answer to this request can have")]
    Bytes(u64),
    /// What is in its body.
    #[error("the answer's body has more than {0} XML tags, the most that an answer to this request can have")]
    Tags(u64),
    /// Its headers.
    #[error("the answer's headers have {0} bytes, and the daemon reads no more than {HEADERS_BYTES_MAX}")]
    Headers(u64),
    /// How many headers it has. The SDK's client does not let us raise the HTTP library's limit.
    #[error(
        "the answer has more than 100 headers, and the HTTP library reads no more; if the object has so many entries \
         of metadata (x-amz-meta-*), remove some of them with another tool for S3"
    )]
    HeaderCount,
}

/// Content that came too slowly.
#[derive(Debug, thiserror::Error)]
#[error(
    "the content timed out: {received} bytes came in {} s, the time that --attempt-timeout gives it",
    allowed.as_secs_f64()
)]
pub(in crate::s3) struct TooSlow {
    received: u64,
    allowed: Duration,
}

/// How much longer a request may take because it moves `bytes`, `most` at most: one second for each MiB from 8 MiB on,
/// and nothing below.
pub(super) fn extra_time(bytes: u64, most: Duration) -> Duration {
    let extra = Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
    if extra < Duration::from_secs(8) { Duration::ZERO } else { extra.min(most) }
}

/// Adds limits to the answers of `http`. Content may take `attempt_timeout` from its request on, and more if it is
/// long.
pub(in crate::s3) fn bounded(http: SharedHttpClient, attempt_timeout: Duration) -> SharedHttpClient {
    SharedHttpClient::new(BoundedClient { http, attempt_timeout })
}

#[derive(Debug)]
struct BoundedClient {
    http: SharedHttpClient,
    attempt_timeout: Duration,
}

impl HttpClient for BoundedClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let connector = self.http.http_connector(settings, components);
        SharedHttpConnector::new(BoundedConnector { connector, attempt_timeout: self.attempt_timeout })
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.http.connector_metadata()
    }
}

#[derive(Debug)]
struct BoundedConnector {
    connector: SharedHttpConnector,
    attempt_timeout: Duration,
}

impl HttpConnector for BoundedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let asked = Asked::of(request.method(), request.uri());
        let (sent, attempt_timeout) = (Instant::now(), self.attempt_timeout);
        let answer = self.connector.call(request);
        HttpConnectorFuture::new(async move {
            let answer = with_text_only(answer.await?);
            asked.bound(answer, sent, attempt_timeout).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// The answer with each value of a header as text. The SDK has no place for other bytes: it would drop the header, and
/// some of its parsers the whole answer.
fn with_text_only(mut answer: HttpResponse) -> HttpResponse {
    let is_raw = |value: &[u8]| !value.is_ascii() && is_raw(&header_text(value));
    let raw: BTreeSet<String> =
        answer.headers().iter_bytes().filter(|(_, value)| is_raw(value)).map(|(name, _)| name.to_owned()).collect();
    for name in raw {
        let values: Vec<String> = answer.headers().get_all_bytes(&name).map(header_text).collect();
        answer.headers_mut().remove(&name);
        for value in values {
            // Every text is a header's value that has no control characters, and the bytes had none.
            let _ = answer.headers_mut().try_append(name.clone(), value);
        }
    }
    answer
}

/// The limits of an answer, which follow from its request.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    /// Whether a successful answer is an object's content.
    content: bool,
    /// Whether it is a list of annotations.
    lists_annotations: bool,
    /// Whether the announced length is that of a body which does not follow (HEAD; RFC 9110, 8.6).
    bodiless: bool,
    bytes_max: u64,
    tags_max: u64,
}

impl Asked {
    fn of(method: &str, uri: &str) -> Asked {
        let query = || uri.split_once('?').map_or("", |(_, query)| query).split('&');
        let is_get = method == "GET";
        let entries = query().find_map(|pair| pair.strip_prefix("max-keys=")?.parse::<u64>().ok());
        let lists_annotations = is_get && query().any(|pair| pair == "x-id=ListObjectAnnotations");
        let is_list = |pair: &str| pair.starts_with("uploads") || lists_annotations;
        let entries = entries.or_else(|| query().any(is_list).then_some(ENTRIES_MAX));
        let entries = entries.filter(|_| is_get).unwrap_or(0).min(ENTRIES_MAX);
        Asked {
            // The SDK names the operation in each request of S3 that could be taken for another.
            content: is_get && query().any(|pair| matches!(pair, "x-id=GetObject" | "x-id=GetObjectAnnotation")),
            lists_annotations,
            bodiless: method == "HEAD",
            bytes_max: ANSWER_BYTES_MAX + entries * ENTRY_BYTES_MAX,
            tags_max: ANSWER_TAGS_MAX + entries * ENTRY_TAGS_MAX,
        }
    }

    fn bound(self, mut answer: HttpResponse, sent: Instant, patience: Duration) -> Result<HttpResponse, Exceeded> {
        let headers: usize = answer.headers().iter_bytes().map(|(name, value)| name.len() + value.len() + 4).sum();
        if headers as u64 > HEADERS_BYTES_MAX {
            return Err(Exceeded::Headers(headers as u64));
        }
        if self.lists_annotations && answer.status().is_success() && answer.headers().get("etag").is_some() {
            return Ok(not_implemented());
        }
        let announced = answer.headers().get("content-length").and_then(|length| length.parse::<u64>().ok());
        let body = std::mem::replace(answer.body_mut(), SdkBody::taken());
        *answer.body_mut() = if self.content && matches!(answer.status().as_u16(), 200 | 206) {
            let allowed = patience + extra_time(announced.unwrap_or(0), Duration::MAX);
            let waited = sent.elapsed();
            let patience = Patience { waited, allowed, since: None, alarm: None };
            SdkBody::from_body_1_x(Content { body, received: 0, patience })
        } else {
            if !self.bodiless && announced.is_some_and(|bytes| bytes > self.bytes_max) {
                return Err(Exceeded::Bytes(self.bytes_max));
            }
            SdkBody::from_body_1_x(Answer { body, bytes: 0, tags: 0, asked: self })
        };
        Ok(answer)
    }
}

/// What a store that does not know annotations should have answered. Many ignore the part of the query that they do not
/// know, and give the object, however long it is. An ETag is the mark of that: a list of annotations has none.
fn not_implemented() -> HttpResponse {
    const NOT_IMPLEMENTED: &str = "<Error><Code>NotImplemented</Code><Message>the store does not know annotations, and \
                                   answered with the object itself</Message></Error>";
    let status = StatusCode::try_from(501).expect("it is a status of HTTP");
    HttpResponse::new(status, SdkBody::from(NOT_IMPLEMENTED))
}

/// A body that ends with an error once it exceeds its limits.
struct Answer {
    body: SdkBody,
    bytes: u64,
    tags: u64,
    asked: Asked,
}

impl Answer {
    fn count(&mut self, chunk: &Bytes) -> Result<(), Exceeded> {
        self.bytes += chunk.len() as u64;
        self.tags += chunk.iter().filter(|byte| **byte == b'<').count() as u64;
        if self.bytes > self.asked.bytes_max {
            Err(Exceeded::Bytes(self.asked.bytes_max))
        } else if self.tags > self.asked.tags_max {
            Err(Exceeded::Tags(self.asked.tags_max))
        } else {
            Ok(())
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref).cloned();
        Poll::Ready(match data.map_or(Ok(()), |data| self.count(&data)) {
            Ok(()) => frame,
            Err(error) => Some(Err(error.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.body)
    }
}

/// Content, and how long the program has waited for it.
struct Content {
    body: SdkBody,
    received: u64,
    patience: Patience,
}

impl Body for Content {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref);
                self.received += data.map_or(0, |data| data.len() as u64);
                self.patience.is_served();
                Poll::Ready(frame)
            }
            Poll::Pending => {
                ready!(self.patience.poll_spent(cx));
                let (received, allowed) = (self.received, self.patience.allowed);
                Poll::Ready(Some(Err(TooSlow { received, allowed }.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.body)
    }
}

/// How long a reader has waited. Only the time counts in which it waits for the server, not the time in which the
/// reader itself is slow.
struct Patience {
    waited: Duration,
    allowed: Duration,
    since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn is_served(&mut self) {
        self.waited += self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
    }

    /// Ready once the time is over.
    fn poll_spent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.allowed.saturating_sub(self.waited);
        let (alarm, begins) = (&mut self.alarm, self.since.is_none());
        let end = *self.since.get_or_insert_with(Instant::now) + left;
        let alarm = alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if begins {
            alarm.as_mut().reset(end);
        }
        alarm.as_mut().poll(cx)
    }
}

impl fmt::Debug for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patience").field("waited", &self.waited).field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::sync::mpsc;

    use super::*;

    const URL: &str = "http://127.0.0.1/tests/key";
    const CONTENT: &str = "http://127.0.0.1/tests/key?x-id=GetObject";

    /// A body whose chunks come when the server sends them.
    struct Chunks(mpsc::Receiver<Bytes>);

    impl Body for Chunks {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
            self.0.poll_recv(cx).map(|chunk| chunk.map(Frame::data).map(Ok))
        }
    }

    fn body(chunks: Vec<(Duration, Bytes)>) -> SdkBody {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            for (pause, chunk) in chunks {
                tokio::time::sleep(pause).await;
                // The receiver may be gone after an error.
                let _ = sender.send(chunk).await;
            }
        });
        SdkBody::from_body_1_x(Chunks(receiver))
    }

    fn answer(status: u16, chunks: Vec<(Duration, Bytes)>) -> HttpResponse {
        HttpResponse::new(status.try_into().unwrap(), body(chunks))
    }

    fn now(bytes: &[u8]) -> (Duration, Bytes) {
        (Duration::ZERO, Bytes::copy_from_slice(bytes))
    }

    fn bound(method: &str, uri: &str, answer: HttpResponse) -> Result<HttpResponse, Exceeded> {
        bound_within(Duration::from_secs(30), method, uri, answer)
    }

    fn bound_within(time: Duration, method: &str, uri: &str, answer: HttpResponse) -> Result<HttpResponse, Exceeded> {
        Asked::of(method, uri).bound(answer, Instant::now(), time)
    }

    async fn read(answer: HttpResponse) -> Result<usize, BoxError> {
        Ok(answer.into_body().collect().await?.to_bytes().len())
    }

    #[test]
    fn only_a_get_of_an_object_is_content() {
        let content = |method, uri| Asked::of(method, uri).content;
        assert!(content("GET", "http://h/b/k?x-id=GetObject"));
        assert!(content("GET", "http://h/b/k?versionId=x&x-id=GetObject"));
        assert!(content("GET", "http://h/b/k?annotation&x-id=GetObjectAnnotation&annotationName=n"));
        for (method, uri) in [
            ("GET", "http://h/b?list-type=2&prefix=x-id=GetObject&x-id=ListObjectsV2"),
            ("GET", "http://h/b/x-id=GetObject"),
            ("GET", "http://h/b/k?x-id=GetObjectTagging"),
            ("PUT", "http://h/b/k?x-id=GetObject"),
            ("POST", "http://h/"),
        ] {
            assert!(!content(method, uri), "{method} {uri}");
        }
    }

    #[test]
    fn a_list_may_be_as_long_as_the_entries_that_were_asked_for() {
        let bytes = |uri| Asked::of("GET", uri).bytes_max;
        assert_eq!(bytes("http://h/b/k?tagging"), ANSWER_BYTES_MAX);
        assert_eq!(bytes("http://h/b?max-keys=1"), ANSWER_BYTES_MAX + ENTRY_BYTES_MAX);
        assert_eq!(bytes("http://h/b?uploads&prefix=a"), ANSWER_BYTES_MAX + 1000 * ENTRY_BYTES_MAX);
        assert_eq!(bytes("http://h/b?max-keys=99999999"), ANSWER_BYTES_MAX + 1000 * ENTRY_BYTES_MAX);
        assert_eq!(Asked::of("POST", "http://h/b/k?uploads").bytes_max, ANSWER_BYTES_MAX);
    }

    /// A large object in the place of a list would be read to the limit of lists, and then tried again.
    #[tokio::test]
    async fn an_object_in_the_place_of_a_list_of_annotations_is_not_read() {
        let listed = |etag: Option<&'static str>| {
            let mut object = answer(200, vec![now(b"content")]);
            object.headers_mut().insert("content-length", "5497558138880");
            if let Some(etag) = etag {
                object.headers_mut().insert("etag", etag);
            }
            bound("GET", "http://h/b/k?annotation&x-id=ListObjectAnnotations", object)
        };
        let said = listed(Some("\"e\"")).unwrap();
        assert_eq!(said.status().as_u16(), 501);
        assert!(read(said).await.unwrap() < 1000);
        assert_eq!(listed(None).unwrap_err(), Exceeded::Bytes(ANSWER_BYTES_MAX + 1000 * ENTRY_BYTES_MAX));
        let asked = bound("GET", "http://h/b/k?x-id=GetObject", answer(200, vec![now(b"content")])).unwrap();
        assert_eq!(read(asked).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn head_may_announce_any_length_but_send_no_long_body() {
        let tell = |chunks| {
            let mut head = answer(200, chunks);
            head.headers_mut().insert("content-length", "5497558138880");
            bound("HEAD", URL, head)
        };
        assert_eq!(read(tell(Vec::new()).unwrap()).await.unwrap(), 0);
        let long = vec![0; usize::try_from(ANSWER_BYTES_MAX).unwrap() + 1];
        assert!(read(tell(vec![now(&long)]).unwrap()).await.is_err());
    }

    #[tokio::test]
    async fn an_answer_longer_than_it_may_be_is_cut_off() {
        let mebibyte = vec![b'x'; 1 << 20];
        let whole = bound("HEAD", URL, answer(400, vec![now(&mebibyte)])).unwrap();
        assert_eq!(read(whole).await.unwrap(), 1 << 20);
        let longer = bound("GET", URL, answer(500, vec![now(&mebibyte), now(b"x")])).unwrap();
        let error = read(longer).await.unwrap_err();
        assert_eq!(error.downcast_ref::<Exceeded>(), Some(&Exceeded::Bytes(1 << 20)), "{error}");
        let mut announced = answer(200, vec![]);
        announced.headers_mut().insert("content-length", "900000000");
        assert_eq!(bound("GET", URL, announced).unwrap_err(), Exceeded::Bytes(1 << 20));
    }

    #[tokio::test]
    async fn an_error_in_the_place_of_content_is_no_content() {
        let uri = "http://127.0.0.1/tests/key?x-id=GetObject";
        let two = || vec![now(&vec![b'x'; 1 << 20]), now(&vec![b'x'; 1 << 20])];
        assert_eq!(read(bound("GET", uri, answer(206, two())).unwrap()).await.unwrap(), 2 << 20);
        assert!(read(bound("GET", uri, answer(404, two())).unwrap()).await.is_err());
        assert!(read(bound("GET", uri, answer(302, two())).unwrap()).await.is_err());
    }

    #[tokio::test]
    async fn an_answer_of_countless_elements_is_cut_off() {
        let list = |entries| "<Contents/>".repeat(entries);
        let uri = "http://127.0.0.1/tests?list-type=2&max-keys=1000";
        let honest = bound("GET", uri, answer(200, vec![now(list(60_000).as_bytes())])).unwrap();
        assert!(read(honest).await.is_ok());
        let error =
            read(bound("GET", uri, answer(200, vec![now(list(70_000).as_bytes())])).unwrap()).await.unwrap_err();
        assert_eq!(error.downcast_ref::<Exceeded>(), Some(&Exceeded::Tags(68_096)));
    }

    #[tokio::test]
    async fn headers_beyond_16_kib_are_refused() {
        let mut large = answer(200, vec![]);
        large.headers_mut().insert("x-amz-meta-a", "x".repeat(17 << 10));
        assert!(matches!(bound("HEAD", URL, large), Err(Exceeded::Headers(_))));
        let mut honest = answer(200, vec![]);
        honest.headers_mut().insert("x-amz-meta-a", "x".repeat(8 << 10));
        assert!(bound("HEAD", URL, honest).is_ok());
    }

    #[tokio::test]
    async fn content_that_trickles_ends_when_its_time_is_spent() {
        let trickle = (0..1000).map(|_| (Duration::from_millis(20), Bytes::from_static(b"x"))).collect();
        let answer = bound_within(Duration::from_millis(300), "GET", CONTENT, answer(200, trickle)).unwrap();
        let error = read(answer).await.unwrap_err();
        assert!(error.is::<TooSlow>(), "{error}");
    }

    #[tokio::test]
    async fn a_reader_that_is_slow_itself_does_not_lose_its_content() {
        let chunks = (0..10).map(|_| (Duration::from_millis(2), Bytes::from_static(b"x"))).collect();
        let answer = bound_within(Duration::from_secs(2), "GET", CONTENT, answer(200, chunks)).unwrap();
        let (mut body, mut received) = (answer.into_body(), 0);
        while let Some(frame) = body.frame().await {
            received += frame.unwrap().into_data().unwrap().len();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        assert_eq!(received, 10);
    }

    #[test]
    fn long_content_has_a_second_more_for_each_mebibyte() {
        let extra = |mebibytes: u64| extra_time(mebibytes << 20, Duration::from_secs(300)).as_secs();
        assert_eq!([0, 7, 8, 32, 5000].map(extra), [0, 0, 8, 32, 300]);
    }
}
