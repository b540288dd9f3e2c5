//! Attributes from user metadata and back, in the forms that s3fs, geesefs, rclone, s3sync, gcsfuse and AWS's own
//! services read and write. Pure.
//!
//! | key | value | written by |
//! |---|---|---|
//! | `mode` | decimal `st_mode`, with or without its type bits | s3fs, geesefs, this mount (with) |
//! | `mode` | octal `st_mode` | rclone |
//! | `uid`, `gid` | decimal | all |
//! | `mtime`, `atime`, `ctime` | `seconds` or `seconds.fraction`, or RFC 3339 | all; RFC 3339 by rclone |
//! | `permissions`, `owner`, `group` | decimal | s3sync |
//! | `goog-reserved-posix-mode` (octal), `-uid`, `-gid`, `goog-reserved-file-mtime` | | gsutil |
//! | `file-permissions` (octal `st_mode`), `file-owner`, `file-group` (decimal) | | FSx, File Gateway, DataSync |
//! | `file-mtime`, `file-atime` | nanoseconds since 1970 and `ns`, or milliseconds | FSx, File Gateway, DataSync |
//! | `rdev` | decimal device number, as FUSE gives it | geesefs, this mount |
//! | `--symlink-target` | the target, percent-encoded | geesefs |

use std::time::SystemTime;

use percent_encoding::percent_decode_str;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::node::{Attributes, Defaults, Kind, Timestamp};
use dssefs_s3::object::{METADATA_BYTES_MAX, UserMetadata, metadata_bytes};

const TYPE_BITS: u32 = 0o170_000;
const PERMISSION_BITS: u32 = 0o7777;
const SYMLINK_TARGET: &str = "--symlink-target";
/// The mount's own entries, in the order in which they give way where the metadata of other programs leaves no room for
/// all of them, each with its name in AWS's form. Where an object has both forms, AWS's goes before these, as a whole:
/// the rest of it would be taken for all. The commit id goes before any. An object then shows Last-Modified, or the
/// mount's defaults, in their place. Mode and device number of a link, a fifo or a device never give way: they say what
/// it is.
const GIVING_WAY: [&[&str]; 6] = [
    &["ctime"],
    &["atime", "file-atime"],
    &["mtime", "file-mtime"],
    &["gid", "file-group"],
    &["uid", "file-owner"],
    &["mode", "file-permissions"],
];

/// The entries of s3fs's form that AWS's form has too, in the order of [`AWS_KEYS`].
const S3FS_KEYS: [&str; 5] = ["mode", "uid", "gid", "mtime", "atime"];
/// The entries of AWS's form. It has none for the time of the last change of attributes, and none for devices.
const AWS_KEYS: [&str; 5] = ["file-permissions", "file-owner", "file-group", "file-mtime", "file-atime"];

/// The form in which modes, owners and times are written. An entry of the other form that an object has already is
/// written with them, so that no two forms disagree, whichever of them a program reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PosixForm {
    /// That of s3fs, geesefs and rclone.
    #[default]
    S3fs,
    /// That of AWS's services: FSx for Lustre, File Cache, File Gateway, DataSync.
    Aws,
    /// Both.
    Both,
}

impl PosixForm {
    fn writes_s3fs(self) -> bool {
        self != PosixForm::Aws
    }

    fn writes_aws(self) -> bool {
        self != PosixForm::S3fs
    }
}

/// What is known of an object beside its user metadata.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Whether its key is that of a directory marker.
    pub directory: bool,
    /// Its length in bytes.
    pub size: u64,
    /// When S3 took it.
    pub last_modified: SystemTime,
}

/// The attributes of an object: from its metadata what is there, from `defaults` and Last-Modified what is not.
#[must_use]
pub fn attributes(user: &UserMetadata, form: Form, defaults: &Defaults) -> Attributes {
    let mode = mode(user);
    let kind = kind(user, mode, form.directory);
    let modified = Timestamp::from(form.last_modified);
    let mtime = timestamp(user, "mtime").or_else(|| aws_time(user, "file-mtime"));
    let mtime = mtime.or_else(|| timestamp(user, "goog-reserved-file-mtime")).unwrap_or(modified);
    Attributes {
        kind,
        size: size(user, kind, form.size),
        mode: mode.map_or(default_mode(kind, defaults), |mode| mode & PERMISSION_BITS),
        uid: id(user, &["uid", "file-owner", "owner", "goog-reserved-posix-uid"]).unwrap_or(defaults.uid),
        gid: id(user, &["gid", "file-group", "group", "goog-reserved-posix-gid"]).unwrap_or(defaults.gid),
        mtime,
        atime: timestamp(user, "atime").or_else(|| aws_time(user, "file-atime")).unwrap_or(mtime),
        ctime: timestamp(user, "ctime").unwrap_or(modified),
        nlink: if kind == Kind::Directory { 2 } else { 1 },
    }
}

