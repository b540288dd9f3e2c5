//! The bytes of a file that are not in S3 yet.
