//! The few calls that go to KMS directly.
