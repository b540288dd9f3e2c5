//! Every fault of the store at every operation: one table of what programs, the log, the bucket and the mount make of
//! it.
//!
//! 275 rows. Rows of one operation share a mount. Each has fresh names, and its fault strikes these names alone.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use dssefs_emulator::faults::{Fault, Rule};
use tempfile::TempDir;

use crate::common::{
    ACCESS_KEY, BUCKET, Endpoint, MINUTE, Mount, SECRET_KEY, attribute, attribute_of, commit, deadline, dssefs, errno,
    eventually, noise,
};

/// Just too large for one PutObject.
const LARGE: usize = (16 << 20) + 1;
/// Large enough to be changed by copying most of it.
const COPIED: usize = 17 << 20;
/// What rows write and read: the first so many bytes of it.
static CONTENT: LazyLock<Vec<u8>> = LazyLock::new(|| noise(3, COPIED));

fn content(size: usize) -> &'static [u8] {
    &CONTENT[..size]
}

/// What one struck request says in the log when S3 tells no code.
const SILENT: &str = "";
/// What an error says that has no code of the store.
const UNREACHABLE: &str = "the store cannot be reached";
const LATE: &str = "no answer came in time";

/// How long a fault lasts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lasts {
    /// It strikes once.
    Passing,
    /// It strikes until the faults are cleared.
    Staying,
}
use Lasts::{Passing, Staying};

/// What becomes of the call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ends {
    /// It succeeds.
    Well,
    /// It fails with this number, and the log says this of it.
    Badly(i32, &'static str),
}
use Ends::{Badly, Well};

/// What a program does to have the operation asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Work {
    /// Writes a new small file: PutObject.
    WriteSmall,
    /// Writes a new large one: CreateMultipartUpload, UploadPart, CompleteMultipartUpload.
    WriteLarge,
    /// Changes the beginning of a large one: UploadPartCopy.
    Change,
    /// Changes the beginning of one that has tags: GetObjectTagging.
    ChangeTagged,
    /// chmod(2) of a stored file: CopyObject onto itself.
    Chmod,
    /// rename(2) of a stored file: CopyObject.
    Rename,
    /// read(2) of a stored file: GetObject.
    Read,
    /// stat(2) of a stored file that nobody has seen: HeadObject.
    Stat,
    /// readdir(3) of a directory that nobody has seen: ListObjectsV2.
    List,
    /// unlink(2) of a stored file: DeleteObject.
    Unlink,
}
use Work::{Change, ChangeTagged, Chmod, List, Read as ReadFile, Rename, Stat, Unlink, WriteLarge, WriteSmall};

type Row = (Lasts, Fault, Ends);

fn refused(status: u16, code: &str, message: &str) -> Fault {
    Fault::Failure { status, code: code.to_owned(), message: message.to_owned() }
}

fn late(code: &str) -> Fault {
    Fault::OkWithErrorBody { code: code.to_owned(), message: "scripted".to_owned() }
}

/// Trouble of the way and of the store's own, which every operation can meet.
fn trouble() -> Vec<Row> {
    let slow = || refused(503, "SlowDown", "Please reduce your request rate.");
    let broken = || refused(500, "InternalError", "We encountered an internal error. Please try again.");
    vec![
        (Passing, slow(), Well),
        (Passing, broken(), Well),
        (Passing, Fault::Reset, Well),
        (Passing, Fault::Stall, Well),
        (Passing, Fault::LoseAnswer, Well),
        (Staying, slow(), Badly(libc::EIO, "SlowDown")),
        (Staying, broken(), Badly(libc::EIO, "InternalError")),
        (Staying, Fault::Reset, Badly(libc::EIO, UNREACHABLE)),
        (Staying, Fault::Stall, Badly(libc::EIO, LATE)),
        (Staying, refused(403, "AccessDenied", "Access Denied"), Badly(libc::EACCES, "AccessDenied")),
        (Staying, refused(400, "ExpiredToken", "The provided token has expired."), Badly(libc::EACCES, "ExpiredToken")),
        (
            Staying,
            refused(
                403,
                "RequestTimeTooSkewed",
                "The difference between the request time and the server's is too large.",
            ),
            Badly(libc::EACCES, "RequestTimeTooSkewed"),
        ),
    ]
}

