//! The extended attributes `user.*` that programs set, as user metadata. Pure.
//!
//! | metadata | attribute | written by |
//! |---|---|---|
//! | `NAME`: the value, percent-encoded | `user.NAME` | geesefs, this mount |
//! | `xattr`: percent-encoded JSON of names to values in Base64 | each name in it that begins with `user.` | s3fs |
//! | any other, as others wrote it | `user.NAME` | |
//!
//! S3 takes header names for metadata, and gives them back in lower case. So what would not survive in a name is
//! percent-encoded (with lower-case digits), and `user.Foo` and `user.foo` are two; so are the first letters of names
//! that are taken for other things.

use std::collections::{BTreeMap, BTreeSet};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use dssefs_s3::object::{COMMIT_NAME, METADATA_BYTES_MAX, UserMetadata, header_length};

/// What mode, owner, group, three times and a device number take at most, names included: 29 bytes of names, 5 for a
/// mode, 10 for each id and for a device, 30 for each time. Kept free for them, so that chmod(2) works on a file with
/// attributes.
const OWN_BYTES_MAX: usize = 29 + 5 + 3 * 10 + 3 * 30;
/// What is left for everything else.
const ROOM_BYTES: usize = METADATA_BYTES_MAX - OWN_BYTES_MAX;
/// How many entries there may be beside the mount's own. The HTTP library reads 100 headers of an answer: up to 35 of
/// them are S3's, and 8 the mount's own. An object with more headers cannot be asked for any more.
const ENTRIES_MAX: usize = 56;

/// The keys under which the mount itself keeps attributes in metadata.
const OWN: [&str; 7] = ["mode", "uid", "gid", "mtime", "atime", "ctime", "rdev"];
/// The keys that it reads beside those.
const READ: [&str; 15] = [
    BLOB,
    COMMIT_NAME,
    "--symlink-target",
    "permissions",
    "owner",
    "group",
    "goog-reserved-posix-mode",
    "goog-reserved-posix-uid",
    "goog-reserved-posix-gid",
    "goog-reserved-file-mtime",
    "file-permissions",
    "file-owner",
    "file-group",
    "file-mtime",
    "file-atime",
];
/// Where s3fs keeps all attributes of an object.
const BLOB: &str = "xattr";
/// What the names of all attributes here begin with.
const USER: &[u8] = b"user.";
/// The start, after `user.`, of the names under which the mount reports. No object's metadata can use such a name.
const REPORTED: &[u8] = b"dsse.";

/// What may stand in a header's name beside letters and digits (`tchar`, RFC 9110, 5.6.2), the escape itself left out.
const NAME_BYTES: &[u8] = b"!#$&'*+-.^_`|~";
/// As Go's `url.PathEscape`, which geesefs uses.
const VALUE_ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b':')
    .remove(b'=')
    .remove(b'@');
/// As RFC 3986 has it, and s3fs reads it.
const BLOB_ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Why attributes were not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// XATTR_CREATE, and it is there.
    #[error("there is an attribute of this name already")]
    Exists,
    /// XATTR_REPLACE or removal, and it is not there.
    #[error("there is no attribute of this name")]
    Absent,
    /// Larger than an object's whole metadata.
    #[error(
        "S3 keeps {ROOM_BYTES} bytes of attributes with an object, names and escapes counted, \
         and this attribute alone is larger; keep it in a file of its own"
    )]
    TooLarge,
    /// No room beside what is there.
    #[error(
        "S3 keeps {ROOM_BYTES} bytes of attributes with an object, names and escapes counted, and the mount takes \
         {ENTRIES_MAX} of them at most; remove others first"
    )]
    NoRoom,
}

/// Whether an attribute has to be there before it is set (setxattr(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    /// It does not matter.
    #[default]
    Any,
    /// It must not (XATTR_CREATE).
    Absent,
    /// It must (XATTR_REPLACE).
    Present,
}

/// A change of one attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// The attribute is this from now on.
    Set {
        /// What follows `user.` in its name.
        name: Vec<u8>,
        /// Any bytes.
        value: Vec<u8>,
        /// What must be true before.
        expect: Expect,
    },
    /// The attribute is gone.
    Remove {
        /// What follows `user.` in its name.
        name: Vec<u8>,
    },
}

/// The full names of the attributes in `user`, each once, in order.
#[must_use]
pub fn names(user: &UserMetadata) -> BTreeSet<Vec<u8>> {
    let plain = user.keys().filter_map(|key| name_of(key));
    // An attribute that s3fs could not read either is none.
    let of_blob = blob(user).into_iter().filter(|(_, value)| base64_simd::STANDARD.check(value.as_bytes()).is_ok());
    let shown = of_blob.filter_map(|(name, _)| name.into_bytes().strip_prefix(USER).map(<[u8]>::to_vec));
    plain.chain(shown).filter(|name| is_shown(name)).map(|name| [USER, &name].concat()).collect()
}

