//! The router: a request is answered by the endpoint itself (`/_dssefs/`), KMS (by `X-Amz-Target`), or S3.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpResponse};
use tracing::error;

use super::super::counters::Tally;
use super::super::faults::{Fault, Faults};
use super::super::kms::signature::{self, Credentials};
use super::super::kms::{Exception, Kms, api};
use super::super::operation;
use super::super::s3::{Access, Annotations, Endpoint, ignoring_annotations, ignoring_conditions};
use super::admin;
use super::answer::{self, Ids, Protocol};
use super::body::{AnswerBody, BodyFault, RequestBody};
use super::inject_faults::{self, Lost};
use super::login::{Localhost, Login};
use super::peer::Peer;
use super::raw_headers;
use super::state::State;

/// The longest body of a KMS or administrative request. The largest that KMS takes is 4 KiB of plaintext or 6 KiB of
/// ciphertext with a context of 8 KiB, in Base64.
const SMALL_BODY_BYTES_MAX: usize = 64 << 10;

/// Hands each request to the side of the endpoint that answers it.
pub(crate) struct Router {
    s3: S3Service,
    pub(crate) state: State,
}

impl Router {
    pub(crate) fn new(
        endpoint: Endpoint,
        kms: Arc<Kms>,
        credentials: Credentials,
        (region, port): (String, u16),
        faults: Faults,
    ) -> Router {
        let mut s3 = S3ServiceBuilder::new(endpoint.clone());
        s3.set_route(Annotations::new(endpoint));
        s3.set_auth(Login(credentials.clone()));
        s3.set_access(Access);
        s3.set_host(Localhost);
        let state = State { credentials, port, region, kms, faults, tally: Tally::default() };
        Router { s3: s3.build(), state }
    }

    /// Answers one request. The error closes the connection.
    pub(super) async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Result<Response<AnswerBody>, Lost> {
        if request.uri().path().starts_with(admin::PREFIX) {
            return Ok(self.administrate(request, peer).await);
        }
        match kms_action(&request) {
            Some(action) => self.answer_kms(&action, request, peer).await,
            None => self.answer_s3(request, peer).await,
        }
    }

    async fn administrate(&self, request: Request<Incoming>, peer: &Peer) -> Response<AnswerBody> {
        let (head, body) = request.into_parts();
        let mut answer = match small(&mut Body::from(body)).await {
            Ok(body) => admin::answer(&self.state, &head, &body, peer.address),
            Err(exception) => answer::plain(http::StatusCode::BAD_REQUEST, &exception.message),
        };
        Ids::new().stamp(&mut answer, Protocol::S3);
        answer.map(|body| AnswerBody::new(body, None, BodyFault::None))
    }

    async fn answer_kms(
        &self,
        action: &str,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> Result<Response<AnswerBody>, Lost> {
        let fault = self.state.faults.strike(&format!("kms:{action}"), None);
        let (head, body) = request.into_parts();
        let mut body = Body::from(body);
        let mut answer = match inject_faults::before(fault.as_ref(), &mut body, Protocol::Kms, peer).await? {
            Some(answer) => answer,
            None => answer::kms(self.call_kms(action, &head, &mut body).await),
        };
        Ids::new().stamp(&mut answer, Protocol::Kms);
        inject_faults::after(fault, answer, None).await
    }

    async fn call_kms(&self, action: &str, head: &Parts, body: &mut Body) -> Result<serde_json::Value, Exception> {
        let body = small(body).await?;
        signature::verify(head, &body, &self.state.credentials, &self.state.region, SystemTime::now())?;
        api::call(&self.state.kms, action, &body)
    }

    async fn answer_s3(&self, request: Request<Incoming>, peer: &Peer) -> Result<Response<AnswerBody>, Lost> {
        let target = operation::classify(request.method(), request.uri(), request.headers());
        let meter = self.state.tally.request(target.operation);
        let fault = self.state.faults.strike(target.operation, target.key.as_deref());
        let flipped_at = match fault {
            Some(Fault::FlipRequestByte(at)) => Some(at),
            _ => None,
        };
        let mut request = request.map(|body| Body::http_body(RequestBody::new(body, Arc::clone(&meter), flipped_at)));
        let mut answer = match inject_faults::before(fault.as_ref(), request.body_mut(), Protocol::S3, peer).await? {
            Some(answer) => answer,
            None if fault == Some(Fault::ThrottleKms) => Kms::throttled(self.call_s3(request)).await,
            None if fault == Some(Fault::RefuseConditions) && asks_for_condition(&request) => Protocol::S3.error(
                501,
                "NotImplemented",
                "A header you provided implies functionality that is not implemented",
            ),
            None if fault == Some(Fault::IgnoreConditions) => ignoring_conditions(self.call_s3(request)).await,
            None if fault == Some(Fault::IgnoreAnnotations) => ignoring_annotations(self.call_s3(request)).await,
            None => self.permitted(request, fault.as_ref(), target.key.as_deref()).await,
        };
        Ids::new().stamp(&mut answer, Protocol::S3);
        inject_faults::after(fault, answer, Some(meter)).await
    }

    /// The answer to credentials that may be limited to a prefix ("GetObject" and "HeadObject", S3 API reference, on
    /// 403 and 404).
    async fn permitted(&self, request: Request<Body>, fault: Option<&Fault>, key: Option<&str>) -> HttpResponse {
        let denied = || Protocol::S3.error(403, "AccessDenied", "Access Denied");
        let Some(Fault::OnlyBelow(prefix)) = fault else { return self.call_s3(request).await };
        if !key.is_some_and(|key| key.starts_with(prefix.as_str())) {
            return denied();
        }
        let is_head = request.method() == http::Method::HEAD;
        let answer = self.call_s3(request).await;
        match answer.status().as_u16() {
            404 if is_head => denied().map(|_| Body::empty()),
            404 => denied(),
            _ => answer,
        }
    }

    async fn call_s3(&self, request: Request<Body>) -> HttpResponse {
        let (mut head, body) = request.into_parts();
        raw_headers::put_aside(&mut head, &self.state.credentials);
        let mut answer = self.s3.call(Request::from_parts(head, body)).await.unwrap_or_else(|failure| {
            error!(?failure, "s3s could not form an answer");
            Protocol::S3.error(500, "InternalError", "We encountered an internal error. Please try again.")
        });
        raw_headers::give_back(answer.headers_mut());
        answer
    }
}

/// The KMS action that a request asks for, if it speaks to KMS.
fn kms_action(request: &Request<Incoming>) -> Option<String> {
    let target = request.headers().get("x-amz-target")?.to_str().ok()?;
    target.strip_prefix(api::TARGET_PREFIX).map(str::to_owned)
}

fn asks_for_condition<B>(request: &Request<B>) -> bool {
    [IF_MATCH, IF_NONE_MATCH].iter().any(|name| request.headers().contains_key(name))
}

async fn small(body: &mut Body) -> Result<Bytes, Exception> {
    let too_long = |error: s3s::StdError| Exception {
        status: 413,
        kind: "RequestEntityTooLargeException",
        message: format!("The body cannot be read up to {SMALL_BODY_BYTES_MAX} bytes: {error}"),
    };
    Ok(Limited::new(body, SMALL_BODY_BYTES_MAX).collect().await.map_err(too_long)?.to_bytes())
}
