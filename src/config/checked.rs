//! Options as checked: what the daemon builds the mount from.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Duration;

use super::place::Mountpoint;
use super::problem::{Problem, Problems};
use super::raw::{Annotations, Commit, LogFormat, RawConfig, RawStore, Sandbox, SpillKeys, XattrList};
use super::source::Source;
use super::{endpoint, units};
use dssefs_fs::namespace::{AttributeSource, ContentType, PosixForm};
use dssefs_fs::vfs::{ErrnoStyle, NoncompliantRead};
use dssefs_s3::object::{Bucket, Prefix};
use dssefs_s3::policy::{EncryptionContext, KeyArn};
use dssefs_s3::s3::Connection;

/// The settings of one mount, each of them checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// What is mounted.
    pub bucket: Bucket,
    /// What the keys below the mount begin with.
    pub prefix: Prefix,
    /// Where: the directory itself, whatever its name leads to later.
    pub mountpoint: Mountpoint,
    /// How the store is reached.
    pub connection: Connection,
    /// The key of every object that the mount writes.
    pub key: KeyChoice,
    /// What is bound to each data key.
    pub context: EncryptionContext,
    /// The owner of files that name none.
    pub uid: u32,
    /// The group of files that name none.
    pub gid: u32,
    /// Permission bits, 0 to 0777, of files that name none.
    pub file_mode: u32,
    /// Permission bits, 0 to 0777, of directories that name none.
    pub dir_mode: u32,
    /// The Content-Type of new files.
    pub content_type: ContentType,
    /// Whether every change is refused.
    pub read_only: bool,
    /// Whether a commit replaces whatever it finds, and not only what its file was opened as.
    pub last_writer_wins: bool,
    /// Whether other users are let in.
    pub allow_other: bool,
    /// What a read of an object with a bad verdict does.
    pub on_noncompliant_read: NoncompliantRead,
    /// The error numbers of key trouble.
    pub errno: ErrnoStyle,
    /// Which attributes listxattr(2) names.
    pub xattr_list: XattrList,
    /// Where modes, owners and times come from.
    pub attributes: AttributeSource,
    /// The form in which modes, owners and times are written.
    pub posix_metadata: PosixForm,
    /// How long names and attributes are believed, 0 to 24 hours.
    pub metadata_ttl: Duration,
    /// Content in memory, in bytes; at least [`MEMORY_BYTES_MIN`].
    pub memory_bytes_max: u64,
    /// Sealed content on disk, in bytes; 0 for none.
    pub spill_bytes_max: u64,
    /// How long a write may wait for memory or spill.
    pub room_timeout: Duration,
    /// The directory of the spill; an absolute path.
    pub spill_dir: PathBuf,
    /// None: there is no journal, and unsaved changes end with the process.
    pub journal_keys: Option<JournalKeys>,
    /// When close(2) returns.
    pub commit: Commit,
    /// How long the store may be silent when the mount ends.
    pub stop_timeout: Duration,
    /// Threads that take requests from the kernel, 2 to 4. More do not help: none of them waits for the network.
    pub fuse_threads: usize,
    /// Whether the daemon gives up what it does not need.
    pub sandbox: Sandbox,
    /// What the log tells, and where.
    pub log: Log,
}

/// The key of every object that the mount writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChoice {
    /// The AWS managed key `aws/s3`; the first answer to a write pins its ARN.
    Managed,
    /// This one.
    Arn(KeyArn),
    /// An id, an alias or the ARN of an alias, to be resolved once by kms:DescribeKey.
    Resolve(String),
}

/// What the journal is sealed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalKeys {
    /// The KMS keys that wrap its keys, the inner layer's first.
    pub wrapping: [KeyChoice; 2],
    /// How long its keys are sealed with before new ones take their place; 1 second to 24 hours.
    pub lifetime: Duration,
}

/// What the log tells, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// None: standard error, or the system's log in the background. Absolute.
    pub file: Option<PathBuf>,
    /// Text or JSON.
    pub format: LogFormat,
    /// 0: warnings and what the mount does as a whole; 1: each request that changes something; 2 and more: everything.
    pub verbosity: u8,
}

/// Less than this holds neither one part of an upload nor a window of read-ahead.
pub const MEMORY_BYTES_MIN: u64 = 32 << 20;