/// `user` with the attributes recorded in it in the form `form`, as far as S3 has room for them; what else is there
/// stays.
///
/// In s3fs's form `atime` is recorded where it differs from `mtime`. `ctime` is recorded always: Last-Modified has
/// whole seconds and the store's clock, so that a file which shows it would seem to change once more when the mount
/// asks again, and git, tar and backups look.
#[must_use]
pub fn metadata(mut user: UserMetadata, attributes: &Attributes, form: PosixForm) -> UserMetadata {
    let mode = type_bits(attributes.kind) | attributes.mode & PERMISSION_BITS;
    let (uid, gid) = (attributes.uid.to_string(), attributes.gid.to_string());
    let (mtime, atime) = (attributes.mtime, attributes.atime);
    let s3fs = [mode.to_string(), uid.clone(), gid.clone(), written(mtime), written(atime)];
    let aws = [format!("{mode:07o}"), uid, gid, aws_written(mtime), aws_written(atime)];
    put(&mut user, &S3FS_KEYS, s3fs, form.writes_s3fs());
    put(&mut user, &AWS_KEYS, aws, form.writes_aws());
    if atime == mtime {
        user.remove("atime");
    }
    if let Kind::CharacterDevice(number) | Kind::BlockDevice(number) = attributes.kind {
        user.insert("rdev".into(), number.to_string());
    }
    with_ctime(user, attributes.ctime)
}

/// `user` with the times of a directory recorded in it, and nothing else that it did not have.
#[must_use]
pub(super) fn with_times(mut user: UserMetadata, attributes: &Attributes, form: PosixForm) -> UserMetadata {
    put(&mut user, &["mtime"], [written(attributes.mtime)], form.writes_s3fs());
    put(&mut user, &["file-mtime"], [aws_written(attributes.mtime)], form.writes_aws());
    with_ctime(user, attributes.ctime)
}

/// Writes the entries: all of them if the form is `wanted`, else those that are there.
fn put<const COUNT: usize>(user: &mut UserMetadata, keys: &[&str; COUNT], values: [String; COUNT], wanted: bool) {
    for (key, value) in keys.iter().zip(values) {
        if wanted || user.contains_key(*key) {
            user.insert((*key).to_owned(), value);
        }
    }
}

/// `user` with the time of the last change of attributes or name recorded in it.
#[must_use]
pub(super) fn with_ctime(mut user: UserMetadata, ctime: Timestamp) -> UserMetadata {
    user.insert("ctime".into(), written(ctime));
    fitting(user)
}

/// `user` as S3 takes it. What other programs have written stays whole; the mount's own entries give way. A store that
/// keeps more than S3 does, as what is there shows, takes all of them.
fn fitting(mut user: UserMetadata) -> UserMetadata {
    let is_full = |user: &UserMetadata| metadata_bytes(user) > METADATA_BYTES_MAX;
    if !is_full(&user) {
        return user;
    }
    let all = user.clone();
    if S3FS_KEYS[..4].iter().all(|key| user.contains_key(*key)) {
        AWS_KEYS.iter().for_each(|key| drop(user.remove(*key)));
    }
    let names = GIVING_WAY.into_iter().filter(|names| names[0] != "mode" || !is_special(&all)).flatten();
    for name in names.copied() {
        if is_full(&user)
            && let Some(value) = user.remove(name)
            && name == "mtime"
            && let Some((seconds, _)) = value.split_once('.')
        {
            user.insert(name.into(), seconds.to_owned());
            if is_full(&user) {
                user.remove(name);
            }
        }
    }
    if is_full(&user) { all } else { user }
}

/// Whether only the mode says what the object is.
fn is_special(user: &UserMetadata) -> bool {
    mode(user).is_some_and(|mode| !matches!(mode & TYPE_BITS, 0 | 0o040_000 | 0o100_000))
}

