//! Options as clap gives them: texts, not yet believed.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};

use dssefs_fs::namespace::AttributeSource;
use dssefs_fs::vfs::{ErrnoStyle, NoncompliantRead};

use super::choice;

/// The options of `dssefs mount`, each also taken from the environment variable that its help names.
///
/// Values that need more than a list of choices stay texts here, so that [`super::Config::check`] can report all that
/// is wrong with them at once; clap would stop at the first.
#[derive(Args, Clone, Debug)]
pub struct RawConfig {
    /// The bucket (or the ARN of an access point), and below it what becomes the root of the mount
    #[arg(value_name = "BUCKET[/PREFIX]")]
    pub source: String,
    /// The directory to mount on
    #[arg(value_name = "DIR")]
    pub mountpoint: PathBuf,

    /// How the store is reached.
    #[command(flatten)]
    pub store: RawStore,

    /// The KMS key: an ARN, or an id, alias or alias ARN that KMS resolves once [default: the AWS managed key aws/s3]
    #[arg(long, env = "DSSEFS_KMS_KEY_ID", value_name = "KEY", help_heading = "Encryption")]
    pub kms_key_id: Option<String>,
    /// A pair to bind to each data key; may be given again (the variable holds one pair)
    #[arg(long, env = "DSSEFS_ENCRYPTION_CONTEXT", value_name = "NAME=VALUE", help_heading = "Encryption")]
    pub encryption_context: Vec<String>,
    /// What to do when an object to be read is not DSSE-KMS under the mount's key
    #[arg(
        long,
        env = "DSSEFS_ON_NONCOMPLIANT_READ",
        value_parser = choice::noncompliant_read(),
        default_value = "serve",
        help_heading = "Encryption"
    )]
    pub on_noncompliant_read: NoncompliantRead,

    /// The owner of files that name none [default: yours]
    #[arg(long, env = "DSSEFS_UID", help_heading = "Files")]
    pub uid: Option<u32>,
    /// The group of files that name none [default: yours]
    #[arg(long, env = "DSSEFS_GID", help_heading = "Files")]
    pub gid: Option<u32>,
    /// The permissions of files that name none, in octal
    #[arg(long, env = "DSSEFS_FILE_MODE", value_name = "MODE", default_value = "0644", help_heading = "Files")]
    pub file_mode: String,
    /// The permissions of directories that name none, in octal
    #[arg(long, env = "DSSEFS_DIR_MODE", value_name = "MODE", default_value = "0755", help_heading = "Files")]
    pub dir_mode: String,
    /// Refuse every change
    #[arg(long, env = "DSSEFS_READ_ONLY", value_parser = BoolishValueParser::new(), help_heading = "Files")]
    pub read_only: bool,
    /// Let a commit replace what another host stored since the file was opened, instead of refusing it with ESTALE
    #[arg(long, env = "DSSEFS_LAST_WRITER_WINS", value_parser = BoolishValueParser::new(), help_heading = "Files")]
    pub last_writer_wins: bool,
    /// Let other users in; the permissions of files then decide
    #[arg(long, env = "DSSEFS_ALLOW_OTHER", value_parser = BoolishValueParser::new(), help_heading = "Files")]
    pub allow_other: bool,
    /// Error numbers for key trouble: ENOKEY and its kin, or only those that old programs know
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
    /// Where modes, owners and times come from: one HEAD for each file, or the listing alone and the defaults above
    #[arg(
        long,
        env = "DSSEFS_ATTRIBUTES",
        value_parser = choice::attribute_source(),
        default_value = "full",
        help_heading = "Files"
    )]
    pub attributes: AttributeSource,
    /// How long names and attributes may be believed without asking: 500ms, 1s, 2m, 1h; 0 asks each time
    #[arg(long, env = "DSSEFS_METADATA_TTL", value_name = "TIME", default_value = "1s", help_heading = "Files")]
    pub metadata_ttl: String,

    /// Memory for content on its way to and from S3: 64MiB, 2GiB (B, KiB, MiB, GiB, TiB; kB, MB, GB, TB)
    #[arg(long, env = "DSSEFS_MEMORY", value_name = "SIZE", default_value = "512MiB", help_heading = "Budgets")]
    pub memory: String,
    /// Disk for the doubly sealed spill, in the same units
    #[arg(long, env = "DSSEFS_SPILL", value_name = "SIZE", default_value = "16GiB", help_heading = "Budgets")]
    pub spill: String,
    /// How long a write may wait for memory or spill that uploads under way will give back, 1s to 24h
    #[arg(long, env = "DSSEFS_ROOM_TIMEOUT", value_name = "TIME", default_value = "2m", help_heading = "Budgets")]
    pub room_timeout: String,
    /// The directory of the spill, made private to you when it is missing [default: /var/tmp/dssefs-UID; with
    /// --spill-keys kms /var/lib/dssefs, or for users other than root $XDG_STATE_HOME/dssefs, else
    /// ~/.local/state/dssefs]
    #[arg(long, env = "DSSEFS_SPILL_DIR", value_name = "DIR", help_heading = "Budgets")]
    pub spill_dir: Option<PathBuf>,

    /// Whose keys the spill is sealed with
    #[arg(long, env = "DSSEFS_SPILL_KEYS", value_enum, default_value_t, help_heading = "Budgets")]
    pub spill_keys: SpillKeys,
    /// A KMS key that wraps the spill's keys; given twice, the first is for the inner layer and the second for the
    /// outer [default: the key of the objects]
    #[arg(long, env = "DSSEFS_SPILL_KMS_KEY_ID", value_name = "KEY", help_heading = "Budgets")]
    pub spill_kms_key_id: Vec<String>,
    /// How long the keys of --spill-keys kms are sealed with before new ones take their place: 1s to 24h [default: 24h]
    #[arg(long, env = "DSSEFS_SPILL_KEY_LIFETIME", value_name = "TIME", help_heading = "Budgets")]
    pub spill_key_lifetime: Option<String>,
    /// When close(2) returns
    #[arg(long, env = "DSSEFS_COMMIT", value_enum, default_value_t, help_heading = "Budgets")]
    pub commit: Commit,

    /// At the end of the mount: how long the store may give no sign of life before unsaved changes are given up, or
    /// left to the journal: 100ms to 24h
    #[arg(long, env = "DSSEFS_STOP_TIMEOUT", value_name = "TIME", default_value = "30s", help_heading = "Budgets")]
    pub stop_timeout: String,

    /// Whether the mounted daemon gives up what it does not need: capabilities, files, system calls
    #[arg(long, env = "DSSEFS_SANDBOX", value_enum, default_value_t, help_heading = "Protection")]
    pub sandbox: Sandbox,

    /// Append the log to this file [default: standard error; in the background the system's log]
    #[arg(long, env = "DSSEFS_LOG_FILE", value_name = "FILE", help_heading = "Log")]
    pub log_file: Option<PathBuf>,
    /// One line of text, or one JSON object, for each event
    #[arg(long, env = "DSSEFS_LOG_FORMAT", value_enum, default_value_t, help_heading = "Log")]
    pub log_format: LogFormat,
    /// Say more: what the mount does as a whole, and each change; -vv says everything
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = "Log")]
    pub verbose: u8,
}

