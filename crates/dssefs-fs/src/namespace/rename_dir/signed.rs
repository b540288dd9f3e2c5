//! The bytes of a journal: one signed line, and the objects. Pure; `docs/FORMAT.md` draws them.
//!
//! ```text
//! dssefs-rename 2 CODE {"written":...,"key":{...},"text":{"bytes":N,"mac":"CODE"},"move":{...}}
//! {"x/y":{"source":"\"e1\"","copy":"\"e2\""}}
//! ```
//!
//! The first code proves the rest of its line, with the bucket, the mount's prefix and the journal's own key. So a
//! reader knows after at most [`LINE_BYTES_MAX`] bytes whether a mount wrote the journal, and how long it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use dssefs_seal::crypto::{MAC_BYTES, MacKey};

use super::authenticator::KeyName;
use super::form::{FormError, VERSION};
use super::intent::{Heading, Intent, seconds};
use dssefs_s3::object::{Key, Prefix};

/// An HMAC-SHA-256.
type Mac = [u8; MAC_BYTES];

/// The longest first line that is read, in bytes. Two prefixes of 1,024 bytes take up to 12,288 in JSON, a wrapped key
/// 8,192.
pub const LINE_BYTES_MAX: u64 = 32 * 1024;
/// The objects of the largest move take some 40 MB; no more are read, in bytes.
const TEXT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// What the line begins with.
const MAGIC: &str = "dssefs-rename ";
/// How the journals of version 1 begin, which was JSON as a whole.
const VERSION_1: &[u8] = b"{\"version\":1,";
/// How far the store's time of a journal may be from the time in the journal. S3 refuses a request that was signed more
/// than 15 minutes before ("Authenticating Requests", S3 API reference). So its writer did not store a later object.
const WRITTEN_WITHIN: Duration = Duration::from_secs(15 * 60);

const LABEL_OF_LINE: &[u8] = b"dssefs rename journal 2, line";
const LABEL_OF_TEXT: &[u8] = b"dssefs rename journal 2, objects";

/// Where a journal is. Its codes are valid only there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) bucket: &'a str,
    pub(super) root: &'a Prefix,
    pub(super) key: &'a Key,
}

/// The signed line, as it was read. A mount does not act on it before `Line::is_proved`.
#[derive(Debug)]
pub struct Line {
    json: Vec<u8>,
    mac: Mac,
    content: Content,
    /// With the line break, in bytes.
    length: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    /// By the store's clock, in seconds since 1970.
    written: u64,
    key: KeyName,
    text: Text,
    #[serde(rename = "move")]
    heading: Heading,
}

/// The objects.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    bytes: u64,
    mac: String,
}

impl Line {
    /// Reads the line at the beginning of a journal. `start` has its first [`LINE_BYTES_MAX`] bytes at least, or all.
    ///
    /// # Errors
    /// [`FormError`].
    pub fn parse(start: &[u8]) -> Result<Line, FormError> {
        if start.starts_with(VERSION_1) {
            return Err(FormError::Unsigned);
        }
        let end = start.iter().take(LINE_BYTES_MAX as usize).position(|byte| *byte == b'\n');
        let line = &start[..end.ok_or(FormError::NoJournal)?];
        let text = str::from_utf8(line).map_err(|_| FormError::NoJournal)?;
        let mut words = text.strip_prefix(MAGIC).ok_or(FormError::NoJournal)?.splitn(3, ' ');
        match words.next() {
            Some(VERSION) => {}
            version => return Err(FormError::Version(version.unwrap_or_default().chars().take(20).collect())),
        }
        let mac = words.next().and_then(code).ok_or(FormError::NoJournal)?;
        let json = words.next().ok_or(FormError::NoJournal)?.as_bytes().to_vec();
        let content = serde_json::from_slice(&json)?;
        Ok(Line { json, mac, content, length: line.len() as u64 + 1 })
    }

    /// The key that it says it is signed with.
    pub(super) fn key(&self) -> &KeyName {
        &self.content.key
    }

    pub(super) fn heading(&self) -> &Heading {
        &self.content.heading
    }