/// The target of a symlink in geesefs's form; in s3fs's form it is the object's body and this is None.
#[must_use]
pub fn symlink_target(user: &UserMetadata) -> Option<String> {
    let target = user.get(SYMLINK_TARGET).filter(|text| !text.is_empty())?;
    Some(percent_decode_str(target).decode_utf8_lossy().into_owned())
}

fn kind(user: &UserMetadata, mode: Option<u32>, directory: bool) -> Kind {
    match mode.map(|mode| mode & TYPE_BITS) {
        _ if directory => Kind::Directory,
        _ if symlink_target(user).is_some() => Kind::Symlink,
        Some(0o120_000) => Kind::Symlink,
        Some(0o010_000) => Kind::Fifo,
        Some(0o140_000) => Kind::Socket,
        Some(0o020_000) => Kind::CharacterDevice(number(user, &["rdev"]).unwrap_or(0)),
        Some(0o060_000) => Kind::BlockDevice(number(user, &["rdev"]).unwrap_or(0)),
        _ => Kind::File,
    }
}

fn type_bits(kind: Kind) -> u32 {
    match kind {
        Kind::File => 0o100_000,
        Kind::Directory => 0o040_000,
        Kind::Symlink => 0o120_000,
        Kind::Fifo => 0o010_000,
        Kind::Socket => 0o140_000,
        Kind::CharacterDevice(_) => 0o020_000,
        Kind::BlockDevice(_) => 0o060_000,
    }
}

fn default_mode(kind: Kind, defaults: &Defaults) -> u32 {
    match kind {
        Kind::Directory => defaults.dir_mode,
        Kind::Symlink => 0o777,
        _ => defaults.file_mode,
    }
}

fn size(user: &UserMetadata, kind: Kind, size: u64) -> u64 {
    match kind {
        Kind::Directory => 0,
        Kind::Symlink => symlink_target(user).map_or(size, |target| target.len() as u64),
        Kind::File => size,
        // As lstat(2) shows on every file system, whatever the body of the object is.
        Kind::Fifo | Kind::Socket | Kind::CharacterDevice(_) | Kind::BlockDevice(_) => 0,
    }
}

fn mode(user: &UserMetadata) -> Option<u32> {
    let of_s3 = |key| user.get(key).and_then(|text: &String| mode_from(text));
    let octal = |key| u32::from_str_radix(user.get(key)?, 8).ok();
    let aws = || octal("file-permissions").filter(|mode| is_mode(*mode));
    of_s3("mode").or_else(aws).or_else(|| of_s3("permissions")).or_else(|| octal("goog-reserved-posix-mode"))
}

/// Decimal as s3fs and geesefs write it; octal, as rclone does, where the decimal reading is no `st_mode`: `100644` is
/// past 16 bits, `40755` has no type of file that exists, and a leading zero says so itself.
fn mode_from(text: &str) -> Option<u32> {
    let decimal = text.parse().ok().filter(|mode| !text.starts_with('0') && is_mode(*mode));
    decimal.or_else(|| u32::from_str_radix(text, 8).ok().filter(|mode| is_mode(*mode)))
}

fn is_mode(mode: u32) -> bool {
    let known = [0, 0o010_000, 0o020_000, 0o040_000, 0o060_000, 0o100_000, 0o120_000, 0o140_000];
    known.contains(&(mode & !PERMISSION_BITS))
}

fn number(user: &UserMetadata, keys: &[&str]) -> Option<u32> {
    keys.iter().find_map(|key| user.get(*key)?.parse().ok())
}

/// An owner or a group. chown(2) takes 4294967295, which is -1, for "leave it as it is"; programs that store it so mean
/// none.
fn id(user: &UserMetadata, keys: &[&str]) -> Option<u32> {
    keys.iter().find_map(|key| number(user, &[key]).filter(|id| *id != u32::MAX))
}

fn timestamp(user: &UserMetadata, key: &str) -> Option<Timestamp> {
    read(user.get(key)?)
}

fn read(text: &str) -> Option<Timestamp> {
    decimal(text).or_else(|| rfc3339(text))
}

/// `1595002920000000000ns`, or milliseconds without a unit ("POSIX metadata support for data repositories", FSx for
/// Lustre User Guide).
fn aws_time(user: &UserMetadata, key: &str) -> Option<Timestamp> {
    let text = user.get(key)?;
    let nanoseconds = match text.strip_suffix("ns") {
        Some(count) => count.parse::<i128>().ok()?,
        None => text.parse::<i128>().ok()?.checked_mul(1_000_000)?,
    };
    let seconds = i64::try_from(nanoseconds.div_euclid(1_000_000_000)).ok()?;
    Some(Timestamp { seconds, nanoseconds: u32::try_from(nanoseconds.rem_euclid(1_000_000_000)).ok()? })
}

