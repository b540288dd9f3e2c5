//! Verifies the signature of a KMS request: Signature Version 4, computed again here and compared.
//!
//! Of an S3 request, s3s does that. Such a request gets another signature here where s3s cannot take all that the
//! client has signed.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials as SigningCredentials;
use aws_sigv4::http_request::{
    PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use http::HeaderMap;
use http::request::Parts;
use ring::digest::{SHA256, digest};
use time::PrimitiveDateTime;
use time::format_description::parse_borrowed;

use super::exception::Exception;

/// How far the clocks of client and endpoint may differ. Most services, KMS among them, take requests of the last five
/// minutes (IAM User Guide, "Elements of an AWS API request signature").
const SKEW_MAX: Duration = Duration::from_secs(300);

/// The one pair of credentials that the endpoint knows.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
}

/// Checks the `Authorization` header of a request for KMS.
///
/// # Errors
/// `MissingAuthenticationTokenException`, `IncompleteSignatureException`, `UnrecognizedClientException` or
/// `InvalidSignatureException`, as AWS answers them.
pub(crate) fn verify(
    head: &Parts,
    body: &[u8],
    credentials: &Credentials,
    region: &str,
    now: SystemTime,
) -> Result<(), Exception> {
    let authorization = Authorization::parse(&head.headers)?;
    if authorization.access_key != credentials.access_key {
        let text = "The security token included in the request is invalid.";
        return Err(Exception::new("UnrecognizedClientException", text));
    }
    let time = signing_time(&head.headers, authorization.date)?;
    authorization.check_scope(region)?;
    authorization.check_signed_headers(&head.headers)?;
    check_skew(time, now)?;
    let expected =
        signature(head, SignableBody::Bytes(body), SigningSettings::default(), credentials, &authorization, time)?;
    // Comparing digests takes the same time wherever the signatures differ.
    match digest(&SHA256, expected.as_bytes()).as_ref() == digest(&SHA256, authorization.signature.as_bytes()).as_ref()
    {
        true => Ok(()),
        false => Err(invalid(
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
             Access Key and signing method. Consult the service documentation for details.",
        )),
    }
}

/// The `Authorization` of an S3 request that had not signed the headers `left_out`. None where the request's own
/// signature is not right, as s3s then says.
pub(crate) fn without_signed(head: &Parts, credentials: &Credentials, left_out: &[&str]) -> Option<String> {
    let authorization = Authorization::parse(&head.headers).ok()?;
    let time = signing_time(&head.headers, authorization.date).ok()?;
    let payload = head.headers.get("x-amz-content-sha256")?.to_str().ok()?;
    let sign_as = |authorization: &Authorization<'_>| {
        let body = SignableBody::Precomputed(payload.to_owned());
        // As S3 has it ("Create a signed AWS API request", IAM User Guide).
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        signature(head, body, settings, credentials, authorization, time).ok()
    };
    let is_right = digest(&SHA256, sign_as(&authorization)?.as_bytes()).as_ref()
        == digest(&SHA256, authorization.signature.as_bytes()).as_ref();
    if !is_right {
        return None;
    }
    let mut without = authorization;
    without.signed_headers.retain(|name| !left_out.contains(name));
    let signature = sign_as(&without)?;
    let Authorization { access_key, date, region, service, terminator, signed_headers, .. } = without;
    Some(format!(
        "AWS4-HMAC-SHA256 Credential={access_key}/{date}/{region}/{service}/{terminator}, SignedHeaders={}, \
         Signature={signature}",
        signed_headers.join(";")
    ))
}

/// The fields of `AWS4-HMAC-SHA256 Credential=AK/DATE/REGION/SERVICE/aws4_request, SignedHeaders=a;b, Signature=HEX`.
struct Authorization<'a> {
    access_key: &'a str,
    date: &'a str,
    region: &'a str,
    service: &'a str,
    terminator: &'a str,
    signed_headers: Vec<&'a str>,
    signature: &'a str,
}

