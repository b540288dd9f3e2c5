//! What nearly every test begins with: a limit of time, an endpoint, and a mount or a spill directory.

use std::time::Duration;

use tempfile::TempDir;

use super::{Endpoint, MINUTE, Mount, deadline};

/// A test on an endpoint of its own, which may take a minute. It shows only what is special about it.
pub(crate) fn scenario() -> Scenario {
    Scenario { limit: MINUTE, options: Vec::new() }
}

pub(crate) struct Scenario {
    limit: Duration,
    options: Vec<String>,
}

impl Scenario {
    /// Allows the test more time, or less.
    pub(crate) fn within(self, limit: Duration) -> Scenario {
        Scenario { limit, ..self }
    }

    /// Options of `dssefs mount`, beside those that name the endpoint and its key.
    pub(crate) fn options(self, options: &[&str]) -> Scenario {
        Scenario { options: options.iter().map(|option| (*option).to_owned()).collect(), ..self }
    }

    /// Runs `body` with the bucket mounted. The mount ends before the endpoint does.
    pub(crate) fn mounted(self, body: impl FnOnce(Endpoint, Mount) + Send + 'static) {
        let Scenario { limit, options } = self;
        deadline(limit, move || {
            let endpoint = Endpoint::start();
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let mount = Mount::with(&endpoint, &options);
            body(endpoint, mount);
        });
    }

    /// Runs `body` with the endpoint alone: the test prepares the bucket first, or mounts it in a way of its own.
    pub(crate) fn unmounted(self, body: impl FnOnce(Endpoint) + Send + 'static) {
        self.without_options(|| body(Endpoint::start()));
    }

    /// The same, with a spill directory that outlives the mounts of the test.
    pub(crate) fn with_spill(self, body: impl FnOnce(Endpoint, TempDir) + Send + 'static) {
        self.without_options(|| body(Endpoint::start(), TempDir::new().expect("a temporary directory")));
    }

    fn without_options(self, body: impl FnOnce() + Send + 'static) {
        assert!(self.options.is_empty(), "options that no mount is given: {:?}", self.options);
        deadline(self.limit, body);
    }
}

#[test]
#[should_panic(expected = "options that no mount is given")]
fn options_without_a_mount_are_refused() {
    scenario().options(&["--read-only"]).unmounted(drop);
}

#[test]
#[should_panic(expected = "was not done after")]
fn a_scenario_that_takes_too_long_fails() {
    scenario().within(Duration::from_millis(50)).unmounted(|_endpoint| std::thread::sleep(Duration::from_secs(2)));
}