/// `-1.5` is one and a half second before 1970. More than nine digits of fraction are cut.
fn decimal(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    match (negative, digits.parse().ok()?) {
        (true, nanoseconds @ 1..) => {
            Some(Timestamp { seconds: seconds.checked_sub(1)?, nanoseconds: 1_000_000_000 - nanoseconds })
        }
        (_, nanoseconds) => Some(Timestamp { seconds, nanoseconds }),
    }
}

fn rfc3339(text: &str) -> Option<Timestamp> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(Timestamp { seconds: time.unix_timestamp(), nanoseconds: time.nanosecond() })
}

fn written(time: Timestamp) -> String {
    match (time.seconds, time.nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        (seconds @ ..0, nanoseconds) => {
            // A decimal number counts its fraction away from zero; -1 + 0.5 is written -0.5.
            let whole = (seconds + 1).unsigned_abs();
            format!("-{whole}.{:09}", 1_000_000_000 - nanoseconds)
        }
        (seconds, nanoseconds) => format!("{seconds}.{nanoseconds:09}"),
    }
}

/// As [`aws_time`] reads it.
fn aws_written(time: Timestamp) -> String {
    format!("{}ns", i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    /// What is left of the mount's own entries beside `bytes` of another program's.
    fn own_beside(bytes: usize) -> Vec<String> {
        let user = UserMetadata::from([("n".to_owned(), "v".repeat(bytes - 1))]);
        let time = |seconds| Timestamp { seconds, nanoseconds: 123_456_789 };
        let form = Form { directory: false, size: 0, last_modified: UNIX_EPOCH };
        let defaults = Defaults { uid: 1000, gid: 1000, file_mode: 0o644, dir_mode: 0o755 };
        let shown = attributes(&UserMetadata::new(), form, &defaults);
        let (mtime, atime, ctime) = (time(1_700_000_000), time(1_700_000_001), time(1_700_000_002));
        let kept = metadata(user, &Attributes { mtime, atime, ctime, ..shown }, PosixForm::S3fs);
        assert!(metadata_bytes(&kept) <= METADATA_BYTES_MAX && kept["n"].len() == bytes - 1, "{bytes}");
        kept.into_iter().filter(|(name, _)| name != "n").map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn own_entries_give_way_in_their_order_when_others_fill_the_metadata() {
        let all = ["atime=1700000001.123456789", "ctime=1700000002.123456789", "gid=1000", "mode=33188"];
        let all = [&all[..], &["mtime=1700000000.123456789", "uid=1000"]].concat();
        assert_eq!(own_beside(METADATA_BYTES_MAX - 98), all);
        assert_eq!(own_beside(METADATA_BYTES_MAX - 97), [all[0], all[2], all[3], all[4], all[5]]);
        assert_eq!(own_beside(METADATA_BYTES_MAX - 72), [all[2], all[3], all[4], all[5]]);
        assert_eq!(own_beside(METADATA_BYTES_MAX - 47), [all[2], all[3], "mtime=1700000000", all[5]]);
        assert_eq!(own_beside(METADATA_BYTES_MAX - 30), [all[2], all[3], all[5]]);
        assert_eq!(own_beside(METADATA_BYTES_MAX - 20), [all[3], all[5]]);
        assert_eq!(own_beside(METADATA_BYTES_MAX - 10), [all[3]]);
        assert_eq!(own_beside(METADATA_BYTES_MAX), [""; 0]);
    }

    #[test]
    fn metadata_of_a_store_that_keeps_more_than_s3_stays_as_it_is() {
        let user = UserMetadata::from([("n".to_owned(), "v".repeat(4000))]);
        assert_eq!(with_ctime(user, Timestamp { seconds: 1, nanoseconds: 0 })["ctime"], "1");
    }

    #[test]
    fn an_owner_of_minus_one_is_none() {
        let user = UserMetadata::from([("uid".to_owned(), u32::MAX.to_string()), ("owner".to_owned(), "7".to_owned())]);
        assert_eq!((id(&user, &["uid", "owner"]), id(&user, &["uid"])), (Some(7), None));
    }

    const DEFAULTS: Defaults = Defaults { uid: 7, gid: 8, file_mode: 0o640, dir_mode: 0o750 };

    fn of(pairs: &[(&str, &str)]) -> UserMetadata {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn shown(pairs: &[(&str, &str)], directory: bool) -> Attributes {
        let form = Form { directory, size: 5, last_modified: UNIX_EPOCH + Duration::from_secs(1000) };
        attributes(&of(pairs), form, &DEFAULTS)
    }

    fn at(seconds: i64, nanoseconds: u32) -> Timestamp {
        Timestamp { seconds, nanoseconds }
    }

    #[test]
    fn an_object_without_metadata_shows_the_defaults_and_last_modified() {
        let file = shown(&[], false);
        let seen = (file.kind, file.size, file.mode, file.uid, file.gid, file.nlink);
        assert_eq!(seen, (Kind::File, 5, 0o640, 7, 8, 1));
        assert_eq!((file.mtime, file.atime, file.ctime), (at(1000, 0), at(1000, 0), at(1000, 0)));
        let directory = shown(&[], true);
        assert_eq!((directory.kind, directory.size, directory.mode, directory.nlink), (Kind::Directory, 0, 0o750, 2));
    }

    #[test]
    fn modes_of_all_writers_are_read() {
        for (value, kind, mode) in [
            ("33188", Kind::File, 0o644),
            ("420", Kind::File, 0o644),
            ("41471", Kind::Symlink, 0o777),
            ("4516", Kind::Fifo, 0o644),
            ("49645", Kind::Socket, 0o755),
            ("8612", Kind::CharacterDevice(0), 0o644),
            ("25008", Kind::BlockDevice(0), 0o660),
            ("100664", Kind::File, 0o664),
            ("0100664", Kind::File, 0o664),
            ("120777", Kind::Symlink, 0o777),
            ("36345", Kind::File, 0o6771),
            ("nonsense", Kind::File, 0o640),
            ("", Kind::File, 0o640),
            ("99999999999", Kind::File, 0o640),
        ] {
            let file = shown(&[("mode", value)], false);
            assert_eq!((file.kind, file.mode), (kind, mode), "{value:?}");
        }
        for value in ["493", "16877", "40755", "33261"] {
            let directory = shown(&[("mode", value)], true);
            assert_eq!((directory.kind, directory.mode), (Kind::Directory, 0o755), "{value:?}");
        }
    }

    #[test]
    fn the_fallbacks_of_other_tools_are_read_where_our_keys_are_absent() {
        let s3sync = shown(&[("permissions", "384"), ("owner", "1"), ("group", "2")], false);
        assert_eq!((s3sync.mode, s3sync.uid, s3sync.gid), (0o600, 1, 2));
        let gsutil = shown(
            &[
                ("goog-reserved-posix-mode", "0600"),
                ("goog-reserved-posix-uid", "3"),
                ("goog-reserved-posix-gid", "4"),
                ("goog-reserved-file-mtime", "55"),
            ],
            false,
        );
        assert_eq!((gsutil.mode, gsutil.uid, gsutil.gid, gsutil.mtime), (0o600, 3, 4, at(55, 0)));
        assert_eq!(shown(&[("uid", "9"), ("owner", "1")], false).uid, 9);
    }

    #[test]
    fn the_form_of_aws_is_read() {
        let aws = [
            ("file-permissions", "0100640"),
            ("file-owner", "500"),
            ("file-group", "501"),
            ("file-mtime", "1595002920000000007ns"),
            ("file-atime", "1595002921250"),
            ("user-agent", "aws-fsx-lustre"),
        ];
        let file = shown(&aws, false);
        assert_eq!((file.kind, file.mode, file.uid, file.gid), (Kind::File, 0o640, 500, 501));
        assert_eq!((file.mtime, file.atime), (at(1_595_002_920, 7), at(1_595_002_921, 250_000_000)));
        // DataSync writes no leading zero.
        assert_eq!(shown(&[("file-permissions", "100755")], false).mode, 0o755);
        assert_eq!(shown(&[("file-permissions", "0040711")], true).mode, 0o711);
        let link = shown(&[("file-permissions", "0120777")], false);
        assert_eq!((link.kind, link.mode), (Kind::Symlink, 0o777));
        assert_eq!(shown(&[("file-mtime", "-1ns")], false).mtime, at(-1, 999_999_999));
    }

    #[test]
    fn own_metadata_wins_over_the_form_of_aws() {
        let own = [("mode", "33184"), ("uid", "1"), ("gid", "2"), ("mtime", "3"), ("atime", "4")];
        let aws = [
            ("file-permissions", "0100777"),
            ("file-owner", "9"),
            ("file-group", "9"),
            ("file-mtime", "9ns"),
            ("file-atime", "9ns"),
        ];
        assert_eq!(shown(&[own, aws].concat(), false), shown(&own, false));
    }

    #[test]
    fn nonsense_in_the_form_of_aws_shows_the_defaults() {
        for text in ["", "ns", "x", "1.5", "9999999999999999999999999999999999999999", "99999999999999999999999999999"]
        {
            let keys = ["file-permissions", "file-owner", "file-group", "file-mtime", "file-atime"];
            let user = keys.map(|key| (key, text));
            let file = shown(&user, false);
            assert_eq!(file, shown(&[], false), "{text:?}");
        }
        assert_eq!(shown(&[("file-permissions", "0777777")], false).mode, 0o640, "no type of file has these bits");
    }

    #[test]
    fn geesefs_symlinks_are_recognised_and_their_targets_decoded() {
        let user = [("--symlink-target", "a%20b/c")];
        assert_eq!(symlink_target(&of(&user)).as_deref(), Some("a b/c"));
        let link = shown(&user, false);
        assert_eq!((link.kind, link.mode, link.size), (Kind::Symlink, 0o777, 5));
        assert_eq!(symlink_target(&of(&[("mode", "41471")])), None);
    }

    #[test]
    fn times_are_read_in_every_form() {
        for (text, time) in [
            ("1795278784.463642284", at(1_795_278_784, 463_642_284)),
            ("5", at(5, 0)),
            ("5.5", at(5, 500_000_000)),
            ("5.", at(5, 0)),
            ("5.1234567891", at(5, 123_456_789)),
            ("-1.5", at(-2, 500_000_000)),
            ("-0.25", at(-1, 750_000_000)),
            ("-3", at(-3, 0)),
            ("2026-01-02T03:04:05.25+01:00", at(1_767_319_445, 250_000_000)),
        ] {
            assert_eq!(shown(&[("mtime", text)], false).mtime, time, "{text}");
        }
        for text in ["", "x", "5.x", "1e9", "--1", "5.-1"] {
            assert_eq!(shown(&[("mtime", text)], false).mtime, at(1000, 0), "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let devices = [Kind::CharacterDevice(259), Kind::BlockDevice(u32::MAX)];
        for kind in [Kind::File, Kind::Directory, Kind::Symlink, Kind::Fifo, Kind::Socket].into_iter().chain(devices) {
            for seconds in [-1_000_000_007, -2, -1, 0, 1, 1_795_278_784] {
                for nanoseconds in [0, 1, 500_000_000, 999_999_999] {
                    round_trip(kind, at(seconds, nanoseconds));
                }
            }
        }
    }

    fn round_trip(kind: Kind, time: Timestamp) {
        let directory = kind == Kind::Directory;
        let size = if matches!(kind, Kind::File | Kind::Symlink) { 5 } else { 0 };
        let base = Attributes { kind, size, mode: 0o4711, uid: 1, gid: 2, ..shown(&[], directory) };
        let before = Attributes { mtime: time, atime: time, ctime: time, ..base };
        let form = Form { directory, size: 5, last_modified: UNIX_EPOCH + Duration::from_secs(1000) };
        for written in [PosixForm::S3fs, PosixForm::Aws, PosixForm::Both] {
            let user = metadata(UserMetadata::new(), &before, written);
            assert_eq!(attributes(&user, form, &DEFAULTS), before, "{user:?}");
        }
    }

    #[test]
    fn the_form_of_aws_is_written_as_its_services_write_it() {
        let file = Attributes { mtime: at(1_595_002_920, 7), atime: at(-1, 999_999_999), ..shown(&[], false) };
        let user = metadata(of(&[("colour", "red")]), &file, PosixForm::Aws);
        let expected = [
            ("colour", "red"),
            ("ctime", "1000"),
            ("file-atime", "-1ns"),
            ("file-group", "8"),
            ("file-mtime", "1595002920000000007ns"),
            ("file-owner", "7"),
            ("file-permissions", "0100640"),
        ];
        assert_eq!(user, of(&expected));
        let directory = metadata(UserMetadata::new(), &shown(&[], true), PosixForm::Aws);
        assert_eq!(directory["file-permissions"], "0040750");
        let both = metadata(UserMetadata::new(), &file, PosixForm::Both);
        assert!(AWS_KEYS.iter().chain(&S3FS_KEYS).all(|key| both.contains_key(*key)), "{both:?}");
    }

    /// Two forms that say different things of one object are read differently by different programs.
    #[test]
    fn an_entry_of_the_other_form_is_renewed_and_none_is_added() {
        let s3fs = [("mode", "33188"), ("uid", "1"), ("mtime", "3")];
        let aws = [("file-permissions", "0100777"), ("file-owner", "9"), ("file-mtime", "9ns")];
        let sync = [("permissions", "511"), ("owner", "5"), ("goog-reserved-file-mtime", "6")];
        let all = [s3fs, aws, sync].concat();
        let changed = Attributes { mode: 0o600, uid: 4, mtime: at(8, 0), ..shown(&all, false) };
        for form in [PosixForm::S3fs, PosixForm::Aws, PosixForm::Both] {
            let user = metadata(of(&all), &changed, form);
            assert_eq!((user["mode"].as_str(), user["uid"].as_str(), user["mtime"].as_str()), ("33152", "4", "8"));
            let seen = (user["file-permissions"].as_str(), user["file-owner"].as_str(), user["file-mtime"].as_str());
            assert_eq!(seen, ("0100600", "4", "8000000000ns"), "{form:?}");
            assert_eq!(user.contains_key("file-group"), form.writes_aws(), "{form:?}");
            assert_eq!(user.contains_key("gid"), form.writes_s3fs(), "{form:?}");
        }
        let user = metadata(of(&sync), &changed, PosixForm::Aws);
        let form = Form { directory: false, size: 5, last_modified: UNIX_EPOCH };
        let read = attributes(&user, form, &DEFAULTS);
        assert_eq!((read.mode, read.uid, read.mtime), (0o600, 4, at(8, 0)), "what is written wins over older tools");
        let times = with_times(of(&aws), &changed, PosixForm::S3fs);
        assert_eq!((times["mtime"].as_str(), times["file-mtime"].as_str()), ("8", "8000000000ns"));
    }

    #[test]
    fn the_other_form_gives_way_where_there_is_no_room_for_both() {
        let file = Attributes { mtime: at(5, 1), atime: at(6, 2), ..shown(&[], false) };
        let with = |length: usize, form| metadata(of(&[("k", &"x".repeat(length))]), &file, form);
        let count = |user: &UserMetadata, keys: &[&str]| keys.iter().filter(|key| user.contains_key(**key)).count();
        assert_eq!(count(&with(1_900, PosixForm::Both), &AWS_KEYS), 5);
        let full = with(1_901, PosixForm::Both);
        assert_eq!((count(&full, &S3FS_KEYS), count(&full, &AWS_KEYS)), (5, 0), "{full:?}");
        assert_eq!(count(&with(1_700, PosixForm::Both), &AWS_KEYS), 5);
        let full = with(1_970, PosixForm::Aws);
        assert_eq!(count(&full, &["ctime", "file-atime"]), 0, "{full:?}");
        assert_eq!(count(&full, &AWS_KEYS), 4, "{full:?}");
        assert!(metadata_bytes(&full) <= METADATA_BYTES_MAX && full["k"].len() == 1_970);
    }

    #[test]
    fn times_are_written_as_both_peers_read_them() {
        let file = Attributes { mtime: at(5, 0), atime: at(6, 70), ..shown(&[], false) };
        let user = metadata(of(&[("ctime", "1"), ("colour", "red")]), &file, PosixForm::S3fs);
        assert_eq!(user.get("mtime").map(String::as_str), Some("5"));
        assert_eq!(user.get("atime").map(String::as_str), Some("6.000000070"));
        assert_eq!(user.get("ctime").map(String::as_str), Some("1000"));
        assert_eq!(user.get("mode").map(String::as_str), Some("33184"));
        assert_eq!(user.get("colour").map(String::as_str), Some("red"));
        let plain = metadata(of(&[("atime", "3")]), &shown(&[], false), PosixForm::S3fs);
        assert_eq!((plain.get("atime"), plain.get("ctime").map(String::as_str)), (None, Some("1000")));
    }
}