impl<'a> Authorization<'a> {
    fn parse(headers: &'a HeaderMap) -> Result<Authorization<'a>, Exception> {
        let missing = || Exception::new("MissingAuthenticationTokenException", "Missing Authentication Token");
        let value =
            headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok()).ok_or_else(missing)?;
        let fields = value.strip_prefix("AWS4-HMAC-SHA256 ").ok_or_else(missing)?;
        let field = |name: &str| {
            let found = fields.split(',').filter_map(|field| field.trim().split_once('=')).find(|(n, _)| *n == name);
            found
                .map(|(_, value)| value)
                .ok_or_else(|| incomplete(format!("Authorization header requires '{name}' parameter.")))
        };
        let scope: Vec<&str> = field("Credential")?.split('/').collect();
        let [access_key, date, region, service, terminator] = scope[..] else {
            return Err(incomplete("Credential must have exactly 5 slash-delimited elements.".to_owned()));
        };
        let signed_headers = field("SignedHeaders")?.split(';').collect();
        let signature = field("Signature")?;
        Ok(Authorization { access_key, date, region, service, terminator, signed_headers, signature })
    }

    fn check_scope(&self, region: &str) -> Result<(), Exception> {
        if self.service != "kms" || self.terminator != "aws4_request" {
            return Err(invalid("Credential should be scoped to correct service: 'kms'."));
        }
        if self.region != region {
            return Err(invalid("Credential should be scoped to a valid region."));
        }
        Ok(())
    }

    /// The host and all `x-amz-` headers must be signed, or an action could be swapped for another.
    fn check_signed_headers(&self, headers: &HeaderMap) -> Result<(), Exception> {
        let must_be_signed = |name: &str| name == "host" || name.starts_with("x-amz-");
        let names = headers.keys().map(|name| name.as_str()).chain(["host"]);
        match names.filter(|name| must_be_signed(name)).find(|name| !self.signed_headers.contains(name)) {
            Some(name) => Err(invalid(&format!("'{name}' must be a 'SignedHeader' in the AWS Authorization."))),
            None => Ok(()),
        }
    }
}

/// `X-Amz-Date`, which must be of the day in the credential's scope.
fn signing_time(headers: &HeaderMap, day: &str) -> Result<SystemTime, Exception> {
    let no_date = || {
        incomplete("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.".to_owned())
    };
    let text = headers.get("x-amz-date").and_then(|value| value.to_str().ok()).ok_or_else(no_date)?;
    let format = parse_borrowed::<1>("[year][month][day]T[hour][minute][second]Z").expect("the format is well-formed");
    let time = PrimitiveDateTime::parse(text, &format).map_err(|_| no_date())?;
    match text.starts_with(day) {
        true => Ok(time.assume_utc().into()),
        false => {
            Err(invalid("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP."))
        }
    }
}

fn check_skew(time: SystemTime, now: SystemTime) -> Result<(), Exception> {
    match now.duration_since(time) {
        Ok(age) if age > SKEW_MAX => Err(invalid("Signature expired: the request is more than 5 minutes old.")),
        Err(ahead) if ahead.duration() > SKEW_MAX => {
            Err(invalid("Signature not yet current: the request is more than 5 minutes ahead."))
        }
        _ => Ok(()),
    }
}

fn signature(
    head: &Parts,
    body: SignableBody<'_>,
    mut settings: SigningSettings,
    credentials: &Credentials,
    authorization: &Authorization<'_>,
    time: SystemTime,
) -> Result<String, Exception> {
    let unsignable = |what: &dyn std::fmt::Display| incomplete(format!("The request cannot be signed: {what}"));
    let signed = authorization.signed_headers.iter().map(|name| {
        let value = head.headers.get(*name).and_then(|value| str::from_utf8(value.as_bytes()).ok());
        value.map(|value| (*name, value)).ok_or_else(|| unsignable(&format!("header {name} is missing")))
    });
    let signed = signed.collect::<Result<Vec<_>, _>>()?;
    let host = signed.iter().find(|(name, _)| *name == "host").map_or("localhost", |(_, value)| value);
    let uri = format!("http://{host}{}", head.uri.path_and_query().map_or("/", |path| path.as_str()));
    let request = SignableRequest::new(head.method.as_str(), uri, signed.into_iter(), body)
        .map_err(|error| unsignable(&error))?;
    let identity =
        SigningCredentials::new(&*credentials.access_key, &*credentials.secret_key, None, None, "endpoint").into();
    // The client has chosen what it signs, so nothing that it signed is left out.
    settings.excluded_headers = None;
    let parameters =
        SigningParams::builder().identity(&identity).region(authorization.region).name(authorization.service);
    let parameters = parameters.time(time).settings(settings).build().map_err(|error| unsignable(&error))?.into();
    Ok(sign(request, &parameters).map_err(|error| unsignable(&error))?.signature().to_owned())
}

