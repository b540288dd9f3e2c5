//! The embedded S3 + KMS endpoint.

pub mod kms;
pub mod s3;
mod storage;