/// A year of mounting is 730 calls to KMS, and a pair of keys that leaks opens the data of one day.
const KEY_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// New keys all the time would be paid for and protect nothing.
const KEY_LIFETIME_MIN: Duration = Duration::from_secs(1);
/// No store answers in less.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// The error of a write that has waited names whole seconds.
const ROOM_TIMEOUT_MIN: Duration = Duration::from_secs(1);

impl Config {
    /// Checks all options.
    ///
    /// # Errors
    /// Every problem there is, not only the first.
    pub fn check(raw: &RawConfig) -> Result<Config, Problems> {
        Config::check_on(raw, Mountpoint::open(&raw.mountpoint))
    }

    /// Checks all options of a process that was handed the directory to mount on. It does not ask for the directory's
    /// name again.
    ///
    /// # Errors
    /// As [`Config::check`].
    pub fn check_handed(raw: &RawConfig, directory: OwnedFd) -> Result<Config, Problems> {
        Config::check_on(raw, Mountpoint::of(directory, &raw.mountpoint))
    }

    fn check_on(raw: &RawConfig, mountpoint: Result<Mountpoint, Problem>) -> Result<Config, Problems> {
        let mut problems = Vec::new();
        let source = keep(&mut problems, Source::parse(&raw.source));
        let mountpoint = keep(&mut problems, mountpoint);
        let connection = check_connection(&mut problems, &raw.store);
        keep(&mut problems, source.as_ref().map_or(Ok(()), |source| check_style(&source.bucket, &connection)));
        let key = keep(&mut problems, check_key("--kms-key-id", raw.kms_key_id.as_deref()));
        let context = keep(&mut problems, EncryptionContext::parse(&raw.encryption_context));
        let file_mode = keep(&mut problems, check_mode("--file-mode", &raw.file_mode));
        let dir_mode = keep(&mut problems, check_mode("--dir-mode", &raw.dir_mode));
        let content_type = keep(&mut problems, ContentType::parse(&raw.content_type));
        let metadata_ttl = keep(&mut problems, check_duration("--metadata-ttl", &raw.metadata_ttl, Duration::ZERO));
        let memory_bytes_max = keep(&mut problems, check_budget("--memory", &raw.memory, MEMORY_BYTES_MIN));
        let spill_bytes_max = keep(&mut problems, check_budget("--spill", &raw.spill, 0));
        let room_timeout = keep(&mut problems, check_duration("--room-timeout", &raw.room_timeout, ROOM_TIMEOUT_MIN));
        let spill_dir = keep(&mut problems, check_spill_dir(raw.spill_dir.as_deref(), raw.spill_keys));
        let journal_keys = keep(&mut problems, check_journal(raw));
        let stop_timeout = keep(&mut problems, check_duration("--stop-timeout", &raw.stop_timeout, TIMEOUT_MIN));
        let log = keep(&mut problems, check_log(raw));
        if let (Some(place), Some(spill), Some(log)) = (&mountpoint, &spill_dir, &log) {
            keep(&mut problems, place.keep_apart(spill, log.file.as_deref()));
        }
        let assemble = || {
            let source = source?;
            Some(Config {
                bucket: source.bucket,
                prefix: source.prefix,
                mountpoint: mountpoint?,
                connection,
                key: key?,
                context: context?,
                uid: raw.uid.unwrap_or_else(|| rustix::process::getuid().as_raw()),
                gid: raw.gid.unwrap_or_else(|| rustix::process::getgid().as_raw()),
                file_mode: file_mode?,
                dir_mode: dir_mode?,
                content_type: content_type?,
                read_only: raw.read_only,
                last_writer_wins: raw.last_writer_wins,
                allow_other: raw.allow_other,
                on_noncompliant_read: raw.on_noncompliant_read,
                errno: raw.errno,
                xattr_list: raw.xattr_list,
                attributes: raw.attributes,
                posix_metadata: raw.posix_metadata,
                metadata_ttl: metadata_ttl?,
                memory_bytes_max: memory_bytes_max?,
                spill_bytes_max: spill_bytes_max?,
                room_timeout: room_timeout?,
                spill_dir: spill_dir?,
                journal_keys: journal_keys?,
                commit: raw.commit,
                stop_timeout: stop_timeout?,
                fuse_threads: available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4)),
                sandbox: raw.sandbox,
                log: log?,
            })
        };
        // Whatever is missing above is in the list; what is in the list need not be missing: the connection is always
        // there.
        assemble().filter(|_| problems.is_empty()).ok_or(Problems(problems))
    }

    /// What is mounted, as `s3://bucket/prefix`.
    #[must_use]
    pub fn source(&self) -> Source {
        Source { bucket: self.bucket.clone(), prefix: self.prefix.clone() }
    }
}

