//! Answers in the forms of S3 (XML), of KMS and of the endpoint itself (JSON), and the ids that each answer carries.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, SERVER};
use http::{HeaderName, HeaderValue, StatusCode};
use ring::rand::{SecureRandom as _, SystemRandom};
use s3s::{Body, HttpResponse, S3Error, S3ErrorCode};
use serde::Serialize;
use tracing::error;

use super::super::kms::Exception;

/// The form in which a client expects errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// `<Error>` in XML.
    S3,
    /// `{"__type": ...}` in JSON.
    Kms,
}

impl Protocol {
    /// An error of this code and text.
    pub(super) fn error(self, status: u16, code: &str, message: &str) -> HttpResponse {
        match self {
            Protocol::S3 => s3_error(status, code, message),
            Protocol::Kms => kms_error(status, code, message),
        }
    }
}

/// The JSON form of `value`.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> HttpResponse {
    match serde_json::to_vec(value) {
        Ok(bytes) => respond(status, "application/json", bytes),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// A sentence.
pub(super) fn plain(status: StatusCode, text: &str) -> HttpResponse {
    respond(status, "text/plain; charset=utf-8", format!("{text}\n").into_bytes())
}

/// The answer of a KMS call; `Null` is an empty body.
pub(super) fn kms(outcome: Result<serde_json::Value, Exception>) -> HttpResponse {
    match outcome {
        Ok(serde_json::Value::Null) => respond(StatusCode::OK, KMS_JSON, Vec::new()),
        Ok(value) => respond(StatusCode::OK, KMS_JSON, value.to_string().into_bytes()),
        Err(exception) => kms_error(exception.status, exception.kind, &exception.message),
    }
}

/// The ids by which AWS finds a request again: `x-amz-request-id` and `x-amz-id-2`.
pub(super) struct Ids {
    request: String,
    host: String,
}

impl Ids {
    pub(super) fn new() -> Ids {
        let mut random = [0; 56];
        // Without randomness the ids repeat. That does no harm, because they are not secrets.
        if SystemRandom::new().fill(&mut random).is_err() {
            error!("the system gives no randomness for request ids");
        }
        let (request, host) = random.split_at(8);
        let request = request.iter().map(|byte| format!("{byte:02X}")).collect();
        Ids { request, host: base64_simd::STANDARD.encode_to_string(host) }
    }

    /// Writes the ids into the headers, and into the body of an S3 error as `RequestId` and `HostId`.
    pub(super) fn stamp(&self, response: &mut HttpResponse, protocol: Protocol) {
        self.stamp_error(response);
        let headers = response.headers_mut();
        let mut label = |name, value: &str| {
            let value = HeaderValue::from_str(value).expect("hexadecimal and Base64 are visible ASCII");
            headers.insert(HeaderName::from_static(name), value);
        };
        label("x-amz-request-id", &self.request);
        label("x-amz-id-2", &self.host);
        if protocol == Protocol::Kms {
            label("x-amzn-requestid", &self.request);
        }
        headers.insert(SERVER, HeaderValue::from_static("dssefs"));
    }

    fn stamp_error(&self, response: &mut HttpResponse) {
        const END: &str = "</Error>";
        let Some(bytes) = response.body().bytes() else { return };
        let Some(opening) = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim_end().strip_suffix(END)) else {
            return;
        };
        let stamped = format!("{opening}<RequestId>{}</RequestId><HostId>{}</HostId>{END}", self.request, self.host);
        *response.body_mut() = Body::from(stamped);
        response.headers_mut().remove(CONTENT_LENGTH);
    }
}

const KMS_JSON: &str = "application/x-amz-json-1.1";

fn s3_error(status: u16, code: &str, message: &str) -> HttpResponse {
    let code = S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
    let mut refusal = S3Error::with_message(code, message.to_owned());
    refusal.set_status_code(status_code(status));
    refusal.to_http_response().unwrap_or_else(|error| plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))
}

fn kms_error(status: u16, kind: &str, message: &str) -> HttpResponse {
    let body = serde_json::json!({ "__type": kind, "message": message });
    respond(status_code(status), KMS_JSON, body.to_string().into_bytes())
}

fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn respond(status: StatusCode, content_type: &'static str, bytes: Vec<u8>) -> HttpResponse {
    let mut response = HttpResponse::new(Body::from(Bytes::from(bytes)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(response: &HttpResponse) -> String {
        String::from_utf8(response.body().bytes().unwrap().to_vec()).unwrap()
    }

    #[test]
    fn an_s3_error_is_escaped_and_carries_its_ids() {
        let mut response = Protocol::S3.error(503, "SlowDown", "a < b");
        Ids::new().stamp(&mut response, Protocol::S3);
        let id = response.headers()["x-amz-request-id"].to_str().unwrap().to_owned();
        assert_eq!((response.status().as_u16(), id.len()), (503, 16));
        let text = text(&response);
        assert!(text.contains("<Code>SlowDown</Code><Message>a &lt; b</Message>"), "{text}");
        assert!(text.contains(&format!("<RequestId>{id}</RequestId><HostId>")), "{text}");
    }

    #[test]
    fn a_kms_error_has_its_type_and_message() {
        let response = Protocol::Kms.error(400, "ThrottlingException", "Rate exceeded");
        assert_eq!(text(&response), r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#);
    }

    #[test]
    fn no_two_requests_share_an_id() {
        assert_ne!(Ids::new().request, Ids::new().request);
    }
}
