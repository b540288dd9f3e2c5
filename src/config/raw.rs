//! The options as clap reads them: texts that nothing has checked yet.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};

use dssefs_fs::namespace::{AttributeSource, PosixForm};
use dssefs_fs::vfs::{ErrnoStyle, NoncompliantRead};

use super::choice;

/// The options of `dssefs mount`, each also taken from the environment variable that its help names.
///
/// A value that needs more than a list of choices stays a text here. So [`super::Config::check`] reports all problems
/// at once, where clap would stop at the first one.
#[derive(Args, Clone, Debug)]
pub struct RawConfig {
    /// The bucket or the ARN of an access point, and the prefix that becomes the root of the mount
    #[arg(value_name = "BUCKET[/PREFIX]")]
    pub source: String,
    /// The directory to mount on
    #[arg(value_name = "DIR")]
    pub mountpoint: PathBuf,

    /// How the store is reached.
    #[command(flatten)]
    pub store: RawStore,

    /// The KMS key of all objects: an ARN; KMS resolves an id, an alias or an alias ARN once, at the start [default:
    /// the AWS managed key aws/s3]
    #[arg(long, env = "DSSEFS_KMS_KEY_ID", value_name = "KEY", help_heading = "Encryption")]
    pub kms_key_id: Option<String>,
    /// A pair of the encryption context; give the option once for each pair (the variable holds one)
    #[arg(long, env = "DSSEFS_ENCRYPTION_CONTEXT", value_name = "NAME=VALUE", help_heading = "Encryption")]
    pub encryption_context: Vec<String>,
    /// How the mount answers reads of an object that is not DSSE-KMS under its key
    #[arg(
        long,
        env = "DSSEFS_ON_NONCOMPLIANT_READ",
        value_parser = choice::noncompliant_read(),
        default_value = "serve",
        help_heading = "Encryption"
    )]
    pub on_noncompliant_read: NoncompliantRead,

    /// The owner of objects without an owner in their metadata [default: yours]
    #[arg(long, env = "DSSEFS_UID", help_heading = "Files")]
    pub uid: Option<u32>,
    /// The group of objects without a group in their metadata [default: yours]
    #[arg(long, env = "DSSEFS_GID", help_heading = "Files")]
    pub gid: Option<u32>,
    /// The permissions of files without a mode in their metadata, in octal
    #[arg(long, env = "DSSEFS_FILE_MODE", value_name = "MODE", default_value = "0644", help_heading = "Files")]
    pub file_mode: String,
    /// The permissions of directories without a mode in their metadata, in octal
    #[arg(long, env = "DSSEFS_DIR_MODE", value_name = "MODE", default_value = "0755", help_heading = "Files")]
    pub dir_mode: String,
    /// The Content-Type of new files: guess (by the extension of the name), or one value for all
    #[arg(long, env = "DSSEFS_CONTENT_TYPE", value_name = "TYPE", default_value = "guess", help_heading = "Files")]
    pub content_type: String,
    /// Mount read-only
    #[arg(long, env = "DSSEFS_READ_ONLY", value_parser = BoolishValueParser::new(), help_heading = "Files")]
    pub read_only: bool,
    /// Replace what another host has stored since the file was opened; without this option such a commit is ESTALE
    #[arg(long, env = "DSSEFS_LAST_WRITER_WINS", value_parser = BoolishValueParser::new(), help_heading = "Files")]
    pub last_writer_wins: bool,
    /// Allow other users to use the mount, as the permissions of its files say
    #[arg(long, env = "DSSEFS_ALLOW_OTHER", value_parser = BoolishValueParser::new(), help_heading = "Files")]
    pub allow_other: bool,
    /// The error numbers for trouble with keys: ENOKEY and the like, or only those of POSIX
    #[arg(
        long,
        env = "DSSEFS_ERRNO",
        value_parser = choice::errno_style(),
        default_value = "native",
        help_heading = "Files"
    )]
    pub errno: ErrnoStyle,
    /// Which of the mount's own attributes listxattr(2) names; getxattr(2) answers all of them
    #[arg(long, env = "DSSEFS_XATTR_LIST", value_enum, default_value_t, help_heading = "Files")]
    pub xattr_list: XattrList,
    /// Where modes, owners and times come from: one HEAD for each file, or the listing and the defaults above
    #[arg(
        long,
        env = "DSSEFS_ATTRIBUTES",
        value_parser = choice::attribute_source(),
        default_value = "full",
        help_heading = "Files"
    )]
    pub attributes: AttributeSource,
    /// The form in which the mount writes modes, owners and times; it reads all of them
    #[arg(
        long,
        env = "DSSEFS_POSIX_METADATA",
        value_parser = choice::posix_form(),
        default_value = "s3fs",
        help_heading = "Files"
    )]
    pub posix_metadata: PosixForm,
    /// How long the mount trusts names and attributes before it asks the store again, such as 500ms, 1s or 2m; 0 asks
    /// each time
    #[arg(long, env = "DSSEFS_METADATA_TTL", value_name = "TIME", default_value = "1s", help_heading = "Files")]
    pub metadata_ttl: String,

    /// The most memory for content on its way to and from S3, such as 64MiB or 2GiB (B, KiB, MiB, GiB, TiB; kB, MB, GB,
    /// TB)
    #[arg(long, env = "DSSEFS_MEMORY", value_name = "SIZE", default_value = "512MiB", help_heading = "Budgets")]
    pub memory: String,
    /// The most disk space for the spill, which is sealed twice, in the same units
    #[arg(long, env = "DSSEFS_SPILL", value_name = "SIZE", default_value = "16GiB", help_heading = "Budgets")]
    pub spill: String,
    /// How long a write may wait for memory or spill that uploads under way will give back, 1s to 24h
    #[arg(long, env = "DSSEFS_ROOM_TIMEOUT", value_name = "TIME", default_value = "2m", help_heading = "Budgets")]
    pub room_timeout: String,
    /// The directory of the spill; the daemon makes it, private to you, if it is missing [default: /var/tmp/dssefs-UID;
    /// with --spill-keys kms /var/lib/dssefs, or for users other than root $XDG_STATE_HOME/dssefs, else
    /// ~/.local/state/dssefs]
    #[arg(long, env = "DSSEFS_SPILL_DIR", value_name = "DIR", help_heading = "Budgets")]
    pub spill_dir: Option<PathBuf>,

    /// Where the keys of the spill are kept
    #[arg(long, env = "DSSEFS_SPILL_KEYS", value_enum, default_value_t, help_heading = "Budgets")]
    pub spill_keys: SpillKeys,
    /// The KMS key that wraps the spill's keys; a second one is for the outer layer [default: the key of the objects]
    #[arg(long, env = "DSSEFS_SPILL_KMS_KEY_ID", value_name = "KEY", help_heading = "Budgets")]
    pub spill_kms_key_id: Vec<String>,
    /// How long the daemon seals with one pair of keys of --spill-keys kms, 1s to 24h [default: 24h]
    #[arg(long, env = "DSSEFS_SPILL_KEY_LIFETIME", value_name = "TIME", help_heading = "Budgets")]
    pub spill_key_lifetime: Option<String>,
    /// When close(2) returns
    #[arg(long, env = "DSSEFS_COMMIT", value_enum, default_value_t, help_heading = "Budgets")]
    pub commit: Commit,

    /// How long the daemon waits for a silent store at the end of the mount, 100ms to 24h; then unsaved changes go to
    /// the journal, or are lost
    #[arg(long, env = "DSSEFS_STOP_TIMEOUT", value_name = "TIME", default_value = "30s", help_heading = "Budgets")]
    pub stop_timeout: String,

    /// Whether the daemon gives up the capabilities, files and system calls that it does not need
    #[arg(long, env = "DSSEFS_SANDBOX", value_enum, default_value_t, help_heading = "Protection")]
    pub sandbox: Sandbox,

    /// Append the log to this file [default: standard error; in the background the system's log]
    #[arg(long, env = "DSSEFS_LOG_FILE", value_name = "FILE", help_heading = "Log")]
    pub log_file: Option<PathBuf>,
    /// The form of each event: a line of text, or a JSON object
    #[arg(long, env = "DSSEFS_LOG_FORMAT", value_enum, default_value_t, help_heading = "Log")]
    pub log_format: LogFormat,
    /// Log more: what the mount does, and each change; -vv logs everything
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = "Log")]
    pub verbose: u8,
}

