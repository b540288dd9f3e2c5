//! Bodies on their way in and out: counted, and changed where a fault says so.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};
use tracing::warn;

use super::super::counters::Meter;

/// How long the bytes before a cut may take to leave. hyper sends nothing more after a body fails. So the failure waits
/// until the bytes before it are on the wire.
const CUT_DELAY: Duration = Duration::from_millis(100);

/// A request's body, counted, and changed where a fault says so.
pub(super) struct RequestBody {
    inner: Incoming,
    meter: Arc<Meter>,
    /// Where a bit is flipped, counted from what has not come in yet.
    flipped_at: Option<u64>,
}

/// An answer's body, counted, and changed where a fault says so.
pub(super) struct AnswerBody {
    inner: s3s::Body,
    meter: Option<Arc<Meter>>,
    fault: BodyFault,
    sent: u64,
}

/// What a fault does to the body of an answer.
pub(super) enum BodyFault {
    /// Not at all.
    None,
    /// It ends with an error after this many bytes.
    CutAfter(u64),
    /// The lowest bit of the byte at this offset is flipped.
    FlipByte(u64),
    /// The cut was reached, and waits for what came before it to leave.
    Cutting(Pin<Box<Sleep>>),
}

/// A body that ends early on purpose.
#[derive(Debug, thiserror::Error)]
#[error("The body is cut by a fault.")]
struct Cut;

impl RequestBody {
    pub(super) fn new(inner: Incoming, meter: Arc<Meter>, flipped_at: Option<u64>) -> RequestBody {
        RequestBody { inner, meter, flipped_at }
    }

    fn pass(&mut self, data: Bytes) -> Bytes {
        let length = data.len();
        self.meter.add_in(length);
        let at = self.flipped_at.take();
        self.flipped_at = at.and_then(|at| at.checked_sub(length as u64));
        flip(data, at)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|data| this.pass(data)))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl AnswerBody {
    pub(super) fn new(inner: s3s::Body, meter: Option<Arc<Meter>>, fault: BodyFault) -> AnswerBody {
        AnswerBody { inner, meter, fault, sent: 0 }
    }

    fn pass(&mut self, mut data: Bytes) -> Bytes {
        let start = self.sent;
        match self.fault {
            BodyFault::CutAfter(end) => data.truncate(usize::try_from(end - start).unwrap_or(usize::MAX)),
            BodyFault::FlipByte(at) => data = flip(data, at.checked_sub(start)),
            BodyFault::None | BodyFault::Cutting(_) => {}
        }
        self.sent += data.len() as u64;
        if let Some(meter) = &self.meter {
            meter.add_out(data.len());
        }
        data
    }

    fn reached_cut(&self) -> bool {
        matches!(self.fault, BodyFault::CutAfter(end) if self.sent >= end)
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = s3s::StdError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, s3s::StdError>>> {
        let this = self.get_mut();
        if this.reached_cut() {
            this.fault = BodyFault::Cutting(Box::pin(sleep(CUT_DELAY)));
        }
        if let BodyFault::Cutting(delay) = &mut this.fault {
            ready!(delay.as_mut().poll(cx));
            return Poll::Ready(Some(Err(Cut.into())));
        }
        match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
            Some(Ok(frame)) => {
                let frame = frame.into_data().map_or_else(|trailers| trailers, |data| Frame::data(this.pass(data)));
                Poll::Ready(Some(Ok(frame)))
            }
            end => Poll::Ready(end),
        }
    }

    fn is_end_stream(&self) -> bool {
        !matches!(self.fault, BodyFault::CutAfter(_) | BodyFault::Cutting(_)) && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for AnswerBody {
    /// A fault that was counted as struck and changed nothing would deceive the test that planned it.
    fn drop(&mut self) {
        let unchanged = match self.fault {
            BodyFault::CutAfter(at) => self.sent < at,
            BodyFault::FlipByte(at) => self.sent <= at,
            BodyFault::None | BodyFault::Cutting(_) => false,
        };
        if unchanged {
            warn!(sent = self.sent, "a body was over before the byte that a fault was to cut or flip");
        }
    }
}

/// Flips the lowest bit of the byte at `at`, when it lies within `data`.
fn flip(data: Bytes, at: Option<u64>) -> Bytes {
    match at.and_then(|at| usize::try_from(at).ok()) {
        Some(at) if at < data.len() => {
            let mut data = BytesMut::from(data);
            data[at] ^= 1;
            data.freeze()
        }
        _ => data,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    /// A body of two frames, `0123` and `4567`.
    fn frames() -> s3s::Body {
        let frames =
            [&b"0123"[..], b"4567"].map(|bytes| Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(bytes))));
        s3s::Body::http_body(StreamBody::new(futures_util::stream::iter(frames)))
    }

    async fn read(mut body: AnswerBody) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => bytes.extend_from_slice(&frame.into_data().unwrap()),
                Err(_) => return (bytes, false),
            }
        }
        (bytes, true)
    }

    #[tokio::test]
    async fn a_byte_is_flipped_wherever_it_lies() {
        for at in 0..8_u64 {
            let (bytes, whole) = read(AnswerBody::new(frames(), None, BodyFault::FlipByte(at))).await;
            let mut expected = *b"01234567";
            expected[usize::try_from(at).unwrap()] ^= 1;
            assert_eq!((bytes.as_slice(), whole), (&expected[..], true));
        }
    }

    #[tokio::test]
    async fn a_body_is_cut_at_the_asked_byte() {
        for end in 0..8_u64 {
            let (bytes, whole) = read(AnswerBody::new(frames(), None, BodyFault::CutAfter(end))).await;
            assert_eq!((bytes.as_slice(), whole), (&b"01234567"[..usize::try_from(end).unwrap()], false));
        }
    }

    #[tokio::test]
    async fn what_leaves_is_counted() {
        let tally = super::super::super::counters::Tally::default();
        read(AnswerBody::new(frames(), Some(tally.request("GetObject")), BodyFault::CutAfter(5))).await;
        assert_eq!(tally.snapshot()["GetObject"].body_bytes_out, 5);
    }
}
