//! Content-Type and the other content headers: what a new file gets, and what every call keeps byte for byte.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::{Arc, Mutex};

use aws_sdk_s3::config::http::HttpRequest;
use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeSerializationInterceptorContextRef,
    BeforeTransmitInterceptorContextMut,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ServerSideEncryption;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use aws_smithy_runtime_api::http::{Headers, NonUtf8HeaderHandling};

use crate::common::{BUCKET, Endpoint, Mount, commit, cp, names, noise, scenario};

/// "K\u{f6}ln" in UTF-8, in Latin-1, and both.
const DISPOSITIONS: [&[u8]; 3] = [
    b"attachment; filename=\"K\xc3\xb6ln.pdf\"",
    b"attachment; filename=\"K\xf6ln.pdf\"",
    b"attachment; filename=\"K\xf6ln\"; filename*=\"K\xc3\xb6ln\"",
];

/// Sends Content-Disposition in bytes of its own, or notes those of an answer.
#[derive(Clone, Debug, Default)]
struct Disposition {
    sent: Option<Vec<u8>>,
    seen: Arc<Mutex<Option<Vec<u8>>>>,
}

#[dyn_dispatch_hint]
impl Intercept for Disposition {
    fn name(&self) -> &'static str {
        "content-disposition"
    }

    fn read_before_execution(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        settings: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        settings.interceptor_state().store_put(NonUtf8HeaderHandling::Skip);
        Ok(())
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(value) = &self.sent {
            insert(context.request_mut(), value);
        }
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        *self.seen.lock().unwrap() = context.response().headers().get_bytes("content-disposition").map(<[u8]>::to_vec);
        Ok(())
    }
}

fn insert(request: &mut HttpRequest, value: &[u8]) {
    let mut all = http::HeaderMap::new();
    for (name, value) in request.headers().iter_bytes() {
        let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        all.append(name, http::HeaderValue::from_bytes(value).unwrap());
    }
    all.insert("content-disposition", http::HeaderValue::from_bytes(value).unwrap());
    *request.headers_mut() = Headers::try_from(all).unwrap();
}

fn put_with_disposition(endpoint: &Endpoint, key: &str, disposition: &[u8]) {
    let key_arn = endpoint.key_arn().to_owned();
    let headers = Disposition { sent: Some(disposition.to_vec()), ..Disposition::default() };
    endpoint.with(|s3| async move {
        let put = s3.put_object().bucket(BUCKET).key(key).body(ByteStream::from_static(b"content"));
        let put = put.server_side_encryption(ServerSideEncryption::AwsKmsDsse).ssekms_key_id(key_arn);
        put.content_type("application/pdf").customize().interceptor(headers).send().await.unwrap();
    });
}

/// Content-Disposition, Content-Type and encryption of an object; the plain client refuses to read the first.
fn raw_head(endpoint: &Endpoint, key: &str) -> (Vec<u8>, String, String) {
    let headers = Disposition::default();
    let seen = Arc::clone(&headers.seen);
    let head = endpoint.with(|s3| async move {
        s3.head_object().bucket(BUCKET).key(key).customize().interceptor(headers).send().await.unwrap()
    });
    let encryption = head.server_side_encryption().map_or_else(String::new, |sse| sse.as_str().to_owned());
    let disposition = seen.lock().unwrap().clone().unwrap_or_default();
    (disposition, head.content_type().unwrap_or_default().to_owned(), encryption)
}

fn content_type(endpoint: &Endpoint, key: &str) -> String {
    endpoint.head(key).unwrap().content_type().unwrap().to_owned()
}

/// The type depended on the size of the file, and changed under chmod and mv.
#[test]
fn a_new_file_has_the_type_of_its_name_whatever_its_size() {
    scenario().mounted(|endpoint, mount| {
        let expected = [("a.html", "text/html"), ("b.PDF", "application/pdf"), ("c", "binary/octet-stream")];
        for (name, wanted) in expected {
            for (size, length) in [("small", 5), ("large", 40 << 20)] {
                let key = format!("{size}-{name}");
                commit(&mount.join(&key), &noise(7, length)).unwrap();
                assert_eq!(content_type(&endpoint, &key), wanted, "{key}");
            }
        }
    });
}