/// How the store is reached: the options that all commands share which ask it.
#[derive(Args, Clone, Debug)]
pub struct RawStore {
    /// Where S3 is, when it is not AWS
    #[arg(long, env = "DSSEFS_ENDPOINT_URL", value_name = "URL", help_heading = "Store")]
    pub endpoint_url: Option<String>,
    /// Where KMS is, when it is not AWS; asked to resolve a key id or an alias, and for the keys of --spill-keys kms
    #[arg(long, env = "DSSEFS_KMS_ENDPOINT_URL", value_name = "URL", help_heading = "Store")]
    pub kms_endpoint_url: Option<String>,
    /// Address buckets as URL/BUCKET, not as BUCKET.HOST
    #[arg(long, env = "DSSEFS_FORCE_PATH_STYLE", value_parser = BoolishValueParser::new(), help_heading = "Store")]
    pub force_path_style: bool,
    /// The bucket's Region [default: as the AWS CLI finds it]
    #[arg(long, env = "DSSEFS_REGION", help_heading = "Store")]
    pub region: Option<String>,
    /// The profile of ~/.aws to use [default: as the AWS CLI finds it]
    #[arg(long, env = "DSSEFS_PROFILE", help_heading = "Store")]
    pub profile: Option<String>,
    /// A PEM file of certificates to trust beside the system's
    #[arg(long, env = "AWS_CA_BUNDLE", value_name = "FILE", help_heading = "Store")]
    pub ca_bundle: Option<PathBuf>,
    /// Allow an http:// endpoint on another host: content and credentials' signatures then travel in the clear
    #[arg(
        long,
        env = "DSSEFS_ALLOW_INSECURE_ENDPOINT",
        value_parser = BoolishValueParser::new(),
        help_heading = "Store"
    )]
    pub allow_insecure_endpoint: bool,
    /// Hash each body into its signature over https too, a second of CPU for each GB; TLS and a CRC protect it anyway
    #[arg(long, env = "DSSEFS_SIGN_PAYLOAD", value_parser = BoolishValueParser::new(), help_heading = "Store")]
    pub sign_payload: bool,
    /// Tries of one request, the first included, 1 to 20; the pauses between them are random and grow
    #[arg(long, env = "DSSEFS_ATTEMPTS", value_name = "COUNT", default_value = "8", help_heading = "Store",
          value_parser = clap::value_parser!(u32).range(1..=20))]
    pub attempts: u32,
    /// How long one try may take, 100ms to 24h: 500ms, 30s, 2m; those that move much are given more
    #[arg(long, env = "DSSEFS_ATTEMPT_TIMEOUT", value_name = "TIME", default_value = "30s", help_heading = "Store")]
    pub attempt_timeout: String,
    /// How long a request may take with all its tries, and so the longest that a program waits for it, 100ms to 24h;
    /// those that move much are given more
    #[arg(long, env = "DSSEFS_OPERATION_TIMEOUT", value_name = "TIME", default_value = "3m", help_heading = "Store")]
    pub operation_timeout: String,
    /// Requests in a second that cost a call to KMS, whose quota the whole account shares; 0: as many as there are
    #[arg(
        long,
        env = "DSSEFS_KMS_REQUESTS_PER_SECOND",
        value_name = "COUNT",
        default_value = "2500",
        help_heading = "Store"
    )]
    pub kms_requests_per_second: u32,
}

/// `--spill-keys`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SpillKeys {
    /// Random, in memory alone: a crash makes the spill unreadable for good
    #[default]
    Memory,
    /// Wrapped by KMS: what was acknowledged or could not be stored survives a crash
    Kms,
}

/// `--commit`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Commit {
    /// When S3 has the file, proved
    #[default]
    Close,
    /// When its bytes are sealed and safe on the local disk; S3 has them within seconds. Needs --spill-keys kms
    Background,
}

/// `--xattr-list`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum XattrList {
    /// Name them all
    #[default]
    All,
    /// Name none, so that `cp -a` and `rsync -X` do not carry claims to other disks
    None,
}

/// `--sandbox`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sandbox {
    /// As far as the kernel has it; the log says what it has not
    #[default]
    On,
    /// Keep everything
    Off,
    /// As far as the kernel has it, and no mount when a layer is lacking
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