/// Checks the options of a command that mounts nothing.
///
/// # Errors
/// Every problem there is, not only the first.
pub fn check_store(raw: &RawStore) -> Result<Connection, Problems> {
    let mut problems = Vec::new();
    let connection = check_connection(&mut problems, raw);
    if problems.is_empty() { Ok(connection) } else { Err(Problems(problems)) }
}

/// Puts a problem aside and goes on.
pub(super) fn keep<T, E: Into<Problem>>(problems: &mut Vec<Problem>, checked: Result<T, E>) -> Option<T> {
    checked.map_err(|problem| problems.push(problem.into())).ok()
}

pub(super) fn check_connection(problems: &mut Vec<Problem>, raw: &RawStore) -> Connection {
    let endpoints = [("--endpoint-url", &raw.endpoint_url), ("--kms-endpoint-url", &raw.kms_endpoint_url)];
    for (flag, url) in endpoints.into_iter().filter_map(|(flag, url)| Some((flag, url.as_deref()?))) {
        let checked = endpoint::check(url, raw.allow_insecure_endpoint);
        keep(problems, checked.map_err(|error| Problem::Endpoint { flag, error }));
    }
    for (flag, text) in [("--region", &raw.region), ("--profile", &raw.profile)] {
        keep(problems, if text.as_deref() == Some("") { Err(Problem::Empty(flag)) } else { Ok(()) });
    }
    keep(problems, check_owner(raw.expected_bucket_owner.as_deref()));
    let mut timeout = |flag, text: &str| keep(problems, check_duration(flag, text, TIMEOUT_MIN)).unwrap_or(TIMEOUT_MIN);
    let attempt_timeout = timeout("--attempt-timeout", &raw.attempt_timeout);
    let operation_timeout = timeout("--operation-timeout", &raw.operation_timeout);
    Connection {
        region: raw.region.clone(),
        profile: raw.profile.clone(),
        endpoint_url: raw.endpoint_url.clone(),
        kms_endpoint_url: raw.kms_endpoint_url.clone(),
        force_path_style: raw.force_path_style,
        ca_bundle: raw.ca_bundle.as_deref().and_then(|path| keep(problems, absolute(path))),
        allow_insecure_endpoint: raw.allow_insecure_endpoint,
        attempts_max: raw.attempts,
        attempt_timeout,
        operation_timeout,
        kms_requests_per_second_max: raw.kms_requests_per_second,
        sign_payload: raw.sign_payload,
        keeps_annotations: raw.annotations == Annotations::Keep,
        request_payer: raw.request_payer,
        expected_bucket_owner: raw.expected_bucket_owner.clone(),
    }
}

fn check_owner(account: Option<&str>) -> Result<(), Problem> {
    let is_account = |text: &str| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    match account.filter(|text| !is_account(text)) {
        None => Ok(()),
        Some(text) => Err(Problem::Account { flag: "--expected-bucket-owner", text: text.to_owned() }),
    }
}

/// An empty key is refused: taken for "none given" it would silently mean another key.
pub(super) fn check_key(flag: &'static str, text: Option<&str>) -> Result<KeyChoice, Problem> {
    match text {
        None => Ok(KeyChoice::Managed),
        Some("") => Err(Problem::Empty(flag)),
        Some(text) => match KeyArn::new(text) {
            Ok(arn) => Ok(KeyChoice::Arn(arn)),
            Err(_) if is_key_name(text) => Ok(KeyChoice::Resolve(text.to_owned())),
            Err(error) => Err(Problem::Key { flag, error }),
        },
    }
}

/// Whether `text` may be an id, an alias or the ARN of an alias; only KMS knows what it stands for.
fn is_key_name(text: &str) -> bool {
    let is = |text: &str, more: &[u8]| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
    };
    let is_alias = |text: &str| text.strip_prefix("alias/").is_some_and(|name| is(name, b"/_-"));
    match text.splitn(6, ':').collect::<Vec<_>>().as_slice() {
        ["arn", partition, "kms", region, account, alias] => {
            partition.starts_with("aws") && is(region, b"-") && is(account, b"") && is_alias(alias)
        }
        _ => is_alias(text) || is(text, b"-"),
    }
}

