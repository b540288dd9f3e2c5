//! Both layers around the blocks of one file.

use crate::secret::{Key, PlainBuf};

use super::block::{Header, Version, associated_data};
use super::{
    BlockId, Error, FILE_ID_BYTES, FileId, Inner, Layer, LayerKey, Outer, PLAIN_BYTES_MAX, Salt, SealedBlock,
    TAG_BYTES, derive, random,
};

/// The keys and the identity of one file. Dropping it destroys the keys, and with them whatever they sealed.
pub struct Envelope {
    file: FileId,
    inner: LayerKey<Inner>,
    outer: LayerKey<Outer>,
}

impl Envelope {
    /// New keys and a new identity, each from its own draw. Neither key is derived from the other.
    ///
    /// # Errors
    /// [`Error::NoRandomness`], [`Error::OutOfMemory`].
    pub fn generate() -> Result<Self, Error> {
        let mut file = [0; FILE_ID_BYTES];
        random::fill(&mut file)?;
        Ok(Envelope { file, inner: LayerKey::generate()?, outer: LayerKey::generate()? })
    }

    /// A new identity under keys derived from two data keys and a new salt, which [`Opener::derived`] asks for. So the
    /// keys have never sealed anything, and the counters of nonces may begin at zero, even if the data keys were given
    /// before.
    ///
    /// # Errors
    /// [`Error::NoRandomness`], [`Error::OutOfMemory`].
    pub fn under_data_keys(inner: &Key, outer: &Key) -> Result<(Self, Salt), Error> {
        let (mut file, salt) = ([0; FILE_ID_BYTES], derive::salt()?);
        random::fill(&mut file)?;
        let (inner, outer) = (derive::layer_key::<Inner>(inner, &salt)?, derive::layer_key::<Outer>(outer, &salt)?);
        Ok((Envelope { file, inner: LayerKey::new(&inner)?, outer: LayerKey::new(&outer)? }, salt))
    }

    /// The identity, by which an [`Opener`] of another process finds its way back.
    pub fn file(&self) -> FileId {
        self.file
    }

    /// Seals `plain` as `block`: the inner layer around the plaintext, the outer layer around the result.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::NoncesExhausted`].
    pub fn seal(&self, block: BlockId, plain: &[u8]) -> Result<SealedBlock, Error> {
        let (version, plain_bytes) = (Version::WRITTEN, length_of(plain)?);
        let mut sealed = SealedBlock::vacant(plain.len());
        let (header, body) = sealed.parts_mut().expect("a vacant block has all its parts");
        let (doubly_sealed, outer_tag) = body.split_at_mut(plain.len() + TAG_BYTES);
        let (text, inner_tag) = doubly_sealed.split_at_mut(plain.len());
        let (inner_counter, tag) =
            self.inner.seal_into(&self.aad::<Inner>(version, block, plain_bytes), plain, text)?;
        inner_tag.copy_from_slice(&tag);
        let outer_aad = self.aad::<Outer>(version, block, plain_bytes);
        let (outer_nonce, tag) = self.outer.seal_in_place(&outer_aad, doubly_sealed)?;
        outer_tag.copy_from_slice(&tag);
        *header = Header { version, generation: block.generation, outer_nonce, inner_counter, plain_bytes }.encode();
        Ok(sealed)
    }

    /// Opens what was sealed as `block` into `plain`, replacing its content and growing it if needed.
    ///
    /// # Errors
    /// [`Error::Refused`] for everything else; `plain` then holds zeros at most.
    pub fn open(&self, block: BlockId, mut sealed: SealedBlock, plain: &mut PlainBuf) -> Result<(), Error> {
        plain.resize(0);
        let (header, body) = sealed.parts_mut().ok_or(Error::Refused)?;
        let plain_len = body.len() - 2 * TAG_BYTES;
        let header = Header::decode(header, plain_len)?;
        if header.generation != block.generation {
            return Err(Error::Refused);
        }
        let outer_aad = self.aad::<Outer>(header.version, block, header.plain_bytes);
        self.outer.open_in_place(header.outer_nonce, &outer_aad, body)?;
        let (text, tags) = body.split_at(plain_len);
        let inner_tag = tags.first_chunk().ok_or(Error::Refused)?;
        plain.grow(plain_len);
        plain.resize(plain_len);
        let inner_aad = self.aad::<Inner>(header.version, block, header.plain_bytes);
        self.inner.open_into(header.inner_counter, &inner_aad, *inner_tag, text, plain.as_mut_slice())
    }

