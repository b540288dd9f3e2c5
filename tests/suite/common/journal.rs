//! Journals of directories' renames as `docs/FORMAT.md` draws them, made by other code than the mount's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_sdk_kms::types::DataKeySpec;
use ring::hmac;
use serde_json::{Value, json};

use super::endpoint::{BUCKET, Endpoint, kms_client};

/// The key of a mount, with what a journal says of it.
#[derive(Clone, Debug)]
pub(crate) struct Signer {
    key: Vec<u8>,
    name: Value,
}

/// What a journal says, and where it is.
#[derive(Clone, Debug)]
pub(crate) struct Said<'a> {
    pub(crate) bucket: &'a str,
    /// The mount's prefix.
    pub(crate) root: &'a str,
    /// Below the journals' prefix.
    pub(crate) name: &'a str,
    pub(crate) phase: &'a str,
    pub(crate) from: &'a str,
    pub(crate) to: &'a str,
    pub(crate) owner: Value,
    pub(crate) objects: Value,
    /// Seconds since it was written.
    pub(crate) age: u64,
    /// Seconds from when it was written to when the move begins, as no honest mount says.
    pub(crate) begun_in: u64,
}

impl Default for Said<'_> {
    fn default() -> Self {
        let (owner, objects) = (gone(), json!({}));
        Said {
            bucket: BUCKET,
            root: "",
            name: "left",
            phase: "copying",
            from: "old/",
            to: "new/",
            owner,
            objects,
            age: 0,
            begun_in: 0,
        }
    }
}

impl Said<'_> {
    pub(crate) fn key(&self) -> String {
        format!("{}.dssefs/rename/{}", self.root, self.name)
    }
}

impl Signer {
    /// A mount of this host with this spill directory.
    pub(crate) fn host(spill: &Path) -> Signer {
        let signer = Signer::of_bytes(&[7; 32]);
        let file = spill.join("rename-key");
        fs::create_dir_all(spill).unwrap();
        fs::set_permissions(spill, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(&file, &signer.key).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        signer
    }

    /// Some host with this key.
    pub(crate) fn of_bytes(key: &[u8]) -> Signer {
        let mut signer = Signer { key: key.to_vec(), name: Value::Null };
        let id: String = signer.mac(&[b"dssefs rename key"])[..32].to_owned();
        signer.name = json!({ "host": { "id": id } });
        signer
    }

    /// A mount of `source` that may call KMS itself.
    pub(crate) fn kms(endpoint: &Endpoint, source: &str) -> Signer {
        Signer::kms_for(endpoint, &[("dssefs:source", source), ("dssefs:purpose", "rename")])
    }

    /// Who has a data key for anything.
    pub(crate) fn kms_for(endpoint: &Endpoint, context: &[(&str, &str)]) -> Signer {
        let arn = endpoint.key_arn().to_owned();
        let made = endpoint.with(|_| async {
            let mut request =
                kms_client(&endpoint.url()).generate_data_key().key_id(&arn).key_spec(DataKeySpec::Aes256);
            for (name, value) in context {
                request = request.encryption_context(*name, *value);
            }
            request.send().await.expect("a data key")
        });
        let wrapped = base64_simd::STANDARD.encode_to_string(made.ciphertext_blob.expect("wrapped").into_inner());
        let key = made.plaintext.expect("a key").into_inner();
        Signer { key, name: json!({ "kms": { "arn": arn, "wrapped": wrapped } }) }
    }

    /// The same key under the name of another.
    pub(crate) fn named_as(&self, other: &Signer) -> Signer {
        Signer { key: self.key.clone(), name: other.name.clone() }
    }

    /// Says of its KMS key what `change` makes of it.
    pub(crate) fn with_wrapped(&self, change: impl FnOnce(&mut Vec<u8>)) -> Signer {
        let mut name = self.name.clone();
        let wrapped = name["kms"]["wrapped"].as_str().expect("a key of KMS");
        let mut wrapped = base64_simd::STANDARD.decode_to_vec(wrapped).unwrap();
        change(&mut wrapped);
        name["kms"]["wrapped"] = base64_simd::STANDARD.encode_to_string(&wrapped).into();
        Signer { key: self.key.clone(), name }
    }

    /// The bytes of the journal.
    pub(crate) fn journal(&self, said: &Said<'_>) -> Vec<u8> {
        let place = [said.bucket.as_bytes(), said.root.as_bytes()];
        let key = said.key();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let text = said.objects.to_string();
        let code = |label: &str, text: &str| {
            self.mac(&[label.as_bytes(), place[0], place[1], key.as_bytes(), text.as_bytes()])
        };
        let line = json!({
            "written": now - said.age,
            "key": self.name,
            "text": { "bytes": text.len(), "mac": code("dssefs rename journal 2, objects", &text) },
            "move": {
                "phase": said.phase, "from": said.from, "to": said.to, "replaces": false,
                "begun": now - said.age - 10 + said.begun_in, "owner": said.owner,
            },
        });
        let line = line.to_string();
        format!("dssefs-rename 2 {} {line}\n{text}", code("dssefs rename journal 2, line", &line)).into_bytes()
    }

    /// HMAC-SHA-256 over each part after its length, in hexadecimal.
    pub(crate) fn mac(&self, parts: &[&[u8]]) -> String {
        let mut message = Vec::new();
        for part in parts {
            message.extend_from_slice(&(part.len() as u64).to_le_bytes());
            message.extend_from_slice(part);
        }
        hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.key), &message).as_ref())
    }

    pub(crate) fn key(&self) -> [u8; 32] {
        self.key[..].try_into().unwrap()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A process of this system that does not run any more.
pub(crate) fn gone() -> Value {
    let system = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let numbering = fs::read_link("/proc/self/ns/pid").unwrap();
    json!({
        "host": "this", "boot": system.trim(), "numbering": numbering.to_str(), "process": u32::MAX, "started": 1,
    })
}

/// A process of which this system knows nothing.
pub(crate) fn elsewhere() -> Value {
    json!({ "host": "elsewhere", "boot": "another", "numbering": "pid:[1]", "process": 1, "started": 1 })
}
