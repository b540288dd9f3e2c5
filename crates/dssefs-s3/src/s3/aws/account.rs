//! Whose bucket the caller expects, and who pays: headers of every request of S3.

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;

use crate::s3::connect::Connection;

/// Adds the headers before the request is signed. The SDK has a field for them in most operations; set here, no
/// operation can miss them.
#[derive(Clone, Debug)]
pub(super) struct Account {
    request_payer: bool,
    expected_bucket_owner: Option<String>,
}

impl Account {
    pub(super) fn of(connection: &Connection) -> Account {
        let Connection { request_payer, expected_bucket_owner, .. } = connection;
        Account { request_payer: *request_payer, expected_bucket_owner: expected_bucket_owner.clone() }
    }
}

#[dyn_dispatch_hint]
impl Intercept for Account {
    fn name(&self) -> &'static str {
        "dssefs-account"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.request_mut().headers_mut();
        if self.request_payer {
            headers.insert("x-amz-request-payer", "requester");
        }
        if let Some(owner) = &self.expected_bucket_owner {
            headers.insert("x-amz-expected-bucket-owner", owner.clone());
            if headers.contains_key("x-amz-copy-source") {
                headers.insert("x-amz-source-expected-bucket-owner", owner.clone());
            }
        }
        Ok(())
    }
}
