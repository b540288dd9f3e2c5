//! Loads the SDK configuration from the environment and the profiles.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::SharedHttpClient;

use super::connection::Connection;
use super::identity::{self, IdentityError};

/// How long a body may stall before the request fails. The SDK's own five seconds cut off long copies and completions,
/// during which S3 is silent.
const STALL_GRACE: Duration = Duration::from_secs(20);
/// The pause before a retry is a random part of this, which doubles each time, up to the SDK's 20 s.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Loads the SDK configuration of this connection, and loads it again when the files of profiles have changed.
pub(in crate::s3) struct Loader {
    pub(super) connection: Connection,
    pub(super) http: SharedHttpClient,
}

impl Loader {
    /// The configuration according to the present environment and profiles, with the provider that they name.
    pub(in crate::s3) async fn load(&self) -> Result<SdkConfig, IdentityError> {
        let profile = self.connection.profile.as_deref();
        identity::check(profile).await?;
        let config = self.load_any().await;
        let Some(profile) = profile else { return Ok(config) };
        let credentials = identity::of_profile(profile, &config);
        Ok(config.to_builder().credentials_provider(credentials).build())
    }

    /// The same without a check of the identity: for a caller that has credentials already.
    pub(super) async fn load_any(&self) -> SdkConfig {
        let connection = &self.connection;
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .http_client(self.http.clone())
            .retry_config(retries(connection))
            .timeout_config(timeouts(connection))
            .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(STALL_GRACE).build());
        if let Some(profile) = &connection.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = connection.region.clone() {
            loader = loader.region(Region::new(region));
        }
        loader.load().await
    }
}

fn retries(connection: &Connection) -> RetryConfig {
    RetryConfig::standard().with_max_attempts(connection.attempts_max.max(1)).with_initial_backoff(FIRST_BACKOFF)
}

fn timeouts(connection: &Connection) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(connection.attempt_timeout)
        .operation_timeout(connection.operation_timeout)
        .build()
}