/// What cannot be the name of a host has to stand in the path, and AWS takes that for old buckets alone.
pub(super) fn check_style(bucket: &Bucket, connection: &Connection) -> Result<(), Problem> {
    let is_in_path = connection.force_path_style || connection.endpoint_url.is_some();
    if bucket.needs_path_style() && !is_in_path { Err(Problem::PathStyle(bucket.clone())) } else { Ok(()) }
}

fn check_mode(flag: &'static str, text: &str) -> Result<u32, Problem> {
    units::parse_mode(text).map_err(|error| Problem::Mode { flag, error })
}

fn check_budget(flag: &'static str, text: &str, bytes_min: u64) -> Result<u64, Problem> {
    match units::parse_size(text) {
        Ok(bytes) if bytes < bytes_min => Err(Problem::BudgetTooSmall { flag, bytes, bytes_min }),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(Problem::Size { flag, error }),
    }
}

/// `/var/tmp`, not `/tmp`: the latter is memory on many systems, and the spill is what memory has no room for. What has
/// to survive a reboot stands where programs keep their state (file-hierarchy(7)), which no program tidies.
pub(super) fn check_spill_dir(given: Option<&Path>, keys: SpillKeys) -> Result<PathBuf, Problem> {
    let uid = rustix::process::getuid();
    match (given, keys) {
        (Some(path), _) => absolute(path),
        (None, SpillKeys::Memory) => Ok(PathBuf::from(format!("/var/tmp/dssefs-{}", uid.as_raw()))),
        (None, SpillKeys::Kms) if uid.is_root() => Ok(PathBuf::from("/var/lib/dssefs")),
        (None, SpillKeys::Kms) => {
            let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
            let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state"));
            state.or_else(home).map(|state| state.join("dssefs")).ok_or(Problem::SpillDirUnknown)
        }
    }
}

/// KMS makes data keys under customer managed keys only: `aws/s3` is S3's own ("AWS managed keys", KMS Developer
/// Guide).
fn check_journal(raw: &RawConfig) -> Result<Option<JournalKeys>, Problem> {
    if raw.spill_keys == SpillKeys::Memory {
        let needless = [
            ("--commit background", raw.commit == Commit::Background),
            ("--spill-kms-key-id", !raw.spill_kms_key_id.is_empty()),
            ("--spill-key-lifetime", raw.spill_key_lifetime.is_some()),
        ];
        let given = needless.into_iter().find(|(_, given)| *given);
        return given.map_or(Ok(None), |(option, _)| Err(Problem::NeedsKmsSpill(option)));
    }
    let lifetime = raw.spill_key_lifetime.as_deref();
    let lifetime = lifetime.map(|text| check_duration("--spill-key-lifetime", text, KEY_LIFETIME_MIN));
    Ok(Some(JournalKeys { wrapping: check_wrapping(raw)?, lifetime: lifetime.transpose()?.unwrap_or(KEY_LIFETIME) }))
}

fn check_wrapping(raw: &RawConfig) -> Result<[KeyChoice; 2], Problem> {
    let given = raw.spill_kms_key_id.iter().map(|text| check_key("--spill-kms-key-id", Some(text)));
    let given = given.collect::<Result<Vec<_>, _>>()?;
    match given.as_slice() {
        [] => match check_key("--kms-key-id", raw.kms_key_id.as_deref())? {
            KeyChoice::Managed => Err(Problem::NoSpillKey),
            key => Ok([key.clone(), key]),
        },
        [both] => Ok([both.clone(), both.clone()]),
        [inner, outer] => Ok([inner.clone(), outer.clone()]),
        more => Err(Problem::TooManySpillKeys(more.len())),
    }
}

fn check_duration(flag: &'static str, text: &str, least: Duration) -> Result<Duration, Problem> {
    match units::parse_duration(text) {
        Ok(time) if time < least => Err(Problem::TooShort { flag, least }),
        Ok(time) => Ok(time),
        Err(error) => Err(Problem::Duration { flag, error }),
    }
}

fn check_log(raw: &RawConfig) -> Result<Log, Problem> {
    let file = raw.log_file.as_deref().map(absolute).transpose()?;
    Ok(Log { file, format: raw.log_format, verbosity: raw.verbose })
}