/// The same for requests that are given time for what they move: 16 s more for 16 MiB, which a silent store would take
/// up.
fn quick_trouble() -> Vec<Row> {
    trouble().into_iter().filter(|(_, fault, _)| *fault != Fault::Stall).collect()
}

/// Trouble with KMS, in the words of S3 (facts recorded from S3's answers).
fn kms() -> Vec<Row> {
    const ARN: &str = "arn:aws:kms:us-east-1:111122223333:key/0a1b";
    let denied =
        "User: arn:aws:iam::111122223333:user/u is not authorized to perform: kms:GenerateDataKey on this resource";
    let state = |code, text: &str| refused(400, code, &format!("{ARN} {text}"));
    vec![
        (Passing, Fault::ThrottleKms, Well),
        (Staying, Fault::ThrottleKms, Badly(libc::EIO, "AWS KMS")),
        (Staying, refused(403, "AccessDenied", denied), Badly(libc::EACCES, "kms:GenerateDataKey")),
        (Staying, state("KMS.DisabledException", "is disabled."), Badly(libc::EKEYREVOKED, "KMS.DisabledException")),
        (
            Staying,
            state("KMS.KMSInvalidStateException", "is pending deletion."),
            Badly(libc::EKEYREVOKED, "KMS.KMSInvalidStateException"),
        ),
        (
            Staying,
            state("KMS.KMSInvalidStateException", "is pending import."),
            Badly(libc::EKEYEXPIRED, "KMS.KMSInvalidStateException"),
        ),
        (
            Staying,
            refused(400, "KMS.NotFoundException", "Invalid keyId 'x'"),
            Badly(libc::ENOKEY, "KMS.NotFoundException"),
        ),
        (
            Staying,
            refused(400, "KMS.InvalidKeyUsageException", "is not for encryption"),
            Badly(libc::EKEYREJECTED, "KMS.InvalidKeyUsageException"),
        ),
    ]
}

/// Wrong proofs of encryption, all of them but silence.
fn wrong_answers(key: &str) -> Vec<Row> {
    const OTHER: &str = "arn:aws:kms:us-east-1:111122223333:key/00000000-0000-0000-0000-000000000000";
    let sse = |algorithm: &str, key: &str| Fault::Sse {
        algorithm: Some(algorithm.to_owned()),
        key: Some(key.to_owned()),
        bucket_key: None,
    };
    let plain = Fault::Sse { algorithm: Some("AES256".to_owned()), key: None, bucket_key: None };
    let rejected = Badly(libc::EKEYREJECTED, "was asked for");
    vec![
        (Staying, sse("aws:kms", key), rejected),
        (Staying, sse("aws:kms:dsse", OTHER), rejected),
        (Staying, plain, rejected),
    ]
}

fn silence() -> Fault {
    Fault::Sse { algorithm: None, key: None, bucket_key: None }
}

/// What decides over a write.
fn conditions() -> Vec<Row> {
    vec![
        (
            Staying,
            refused(412, "PreconditionFailed", "At least one of the pre-conditions did not hold"),
            Badly(libc::ESTALE, "PreconditionFailed"),
        ),
        (
            Staying,
            refused(409, "ConditionalRequestConflict", "scripted"),
            Badly(libc::EIO, "ConditionalRequestConflict"),
        ),
    ]
}

fn flipped() -> Vec<Row> {
    vec![
        (Passing, Fault::FlipRequestByte(77), Well),
        (Staying, Fault::FlipRequestByte(77), Badly(libc::EIO, "BadDigest")),
    ]
}

/// Uploads that somebody has aborted, as the store says.
fn aborted() -> Vec<Row> {
    let gone = || refused(404, "NoSuchUpload", "The specified upload does not exist.");
    vec![(Passing, gone(), Well), (Staying, gone(), Badly(libc::EIO, "NoSuchUpload"))]
}