    /// When it says that it was written.
    pub(super) fn written(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.content.written)).unwrap_or(UNIX_EPOCH)
    }

    /// The length of the line, in bytes; the objects follow.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Whether a mount that has `key` wrote this line at `place`, and the store has had the object since then.
    ///
    /// # Errors
    /// [`FormError::Mac`], [`FormError::PutBack`], [`FormError::Length`], and those of a move that leaves the mount.
    pub(super) fn is_proved(
        &self,
        key: &MacKey,
        place: Place<'_>,
        size: u64,
        stored: SystemTime,
    ) -> Result<(), FormError> {
        if !key.verifies(&parts(LABEL_OF_LINE, place, &self.json), &self.mac) {
            return Err(FormError::Mac);
        }
        let written = self.written();
        let distance = stored.duration_since(written).unwrap_or_else(|earlier| earlier.duration());
        if distance > WRITTEN_WITHIN {
            return Err(FormError::PutBack(distance));
        }
        let bytes = self.content.text.bytes;
        if bytes > TEXT_BYTES_MAX || self.length.checked_add(bytes) != Some(size) {
            return Err(FormError::Length(size));
        }
        self.heading().require_within(place.root)
    }

    /// The whole journal: this line, which was proved, and `text`, which follows it.
    ///
    /// # Errors
    /// [`FormError::Mac`], and [`FormError::Json`] where the holder of the key wrote what it does not mean.
    pub(super) fn intent(self, key: &MacKey, place: Place<'_>, text: &[u8]) -> Result<Intent, FormError> {
        let mac = code(&self.content.text.mac).ok_or(FormError::Mac)?;
        if !key.verifies(&parts(LABEL_OF_TEXT, place, text), &mac) {
            return Err(FormError::Mac);
        }
        self.believed(text)
    }

    /// As `Line::intent`, without the proof: what `text` would mean under this line. For tests of hostile bytes,
    /// which a holder of the key may sign as well.
    ///
    /// # Errors
    /// [`FormError::Json`].
    pub fn believed(self, text: &[u8]) -> Result<Intent, FormError> {
        Ok(Intent { heading: self.content.heading, objects: serde_json::from_slice(text)? })
    }

    /// Whether it stays within the mount at `root`.
    ///
    /// # Errors
    /// [`FormError::Elsewhere`] and [`FormError::Nested`].
    pub fn require_within(&self, root: &Prefix) -> Result<(), FormError> {
        self.heading().require_within(root)
    }
}

/// The bytes of the journal that is at `place`, written at `now`.
pub(super) fn written(intent: &Intent, (name, key): (&KeyName, &MacKey), place: Place<'_>, now: SystemTime) -> Vec<u8> {
    let text = intent.objects_text();
    let mac = hex(&key.mac(&parts(LABEL_OF_TEXT, place, &text)));
    let content = Content {
        written: seconds(now),
        key: name.clone(),
        text: Text { bytes: text.len() as u64, mac },
        heading: intent.heading.clone(),
    };
    let json = serde_json::to_vec(&content).expect("it has no form that JSON lacks");
    let mac = hex(&key.mac(&parts(LABEL_OF_LINE, place, &json)));
    [format!("{MAGIC}{VERSION} {mac} ").as_bytes(), &json, b"\n", &text].concat()
}

fn parts<'a>(label: &'static [u8], place: Place<'a>, text: &'a [u8]) -> [&'a [u8]; 5] {
    [label, place.bucket.as_bytes(), place.root.as_str().as_bytes(), place.key.as_str().as_bytes(), text]
}

fn hex(mac: &Mac) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lower case alone: one code has one text.
fn code(text: &str) -> Option<Mac> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut mac = Mac::default();
    for (byte, pair) in mac.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(mac)
}

#[cfg(test)]
mod tests {
    use super::super::intent::tests::intent;
    use super::*;
    use dssefs_s3::object::ETag;

    fn key_of(byte: u8) -> MacKey {
        MacKey::from_bytes(&[byte; 32]).unwrap()
    }

    const NOW: SystemTime = UNIX_EPOCH;

    fn name() -> KeyName {
        KeyName::Host { id: "h".into() }
    }

    fn keys() -> (Prefix, Key) {
        (Prefix::new("team").unwrap(), Key::new("team/.dssefs/rename/1").unwrap())
    }

    fn read(bytes: &[u8], key: &MacKey, place: Place<'_>, stored: SystemTime) -> Result<Intent, FormError> {
        let line = Line::parse(bytes)?;
        line.is_proved(key, place, bytes.len() as u64, stored)?;
        let text = &bytes[line.length() as usize..];
        line.intent(key, place, text)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (root, key) = keys();
        let place = Place { bucket: "b", root: &root, key: &key };
        let intent = intent("team/a/", "team/b/");
        let bytes = written(&intent, (&name(), &key_of(1)), place, NOW);
        let again = read(&bytes, &key_of(1), place, NOW).unwrap();
        assert_eq!(again, intent);
        assert_eq!(again.objects["x/y"].source(), ETag::new("e1"));
    }

