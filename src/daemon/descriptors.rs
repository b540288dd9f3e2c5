//! How many files this process may have open at a time.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one. Each file with spilled changes has a descriptor, as has each request under
/// way, and the soft limit is often 1,024 for the sake of programs that use select(2) (systemd.exec(5), LimitNOFILE).
pub(super) fn raise_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => tracing::debug!(?maximum, "the number of open files is raised to what it may be"),
        Err(error) => {
            tracing::warn!(
                %error,
                "the limit of open files could not be raised; many files with changes at a time may exceed it"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        raise_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, getrlimit(Resource::Nofile).maximum);
    }
}