/// Operations that can fail after a status of 200.
fn late_failures() -> Vec<Row> {
    vec![
        (Passing, late("InternalError"), Well),
        (Staying, late("InternalError"), Badly(libc::EIO, "InternalError")),
        (Staying, late("AccessDenied"), Badly(libc::EACCES, "AccessDenied")),
    ]
}

/// A HEAD has no body, so it tells no codes; what may not be asked with HEAD is asked again with a GET.
fn without_codes(rows: Vec<Row>) -> Vec<Row> {
    let told = |row: Row| match row {
        (Staying, fault @ Fault::Failure { status: 400, .. }, _) => (Staying, fault, Badly(libc::EIO, "HTTP 400")),
        (Staying, fault @ Fault::Failure { status, .. }, Badly(number, _)) => {
            let text = if status == 403 { "HTTP 403" } else { SILENT };
            (Staying, fault, Badly(number, text))
        }
        other => other,
    };
    rows.into_iter().map(told).collect()
}

struct Scene {
    endpoint: Endpoint,
    mount: Mount,
    /// Where the mount keeps what the store refuses, if it does.
    kept: Option<TempDir>,
}

impl Scene {
    fn new() -> Scene {
        Scene::with(None)
    }

    /// One in which what the store refuses is kept on the local disk.
    fn keeping() -> Scene {
        Scene::with(Some(TempDir::new().unwrap()))
    }

    fn with(kept: Option<TempDir>) -> Scene {
        let endpoint = Endpoint::start();
        let limits = ["--attempts", "2", "--attempt-timeout", "700ms", "--operation-timeout", "20s"];
        let mut options = [&limits[..], &["--kms-requests-per-second", "0", "--metadata-ttl", "0"]].concat();
        if let Some(directory) = &kept {
            options.extend(["--spill-keys", "kms", "--spill-dir", directory.path().to_str().unwrap()]);
        }
        let mount = Mount::with(&endpoint, &options);
        Scene { endpoint, mount, kept }
    }

    /// Carries out all rows of an operation, also after one that fails; how many, and how many failed.
    fn all(&self, operation: &str, work: Work, rows: Vec<Row>) -> Tally {
        let rows_count = rows.len();
        let mut failed = 0;
        for (number, row) in rows.into_iter().enumerate() {
            let start = Instant::now();
            let name = format!("{work:?}-{operation}-{number}-");
            let told = format!("{name} {row:?}");
            // Only the outcome crosses the border, and the next row has fresh names.
            let outcome = catch_unwind(AssertUnwindSafe(|| self.one(operation, work, &name, row)));
            println!("{} {told} ({:?})", if outcome.is_ok() { "held" } else { "FAILED" }, start.elapsed());
            failed += usize::from(outcome.is_err());
            self.endpoint.clear_faults();
        }
        Tally { rows: rows_count, failed }
    }

    fn one(&self, operation: &str, work: Work, name: &str, (lasts, fault, ends): Row) {
        let Scene { endpoint, mount, .. } = self;
        self.prepare(work, name);
        let logged = mount.log().len();
        let times = if lasts == Passing { 1 } else { 0 };
        endpoint.inject_faults(vec![Rule::on(operation, fault.clone()).key_contains(name).times(times)]);
        let mut open = None;
        let outcome = self.carry_out(work, name, &mut open);
        let what = format!("{operation} {lasts:?} {fault:?}");
        match ends {
            Well => assert_eq!(errno(outcome), 0, "{what}"),
            Badly(number, says) => {
                assert_eq!(errno(outcome), number, "{what}");
                self.assert_told(&what, name, logged, says);
                self.assert_nothing_wrong_is_stored(&what, work, name, open.as_ref(), &fault);
                self.assert_kept(&what, name, Some(says));
            }
        }
        let struck = self.endpoint.struck();
        assert!(struck > 0, "{what} has struck nothing");
        self.assert_lives(name);
        endpoint.clear_faults();
        self.assert_mends(&what, operation, work, name, open, &fault);
        self.assert_kept(&what, name, None);
    }

