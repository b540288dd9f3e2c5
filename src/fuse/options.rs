//! How the kernel is asked to mount.

/// How the kernel is asked to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// What mount(8) shows as the device: `s3://bucket/prefix`.
    pub source: String,
    /// Refuse every change.
    pub read_only: bool,
    /// Let other users in.
    pub allow_other: bool,
    /// Threads that take requests from the kernel, at least 1.
    pub threads: usize,
}
