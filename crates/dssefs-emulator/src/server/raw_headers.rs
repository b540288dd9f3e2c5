//! Content headers whose values are not ASCII, on their way around s3s, which takes and gives only ASCII.
//!
//! AWS keeps the bytes of Content-Disposition and its kin, and gives them back. Such a header goes aside before s3s
//! sees the request. Where the client has signed it, the request gets a signature without it, after its own was
//! checked.

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, EXPIRES,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::super::kms::signature::{Credentials, without_signed};
use super::super::s3::{RAW, bytes_of};

const CONTENT_HEADERS: [HeaderName; 6] =
    [CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, EXPIRES];

/// Puts such values aside, in a form that s3s hands on and the endpoint reads.
pub(super) fn put_aside(head: &mut Parts, credentials: &Credentials) {
    // Only this function writes the names that the endpoint reads.
    for name in CONTENT_HEADERS {
        head.headers.remove(format!("{RAW}{name}"));
    }
    let is_raw = |name: &&HeaderName| head.headers.get(*name).is_some_and(|value| value.to_str().is_err());
    let raw: Vec<HeaderName> = CONTENT_HEADERS.iter().filter(is_raw).cloned().collect();
    let authorization = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let signed = authorization.and_then(signed_headers).unwrap_or_default();
    if raw.iter().any(|name| signed.split(';').any(|one| one == name)) {
        let names: Vec<&str> = raw.iter().map(HeaderName::as_str).collect();
        let again = without_signed(head, credentials, &names).and_then(|text| HeaderValue::try_from(text).ok());
        // What is not signed rightly goes on as it is, so that s3s refuses it.
        let Some(again) = again else { return };
        head.headers.insert(AUTHORIZATION, again);
    }
    for name in raw {
        let Some(value) = head.headers.remove(&name) else { continue };
        let hex: String = value.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let (Ok(aside), Ok(hex)) = (HeaderName::try_from(format!("{RAW}{name}")), HeaderValue::try_from(hex)) else {
            continue;
        };
        head.headers.insert(aside, hex);
    }
}

/// Gives an answer the bytes that were sent.
pub(super) fn give_back(headers: &mut HeaderMap) {
    for name in CONTENT_HEADERS {
        let Some(text) = headers.get(&name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok()) else {
            continue;
        };
        if let Ok(value) = HeaderValue::from_bytes(&bytes_of(text)) {
            headers.insert(name, value);
        }
    }
}

fn signed_headers(authorization: &str) -> Option<&str> {
    authorization.split_once("SignedHeaders=")?.1.split(',').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> HeaderValue {
        HeaderValue::from_bytes(b"K\xf6ln").unwrap()
    }

    fn aside(headers: &[(&str, HeaderValue)]) -> HeaderMap {
        let mut head = http::Request::put("/b/k").body(()).unwrap().into_parts().0;
        head.headers =
            headers.iter().map(|(name, value)| (HeaderName::try_from(*name).unwrap(), value.clone())).collect();
        let credentials = Credentials { access_key: "AK".into(), secret_key: "SK".into() };
        put_aside(&mut head, &credentials);
        head.headers
    }

    #[test]
    fn bytes_go_aside_and_come_back() {
        let headers = aside(&[("content-disposition", raw())]);
        let hex = headers.get(format!("{RAW}content-disposition")).unwrap().to_str().unwrap().to_owned();
        assert_eq!((hex.as_str(), headers.len()), ("4bf66c6e", 1));
        let text = HeaderValue::from_bytes("K\u{f00f6}ln".as_bytes()).unwrap();
        let mut answer = HeaderMap::from_iter([(CONTENT_DISPOSITION, text)]);
        give_back(&mut answer);
        assert_eq!(answer[CONTENT_DISPOSITION], raw());
    }

    #[test]
    fn a_header_with_a_wrong_signature_stays_where_it_is() {
        let signed = HeaderValue::from_static("AWS4-HMAC-SHA256 SignedHeaders=content-disposition;host, Signature=1");
        let headers = aside(&[("content-disposition", raw()), ("authorization", signed)]);
        assert_eq!(headers[CONTENT_DISPOSITION], raw());
    }

    #[test]
    fn no_client_puts_values_aside() {
        assert!(aside(&[("x-dssefs-raw-expires", HeaderValue::from_static("ff"))]).is_empty());
    }
}
