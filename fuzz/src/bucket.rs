//! What others can put into the bucket: journals of renames, and the metadata of objects.

use std::collections::BTreeMap;
use std::time::SystemTime;

use dssefs_fs::namespace::posix::{self, Form, PosixForm};
use dssefs_fs::namespace::xattr::{self, Edit, Error, Expect};
use dssefs_fs::namespace::{Defaults, Kind, LINE_BYTES_MAX, Line};
use dssefs_s3::object::{METADATA_BYTES_MAX, Prefix, UserMetadata, metadata_bytes};

use super::input::Input;

const DEFAULTS: Defaults = Defaults { uid: 7, gid: 8, file_mode: 0o640, dir_mode: 0o750 };

/// What the mount itself keeps in metadata.
const OWN: [&str; 7] = ["mode", "uid", "gid", "mtime", "atime", "ctime", "rdev"];
/// What those take at most, in bytes.
const OWN_BYTES_MAX: usize = 154;
/// What S3 takes, less that.
const ROOM_BYTES: usize = METADATA_BYTES_MAX - OWN_BYTES_MAX;

/// Before a journal is proved, only a short line of it is read; and a holder of the key, who may sign anything, can say
/// nothing that reaches out of the mount. What it says means the same when it is written again.
pub fn intent(data: &[u8]) {
    let parse = || Line::parse(data);
    if let Err(error) = parse() {
        assert!(error.to_string().len() > 10, "{error:?} does not say why");
        return;
    }
    let end = data.iter().position(|byte| *byte == b'\n').unwrap();
    assert!((end as u64) < LINE_BYTES_MAX);
    for root in ["", "team"] {
        let root = Prefix::new(root).unwrap();
        if let Err(error) = parse().unwrap().require_within(&root) {
            assert!(error.to_string().len() > 10, "{error:?} does not say why");
            continue;
        }
        let intent = match parse().unwrap().believed(&data[end + 1..]) {
            Ok(intent) => intent,
            Err(error) => {
                assert!(error.to_string().len() > 10, "{error:?} does not say why");
                continue;
            }
        };
        let (from, to) = (intent.from().unwrap(), intent.to().unwrap());
        for prefix in [&from, &to] {
            assert!(prefix.as_str().starts_with(root.as_str()) && *prefix != root, "{prefix}");
            assert!(prefix.as_str().len() <= 1024);
        }
        assert!(!from.as_str().starts_with(to.as_str()) && !to.as_str().starts_with(from.as_str()));
        assert_eq!(parse().unwrap().believed(&intent.objects_text()).unwrap(), intent);
    }
}

/// Whatever an object's metadata says, its attributes are ones that stat(2) can tell, and are written in a way that
/// reads the same.
pub fn metadata(data: &[u8]) {
    let mut input = Input::new(data);
    let form =
        Form { directory: input.byte() & 1 == 1, size: input.byte().into(), last_modified: SystemTime::UNIX_EPOCH };
    let user = input.metadata();
    let shown = posix::attributes(&user, form, &DEFAULTS);
    assert!(shown.mode <= 0o7777);
    assert_eq!(shown.kind == Kind::Directory, form.directory);
    assert!([shown.mtime, shown.atime, shown.ctime].iter().all(|time| time.nanoseconds < 1_000_000_000), "{shown:?}");
    let target = posix::symlink_target(&user);
    assert!(target.is_none_or(|target| form.directory || shown.size == target.len() as u64));

    for written_form in [PosixForm::S3fs, PosixForm::Aws, PosixForm::Both] {
        let written = posix::metadata(user.clone(), &shown, written_form);
        let read = posix::attributes(&written, form, &DEFAULTS);
        assert_eq!(read.kind, shown.kind, "{user:?} is written as {written:?}");
        let is_whole = written_form != PosixForm::Aws || written.contains_key("file-atime");
        if written.contains_key("ctime") {
            assert!(!is_whole || read == shown, "{user:?} is written as {written:?}, {shown:?} is read as {read:?}");
        } else {
            // It is the first to give way.
            let own_bytes_max = if written_form == PosixForm::Aws { 2 * OWN_BYTES_MAX } else { OWN_BYTES_MAX };
            assert!(metadata_bytes(&user) + own_bytes_max > METADATA_BYTES_MAX, "{user:?} is written as {written:?}");
        }
        assert_eq!(posix::metadata(written.clone(), &shown, written_form), written);
    }
}

/// Each attribute that is listed has a value, each that is set reads as it was set and leaves the others alone, and
/// none takes room that mode, owner and times need.
pub fn xattr(data: &[u8]) {
    let mut input = Input::new(data);
    let verb = input.byte();
    let name = input.text().to_vec();
    let written = input.text().to_vec();
    let user = input.metadata();
    let before = attributes(&user);
    // The names under which the mount reports are refused before an edit is made, also in capital letters.
    let is_reported = name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"dsse."));
    if name.is_empty() || is_reported {
        assert!(!before.contains_key(&name));
        return;
    }
    let expect = [Expect::Any, Expect::Absent, Expect::Present][usize::from(verb >> 1) % 3];
    let mut expected = before.clone();
    let edit = if verb & 1 == 0 {
        expected.remove(&name);
        Edit::Remove { name: name.clone() }
    } else {
        expected.insert(name.clone(), written.clone());
        Edit::Set { name: name.clone(), value: written.clone(), expect }
    };
    match edit.applied(&user) {
        Ok(after) => {
            assert_eq!(attributes(&after), expected, "{user:?} becomes {after:?}");
            assert!(bytes_of(&after) <= ROOM_BYTES.max(bytes_of(&user)), "{after:?}");
            assert!(after.keys().all(|key| user.contains_key(key) || is_header(key)), "{after:?}");
        }
        Err(Error::Exists) => assert!(expect == Expect::Absent && before.contains_key(&name)),
        Err(Error::Absent) => assert!(!before.contains_key(&name)),
        Err(Error::TooLarge | Error::NoRoom) => {
            assert!(name.len() + written.len() + bytes_of(&user) > 600 || user.len() >= 56);
        }
    }
}

/// What a program sees, by the names after `user.`.
fn attributes(user: &UserMetadata) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let listed = xattr::names(user).into_iter();
    let names = listed.map(|name| name.strip_prefix(b"user.").expect("only user attributes are listed").to_vec());
    names.map(|name| (name.clone(), xattr::value(user, &name).expect("what is listed has a value"))).collect()
}

/// Without the names whose values the mount writes anew each time.
fn bytes_of(user: &UserMetadata) -> usize {
    let others = user.iter().filter(|(key, _)| !OWN.contains(&key.as_str()));
    others.map(|(key, value)| key.len() + value.len()).sum()
}

/// `tchar` of RFC 9110, 5.6.2, without capitals.
fn is_header(key: &str) -> bool {
    key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
