//! The store: S3's verbs, and the gateway that judges every answer.