    fn aad<L: Layer>(&self, version: Version, block: BlockId, plain_bytes: u32) -> [u8; 48] {
        associated_data(version, L::FIELD, &self.file, block, plain_bytes)
    }
}

/// Opens what another process has sealed. It cannot seal: its counters of nonces would begin at zero again.
pub struct Opener(Envelope);

impl Opener {
    /// For what an [`Envelope`] of this identity has sealed that was made [under these data
    /// keys](Envelope::under_data_keys) with this salt.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn derived(file: FileId, salt: &Salt, inner: &Key, outer: &Key) -> Result<Self, Error> {
        let (inner, outer) = (derive::layer_key::<Inner>(inner, salt)?, derive::layer_key::<Outer>(outer, salt)?);
        Opener::new(file, &inner, &outer)
    }

    /// For what was sealed under these keys themselves, as earlier versions of this program did with the data keys of
    /// their journals.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(file: FileId, inner: &Key, outer: &Key) -> Result<Self, Error> {
        Ok(Opener(Envelope { file, inner: LayerKey::new(inner)?, outer: LayerKey::new(outer)? }))
    }

    /// See [`Envelope::open`].
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn open(&self, block: BlockId, sealed: SealedBlock, plain: &mut PlainBuf) -> Result<(), Error> {
        self.0.open(block, sealed, plain)
    }
}