/// The daemon leaves the directory that it was started in.
fn absolute(path: &Path) -> Result<PathBuf, Problem> {
    std::path::absolute(path).map_err(|error| Problem::Path { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    /// A directory that nothing is mounted on, as something may be on /tmp.
    const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    const ARN: &str = "arn:aws:kms:eu-west-1:111122223333:key/0a1b";

    fn raw(args: &[&str]) -> RawConfig {
        let command = RawConfig::augment_args(clap::Command::new("mount"));
        let matches = command.get_matches_from([&["mount"], args].concat());
        RawConfig::from_arg_matches(&matches).unwrap()
    }

    fn problems(args: &[&str]) -> Vec<String> {
        let problems = Config::check(&raw(args)).expect_err("the options should be refused");
        problems.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_defaults_are_those_of_the_documentation() {
        let config = Config::check(&raw(&["data", DIR])).unwrap();
        assert_eq!(config.source().to_string(), "s3://data");
        assert_eq!(config.mountpoint.path, Path::new(DIR).canonicalize().unwrap());
        assert_eq!((config.file_mode, config.dir_mode), (0o644, 0o755));
        assert_eq!((config.memory_bytes_max, config.spill_bytes_max), (512 << 20, 16 << 30));
        assert_eq!(config.metadata_ttl, Duration::from_secs(1));
        let Connection { attempts_max, attempt_timeout, operation_timeout, kms_requests_per_second_max, .. } =
            config.connection;
        assert_eq!((attempts_max, kms_requests_per_second_max), (8, 2500));
        let limits = [attempt_timeout, operation_timeout, config.stop_timeout, config.room_timeout];
        assert_eq!(limits.map(|limit| limit.as_secs()), [30, 180, 30, 120]);
        assert_eq!(config.key, KeyChoice::Managed);
        assert!(config.spill_dir.starts_with("/var/tmp"));
        assert!(!config.read_only && !config.allow_other);
    }

    #[test]
    fn a_key_is_an_arn_or_resolved_later() {
        let key = |text| Config::check(&raw(&["data", DIR, "--kms-key-id", text])).unwrap().key;
        assert_eq!(key(ARN), KeyChoice::Arn(KeyArn::new(ARN).unwrap()));
        assert_eq!(key("alias/data"), KeyChoice::Resolve("alias/data".into()));
        assert_eq!(
            problems(&["data", DIR, "--kms-key-id", ""]),
            ["--kms-key-id is empty; give a value or leave the option out"]
        );
    }

    #[test]
    fn a_spill_that_survives_needs_a_wrapping_key() {
        let keys = |args: &[&str]| Config::check(&raw(&[&["data", DIR], args].concat())).unwrap().journal_keys;
        let resolve = |text: &str| KeyChoice::Resolve(text.to_owned());
        let wrapping = |args: &[&str]| keys(args).map(|keys| keys.wrapping);
        assert_eq!(keys(&[]), None);
        let kms = "--spill-keys=kms";
        assert_eq!(wrapping(&[kms, "--kms-key-id=a"]), Some([resolve("a"), resolve("a")]));
        assert_eq!(wrapping(&[kms, "--spill-kms-key-id=a"]), Some([resolve("a"), resolve("a")]));
        let two = wrapping(&[kms, "--spill-kms-key-id=a", "--spill-kms-key-id=b"]);
        assert_eq!(two, Some([resolve("a"), resolve("b")]));
        let lifetime = |args: &[&str]| keys(args).map(|keys| keys.lifetime.as_secs());
        assert_eq!(lifetime(&[kms, "--kms-key-id=a"]), Some(24 * 60 * 60));
        assert_eq!(lifetime(&[kms, "--kms-key-id=a", "--spill-key-lifetime=2h"]), Some(2 * 60 * 60));
        for (args, expected) in [
            (&[kms][..], "aws/s3"),
            (&["--commit=background"], "--commit background needs --spill-keys kms"),
            (&["--spill-kms-key-id=a"], "--spill-kms-key-id needs --spill-keys kms"),
            (&["--spill-key-lifetime=1h"], "--spill-key-lifetime needs --spill-keys kms"),
            (
                &[kms, "--kms-key-id=a", "--spill-key-lifetime=0"],
                "--spill-key-lifetime is too short; give it at least 1s",
            ),
            (&[kms, "--kms-key-id=a", "--spill-key-lifetime=25h"], "--spill-key-lifetime: \"25h\" is not a duration"),
            (&[kms, "--spill-kms-key-id=a", "--spill-kms-key-id=b", "--spill-kms-key-id=c"], "3 times"),
        ] {
            let found = problems(&[&["data", DIR], args].concat());
            assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
        }
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let found = problems(&[
            "No Bucket",
            "/does/not/exist",
            "--endpoint-url=http://10.0.0.1",
            "--kms-endpoint-url=x",
            "--encryption-context=nothing",
            "--file-mode=9",
            "--dir-mode=1777",
            "--memory=1MiB",
            "--spill=much",
            "--metadata-ttl=1day",
            "--region=",
            "--attempt-timeout=0",
            "--stop-timeout=soon",
        ]);
        assert_eq!(found.len(), 13, "{found:#?}");
        for word in
            ["bucket", "/does/not/exist", "10.0.0.1", "--kms-endpoint-url", "NAME=VALUE", "--memory is 1048576 bytes"]
        {
            assert!(found.iter().any(|sentence| sentence.contains(word)), "{word} in {found:#?}");
        }
    }

    #[test]
    fn a_file_is_no_mount_point() {
        assert_eq!(
            problems(&["data", "/etc/passwd"]),
            ["/etc/passwd is not a directory; name an existing directory as mount point"]
        );
    }

    #[test]
    fn relative_paths_are_made_absolute() {
        let config =
            Config::check(&raw(&["data", "src", "--spill-dir=spill", "--log-file=log", "--ca-bundle=ca.pem"])).unwrap();
        let paths =
            [Some(config.mountpoint.path), Some(config.spill_dir), config.log.file, config.connection.ca_bundle];
        assert!(paths.iter().flatten().all(|path| path.is_absolute()), "{paths:?}");
        assert!(paths.iter().all(Option::is_some));
    }

    #[test]
    fn each_option_has_its_smallest_value() {
        let kms = ["--spill-keys=kms", "--kms-key-id=a"];
        for (least, too_little) in [
            ("--memory=32MiB", "--memory=33554431"),
            ("--attempt-timeout=100ms", "--attempt-timeout=99ms"),
            ("--operation-timeout=100ms", "--operation-timeout=99ms"),
            ("--stop-timeout=100ms", "--stop-timeout=99ms"),
            ("--room-timeout=1s", "--room-timeout=999ms"),
            ("--spill-key-lifetime=1s", "--spill-key-lifetime=999ms"),
        ] {
            let with = |option| Config::check(&raw(&[&["data", DIR][..], &kms, &[option]].concat()));
            with(least).unwrap();
            let found = with(too_little).expect_err(too_little).0;
            let flag = least.split('=').next().unwrap();
            assert!(found.len() == 1 && found[0].to_string().contains(flag), "{found:?}");
        }
        assert_eq!(Config::check(&raw(&["data", DIR, "--spill=0"])).unwrap().spill_bytes_max, 0);
        assert_eq!(Config::check(&raw(&["data", DIR, "--metadata-ttl=0"])).unwrap().metadata_ttl, Duration::ZERO);
    }

    #[test]
    fn ids_and_aliases_of_keys_are_checked() {
        for name in ["alias/a_b/c-d", "0a1b-2c", "mrk-0a1b", "arn:aws:kms:eu-west-1:111122223333:alias/data"] {
            assert_eq!(check_key("--kms-key-id", Some(name)).unwrap(), KeyChoice::Resolve(name.into()), "{name}");
        }
        for wrong in [
            "alias/",
            "aliases/data",
            "a b",
            "key/0a1b",
            "arn:aws:kms:eu-west-1:111122223333:alias/",
            "arn:aws:kms::111122223333:alias/data",
            "arn:aws:s3:eu-west-1:111122223333:alias/data",
            "arn:xaws:kms:eu-west-1:111122223333:alias/data",
        ] {
            assert!(matches!(check_key("--kms-key-id", Some(wrong)), Err(Problem::Key { .. })), "{wrong}");
        }
    }

    #[test]
    fn a_bucket_unfit_for_a_host_needs_path_style() {
        let style = |more: &[&str]| Config::check(&raw(&[&["Old_Bucket", DIR], more].concat())).map(drop);
        assert!(matches!(style(&[]).unwrap_err().0.as_slice(), [Problem::PathStyle(_)]));
        style(&["--force-path-style"]).unwrap();
        style(&["--endpoint-url=https://store.example"]).unwrap();
    }
}
