//! The embedded S3 + KMS endpoint.
