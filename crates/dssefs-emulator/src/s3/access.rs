//! What is refused before an operation begins.

use s3s::access::{S3Access, S3AccessContext};
use s3s::{S3ErrorCode, S3Result};

use super::encryption::WRITE_HEADERS;
use super::errors::{invalid_argument, refuse};

/// Refuses anonymous requests, and encryption headers wherever S3 does not take them. S3 takes them on PutObject,
/// PostObject, CreateMultipartUpload and CopyObject (else HTTP 400; GetObject and HeadObject in the S3 API Reference).
#[derive(Debug, Default, Clone, Copy)]
pub struct Access;

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, request: &mut S3AccessContext<'_>) -> S3Result<()> {
        let operation = request.s3_op().name();
        let takes_encryption = matches!(operation, "PutObject" | "PostObject" | "CreateMultipartUpload" | "CopyObject");
        let named = WRITE_HEADERS.into_iter().find(|name| request.headers().contains_key(*name));
        if let (false, Some(header)) = (takes_encryption, named) {
            return Err(invalid_argument(format!("{header} header is not supported for this operation.")));
        }
        match request.credentials() {
            Some(_) => Ok(()),
            None => Err(refuse(S3ErrorCode::AccessDenied, "Access Denied")),
        }
    }
}