/// The value of `user.NAME`, from s3fs's blob where it is there.
#[must_use]
pub fn value(user: &UserMetadata, name: &[u8]) -> Option<Vec<u8>> {
    if !is_shown(name) {
        return None;
    }
    let of_blob = || base64_simd::STANDARD.decode_to_vec(blob(user).remove(&blob_name(name)?)?).ok();
    of_blob().or_else(|| keys_of(user, name).next().map(|key| unescaped(&user[key])))
}

impl Edit {
    /// `user` with this change made to it.
    ///
    /// # Errors
    /// Nothing is changed when what the edit expects is not so, and when the attribute leaves no room for mode, owner
    /// and times.
    pub fn applied(&self, user: &UserMetadata) -> Result<UserMetadata, Error> {
        let present = value(user, self.name()).is_some();
        match self {
            Edit::Remove { .. } | Edit::Set { expect: Expect::Present, .. } if !present => Err(Error::Absent),
            Edit::Set { expect: Expect::Absent, .. } if present => Err(Error::Exists),
            Edit::Remove { name } => fitting(without(user, name), user).ok_or(Error::NoRoom),
            Edit::Set { name, value, .. } => with(user, name, value),
        }
    }

    fn name(&self) -> &[u8] {
        match self {
            Edit::Set { name, .. } | Edit::Remove { name } => name,
        }
    }
}

/// Whether `user.NAME` is a name under which the mount alone reports: it begins with `user.dsse.`, in capitals and
/// small letters alike. A person who reads a list of attributes, and a tool that ignores case, takes
/// `user.DSSE.verdict` for the mount's word.
#[must_use]
pub fn is_reported(name: &[u8]) -> bool {
    name.get(..REPORTED.len()).is_some_and(|start| start.eq_ignore_ascii_case(REPORTED))
}

/// Whether a program may have an attribute of this name. One in the metadata that may not be is hidden, and stays.
fn is_shown(name: &[u8]) -> bool {
    !name.is_empty() && !is_reported(name)
}

fn without(user: &UserMetadata, name: &[u8]) -> UserMetadata {
    let keys: Vec<String> = keys_of(user, name).cloned().collect();
    let mut after = user.clone();
    after.retain(|key, _| !keys.contains(key));
    let mut blob = blob(user);
    if blob_name(name).and_then(|name| blob.remove(&name)).is_some() {
        put_blob(&mut after, &blob);
    }
    after
}

/// An attribute of s3fs's stays in its blob, where s3fs sees the change.
fn with(user: &UserMetadata, name: &[u8], value: &[u8]) -> Result<UserMetadata, Error> {
    let mut after = without(user, name);
    let mut blob = blob(user);
    match blob_name(name).filter(|name| blob.contains_key(name)) {
        Some(name) => {
            blob.insert(name, base64_simd::STANDARD.encode_to_string(value));
            put_blob(&mut after, &blob);
        }
        None => drop(after.insert(key_of(name), percent_encode(value, VALUE_ESCAPED).to_string())),
    }
    let too_large = room_taken(&with_nothing_else(name, value)) > ROOM_BYTES;
    fitting(after, user).ok_or(if too_large { Error::TooLarge } else { Error::NoRoom })
}

/// `after`, unless it takes more room than there is and more than `user` took: a blob that another
/// program wrote without escapes grows when this mount writes it.
fn fitting(after: UserMetadata, user: &UserMetadata) -> Option<UserMetadata> {
    let fits = room_taken(&after) <= ROOM_BYTES.max(room_taken(user));
    (fits && entries(&after) <= ENTRIES_MAX.max(entries(user))).then_some(after)
}

fn with_nothing_else(name: &[u8], value: &[u8]) -> UserMetadata {
    UserMetadata::from([(key_of(name), percent_encode(value, VALUE_ESCAPED).to_string())])
}

/// The bytes of all metadata but the mount's own.
fn room_taken(user: &UserMetadata) -> usize {
    let others = user.iter().filter(|(key, _)| !OWN.contains(&key.as_str()));
    others.map(|(key, value)| key.len() + header_length(value)).sum()
}

fn entries(user: &UserMetadata) -> usize {
    user.keys().filter(|key| !OWN.contains(&key.as_str())).count()
}

/// The key under which this mount writes an attribute.
fn key_of(name: &[u8]) -> String {
    let key: String =
        name.iter().map(|byte| if survives(*byte) { char::from(*byte).into() } else { escape(*byte) }).collect();
    if is_reserved(&key) { escape(name[0]) + &key[1..] } else { key }
}