fn invalid(text: &str) -> Exception {
    Exception::new("InvalidSignatureException", text)
}

fn incomplete(text: String) -> Exception {
    Exception::new("IncompleteSignatureException", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"KeyId":"a"}"#;

    fn credentials() -> Credentials {
        Credentials { access_key: "AK".into(), secret_key: "SK".into() }
    }

    /// A request signed at `time` for `service` in `region`.
    fn signed(secret: &str, region: &str, service: &str, time: SystemTime) -> Parts {
        let mut request = http::Request::post("http://localhost:9/").header("host", "localhost:9");
        request = request.header("x-amz-target", "TrentService.DescribeKey");
        let mut request = request.body(()).unwrap();
        let identity = SigningCredentials::new("AK", secret, None, None, "test").into();
        let parameters = SigningParams::builder().identity(&identity).region(region).name(service).time(time);
        let parameters = parameters.settings(SigningSettings::default()).build().unwrap().into();
        let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
        let signable = SignableRequest::new("POST", "http://localhost:9/", headers, SignableBody::Bytes(BODY)).unwrap();
        let (instructions, _) = sign(signable, &parameters).unwrap().into_parts();
        instructions.apply_to_request_http1x(&mut request);
        request.into_parts().0
    }

    fn kind(head: &Parts, body: &[u8], now: SystemTime) -> Result<(), &'static str> {
        verify(head, body, &credentials(), "us-east-1", now).map_err(|exception| exception.kind)
    }

    #[test]
    fn a_signature_of_the_known_credentials_is_accepted() {
        let now = SystemTime::now();
        assert_eq!(kind(&signed("SK", "us-east-1", "kms", now), BODY, now), Ok(()));
    }

    #[test]
    fn a_signature_covers_all_that_it_should() {
        let now = SystemTime::now();
        let good = signed("SK", "us-east-1", "kms", now);
        assert_eq!(kind(&good, b"{}", now), Err("InvalidSignatureException"));
        let mut retargeted = good.clone();
        retargeted.headers.insert("x-amz-target", "TrentService.Decrypt".parse().unwrap());
        let mut smuggled = good.clone();
        smuggled.headers.insert("x-amz-unsigned", "a".parse().unwrap());
        for head in [
            retargeted,
            smuggled,
            signed("other", "us-east-1", "kms", now),
            signed("SK", "eu-west-1", "kms", now),
            signed("SK", "us-east-1", "s3", now),
        ] {
            assert_eq!(kind(&head, BODY, now), Err("InvalidSignatureException"));
        }
    }

    #[test]
    fn an_old_or_a_future_signature_is_refused() {
        let now = SystemTime::now();
        for time in [now - Duration::from_secs(310), now + Duration::from_secs(310)] {
            assert_eq!(kind(&signed("SK", "us-east-1", "kms", time), BODY, now), Err("InvalidSignatureException"));
        }
        let within = now - Duration::from_secs(200);
        assert_eq!(kind(&signed("SK", "us-east-1", "kms", within), BODY, now), Ok(()));
    }

    #[test]
    fn unsigned_requests_and_unknown_clients_are_told_apart() {
        let now = SystemTime::now();
        let mut head = signed("SK", "us-east-1", "kms", now);
        let authorization = head.headers["authorization"].to_str().unwrap().replace("=AK/", "=XX/");
        head.headers.insert("authorization", authorization.parse().unwrap());
        assert_eq!(kind(&head, BODY, now), Err("UnrecognizedClientException"));
        head.headers.insert("authorization", "AWS4-HMAC-SHA256 Credential=AK/1".parse().unwrap());
        assert_eq!(kind(&head, BODY, now), Err("IncompleteSignatureException"));
        head.headers.remove("authorization");
        assert_eq!(kind(&head, BODY, now), Err("MissingAuthenticationTokenException"));
    }
}
