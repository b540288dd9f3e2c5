//! What docs/SECURITY.md claims of a build with the feature `fips`: `scripts/fips` runs it.

#![allow(unsafe_code, reason = "the module's own indicator has no safe face")]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use dssefs_s3::object::Bucket;
use dssefs_s3::policy::Policy;
use dssefs_s3::s3::{AccessKey, Connection, Gateway, load_as};
use dssefs_seal::crypto::{self, BlockId, Envelope, SealedBlock};
use dssefs_seal::secret::PlainBuf;
use rustls::server::Acceptor;
use rustls::{CipherSuite, NamedGroup};

/// Whether the module counts what `work` asked it for as an approved service (FIPS 140-3 IG, 2.4.C). Its counter is the
/// thread's own.
fn is_approved(work: impl FnOnce()) -> bool {
    // SAFETY: both take nothing and read a counter of this thread.
    let before = unsafe { aws_lc_fips_sys::FIPS_service_indicator_before_call() };
    work();
    // SAFETY: as above.
    let after = unsafe { aws_lc_fips_sys::FIPS_service_indicator_after_call() };
    before != after
}

#[test]
fn the_module_approves_of_keys_of_sealing_and_of_opening() {
    let block = BlockId { index: 1, generation: 2 };
    let mut made = None;
    assert!(is_approved(|| made = Some(Envelope::generate().unwrap())));
    let envelope = made.unwrap();
    let mut sealed = Vec::new();
    assert!(is_approved(|| sealed = envelope.seal(block, b"content").unwrap().as_bytes().to_vec()));
    let mut plain = PlainBuf::default();
    assert!(is_approved(|| envelope.open(block, SealedBlock::claimed(sealed), &mut plain).unwrap()));
    assert_eq!(plain.as_slice(), b"content");
}

/// Why the module draws the nonces itself in this build.
#[test]
fn the_module_does_not_approve_of_a_seal_under_a_nonce_that_it_was_given() {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
    let mut text = *b"content";
    let nonce = Nonce::assume_unique_for_key([1; 12]);
    assert!(!is_approved(|| drop(key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut text).unwrap())));
}

#[test]
fn the_program_and_its_layers_name_the_module() {
    aws_lc_rs::try_fips_mode().unwrap();
    assert!(crypto::LAYERS.contains(crypto::MODULE), "{}", crypto::LAYERS);
    let told = std::process::Command::new(env!("CARGO_BIN_EXE_dssefs")).arg("--version").output().unwrap();
    assert!(String::from_utf8(told.stdout).unwrap().contains(crypto::MODULE));
}

/// The suites and groups in the first message of TLS, as a server reads it.
fn offer(listener: &TcpListener) -> (Vec<CipherSuite>, Vec<NamedGroup>) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut acceptor = Acceptor::default();
    loop {
        acceptor.read_tls(&mut stream).unwrap();
        if let Some(accepted) = acceptor.accept().map_err(|(error, _)| error).unwrap() {
            let hello = accepted.client_hello();
            return (hello.cipher_suites().to_vec(), hello.named_groups().unwrap().to_vec());
        }
    }
}

#[tokio::test]
async fn nothing_that_fips_does_not_approve_of_is_offered_to_the_store() {
    let listener = TcpListener::bind("localhost:0").unwrap();
    let connection = Connection {
        region: Some("us-east-1".into()),
        endpoint_url: Some(format!("https://localhost:{}", listener.local_addr().unwrap().port())),
        force_path_style: true,
        attempts_max: 1,
        attempt_timeout: Duration::from_secs(10),
        ..Connection::default()
    };
    let (heard, offered) = mpsc::channel();
    std::thread::spawn(move || heard.send(offer(&listener)));
    let access_key = AccessKey { id: "AKIA".into(), secret: "secret".into() };
    let config = load_as(&connection, access_key).await.unwrap();
    let gateway = Gateway::new(&config, &connection, Bucket::new("bucket").unwrap(), Policy::default());
    drop(gateway.reach("").await.unwrap_err());
    let (suites, groups) = offered.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(
        suites,
        [
            CipherSuite::TLS13_AES_256_GCM_SHA384,
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            CipherSuite::TLS_EMPTY_RENEGOTIATION_INFO_SCSV,
        ]
    );
    assert_eq!(groups, [NamedGroup::X25519MLKEM768, NamedGroup::secp256r1, NamedGroup::secp384r1]);
}