fn survives(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || NAME_BYTES.contains(&byte)
}

fn escape(byte: u8) -> String {
    format!("%{byte:02x}")
}

fn is_reserved(key: &str) -> bool {
    OWN.contains(&key) || READ.contains(&key)
}

/// The attribute that a key stands for, if it is one.
fn name_of(key: &str) -> Option<Vec<u8>> {
    (!is_reserved(key)).then(|| unescaped(key))
}

/// All keys that stand for `name`: others may have written it in another way than this mount does.
fn keys_of<'a>(user: &'a UserMetadata, name: &'a [u8]) -> impl Iterator<Item = &'a String> {
    user.keys().filter(move |key| name_of(key).is_some_and(|of_key| of_key == name))
}

/// What is no escape throughout is taken as it is, as geesefs does.
fn unescaped(text: &str) -> Vec<u8> {
    let digits = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    let is_escaped = text.split('%').skip(1).all(digits);
    if is_escaped { percent_decode_str(text).collect() } else { text.as_bytes().to_vec() }
}

/// What s3fs calls an attribute, if it can: its blob is JSON, and so UTF-8.
fn blob_name(name: &[u8]) -> Option<String> {
    String::from_utf8([USER, name].concat()).ok()
}

/// s3fs's attributes; none where the blob is not as s3fs writes it.
fn blob(user: &UserMetadata) -> BTreeMap<String, String> {
    let text = user.get(BLOB).and_then(|text| percent_decode_str(text).decode_utf8().ok());
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

fn put_blob(user: &mut UserMetadata, blob: &BTreeMap<String, String>) {
    if blob.is_empty() {
        user.remove(BLOB);
        return;
    }
    let json =
        serde_json::Value::from_iter(blob.iter().map(|(name, value)| (name.as_str(), value.as_str()))).to_string();
    user.insert(BLOB.to_owned(), percent_encode(json.as_bytes(), BLOB_ESCAPED).to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> UserMetadata {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn set(name: &str, value: &[u8], expect: Expect) -> Edit {
        Edit::Set { name: name.as_bytes().to_vec(), value: value.to_vec(), expect }
    }

    fn put(user: &UserMetadata, name: &str, value: &[u8]) -> UserMetadata {
        set(name, value, Expect::Any).applied(user).unwrap()
    }

    fn remove(user: &UserMetadata, name: &str) -> Result<UserMetadata, Error> {
        Edit::Remove { name: name.as_bytes().to_vec() }.applied(user)
    }

    fn shown(user: &UserMetadata) -> Vec<String> {
        names(user).into_iter().map(|name| String::from_utf8(name).unwrap()).collect()
    }

    #[test]
    fn plain_names_and_values_are_as_geesefs_writes_them() {
        let user = put(&of(&[("mode", "33188")]), "colour.of-it_2", b"a b/c%;$&+:=@~");
        assert_eq!(user, of(&[("mode", "33188"), ("colour.of-it_2", "a%20b%2Fc%25%3B$&+:=@~")]));
        assert_eq!(shown(&user), ["user.colour.of-it_2"]);
    }

    #[test]
    fn every_name_and_value_comes_back_and_its_key_is_a_header_in_lower_case() {
        let all: Vec<u8> = (0..=255).collect();
        let mut user = UserMetadata::new();
        let names = ["foo", "Foo", "FOO", "%46oo", "a b", "ü", "x:y/z", "mode", "Mode", "uid", "xattr", "owner"];
        for name in names.iter().chain(&["--symlink-target", "goog-reserved-file-mtime", "=", "dsse"]) {
            user = put(&user, name, &all[..10]);
            assert_eq!(value(&user, name.as_bytes()).as_deref(), Some(&all[..10]), "{name}");
        }
        assert_eq!(shown(&user).len(), 16);
        assert!(user.keys().all(|key| key.bytes().all(|byte| survives(byte) || byte == b'%') && !is_reserved(key)));
        assert_eq!(value(&put(&UserMetadata::new(), "all", &all), b"all"), Some(all));
        let binary = Edit::Set { name: vec![0xff, 1], value: vec![], expect: Expect::Any };
        assert_eq!(binary.applied(&UserMetadata::new()).unwrap(), of(&[("%ff%01", "")]));
    }

    #[test]
    fn what_is_kept_for_other_things_is_no_attribute() {
        let user = of(&[
            ("mode", "33188"),
            ("mtime", "1"),
            ("owner", "0"),
            ("file-owner", "0"),
            ("--symlink-target", "a"),
            ("dsse.verdict", "compliant"),
        ]);
        assert_eq!(shown(&user), [""; 0]);
        assert_eq!(value(&user, b"mode"), None);
        assert_eq!(value(&user, b"dsse.verdict"), None, "no metadata speaks for the mount");
        assert_eq!(value(&of(&[("%64sse.verdict", "x")]), b"dsse.verdict"), None);
    }

    #[test]
    fn what_others_wrote_is_shown_and_replaced_under_its_one_name() {
        let user = of(&[("100%", "50% of"), ("a%42", "%zz")]);
        assert_eq!(shown(&user), ["user.100%", "user.aB"]);
        assert_eq!(
            (value(&user, b"100%").unwrap(), value(&user, b"aB").unwrap()),
            (b"50% of".to_vec(), b"%zz".to_vec())
        );
        assert_eq!(put(&user, "100%", b"x"), of(&[("100%25", "x"), ("a%42", "%zz")]));
        assert_eq!(remove(&user, "100%").unwrap(), of(&[("a%42", "%zz")]));
    }

    #[test]
    fn a_removal_that_would_not_fit_is_refused() {
        let raw = format!(r#"{{"user.k":"dg==","user.{}":""}}"#, r#"\""#.repeat(400));
        let user = of(&[("xattr", &raw)]);
        assert_eq!(value(&user, b"k"), Some(b"v".to_vec()), "a blob without escapes is read");
        assert_eq!(remove(&user, "k"), Err(Error::NoRoom));
    }

    #[test]
    fn the_blob_of_s3fs_is_read_changed_and_removed_in_place() {
        let user = of(&[("xattr", "%7B%22user.k%22%3A%22dg%3D%3D%22%2C%22system.posix_acl_access%22%3A%22AgAA%22%7D")]);
        assert_eq!((shown(&user), value(&user, b"k")), (vec!["user.k".to_owned()], Some(b"v".to_vec())));
        let changed = put(&user, "k", b"w");
        assert_eq!((changed.len(), value(&changed, b"k")), (1, Some(b"w".to_vec())));
        assert!(changed["xattr"].contains("system.posix"), "what is not ours stays: {changed:?}");
        let added = put(&changed, "other", b"1");
        assert_eq!((added.len(), added.get("other").map(String::as_str)), (2, Some("1")));
        let only = of(&[("xattr", "%7B%22user.k%22%3A%22dg%3D%3D%22%7D")]);
        assert_eq!(remove(&only, "k").unwrap(), UserMetadata::new());
        assert_eq!(put(&only, "k", b"v"), only, "written as s3fs writes it");
        assert_eq!(shown(&of(&[("xattr", "nonsense")])), [""; 0]);
    }

    #[test]
    fn an_attribute_of_the_blob_without_a_readable_value_is_not_listed() {
        let user = of(&[("xattr", "%7B%22user.k%22%3A%22%21%22%7D")]);
        assert_eq!((shown(&user), value(&user, b"k")), (vec![], None));
    }

    #[test]
    fn expectations_are_kept() {
        let user = of(&[("k", "v")]);
        assert_eq!(set("k", b"", Expect::Absent).applied(&user), Err(Error::Exists));
        assert_eq!(set("l", b"", Expect::Present).applied(&user), Err(Error::Absent));
        assert_eq!(set("k", b"w", Expect::Present).applied(&user), Ok(of(&[("k", "w")])));
        assert_eq!(set("l", b"", Expect::Absent).applied(&user), Ok(of(&[("k", "v"), ("l", "")])));
        assert_eq!(remove(&user, "l"), Err(Error::Absent));
    }

    #[test]
    fn room_for_mode_owner_and_times_is_never_given_away() {
        let longest = ROOM_BYTES - 1;
        let own = of(&[("mode", "33188"), ("uid", "1"), ("mtime", "1795278784.463642284")]);
        let full = put(&own, "k", &vec![b'x'; longest]);
        assert_eq!(set("k", &vec![b'x'; longest + 1], Expect::Any).applied(&own), Err(Error::TooLarge));
        assert_eq!(set("l", b"", Expect::Any).applied(&full), Err(Error::NoRoom));
        assert_eq!(put(&full, "k", b"y")["k"], "y");
        let foreign = of(&[("a", &"x".repeat(METADATA_BYTES_MAX - 1))]);
        assert_eq!(put(&foreign, "a", &vec![b'x'; 2000])["a"].len(), 2000, "smaller than before is never refused");
        let spaces = set("k", &vec![b' '; longest / 3 + 1], Expect::Any);
        assert_eq!(spaces.applied(&own), Err(Error::TooLarge), "escapes count");
    }
}