fn length_of(plain: &[u8]) -> Result<u32, Error> {
    match u32::try_from(plain.len()) {
        Ok(bytes) if plain.len() <= PLAIN_BYTES_MAX => Ok(bytes),
        _ => Err(Error::TooLong { bytes: plain.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::OVERHEAD_BYTES;
    use std::path::PathBuf;

    const BLOCK: BlockId = BlockId { index: 7, generation: 3 };

    fn key(byte: u8) -> Key {
        Key::fill_with(|bytes| {
            bytes.iter_mut().zip(byte..).for_each(|(to, from)| *to = from);
            Ok::<_, Error>(())
        })
        .unwrap()
    }

    /// Fixed keys and identity. The nonces are fixed with them: both counters start at zero.
    fn fixed() -> Envelope {
        let (inner, outer) = (LayerKey::new(&key(0x20)).unwrap(), LayerKey::new(&key(0x80)).unwrap());
        Envelope { file: *b"golden file no 1", inner, outer }
    }

    fn open(envelope: &Envelope, block: BlockId, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let mut plain = PlainBuf::default();
        let opened = envelope.open(block, SealedBlock::claimed(bytes.to_vec()), &mut plain);
        if opened.is_err() {
            assert!(plain.as_slice().iter().all(|byte| *byte == 0), "a refused block must give no plaintext");
        }
        opened.map(|()| plain.as_slice().to_vec())
    }

    #[test]
    fn a_block_of_any_size_opens_as_what_was_sealed() {
        let envelope = Envelope::generate().unwrap();
        for len in [0, 1, 15, 16, 17, 255, 4095, 4096, 65_535, 65_536, 100_000] {
            let plain: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
            let sealed = envelope.seal(BLOCK, &plain).unwrap();
            assert_eq!(sealed.as_bytes().len(), len + OVERHEAD_BYTES);
            assert_eq!(open(&envelope, BLOCK, sealed.as_bytes()).unwrap(), plain);
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let envelope = Envelope::generate().unwrap();
        let sealed = envelope.seal(BLOCK, b"twenty-two plain bytes").unwrap().as_bytes().to_vec();
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(open(&envelope, BLOCK, &changed), Err(Error::Refused)), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_and_every_extension_is_refused() {
        let envelope = Envelope::generate().unwrap();
        let mut sealed = envelope.seal(BLOCK, b"twenty-two plain bytes").unwrap().as_bytes().to_vec();
        for len in 0..sealed.len() {
            assert!(matches!(open(&envelope, BLOCK, &sealed[..len]), Err(Error::Refused)), "cut to {len}");
        }
        sealed.push(0);
        assert!(matches!(open(&envelope, BLOCK, &sealed), Err(Error::Refused)));
    }

    #[test]
    fn a_block_opens_only_at_its_place_in_its_generation_and_in_its_file() {
        let (envelope, other) = (Envelope::generate().unwrap(), Envelope::generate().unwrap());
        let sealed = envelope.seal(BLOCK, b"content").unwrap().as_bytes().to_vec();
        assert!(matches!(open(&envelope, BlockId { index: 8, ..BLOCK }, &sealed), Err(Error::Refused)));
        assert!(matches!(open(&envelope, BlockId { generation: 2, ..BLOCK }, &sealed), Err(Error::Refused)));
        assert!(matches!(open(&other, BLOCK, &sealed), Err(Error::Refused)));
        let renamed = Envelope { file: *b"another identity", ..fixed() };
        let sealed = fixed().seal(BLOCK, b"content").unwrap();
        assert!(matches!(open(&renamed, BLOCK, sealed.as_bytes()), Err(Error::Refused)));
    }

    #[test]
    fn an_opener_of_another_process_opens_by_identity_and_keys() {
        let (inner, outer) = (key(1), key(2));
        let (envelope, salt) = Envelope::under_data_keys(&inner, &outer).unwrap();
        let sealed = envelope.seal(BLOCK, b"content").unwrap();
        let opener = Opener::derived(envelope.file(), &salt, &inner, &outer).unwrap();
        let mut plain = PlainBuf::default();
        opener.open(BLOCK, SealedBlock::claimed(sealed.as_bytes().to_vec()), &mut plain).unwrap();
        assert_eq!(plain.as_slice(), b"content");
        for wrong in [
            Opener::derived(envelope.file(), &salt, &outer, &inner).unwrap(),
            Opener::derived(envelope.file(), &[0; 32], &inner, &outer).unwrap(),
            Opener::new(envelope.file(), &inner, &outer).unwrap(),
        ] {
            let sealed = SealedBlock::claimed(sealed.as_bytes().to_vec());
            assert!(matches!(wrong.open(BLOCK, sealed, &mut plain), Err(Error::Refused)));
        }
    }

    #[test]
    fn the_outer_layer_alone_does_not_uncover_a_block() {
        let envelope = fixed();
        let mut sealed = envelope.seal(BLOCK, &[b'A'; 64]).unwrap();
        let (header, body) = sealed.parts_mut().unwrap();
        let header = Header::decode(header, 64).unwrap();
        let aad = envelope.aad::<Outer>(header.version, BLOCK, 64);
        let layers_swapped = envelope.inner.open_in_place(header.outer_nonce, &aad, &mut body.to_vec());
        assert!(matches!(layers_swapped, Err(Error::Refused)));
        envelope.outer.open_in_place(header.outer_nonce, &aad, body).unwrap();
        assert!(!body.windows(4).any(|four| four == b"AAAA"));
    }

    #[test]
    fn the_same_content_never_looks_the_same_twice() {
        let envelope = Envelope::generate().unwrap();
        let [first, second] = [0, 1].map(|_| envelope.seal(BLOCK, &[0; 64]).unwrap().as_bytes().to_vec());
        assert_ne!(first[36..], second[36..]);
    }

    #[test]
    fn a_block_beyond_the_limit_is_refused_before_it_is_sealed() {
        let plain = vec![0; PLAIN_BYTES_MAX + 1];
        assert!(matches!(fixed().seal(BLOCK, &plain), Err(Error::TooLong { .. })));
    }

    /// What is sealed in the golden files: their names, their places, their content.
    fn golden() -> impl Iterator<Item = (&'static str, BlockId, Vec<u8>)> {
        let text = (0..=255).cycle().take(4096).collect();
        [("empty", 0, Vec::new()), ("short", 1, b"golden".to_vec()), ("page", 1 << 40, text)]
            .map(|(name, index, plain)| (name, BlockId { index, generation: index + 1 }, plain))
            .into_iter()
    }

    fn golden_file(version: &str, name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/block-{version}-{name}.bin"))
    }

    /// `DSSEFS_BLESS=1` writes the files again, in the format of this build.
    #[test]
    fn what_any_build_has_sealed_opens_in_every_build() {
        let envelope = fixed();
        for (name, block, plain) in golden() {
            if std::env::var_os("DSSEFS_BLESS").is_some() {
                let version = if Version::WRITTEN == Version::V1 { "v1" } else { "v2" };
                std::fs::write(golden_file(version, name), envelope.seal(block, &plain).unwrap().as_bytes()).unwrap();
            }
            for version in ["v1", "v2"] {
                let golden = std::fs::read(golden_file(version, name)).unwrap();
                assert_eq!(open(&envelope, block, &golden).unwrap(), plain, "{version} {name}");
            }
        }
    }

    /// The files pin format v1: a change of a single byte of them is a new format.
    #[test]
    #[cfg(not(feature = "fips"))]
    fn the_golden_files_are_what_is_sealed() {
        let envelope = fixed();
        for (name, block, plain) in golden() {
            let path = golden_file("v1", name);
            assert_eq!(
                std::fs::read(&path).unwrap(),
                envelope.seal(block, &plain).unwrap().as_bytes(),
                "{}",
                path.display()
            );
        }
    }

    /// The nonces of format v2 are the module's, so what can be pinned is where everything else lies.
    #[test]
    #[cfg(feature = "fips")]
    fn the_golden_files_are_what_is_sealed_but_for_the_nonce_and_what_follows_from_it() {
        let envelope = fixed();
        for (name, block, plain) in golden() {
            let golden = std::fs::read(golden_file("v2", name)).unwrap();
            let sealed = envelope.seal(block, &plain).unwrap();
            assert_eq!(golden.len(), sealed.as_bytes().len());
            assert_eq!(golden[..16], sealed.as_bytes()[..16]);
            assert_ne!(golden[16..28], sealed.as_bytes()[16..28], "the module draws a new nonce for each seal");
            assert_eq!(golden[28..36], sealed.as_bytes()[28..36]);
        }
    }

    /// A key that served both layers would undo the second one: who learns it opens both.
    #[test]
    fn new_envelopes_have_another_key_for_each_layer() {
        let of_data_keys = |inner, outer| Envelope::under_data_keys(&key(inner), &key(outer)).unwrap().0;
        for envelope in [Envelope::generate().unwrap(), of_data_keys(1, 2), of_data_keys(1, 1)] {
            let mut sealed = envelope.seal(BLOCK, b"content").unwrap();
            let (header, body) = sealed.parts_mut().unwrap();
            let header = Header::decode(header, 7).unwrap();
            let aad = envelope.aad::<Outer>(header.version, BLOCK, 7);
            let under_inner = envelope.inner.open_in_place(header.outer_nonce, &aad, &mut body.to_vec());
            assert!(matches!(under_inner, Err(Error::Refused)));
            envelope.outer.open_in_place(header.outer_nonce, &aad, body).unwrap();
        }
    }

    #[test]
    fn the_longest_block_is_sealed_and_opened() {
        let plain = vec![7; PLAIN_BYTES_MAX];
        let sealed = fixed().seal(BLOCK, &plain).unwrap();
        assert!(open(&fixed(), BLOCK, sealed.as_bytes()).unwrap() == plain);
    }
}