#[test]
fn every_change_of_a_file_keeps_its_type() {
    scenario().mounted(|endpoint, mount| {
        for length in [5, 20 << 20] {
            let key = format!("file-{length}.html");
            let path = mount.join(&key);
            commit(&path, &noise(7, length)).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            assert_eq!(content_type(&endpoint, &key), "text/html", "chmod");
            OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
            assert_eq!(content_type(&endpoint, &key), "text/html", "append");
            let copied = Command::new("cp").args([&path, &mount.join("copy.txt")]).status().unwrap();
            assert!(copied.success());
            assert_eq!(content_type(&endpoint, "copy.txt"), "text/html", "cp within the mount");
            fs::rename(&path, mount.join("moved.txt")).unwrap();
            assert_eq!(content_type(&endpoint, "moved.txt"), "text/html", "mv");
            commit(&mount.join("moved.txt"), b"all new").unwrap();
            assert_eq!(content_type(&endpoint, "moved.txt"), "text/html", "overwrite");
            cp(b"from elsewhere", &mount.join(&format!("new-{length}.json"))).unwrap();
            assert_eq!(content_type(&endpoint, &format!("new-{length}.json")), "application/json");
        }
    });
}

#[test]
fn one_type_for_all_new_files_can_be_asked_for() {
    scenario().options(&["--content-type", "application/octet-stream"]).mounted(|endpoint, mount| {
        commit(&mount.join("a.html"), b"x").unwrap();
        commit(&mount.join("b"), &noise(7, 20 << 20)).unwrap();
        assert_eq!(content_type(&endpoint, "a.html"), "application/octet-stream");
        assert_eq!(content_type(&endpoint, "b"), "application/octet-stream");
        fs::create_dir(mount.join("d")).unwrap();
        assert_eq!(content_type(&endpoint, "d/"), "application/x-directory", "a marker is no file");
    });
}

/// A client that signs the value, as the SDK does.
#[test]
fn the_endpoint_keeps_a_signed_value_that_is_not_ascii() {
    scenario().unmounted(|endpoint| {
        let put = |s3: aws_sdk_s3::Client| async move {
            let put = s3.put_object().bucket(BUCKET).key("a b/\u{f6}").body(ByteStream::from_static(b"content"));
            put.content_disposition("attachment; filename=\"K\u{f6}ln.pdf\"").send().await
        };
        endpoint.with(put).unwrap();
        assert_eq!(raw_head(&endpoint, "a b/\u{f6}").0, DISPOSITIONS[0]);
    });
}

/// HEAD of such a value failed, or the next change could never be stored.
#[test]
fn values_that_are_not_ascii_are_carried_byte_for_byte() {
    scenario().unmounted(|endpoint| {
        for (number, value) in DISPOSITIONS.into_iter().enumerate() {
            put_with_disposition(&endpoint, &format!("file-{number}"), value);
            assert_eq!(raw_head(&endpoint, &format!("file-{number}")).0, value, "the endpoint keeps it");
        }
        let mount = Mount::of(&endpoint);
        assert_eq!(names(&mount.path()), ["file-0", "file-1", "file-2"]);
        for (number, value) in DISPOSITIONS.into_iter().enumerate() {
            let key = format!("file-{number}");
            let path = mount.join(&key);
            assert_eq!(fs::read(&path).unwrap(), b"content");
            let kept = |key: &str, after: &str| {
                let wanted = (value.to_vec(), "application/pdf".to_owned(), "aws:kms:dsse".to_owned());
                assert_eq!(raw_head(&endpoint, key), wanted, "{number} after {after}");
            };
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            kept(&key, "chmod");
            OpenOptions::new().append(true).open(&path).unwrap().write_all(b", more").unwrap();
            kept(&key, "append");
            let (copy, moved) = (format!("copy-{number}"), format!("moved-{number}"));
            assert!(Command::new("cp").args([&path, &mount.join(&copy)]).status().unwrap().success());
            kept(&copy, "cp");
            fs::rename(&path, mount.join(&moved)).unwrap();
            kept(&moved, "mv");
            commit(&mount.join(&moved), &noise(7, 20 << 20)).unwrap();
            kept(&moved, "a large overwrite");
        }
        assert!(mount.end().success());
    });
}