/// How the store is reached: the options of all commands that ask it.
#[derive(Args, Clone, Debug)]
pub struct RawStore {
    /// The URL of S3, if it is not AWS
    #[arg(long, env = "DSSEFS_ENDPOINT_URL", value_name = "URL", help_heading = "Store")]
    pub endpoint_url: Option<String>,
    /// The URL of KMS, if it is not AWS; it resolves key ids and aliases, and wraps the keys of --spill-keys kms
    #[arg(long, env = "DSSEFS_KMS_ENDPOINT_URL", value_name = "URL", help_heading = "Store")]
    pub kms_endpoint_url: Option<String>,
    /// Send requests to URL/BUCKET, not to BUCKET.HOST
    #[arg(long, env = "DSSEFS_FORCE_PATH_STYLE", value_parser = BoolishValueParser::new(), help_heading = "Store")]
    pub force_path_style: bool,
    /// The bucket's Region [default: as the AWS CLI finds it]
    #[arg(long, env = "DSSEFS_REGION", help_heading = "Store")]
    pub region: Option<String>,
    /// The profile of ~/.aws to use [default: as the AWS CLI finds it]
    #[arg(long, env = "DSSEFS_PROFILE", help_heading = "Store")]
    pub profile: Option<String>,
    /// A PEM file of certificates to trust in addition to those of the system
    #[arg(long, env = "AWS_CA_BUNDLE", value_name = "FILE", help_heading = "Store")]
    pub ca_bundle: Option<PathBuf>,
    /// Allow an http:// endpoint on another host, to which content and signatures travel in the clear
    #[arg(
        long,
        env = "DSSEFS_ALLOW_INSECURE_ENDPOINT",
        value_parser = BoolishValueParser::new(),
        help_heading = "Store"
    )]
    pub allow_insecure_endpoint: bool,
    /// What becomes of the annotations of an object that is replaced
    #[arg(long, env = "DSSEFS_ANNOTATIONS", value_enum, default_value_t, help_heading = "Store")]
    pub annotations: Annotations,
    /// Pay for the requests, in a bucket whose owner has them paid by the requester
    #[arg(long, env = "DSSEFS_REQUEST_PAYER", value_parser = BoolishValueParser::new(), help_heading = "Store")]
    pub request_payer: bool,
    /// The account that must own the bucket, 12 digits; S3 refuses the requests otherwise
    #[arg(long, env = "DSSEFS_EXPECTED_BUCKET_OWNER", value_name = "ACCOUNT", help_heading = "Store")]
    pub expected_bucket_owner: Option<String>,
    /// Sign the bodies of requests over https too: a second of CPU for each GB; TLS and a CRC protect them anyway
    #[arg(long, env = "DSSEFS_SIGN_PAYLOAD", value_parser = BoolishValueParser::new(), help_heading = "Store")]
    pub sign_payload: bool,
    /// The most attempts for one request, 1 to 20, with random, growing pauses between them
    #[arg(long, env = "DSSEFS_ATTEMPTS", value_name = "COUNT", default_value = "8", help_heading = "Store",
          value_parser = clap::value_parser!(u32).range(1..=20))]
    pub attempts: u32,
    /// The longest time of one attempt, 100ms to 24h, such as 500ms or 30s; an attempt with much content gets more
    #[arg(long, env = "DSSEFS_ATTEMPT_TIMEOUT", value_name = "TIME", default_value = "30s", help_heading = "Store")]
    pub attempt_timeout: String,
    /// The longest time of a request with all its attempts, for which a program waits, 100ms to 24h; a request with
    /// much content gets more
    #[arg(long, env = "DSSEFS_OPERATION_TIMEOUT", value_name = "TIME", default_value = "3m", help_heading = "Store")]
    pub operation_timeout: String,
    /// The most requests in a second that cost a call to KMS, whose quota the whole account shares; 0 sets no limit
    #[arg(
        long,
        env = "DSSEFS_KMS_REQUESTS_PER_SECOND",
        value_name = "COUNT",
        default_value = "2500",
        help_heading = "Store"
    )]
    pub kms_requests_per_second: u32,
}

/// `--annotations`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Annotations {
    /// The new object gets them, or the object is not replaced
    #[default]
    Keep,
    /// The daemon does not ask for them, and the new object has none
    Ignore,
}

/// `--spill-keys`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SpillKeys {
    /// In memory only: a crash makes the spill unreadable for good
    #[default]
    Memory,
    /// Wrapped by KMS: after a crash the next mount stores what was acknowledged
    Kms,
}

/// `--commit`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Commit {
    /// After S3 has the file, and its answer is judged
    #[default]
    Close,
    /// After the local disk has the bytes, sealed and synced; S3 has them within seconds. Needs --spill-keys kms
    Background,
}

/// `--xattr-list`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum XattrList {
    /// Name them all
    #[default]
    All,
    /// Name none, so that `cp -a` and `rsync -X` do not copy them to other disks
    None,
}

/// `--sandbox`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sandbox {
    /// Use each layer that the kernel has; the log names the others
    #[default]
    On,
    /// Use no layer
    Off,
    /// Refuse to mount if the kernel lacks a layer
    Require,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}
