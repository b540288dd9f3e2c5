//! Where the store is, how to reach it, and why that may fail.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::address::{InsecureEndpoint, Rule, is_private};
use super::identity::IdentityError;
use super::proxy::ProxyError;

/// Where the store is and how to reach it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The bucket's Region; None: from the environment or the profile.
    pub region: Option<String>,
    /// The profile of the shared configuration files; None: `AWS_PROFILE` or `default`.
    pub profile: Option<String>,
    /// Another endpoint for S3 than AWS's own.
    pub endpoint_url: Option<String>,
    /// Another endpoint for KMS than AWS's own.
    pub kms_endpoint_url: Option<String>,
    /// Bucket in the path and not in the host name, for servers that need it.
    pub force_path_style: bool,
    /// Certificates (PEM) trusted in addition to the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Allow plain http to hosts other than this one: object content and KMS data keys go over the network in the
    /// clear.
    pub allow_insecure_endpoint: bool,
    /// Attempts at each request, the first included; 1 or more.
    pub attempts_max: u32,
    /// The time that one attempt may take; requests that move much are given more.
    pub attempt_timeout: Duration,
    /// The time that all attempts at a request may take together.
    pub operation_timeout: Duration,
    /// Requests in a second that cost a KMS call, retries included; 0: as many as there are.
    pub kms_requests_per_second_max: u32,
    /// Sign a digest of each body, as bucket policies may demand (`s3:x-amz-content-sha256`). It takes a second of CPU
    /// for each GB, and holds each body in memory as a whole. Without it bodies rely on TLS; their checksum is signed
    /// in any case.
    pub sign_payload: bool,
    /// Whether annotations of objects that are replaced are kept.
    pub keeps_annotations: bool,
    /// Say in each request that the caller pays for it, as buckets with "requester pays" demand.
    pub request_payer: bool,
    /// The account that must own the bucket: S3 refuses each request otherwise.
    pub expected_bucket_owner: Option<String>,
}

impl Default for Connection {
    fn default() -> Connection {
        Connection {
            region: None,
            profile: None,
            endpoint_url: None,
            kms_endpoint_url: None,
            force_path_style: false,
            ca_bundle: None,
            allow_insecure_endpoint: false,
            attempts_max: 8,
            attempt_timeout: Duration::from_secs(30),
            operation_timeout: Duration::from_secs(180),
            kms_requests_per_second_max: 0,
            sign_payload: false,
            keeps_annotations: true,
            request_payer: false,
            expected_bucket_owner: None,
        }
    }
}

/// A long-term access key.
#[derive(Clone)]
pub struct AccessKey {
    /// Its public name.
    pub id: String,
    /// What requests are signed with.
    pub secret: String,
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why these settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No option, variable or profile names a Region.
    #[error("no Region is set; give --region, set AWS_REGION, or add `region = ...` to the profile")]
    NoRegion,
    /// No provider had any.
    #[error(
        "no AWS credentials were found ({0}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile, or a role"
    )]
    NoCredentials(String),
    /// The file of certificates cannot be used.
    #[error("the certificates in {path} cannot be read: {source}; give a file with PEM certificates")]
    CaBundle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// See [`InsecureEndpoint`].
    #[error(transparent)]
    Insecure(#[from] InsecureEndpoint),
    /// See [`IdentityError`].
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// See [`ProxyError`].
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// TLS could not be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

impl Connection {
    /// Whether bodies must be signed: an option says so, or nothing else protects them on the way.
    pub(in crate::s3) fn signs_bodies(&self) -> bool {
        let private = self.endpoint_url.as_deref().is_some_and(is_private);
        self.sign_payload || (self.allow_insecure_endpoint && !private)
    }

    /// Nothing goes to other hosts in the clear, unless an option allows it.
    pub(super) fn rule(&self) -> Rule {
        if self.allow_insecure_endpoint { Rule::AnyContent } else { Rule::Content }
    }

    pub(super) fn check(&self, url: &str) -> Result<(), InsecureEndpoint> {
        self.rule().way(url).map(drop)
    }
}
