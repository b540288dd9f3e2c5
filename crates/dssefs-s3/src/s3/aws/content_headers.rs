//! Puts content headers on requests: Content-Type, and those that the SDK has no exact form for.

use aws_sdk_s3::config::http::HttpRequest;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use aws_smithy_runtime_api::http::Headers;

use crate::object::header_bytes;
use crate::s3::request::NewObject;

const CONTENT_TYPE: &str = "content-type";

/// The content headers of one request, by lower-case name.
///
/// A value that is ASCII is signed with the others. The SDK cannot sign bytes that are not UTF-8, and stores disagree
/// about the signed form of others. S3 asks for the signature of `host` and `x-amz-*` ("Create a signed AWS API
/// request", IAM User Guide). So every other value goes onto the signed request.
#[derive(Clone, Debug)]
pub(super) struct ContentHeaders {
    signed: Vec<(String, String)>,
    unsigned: Vec<(String, Vec<u8>)>,
}

impl ContentHeaders {
    pub(super) fn of(new: &NewObject) -> ContentHeaders {
        let headers = new.content_headers.iter().map(|(name, value)| (name.clone(), value.clone()));
        let raw_type = new.content_type.clone().filter(|value| !value.is_ascii());
        let headers = headers.chain(raw_type.map(|value| (CONTENT_TYPE.to_owned(), value)));
        let (raw, signed): (Vec<_>, Vec<_>) = headers.partition(|(_, value)| !value.is_ascii());
        let unsigned = raw.into_iter().map(|(name, value)| (name, header_bytes(&value))).collect();
        ContentHeaders { signed, unsigned }
    }
}

#[dyn_dispatch_hint]
impl Intercept for ContentHeaders {
    fn name(&self) -> &'static str {
        "dssefs-content-headers"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.request_mut().headers_mut();
        for (name, _) in &self.unsigned {
            headers.remove(name);
        }
        for (name, value) in &self.signed {
            headers.try_insert(name.clone(), value.clone())?;
        }
        Ok(())
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if self.unsigned.is_empty() { Ok(()) } else { insert(context.request_mut(), &self.unsigned) }
    }
}

/// The SDK's headers take bytes only as a whole map.
fn insert(request: &mut HttpRequest, unsigned: &[(String, Vec<u8>)]) -> Result<(), BoxError> {
    let mut all = http::HeaderMap::new();
    let known = request.headers().iter_bytes().map(|(name, value)| (name.to_owned(), value.to_vec()));
    for (name, value) in known.chain(unsigned.iter().cloned()) {
        let value = http::HeaderValue::from_bytes(&value)?;
        all.append(http::HeaderName::from_bytes(name.as_bytes())?, value);
    }
    *request.headers_mut() = Headers::try_from(all)?;
    Ok(())
}
