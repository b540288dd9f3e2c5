//! The DSSE-KMS settings of a mount, and the verdict on every answer of the store.
