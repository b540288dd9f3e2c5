//! What dssefs asks of S3 and KMS, and how it judges their answers: the only code that names the AWS SDK.
//!
//! [`object`] has the names and values of the store, [`policy`] is what each object must be and the one verdict on an
//! answer, [`kms`] finds keys, and [`s3`] is the gateway that everything passes. [`escaping`] makes foreign text fit to
//! print.
//!
//! The crate refuses to hand out an answer that was not judged. It caches nothing and knows no file system.

#![forbid(unsafe_code)]

pub mod escaping;
pub mod kms;
pub mod object;
pub mod policy;
pub mod s3;
