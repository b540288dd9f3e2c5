//! Carries out faults at the level of HTTP: before the work, and on its answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use http::{HeaderName, HeaderValue, Response};
use http_body_util::BodyExt as _;
use s3s::{Body, HttpResponse};
use tokio::time::sleep;

use super::super::counters::Meter;
use super::super::faults::Fault;
use super::answer::Protocol;
use super::body::{AnswerBody, BodyFault};
use super::peer::Peer;

/// The connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("The connection is closed by a fault.")]
pub(super) struct Lost;

/// What a fault does before the work. `Some` is an answer that replaces the work.
pub(super) async fn before(
    fault: Option<&Fault>,
    body: &mut Body,
    protocol: Protocol,
    peer: &Peer,
) -> Result<Option<HttpResponse>, Lost> {
    match fault {
        Some(Fault::Failure { status, code, message }) => {
            drain(body).await;
            Ok(Some(protocol.error(*status, code, message)))
        }
        Some(Fault::OkWithErrorBody { code, message }) => {
            drain(body).await;
            Ok(Some(protocol.error(200, code, message)))
        }
        Some(Fault::DelayMs(ms)) => {
            sleep(Duration::from_millis(*ms)).await;
            Ok(None)
        }
        Some(Fault::Reset) => {
            peer.reset();
            Err(Lost)
        }
        // The body is read first: hyper notices a client that goes away only once it has the whole request.
        Some(Fault::Stall) => {
            drain(body).await;
            std::future::pending().await
        }
        Some(
            Fault::CutBodyAfter(_)
            | Fault::FlipByte(_)
            | Fault::FlipRequestByte(_)
            | Fault::Sse { .. }
            | Fault::Alter { .. }
            | Fault::LoseAnswer
            | Fault::StallAnswer
            | Fault::ThrottleKms
            | Fault::IgnoreConditions
            | Fault::RefuseConditions
            | Fault::IgnoreAnnotations
            | Fault::OnlyBelow(_),
        )
        | None => Ok(None),
    }
}

/// What a fault does to an answer.
pub(super) async fn after(
    fault: Option<Fault>,
    mut answer: HttpResponse,
    meter: Option<Arc<Meter>>,
) -> Result<Response<AnswerBody>, Lost> {
    let mut body_fault = BodyFault::None;
    match fault {
        Some(Fault::CutBodyAfter(end)) => body_fault = BodyFault::CutAfter(end),
        Some(Fault::FlipByte(at)) => body_fault = BodyFault::FlipByte(at),
        Some(Fault::LoseAnswer) => {
            drain(answer.body_mut()).await;
            return Err(Lost);
        }
        Some(Fault::StallAnswer) => {
            drain(answer.body_mut()).await;
            std::future::pending::<()>().await;
        }
        Some(Fault::Sse { algorithm, key, bucket_key }) if answer.status().is_success() => {
            let bucket_key = bucket_key.map(|enabled| enabled.to_string());
            replace_encryption(&mut answer, [algorithm, key, bucket_key]);
        }
        Some(Fault::Alter { headers, body }) if answer.status().is_success() => alter(&mut answer, headers, body),
        _ => {}
    }
    Ok(answer.map(|body| AnswerBody::new(body, meter, body_fault)))
}

const ENCRYPTION_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-amz-server-side-encryption"),
    HeaderName::from_static("x-amz-server-side-encryption-aws-kms-key-id"),
    HeaderName::from_static("x-amz-server-side-encryption-bucket-key-enabled"),
];

fn replace_encryption(answer: &mut HttpResponse, values: [Option<String>; 3]) {
    for (name, value) in ENCRYPTION_HEADERS.into_iter().zip(values) {
        let headers = answer.headers_mut();
        headers.remove(&name);
        if let Some(value) = value {
            headers.insert(name, HeaderValue::from_str(&value).expect("the plan was checked to hold header values"));
        }
    }
}

fn alter(answer: &mut HttpResponse, headers: BTreeMap<String, Option<String>>, body: Option<String>) {
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("the plan was checked to hold names of headers");
        answer.headers_mut().remove(&name);
        if let Some(value) = value {
            let value = HeaderValue::from_str(&value).expect("the plan was checked to hold header values");
            answer.headers_mut().insert(name, value);
        }
    }
    if let Some(body) = body {
        answer.headers_mut().remove(CONTENT_LENGTH);
        *answer.body_mut() = Body::from(body);
    }
}

/// Reads a body to its end, so that a client that is still sending gets to read the answer.
async fn drain(body: &mut Body) {
    while let Some(Ok(_)) = body.frame().await {}
}