    /// The local disk has the file with the reason, or nothing of it.
    fn assert_kept(&self, what: &str, name: &str, why: Option<&str>) {
        let Some(directory) = &self.kept else { return };
        let listed = self.recover_list(directory);
        let sessions = listed["sessions"].as_array().unwrap();
        let files = sessions.iter().flat_map(|session| session["files"].as_array().unwrap());
        let key = format!("{name}file");
        let files: Vec<_> = files.filter(|file| file["key"] == key.as_str()).collect();
        match (why, files.as_slice()) {
            (None, []) => {}
            (Some(why), [file]) => {
                assert!(file["reason"].as_str().unwrap().contains(why), "{what}: {file}");
                assert_eq!(file["kept_bytes"], file["size"], "{what}: {file}");
            }
            _ => panic!("{what}: the local disk has {listed}"),
        }
    }

    fn recover_list(&self, directory: &TempDir) -> serde_json::Value {
        let mut command = dssefs();
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command.args(["recover", "--region", "us-east-1", "--force-path-style"]);
        command.args(["--endpoint-url", &self.endpoint.url(), "--kms-endpoint-url", &self.endpoint.url()]);
        let output = command.arg(directory.path()).args(["list", "--json"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What has to be there before.
    fn prepare(&self, work: Work, name: &str) {
        match work {
            WriteSmall | WriteLarge => {}
            Change => {
                self.endpoint.put(&format!("{name}file"), content(COPIED));
            }
            ChangeTagged => self.put_tagged(&format!("{name}file")),
            List => self.endpoint.put(&format!("{name}dir/entry"), b"stored"),
            Chmod | Rename | ReadFile | Stat | Unlink => self.endpoint.put(&format!("{name}file"), content(10_000)),
        }
        if matches!(work, Change | ChangeTagged | Chmod | Rename | Unlink) {
            fs::metadata(self.file(name)).unwrap();
        }
    }

    fn put_tagged(&self, key: &str) {
        let body = content(10_000).to_vec().into();
        self.endpoint.with(|s3| async move {
            let put = s3.put_object().bucket(BUCKET).key(key).tagging("colour=blue").body(body);
            let put = put.server_side_encryption(aws_sdk_s3::types::ServerSideEncryption::AwsKmsDsse);
            put.ssekms_key_id(self.endpoint.key_arn()).send().await.unwrap();
        });
    }

    fn tags(&self, key: &str) -> Vec<(String, String)> {
        let told = self
            .endpoint
            .with(|s3| async move { s3.get_object_tagging().bucket(BUCKET).key(key).send().await.unwrap() });
        told.tag_set().iter().map(|tag| (tag.key().to_owned(), tag.value().to_owned())).collect()
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.mount.join(&format!("{name}file"))
    }

    fn carry_out(&self, work: Work, name: &str, open: &mut Option<File>) -> io::Result<()> {
        let path = self.file(name);
        match work {
            WriteSmall | WriteLarge => {
                let size = if work == WriteSmall { 1_000 } else { LARGE };
                let mut file = File::create(path)?;
                file.write_all(content(size))?;
                open.insert(file).sync_all()
            }
            Change | ChangeTagged => {
                let file = File::options().write(true).open(path)?;
                file.write_all_at(b"changed", 0)?;
                open.insert(file).sync_all()
            }
            Chmod => fs::set_permissions(path, fs::Permissions::from_mode(0o600)),
            Rename => fs::rename(path, self.mount.join(&format!("{name}renamed"))),
            ReadFile => {
                let mut read = Vec::new();
                File::open(path)?.read_to_end(&mut read)?;
                assert!(read == content(10_000), "damaged content was served");
                Ok(())
            }
            Stat => fs::metadata(path).map(drop),
            List => fs::read_dir(self.mount.join(&format!("{name}dir")))?.try_for_each(|entry| entry.map(drop)),
            Unlink => fs::remove_file(path),
        }
    }

    /// One line of the log names the object and says why, and what to do.
    fn assert_told(&self, what: &str, name: &str, logged: usize, says: &str) {
        let is_told = || self.mount.log()[logged..].lines().any(|line| line.contains(name) && line.contains(says));
        eventually(&format!("{what}: a line with {name} and {says:?}"), Duration::from_secs(5), is_told);
        let log = self.mount.log();
        let line = log[logged..].lines().find(|line| line.contains(name) && line.contains(says)).unwrap();
        let coded = !says.is_empty() && !matches!(says, UNREACHABLE | LATE | "was asked for");
        assert!(!coded || line.contains("request "), "{what}: the line names the request: {line}");
    }

    fn assert_nothing_wrong_is_stored(&self, what: &str, work: Work, name: &str, open: Option<&File>, fault: &Fault) {
        let key = format!("{name}file");
        // Through the handle where there is one: after a lost race the name is not the file's any more.
        let attribute = |attribute_name: &str| match open {
            Some(file) => attribute_of(file, attribute_name).unwrap(),
            None => attribute(&self.file(name), attribute_name).unwrap(),
        };
        match work {
            WriteSmall | WriteLarge => {
                // The connection was lost or the answer was late: whether the work was done is not known.
                assert!(self.endpoint.head(&key).is_none(), "{what}: an object was stored");
                assert_eq!(attribute("user.dsse.verdict"), "pending", "{what}");
                assert!(!attribute("user.dsse.last-error").is_empty(), "{what}");
            }
            Change => {
                assert_eq!(attribute("user.dsse.verdict"), "pending", "{what}");
                let stored = self.endpoint.head(&key).is_some();
                assert!(stored || matches!(fault, Fault::Sse { .. }), "{what}: the old object is gone");
            }
            // Without the tags nothing can be written, so that there is nothing pending either.
            ChangeTagged => assert!(self.endpoint.content(&key) == content(10_000), "{what}"),
            Chmod | Rename | ReadFile | Stat | List | Unlink => {}
        }
    }

    /// Another file can be written and read while the fault lasts.
    fn assert_lives(&self, name: &str) {
        let other = self.mount.join("alive");
        commit(&other, name.as_bytes()).unwrap();
        assert_eq!(fs::read(&other).unwrap(), name.as_bytes());
    }

    /// What was changed has kept its tags.
    fn assert_tagged(&self, what: &str, key: &str) {
        assert!(self.endpoint.content(key) == [b"changed", &content(10_000)[7..]].concat(), "{what}");
        assert_eq!(self.tags(key), [("colour".to_owned(), "blue".to_owned())], "{what}");
        self.endpoint.assert_dsse(key);
    }

    /// What was not done can be done now.
    fn assert_mends(&self, what: &str, operation: &str, work: Work, name: &str, open: Option<File>, fault: &Fault) {
        let key = format!("{name}file");
        if let Some(file) = open {
            file.sync_all().unwrap_or_else(|error| panic!("{what}, faults cleared: {error}"));
            drop(file);
            let wanted = match work {
                WriteSmall => content(1_000).to_vec(),
                WriteLarge => content(LARGE).to_vec(),
                ChangeTagged => return self.assert_tagged(what, &key),
                _ => [b"changed", &content(COPIED)[7..]].concat(),
            };
            assert!(self.endpoint.content(&key) == wanted, "{what}, faults cleared: the object is another");
            self.endpoint.assert_dsse(&key);
            assert_eq!(attribute(&self.file(name), "user.dsse.verdict").unwrap(), "compliant", "{what}");
            assert_eq!(attribute(&self.file(name), "user.dsse.local").unwrap(), "none", "{what}");
            // One whose answer was lost has an id that no process here knows, and one that is said to be gone is not
            // aborted: these are for the bucket's lifecycle rules.
            let unknown = operation == "CreateMultipartUpload" && *fault == Fault::LoseAnswer;
            let unknown = unknown || matches!(fault, Fault::Failure { status: 404, .. });
            assert!(unknown || self.endpoint.uploads_of(&key) == 0, "{what}, faults cleared: an upload stays");
        } else if matches!(work, ReadFile | Stat | List) {
            self.carry_out(work, name, &mut None).unwrap_or_else(|error| panic!("{what}, faults cleared: {error}"));
        } else if work == ChangeTagged {
            self.carry_out(work, name, &mut None).unwrap_or_else(|error| panic!("{what}, faults cleared: {error}"));
            self.assert_tagged(what, &key);
        } else if work == Chmod {
            self.carry_out(work, name, &mut None).unwrap_or_else(|error| panic!("{what}, faults cleared: {error}"));
            let mode = fs::metadata(self.file(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{what}");
            assert!(self.endpoint.content(&key) == content(10_000), "{what}");
            self.endpoint.assert_dsse(&key);
        } else if work == Rename {
            let renamed = format!("{name}renamed");
            if self.file(name).exists() {
                self.carry_out(work, name, &mut None).unwrap_or_else(|error| panic!("{what}, faults cleared: {error}"));
            }
            assert!(self.endpoint.content(&renamed) == content(10_000), "{what}");
            self.endpoint.assert_dsse(&renamed);
            assert!(self.endpoint.head(&key).is_none(), "{what}");
        } else if work == Unlink {
            if self.file(name).exists() {
                fs::remove_file(self.file(name)).unwrap();
            }
            assert!(self.endpoint.head(&key).is_none(), "{what}");
        }
    }
}

/// How many rows there were, and how many did not hold.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tally {
    rows: usize,
    failed: usize,
}

impl std::ops::Add for Tally {
    type Output = Tally;

    fn add(self, other: Tally) -> Tally {
        Tally { rows: self.rows + other.rows, failed: self.failed + other.failed }
    }
}

fn matrix(work: impl FnOnce(&Scene) -> Tally + Send + 'static, rows: usize) {
    matrix_in(Scene::new, work, rows);
}

fn matrix_in(scene: fn() -> Scene, work: impl FnOnce(&Scene) -> Tally + Send + 'static, rows: usize) {
    deadline(MINUTE * 8, move || {
        let scene = scene();
        assert_eq!(work(&scene), Tally { rows, failed: 0 }, "the rows that did not hold are marked FAILED");
    });
}

#[test]
fn every_fault_of_put_object() {
    matrix(
        |scene| {
            let key = scene.endpoint.key_arn();
            let silent = (Staying, silence(), Badly(libc::EKEYREJECTED, "was asked for"));
            let rows = [trouble(), kms(), wrong_answers(key), vec![silent], conditions(), flipped()].concat();
            scene.all("PutObject", WriteSmall, rows)
        },
        28,
    );
}

#[test]
fn every_fault_of_beginning_an_upload() {
    matrix(
        |scene| {
            let silent = (Staying, silence(), Badly(libc::EKEYREJECTED, "was asked for"));
            let rows = [trouble(), kms(), wrong_answers(scene.endpoint.key_arn()), vec![silent]].concat();
            scene.all("CreateMultipartUpload", WriteLarge, rows)
        },
        24,
    );
}

#[test]
fn every_fault_of_a_part() {
    matrix(
        |scene| {
            let wrong = wrong_answers(scene.endpoint.key_arn());
            // Some servers say nothing of encryption in the answer to a part; the upload's own was judged.
            let unheard = (Staying, silence(), Well);
            let rows = [quick_trouble(), kms(), wrong, vec![unheard], flipped(), aborted()].concat();
            scene.all("UploadPart", WriteLarge, rows)
        },
        26,
    );
}

#[test]
fn every_fault_of_completing_an_upload() {
    matrix(
        |scene| {
            let wrong = wrong_answers(scene.endpoint.key_arn());
            let silent = (Staying, silence(), Badly(libc::EKEYREJECTED, "was asked for"));
            let rows = [quick_trouble(), kms(), wrong, vec![silent], conditions(), late_failures(), aborted()].concat();
            scene.all("CompleteMultipartUpload", WriteLarge, rows)
        },
        29,
    );
}

#[test]
fn every_fault_of_copies() {
    matrix(
        |scene| {
            let key = scene.endpoint.key_arn();
            let silent = (Staying, silence(), Badly(libc::EKEYREJECTED, "was asked for"));
            let unheard = (Staying, silence(), Well);
            let part = [quick_trouble(), kms(), wrong_answers(key), vec![unheard], late_failures()].concat();
            let copy =
                || [trouble(), kms(), wrong_answers(key), vec![silent.clone()], conditions(), late_failures()].concat();
            scene.all("UploadPartCopy", Change, part)
                + scene.all("CopyObject", Chmod, copy())
                + scene.all("CopyObject", Rename, copy())
        },
        83,
    );
}

#[test]
fn every_fault_of_reading_and_deleting() {
    matrix(
        |scene| {
            let damaged = vec![
                (Passing, Fault::FlipByte(5_000), Well),
                (Passing, Fault::CutBodyAfter(5_000), Well),
                (Staying, Fault::FlipByte(5_000), Badly(libc::EIO, "checksum")),
                (Staying, Fault::CutBodyAfter(5_000), Badly(libc::EIO, UNREACHABLE)),
                (Staying, refused(412, "PreconditionFailed", "scripted"), Badly(libc::ESTALE, "PreconditionFailed")),
            ];
            scene.all("GetObject", ReadFile, [trouble(), kms(), damaged].concat())
                + scene.all("HeadObject", Stat, without_codes(trouble()))
                + scene.all("ListObjectsV2", List, trouble())
                + scene.all("DeleteObject", Unlink, trouble())
        },
        61,
    );
}

#[test]
fn every_fault_of_tags() {
    matrix(|scene| scene.all("GetObjectTagging", ChangeTagged, trouble()), 12);
}

/// Some rows of each operation that writes, once more, with a look at the local disk.
#[test]
fn what_the_store_refused_is_on_the_local_disk_with_the_reason_until_the_store_has_it() {
    let denied = || (Staying, refused(403, "AccessDenied", "Access Denied"), Badly(libc::EACCES, "AccessDenied"));
    let rows = move |more: Vec<Row>| [vec![denied()], more].concat();
    let key_trouble = || kms().into_iter().filter(|row| row.0 == Staying).skip(2).take(1).collect::<Vec<_>>();
    let silent = || vec![(Staying, silence(), Badly(libc::EKEYREJECTED, "was asked for"))];
    matrix_in(
        Scene::keeping,
        move |scene| {
            let lost = || conditions().into_iter().take(1).collect::<Vec<_>>();
            let reset = vec![(Staying, Fault::Reset, Badly(libc::EIO, ""))];
            scene.all("PutObject", WriteSmall, rows([key_trouble(), silent(), lost(), reset].concat()))
                + scene.all("CreateMultipartUpload", WriteLarge, rows(silent()))
                + scene.all("UploadPart", WriteLarge, rows(key_trouble()))
                + scene.all("CompleteMultipartUpload", WriteLarge, rows([silent(), lost()].concat()))
        },
        12,
    );
}

/// Wrong words of the encryption of what is read are told by the verdict, and a mount that refuses such objects does
/// not serve them.
#[test]
fn a_wrong_word_of_encryption_in_the_answer_to_a_read_is_told_and_refused_where_that_is_asked_for() {
    deadline(MINUTE * 3, || {
        let endpoint = Endpoint::start();
        let options = ["--metadata-ttl", "0"];
        let serving = Mount::with(&endpoint, &options);
        let refusing = Mount::with(&endpoint, &[&options[..], &["--on-noncompliant-read", "refuse"]].concat());
        let verdicts = ["not-dsse", "wrong-key", "not-dsse", "not-dsse"];
        let faults = wrong_answers(endpoint.key_arn()).into_iter().map(|row| row.1).chain([silence()]);
        for (number, (fault, verdict)) in faults.zip(verdicts).enumerate() {
            let name = format!("word-{number}");
            endpoint.put(&name, content(10_000));
            let lie = |operations: &[&str]| {
                let rule = |operation: &&str| Rule::on(operation, fault.clone()).key_contains(&name).times(0);
                endpoint.inject_faults(operations.iter().map(rule).collect());
            };
            lie(&["HeadObject"]);
            assert_eq!(attribute(&serving.join(&name), "user.dsse.verdict").unwrap(), verdict, "HeadObject {fault:?}");
            lie(&["HeadObject", "GetObject"]);
            assert!(fs::read(serving.join(&name)).unwrap() == content(10_000), "{fault:?}");
            assert_eq!(attribute(&serving.join(&name), "user.dsse.verdict").unwrap(), verdict, "{fault:?}");
            assert_eq!(errno(fs::read(refusing.join(&name))), libc::EKEYREJECTED, "{fault:?}");
            let says =
                format!("s3://{BUCKET}/{name} is {verdict}, and this mount neither serves nor rewrites such objects");
            eventually("the log tells", MINUTE, || refusing.log().contains(&says));
            // Who has opened it before the store began to lie.
            endpoint.clear_faults();
            let mut open = File::open(refusing.join(&name)).unwrap();
            lie(&["GetObject"]);
            let mut read = Vec::new();
            let read = open.read_to_end(&mut read).map(drop);
            assert!(endpoint.struck() > 0, "GetObject {fault:?} has struck nothing");
            assert_eq!(errno(read), libc::EKEYREJECTED, "GetObject {fault:?}");
            endpoint.clear_faults();
            eventually("it is served again", MINUTE, || {
                fs::read(refusing.join(&name)).is_ok_and(|read| read == content(10_000))
            });
            let again = || attribute(&serving.join(&name), "user.dsse.verdict").unwrap() == "compliant";
            eventually("the verdict is right again", MINUTE, again);
        }
    });
}

/// A large file that becomes a small one needs its upload no more. It is stored whatever becomes of the abort, and what
/// the store did not abort the next mount does.
#[test]
fn every_fault_of_aborting_an_upload() {
    deadline(MINUTE * 5, || {
        let (endpoint, spill) = (Endpoint::start(), TempDir::new().unwrap());
        let limits = ["--attempts", "2", "--attempt-timeout", "700ms", "--operation-timeout", "20s"];
        let options = [&limits[..], &["--spill-dir", spill.path().to_str().unwrap()]].concat();
        let mount = Mount::with(&endpoint, &options);
        let mut left = 0;
        for (number, (lasts, fault, ends)) in trouble().into_iter().enumerate() {
            let key = format!("abandoned-{number}");
            let mut file = File::create(mount.join(&key)).unwrap();
            file.write_all(content(LARGE)).unwrap();
            eventually("it is being uploaded", MINUTE, || endpoint.uploads_of(&key) == 1);
            let times = if lasts == Passing { 1 } else { 0 };
            endpoint
                .inject_faults(vec![Rule::on("AbortMultipartUpload", fault.clone()).key_contains(&key).times(times)]);
            file.set_len(7).unwrap();
            file.sync_all().unwrap();
            drop(file);
            eventually(&format!("{fault:?} has struck"), MINUTE, || endpoint.struck() > 0);
            if ends == Well {
                eventually(&format!("{lasts:?} {fault:?}: no upload stays"), MINUTE, || endpoint.uploads_of(&key) == 0);
            } else {
                let is_told = || mount.log().lines().any(|line| line.contains(&key) && line.contains("not be aborted"));
                eventually(&format!("{lasts:?} {fault:?} is told"), MINUTE, is_told);
                left += endpoint.uploads_of(&key);
            }
            assert!(endpoint.content(&key) == content(7), "{fault:?}");
            commit(&mount.join("alive"), key.as_bytes()).unwrap();
            endpoint.clear_faults();
        }
        assert!(left > 0, "no fault has left anything");
        assert_eq!(endpoint.uploads(), left);
        assert!(mount.end().success());
        let next = Mount::with(&endpoint, &options);
        assert_eq!(endpoint.uploads(), 0, "{}", next.log());
    });
}
