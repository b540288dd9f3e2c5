//! The files that a daemon opens after its start, and what it does with them.

use std::path::{Path, PathBuf};

use crate::config::Config;
use dssefs_s3::s3::{named_by, profile_files};

use super::profile::{Needs, Profiles};

/// Read by the C library, by TLS and by whatever they load, at any time: names of hosts, certificates, shared
/// libraries, limits of control groups. `/proc` is there because the journal of renames asks whether another mount's
/// process lives. Landlock still denies the memory and the environment of other processes (ptrace(2), access mode
/// checking).
const SYSTEM: [&str; 11] = [
    "/etc",
    "/gnu/store",
    "/lib",
    "/lib64",
    "/nix/store",
    "/proc",
    "/run/resolvconf",
    "/run/systemd/resolve",
    "/sys/fs/cgroup",
    "/usr",
    "/var/lib/ca-certificates",
];

/// The FUSE device is opened once for each thread that serves it.
const DEVICES: [&str; 4] = ["/dev/fuse", "/dev/null", "/dev/random", "/dev/urandom"];

/// Variables that name files which are read again whenever credentials or certificates are.
const NAMING: [&str; 3] = ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "SSL_CERT_FILE"];

/// Often a link out of /etc.
const RESOLVER: &str = "/etc/resolv.conf";

/// Paths, each with all that is below it. What does not exist is not granted.
#[derive(Debug, Default)]
pub(super) struct Grants {
    /// Files that are read by name; their directories are in `read`.
    pub(super) files: Vec<PathBuf>,
    pub(super) read: Vec<PathBuf>,
    pub(super) write: Vec<PathBuf>,
    pub(super) devices: Vec<PathBuf>,
    /// A program is run for the credentials: everything may be read and executed.
    pub(super) runs_programs: bool,
    /// The SDK keeps tokens in the home directory, and replaces them.
    pub(super) renews_tokens: bool,
}

impl Grants {
    /// What a mount with these settings needs.
    pub(super) fn of(config: &Config) -> Grants {
        let aws = named_by("HOME").map(|home| home.join(".aws"));
        let shared = profile_files();
        let needs = needs(config, &shared);
        let files = shared.into_iter().chain(needs.files).chain(config.connection.ca_bundle.clone());
        let files: Vec<PathBuf> = files.chain(NAMING.iter().filter_map(|variable| named_by(variable))).collect();
        let read = SYSTEM.iter().map(PathBuf::from);
        let read =
            read.chain(directories_of(Path::new(RESOLVER))).chain(files.iter().flat_map(|file| directories_of(file)));
        let read = read.chain(certificates()).chain(aws.clone()).collect();
        let tokens: Vec<PathBuf> = tokens(aws).collect();
        let renews_tokens = !tokens.is_empty();
        let mut write: Vec<PathBuf> = std::iter::once(config.spill_dir.clone()).chain(tokens).collect();
        if needs.runs_programs {
            write.extend(written_by_programs());
        }
        let runs_programs = needs.runs_programs;
        let of_programs = DEVICES_OF_PROGRAMS.iter().filter(|_| runs_programs);
        let devices = DEVICES.iter().chain(of_programs).map(PathBuf::from).collect();
        Grants { files, read, write, devices, runs_programs, renews_tokens }
    }
}

fn needs(config: &Config, shared: &[PathBuf]) -> Needs {
    let mut profiles = Profiles::default();
    // What cannot be read gives the SDK nothing either.
    shared.iter().filter_map(|path| std::fs::read_to_string(path).ok()).for_each(|text| profiles.add(&text));
    let given = config.connection.profile.clone();
    let profile = given.or_else(|| std::env::var("AWS_PROFILE").ok());
    profiles.needs(profile.as_deref().unwrap_or("default"))
}

/// The tokens that the SDK renews by itself.
fn tokens(aws: Option<PathBuf>) -> impl Iterator<Item = PathBuf> {
    let caches = aws.into_iter().flat_map(|aws| ["sso/cache", "login/cache"].map(|cache| aws.join(cache)));
    caches.filter(|cache| cache.exists())
}

/// One directory or several with colons between them, as for OpenSSL.
fn certificates() -> impl Iterator<Item = PathBuf> {
    let directories = std::env::var_os("SSL_CERT_DIR").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&directories).collect();
    directories.into_iter().filter(|directory| !directory.as_os_str().is_empty())
}

/// What programs may write below /dev besides: terminals, what keeps nothing, and the way to tokens and to the TPM. Not
/// disks, input devices, or `/dev/shm`, which has memory that other processes share.
const DEVICES_OF_PROGRAMS: [&str; 7] =
    ["/dev/zero", "/dev/full", "/dev/tty", "/dev/ptmx", "/dev/pts", "/dev/bus/usb", "/dev/tpmrm0"];

fn written_by_programs() -> impl Iterator<Item = PathBuf> {
    let named = ["HOME", "TMPDIR", "XDG_RUNTIME_DIR"].into_iter().filter_map(named_by);
    named.chain(["/tmp", "/var/tmp"].map(PathBuf::from))
}

/// Files are replaced by new ones of the same name, and a grant belongs to the old one: the directory is what stays.
/// Links lead elsewhere, so the directory of the target is granted with that of the link. A device needs neither.
fn directories_of(file: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let target = file.canonicalize().ok().filter(|target| target != file);
    let paths = std::iter::once(file.to_owned()).chain(target).filter(|path| !path.starts_with("/dev"));
    // Directly below the root, the file alone.
    paths.map(|path| match path.parent() {
        Some(parent) if parent.parent().is_some() => parent.to_owned(),
        _ => path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_granted_file_brings_its_directories() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::fs::write(root.join("real/token"), "").unwrap();
        std::os::unix::fs::symlink("real/token", root.join("link")).unwrap();
        let granted: Vec<_> = directories_of(&root.join("link")).collect();
        assert_eq!(granted, [root.clone(), root.join("real")]);
        assert_eq!(directories_of(&root.join("missing")).collect::<Vec<_>>(), [root]);
        assert_eq!(directories_of(Path::new("/dev/null")).count(), 0);
    }

    #[test]
    fn a_file_in_the_root_grants_only_itself() {
        let file = PathBuf::from("/token-that-is-not-there");
        assert_eq!(directories_of(&file).collect::<Vec<_>>(), [file]);
    }
}
