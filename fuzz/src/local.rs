//! What lies on the local disk: sealed blocks, the description of a session, the description of a file's changes.

use std::fs;

use dssefs_fs::journal::sessions_to_read;
use dssefs_fs::write::PendingChanges;
use dssefs_seal::crypto::{BlockId, Envelope, Error, OVERHEAD_BYTES, Opener, SealedBlock};
use dssefs_seal::secret::{Key, PlainBuf};

use super::input::{Input, scratch};

/// The golden blocks of both formats and what they were sealed as.
const GOLDEN: [(&[u8], BlockId); 6] = [
    (include_bytes!("../../crates/dssefs-seal/tests/golden/block-v1-empty.bin"), BlockId { index: 0, generation: 1 }),
    (include_bytes!("../../crates/dssefs-seal/tests/golden/block-v1-short.bin"), BlockId { index: 1, generation: 2 }),
    (
        include_bytes!("../../crates/dssefs-seal/tests/golden/block-v1-page.bin"),
        BlockId { index: 1 << 40, generation: (1 << 40) + 1 },
    ),
    (include_bytes!("../../crates/dssefs-seal/tests/golden/block-v2-empty.bin"), BlockId { index: 0, generation: 1 }),
    (include_bytes!("../../crates/dssefs-seal/tests/golden/block-v2-short.bin"), BlockId { index: 1, generation: 2 }),
    (
        include_bytes!("../../crates/dssefs-seal/tests/golden/block-v2-page.bin"),
        BlockId { index: 1 << 40, generation: (1 << 40) + 1 },
    ),
];

/// Descriptions of keys that one session has here.
const EPOCHS_MAX: usize = 4;

/// The key whose bytes count up from `first`.
pub(super) fn counting_key(first: u8) -> Key {
    Key::fill_with(|bytes| {
        bytes.iter_mut().zip(first..).for_each(|(to, from)| *to = from);
        Ok::<_, Error>(())
    })
    .unwrap()
}

/// A block opens only as the very bytes that were sealed, at the place and in the generation that they were sealed for.
pub fn block(data: &[u8]) {
    let opener = Opener::new(*b"golden file no 1", &counting_key(0x20), &counting_key(0x80)).unwrap();
    for (golden, id) in GOLDEN {
        open_golden(&opener, id, data);
        let mut changed = golden.to_vec();
        let mut input = Input::new(data);
        let at = input.below(changed.len());
        let with = input.take(64);
        let end = (at + with.len()).min(changed.len());
        changed[at..end].copy_from_slice(&with[..end - at]);
        open_golden(&opener, id, &changed);
        let elsewhere =
            BlockId { index: id.index ^ u64::from(input.byte()), generation: id.generation ^ u64::from(input.byte()) };
        open_golden(&opener, elsewhere, golden);
        changed.truncate(input.below(changed.len() + 1));
        changed.extend_from_slice(input.rest());
        open_golden(&opener, id, &changed);
    }
}

fn open_golden(opener: &Opener, id: BlockId, bytes: &[u8]) {
    open(opener, id, bytes, GOLDEN.contains(&(bytes, id)));
}

fn open(opener: &Opener, id: BlockId, bytes: &[u8], is_authentic: bool) {
    let mut plain = PlainBuf::default();
    match opener.open(id, SealedBlock::claimed(bytes.to_vec()), &mut plain) {
        Ok(()) => {
            assert!(is_authentic && plain.len() + OVERHEAD_BYTES == bytes.len(), "{id:?} opens what was not sealed");
        }
        Err(Error::Refused) => assert!(!is_authentic, "{id:?} is refused"),
        Err(other) => panic!("{id:?}: {other}"),
    }
    if !is_authentic {
        assert!(plain.as_slice().iter().all(|byte| *byte == 0), "a refused block gives plaintext");
        assert!(plain.capacity() <= bytes.len().next_multiple_of(4096), "a refused block takes memory");
    }
}

/// A block that an attacker with one of the two keys has sealed is refused, and tells nothing; with both it is what was
/// sealed.
pub fn layers(data: &[u8]) {
    let mut input = Input::new(data);
    let id = BlockId { index: input.byte().into(), generation: input.byte().into() };
    let (at, flip) = (input.below(data.len() + OVERHEAD_BYTES), input.byte());
    let plain = input.rest();
    for (inner, outer) in [(1, 2), (1, 3), (3, 2)] {
        let (envelope, salt) = Envelope::under_data_keys(&counting_key(inner), &counting_key(outer)).unwrap();
        let opener = Opener::derived(envelope.file(), &salt, &counting_key(1), &counting_key(2)).unwrap();
        let mut sealed = envelope.seal(id, plain).unwrap().as_bytes().to_vec();
        let is_changed = flip != 0 && at < sealed.len();
        sealed.get_mut(at).into_iter().for_each(|byte| *byte ^= flip);
        open(&opener, id, &sealed, (inner, outer) == (1, 2) && !is_changed);
    }
}

/// What describes a session, and after each NUL what describes its later keys, is read as every JSON reader reads it
/// that can, or refused with the path of the file and a reason.
pub fn session(data: &[u8]) {
    let directory = scratch();
    let own = directory.path().join("session-0");
    fs::create_dir(&own).unwrap();
    let texts: Vec<&[u8]> = data.splitn(EPOCHS_MAX, |byte| *byte == 0).collect();
    for (number, text) in texts.iter().enumerate() {
        let name = if number == 0 { "session.json".to_owned() } else { format!("keys-{number:08}.json") };
        fs::write(own.join(name), text).unwrap();
        fs::write(own.join(format!("segment-{number:08}")), "").unwrap();
    }
    let (mut whole, unusable) = sessions_to_read(directory.path()).unwrap();
    let Some(session) = whole.pop() else {
        let said = unusable[0].to_string();
        assert!(["session.json", "keys-"].iter().any(|name| said.contains(name)), "{said}");
        return;
    };
    assert!(unusable.is_empty() && session.directory == own && session.epochs.len() == texts.len());
    for (number, (epoch, text)) in session.epochs.iter().zip(texts).enumerate() {
        assert!(text.len() <= 64 << 10);
        // A field that no version writes is passed over, and may be no text.
        let Ok(read) = serde_json::from_slice::<serde_json::Value>(text) else { continue };
        if number == 0 {
            assert!(read["version"] == 1 || read["version"] == 2);
            assert_eq!(read["source"], *session.source);
            assert_eq!(read["name"], *session.name);
        }
        for (layer, key) in ["inner", "outer"].iter().zip(&epoch.keys) {
            assert_eq!(serde_json::to_value(key).unwrap()["layer"], *layer);
            assert!(read["keys"].to_string().contains(&serde_json::Value::from(&*key.wrapped).to_string()));
        }
    }
}

/// What describes the changes of a file means the same when it is written again, and names an object and a key that can
/// be.
pub fn kept(data: &[u8]) {
    match PendingChanges::decode(data) {
        Ok(kept) => {
            assert_eq!(PendingChanges::decode(&kept.encode()).unwrap(), kept);
            assert!((1..=1024).contains(&kept.object.key.as_str().len()));
            assert!(kept.policy.context.header().is_none_or(|header| header.len() <= 2048));
        }
        Err(error) => assert!(error.to_string().len() > 10, "{error:?} does not say why"),
    }
}
