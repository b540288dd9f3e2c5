//! The answers of a KMS that lies.

use dssefs_s3::kms::{DataKey, Error};
use dssefs_s3::policy::KeyArn;

use super::hostile_store::{Answer, KEY, with_hostile_store};
use super::input::Input;

/// What some of the saved answers have as a data key.
const PLANTED: &str = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoxMjM0NTY=";
/// The first characters of a key in base64 of which all bits count.
const CHARACTERS: usize = 42;

/// Whatever KMS answers, a key is usable by the answer's own words, a data key is the one in the answer and can be had
/// again, and no error has a data key in it, not even one that says what could not be read.
pub fn kms(data: &[u8]) {
    let (answer, verb) = Answer::read(&mut Input::new(data));
    let key = KeyArn::new(KEY).unwrap();
    with_hostile_store(|store| {
        let outcome = store.answering(&answer, async |_| match verb % 3 {
            0 => store.kms.resolve("alias/a").await.map(|arn| is_usable(&answer, &arn)),
            1 => store.kms.data_key(&key, &[("a", "b")]).await.map(|made| is_of(&answer, &made)),
            _ => store.kms.unwrap(&key, b"wrapped", &[]).await.map(|key| is_plain_of(&answer, key.expose())),
        });
        if let Err(error) = outcome.0 {
            assert!(error.to_string().len() > 10);
            assert!(verb % 3 == 0 || answer.status >= 300 || is_silent(&error), "{error} {error:?}");
        }
    });
}

fn is_usable(answer: &Answer, arn: &KeyArn) {
    let Some(said) = said(answer) else { return };
    let said = &said["KeyMetadata"];
    assert_eq!(said["Arn"], arn.as_str());
    for (field, usable) in [("KeyState", "Enabled"), ("KeyUsage", "ENCRYPT_DECRYPT"), ("KeySpec", "SYMMETRIC_DEFAULT")]
    {
        assert!(said[field].is_null() || said[field] == usable, "{said}");
    }
}

fn is_of(answer: &Answer, made: &DataKey) {
    is_plain_of(answer, made.key.expose());
    assert!(!made.wrapped.is_empty(), "a key that nobody can bring back");
}

fn is_plain_of(answer: &Answer, key: &[u8]) {
    let plain = base64_simd::STANDARD.encode_to_string(key);
    let Some(said) = said(answer) else { return };
    assert!(said["Plaintext"].as_str().is_some_and(|said| said.starts_with(&plain[..CHARACTERS])), "{said}");
}

/// The words of KMS are passed on, but an answer that is no error has none.
fn is_silent(error: &Error) -> bool {
    let raw = base64_simd::STANDARD.decode_to_vec(PLANTED).unwrap();
    let texts = [error.to_string(), format!("{error:?}")];
    texts.iter().all(|text| !text.contains(&PLANTED[..16]) && !text.contains(str::from_utf8(&raw[..16]).unwrap()))
}

/// None when this reader is stricter than the SDK's, which passes over what it does not ask for.
fn said(answer: &Answer) -> Option<serde_json::Value> {
    serde_json::from_slice(&answer.body).ok()
}