    #[test]
    fn the_bytes_are_the_documented_ones() {
        let (root, key) = keys();
        let place = Place { bucket: "b", root: &root, key: &key };
        let bytes = written(&intent("team/a/", "team/b/"), (&name(), &key_of(1)), place, NOW);
        let text = String::from_utf8(bytes).unwrap();
        let (line, objects) = text.split_once('\n').unwrap();
        assert_eq!(objects, r#"{"x/y":{"source":"\"e1\"","copy":"\"e2\""}}"#);
        let content = line.strip_prefix("dssefs-rename 2 ").unwrap();
        assert_eq!(content.find(' '), Some(64));
        let mac = hex(&key_of(1).mac(&parts(LABEL_OF_TEXT, place, objects.as_bytes())));
        let owner = r#"{"host":"","boot":"","numbering":"","process":0,"started":0}"#;
        let moved = r#""phase":"deleting","from":"team/a/","to":"team/b/","replaces":false,"begun":1800000000"#;
        let key = r#"{"host":{"id":"h"}}"#;
        let text = format!(r#"{{"bytes":{},"mac":"{mac}"}}"#, objects.len());
        let heading = format!(r#"{{{moved},"owner":{owner}}}"#);
        assert_eq!(&content[65..], format!(r#"{{"written":0,"key":{key},"text":{text},"move":{heading}}}"#));
    }

    #[test]
    fn a_changed_byte_another_place_and_another_key_are_refused() {
        let (root, key) = keys();
        let place = Place { bucket: "b", root: &root, key: &key };
        let bytes = written(&intent("team/a/", "team/b/"), (&name(), &key_of(1)), place, NOW);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(read(&changed, &key_of(1), place, NOW).is_err(), "byte {at}");
        }
        let (whole, other) = (Prefix::root(), Key::new("team/.dssefs/rename/2").unwrap());
        for elsewhere in
            [Place { bucket: "c", ..place }, Place { root: &whole, ..place }, Place { key: &other, ..place }]
        {
            assert!(matches!(read(&bytes, &key_of(1), elsewhere, NOW), Err(FormError::Mac)), "{elsewhere:?}");
        }
        assert!(matches!(read(&bytes, &key_of(2), place, NOW), Err(FormError::Mac)));
        let longer = [bytes.as_slice(), b" "].concat();
        assert!(matches!(read(&longer, &key_of(1), place, NOW), Err(FormError::Length(_))));
    }

    #[test]
    fn a_version_that_was_put_back_later_is_refused() {
        let (root, key) = keys();
        let place = Place { bucket: "b", root: &root, key: &key };
        let bytes = written(&intent("team/a/", "team/b/"), (&name(), &key_of(1)), place, NOW + WRITTEN_WITHIN);
        let refused = |seconds| read(&bytes, &key_of(1), place, NOW + Duration::from_secs(seconds)).is_err();
        assert!(!refused(0) && !refused(900) && !refused(1800) && refused(1801));
    }

    #[test]
    fn other_versions_and_other_texts_are_left_alone() {
        let parse = |text: &[u8]| Line::parse(text).unwrap_err();
        assert!(matches!(parse(b"{\"version\":1,\"phase\":\"copying\"}"), FormError::Unsigned));
        assert!(matches!(parse(b"dssefs-rename 3 x\n"), FormError::Version(version) if version == "3"));
        assert!(matches!(parse(b""), FormError::NoJournal));
        assert!(matches!(parse(b"{}"), FormError::NoJournal));
        let endless = vec![b'a'; LINE_BYTES_MAX as usize + 9];
        assert!(matches!(parse(&endless), FormError::NoJournal));
        let short = format!("dssefs-rename 2 {} {{}}\n", "0".repeat(64));
        assert!(matches!(parse(short.as_bytes()), FormError::Json(_)));
    }

    #[test]
    fn the_longest_line_that_is_written_can_be_read() {
        let root = Prefix::root();
        let (long, key) = ("\u{1}".repeat(255), Key::new("k".repeat(1024)).unwrap());
        let path = |last: &str| format!("{long}/{long}/{long}/{}{last}/", "\u{1}".repeat(253));
        let name = KeyName::Kms { arn: "a".repeat(2048), wrapped: "w".repeat(8192) };
        let place = Place { bucket: "b", root: &root, key: &key };
        let bytes = written(&intent(&path("a"), &path("b")), (&name, &key_of(1)), place, NOW);
        assert!(read(&bytes, &key_of(1), place, NOW).is_ok());
    }
}
