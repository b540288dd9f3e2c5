//! Every fault of the store at every operation: one table of what programs, the log, the bucket and the mount make of
//! it.
//!
//! Each row is a test, named after the operation and what strikes it: `matrix::put_object::slow_down_once`. Groups of
//! rows are macros, because an operation has the rows of several groups; the macro `operation` makes the tests.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::LazyLock;

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

/// One row: what strikes which operation, by what work, and how the call ends.
struct Row {
    operation: &'static str,
    work: Work,
    lasts: Lasts,
    fault: Fault,
    ends: Ends,
}

/// Faults name the mount's own key by this, which stands for its ARN.
const OWN_KEY: &str = "the key of the mount";
const OTHER_KEY: &str = "arn:aws:kms:us-east-1:111122223333:key/00000000-0000-0000-0000-000000000000";

fn refused(status: u16, code: &str, message: &str) -> Fault {
    Fault::Failure { status, code: code.to_owned(), message: message.to_owned() }
}

fn late(code: &str) -> Fault {
    Fault::OkWithErrorBody { code: code.to_owned(), message: "scripted".to_owned() }
}

fn key_state(code: &str, state: &str) -> Fault {
    refused(400, code, &format!("arn:aws:kms:us-east-1:111122223333:key/0a1b {state}"))
}

fn encrypted(algorithm: &str, key: Option<&str>) -> Fault {
    Fault::Sse { algorithm: Some(algorithm.to_owned()), key: key.map(str::to_owned), bucket_key: None }
}

fn silence() -> Fault {
    Fault::Sse { algorithm: None, key: None, bucket_key: None }
}

fn denied() -> Fault {
    refused(403, "AccessDenied", "Access Denied")
}

fn precondition_failed() -> Fault {
    refused(412, "PreconditionFailed", "At least one of the pre-conditions did not hold")
}

/// What a wrong proof of encryption comes to.
const REJECTED: Ends = Badly(libc::EKEYREJECTED, "was asked for");

/// Makes a test of each row. The function `$course` carries it out.
macro_rules! rows {
    ($operation:literal $work:ident $course:ident => $($name:ident: $lasts:ident, $fault:expr, $ends:expr;)*) => {
        $(
            #[test]
            fn $name() {
                let (operation, work) = ($operation, $work);
                $course(Row { operation, work, lasts: $lasts, fault: $fault, ends: $ends });
            }
        )*
    };
}

/// A module with the rows of these groups for one operation, which this work asks for.
macro_rules! operation {
    ($module:ident: $operation:literal $work:ident $course:ident, $($group:ident)*) => {
        mod $module {
            #[allow(clippy::wildcard_imports, reason = "each group needs another part of the table's words")]
            use super::*;
            $($group! { $operation $work $course })*
        }
    };
}

/// Trouble of the way and of the store's own, which every operation can meet. Requests that are given time for what
/// they move have it without `stalls`: 16 s more for 16 MiB, which a silent store would take up.
macro_rules! trouble {
    ($($at:tt)*) => { rows! { $($at)* =>
        slow_down_once: Passing, refused(503, "SlowDown", "Please reduce your request rate."), Well;
        internal_error_once: Passing, refused(500, "InternalError", "We encountered an internal error."), Well;
        reset_once: Passing, Fault::Reset, Well;
        lost_answer_once: Passing, Fault::LoseAnswer, Well;
        slow_down: Staying, refused(503, "SlowDown", "Please reduce your request rate."), Badly(libc::EIO, "SlowDown");
        internal_error: Staying, refused(500, "InternalError", "We encountered an internal error."),
            Badly(libc::EIO, "InternalError");
        reset: Staying, Fault::Reset, Badly(libc::EIO, UNREACHABLE);
        access_denied: Staying, denied(), Badly(libc::EACCES, "AccessDenied");
        expired_token: Staying, refused(400, "ExpiredToken", "The provided token has expired."),
            Badly(libc::EACCES, "ExpiredToken");
        skewed_clock: Staying, refused(403, "RequestTimeTooSkewed", "The difference of the clocks is too large."),
            Badly(libc::EACCES, "RequestTimeTooSkewed");
    } };
}

/// A store that takes a request and never answers.
macro_rules! stalls {
    ($($at:tt)*) => { rows! { $($at)* =>
        stall_once: Passing, Fault::Stall, Well;
        stall: Staying, Fault::Stall, Badly(libc::EIO, LATE);
    } };
}

/// Trouble with KMS, in the words of S3 (facts recorded from S3's answers).
macro_rules! kms {
    ($($at:tt)*) => { rows! { $($at)* =>
        kms_throttles_once: Passing, Fault::ThrottleKms, Well;
        kms_throttles: Staying, Fault::ThrottleKms, Badly(libc::EIO, "AWS KMS");
        kms_denied: Staying, refused(
            403,
            "AccessDenied",
            "User: arn:aws:iam::111122223333:user/u is not authorized to perform: kms:GenerateDataKey on this resource",
        ), Badly(libc::EACCES, "kms:GenerateDataKey");
        key_disabled: Staying, key_state("KMS.DisabledException", "is disabled."),
            Badly(libc::EKEYREVOKED, "KMS.DisabledException");
        key_pending_deletion: Staying, key_state("KMS.KMSInvalidStateException", "is pending deletion."),
            Badly(libc::EKEYREVOKED, "KMS.KMSInvalidStateException");
        key_pending_import: Staying, key_state("KMS.KMSInvalidStateException", "is pending import."),
            Badly(libc::EKEYEXPIRED, "KMS.KMSInvalidStateException");
        key_not_found: Staying, refused(400, "KMS.NotFoundException", "Invalid keyId 'x'"),
            Badly(libc::ENOKEY, "KMS.NotFoundException");
        key_for_signing: Staying, refused(400, "KMS.InvalidKeyUsageException", "is not for encryption"),
            Badly(libc::EKEYREJECTED, "KMS.InvalidKeyUsageException");
    } };
}

/// A store that does not know DSSE-KMS.
macro_rules! unsupported {
    ($($at:tt)*) => { rows! { $($at)* =>
        algorithm_not_supported: Staying, refused(400, "InvalidEncryptionAlgorithmError", "Supported value: AES256."),
            Badly(libc::EOPNOTSUPP, "InvalidEncryptionAlgorithmError");
    } };
}

/// Wrong proofs of encryption, all of them but silence.
macro_rules! wrong_answers {
    ($($at:tt)*) => { rows! { $($at)* =>
        answer_names_kms: Staying, encrypted("aws:kms", Some(OWN_KEY)), REJECTED;
        answer_names_another_key: Staying, encrypted("aws:kms:dsse", Some(OTHER_KEY)), REJECTED;
        answer_names_aes256: Staying, encrypted("AES256", None), REJECTED;
    } };
}

macro_rules! silence_is_rejected {
    ($($at:tt)*) => { rows! { $($at)* => answer_names_no_encryption: Staying, silence(), REJECTED; } };
}

/// Some servers say nothing of encryption in the answer to a part; the upload's own was judged.
macro_rules! silence_is_accepted {
    ($($at:tt)*) => { rows! { $($at)* => answer_names_no_encryption: Staying, silence(), Well; } };
}

/// What decides over a write.
macro_rules! conditions {
    ($($at:tt)*) => { rows! { $($at)* =>
        lost_race: Staying, precondition_failed(), Badly(libc::ESTALE, "PreconditionFailed");
        conflict: Staying, refused(409, "ConditionalRequestConflict", "scripted"),
            Badly(libc::EIO, "ConditionalRequestConflict");
    } };
}

macro_rules! flipped {
    ($($at:tt)*) => { rows! { $($at)* =>
        flipped_byte_once: Passing, Fault::FlipRequestByte(77), Well;
        flipped_byte: Staying, Fault::FlipRequestByte(77), Badly(libc::EIO, "BadDigest");
    } };
}

/// Uploads that another program has aborted, as the store says.
macro_rules! aborted {
    ($($at:tt)*) => { rows! { $($at)* =>
        upload_aborted_once: Passing, refused(404, "NoSuchUpload", "The specified upload does not exist."), Well;
        upload_aborted: Staying, refused(404, "NoSuchUpload", "The specified upload does not exist."),
            Badly(libc::EIO, "NoSuchUpload");
    } };
}

/// Operations that can fail after a status of 200.
macro_rules! late_failures {
    ($($at:tt)*) => { rows! { $($at)* =>
        late_internal_error_once: Passing, late("InternalError"), Well;
        late_internal_error: Staying, late("InternalError"), Badly(libc::EIO, "InternalError");
        late_access_denied: Staying, late("AccessDenied"), Badly(libc::EACCES, "AccessDenied");
    } };
}

/// Content that is damaged on the way to the reader.
macro_rules! damaged {
    ($($at:tt)*) => { rows! { $($at)* =>
        damaged_byte_once: Passing, Fault::FlipByte(5_000), Well;
        cut_body_once: Passing, Fault::CutBodyAfter(5_000), Well;
        damaged_byte: Staying, Fault::FlipByte(5_000), Badly(libc::EIO, "checksum");
        cut_body: Staying, Fault::CutBodyAfter(5_000), Badly(libc::EIO, UNREACHABLE);
        changed_object: Staying, refused(412, "PreconditionFailed", "scripted"),
            Badly(libc::ESTALE, "PreconditionFailed");
    } };
}

macro_rules! only_denied {
    ($($at:tt)*) => { rows! { $($at)* => access_denied: Staying, denied(), Badly(libc::EACCES, "AccessDenied"); } };
}

macro_rules! only_key_disabled {
    ($($at:tt)*) => { rows! { $($at)* =>
        key_disabled: Staying, key_state("KMS.DisabledException", "is disabled."),
            Badly(libc::EKEYREVOKED, "KMS.DisabledException");
    } };
}

macro_rules! only_lost_race {
    ($($at:tt)*) => { rows! { $($at)* =>
        lost_race: Staying, precondition_failed(), Badly(libc::ESTALE, "PreconditionFailed");
    } };
}

macro_rules! only_reset {
    ($($at:tt)*) => { rows! { $($at)* => reset: Staying, Fault::Reset, Badly(libc::EIO, ""); } };
}

operation!(put_object: "PutObject" WriteSmall struck,
    trouble stalls kms unsupported wrong_answers silence_is_rejected conditions flipped);
operation!(begin_upload: "CreateMultipartUpload" WriteLarge struck,
    trouble stalls kms unsupported wrong_answers silence_is_rejected);
operation!(upload_part: "UploadPart" WriteLarge struck,
    trouble kms wrong_answers silence_is_accepted flipped aborted);
operation!(complete_upload: "CompleteMultipartUpload" WriteLarge struck,
    trouble kms wrong_answers silence_is_rejected conditions late_failures aborted);
operation!(copy_part: "UploadPartCopy" Change struck, trouble kms wrong_answers silence_is_accepted late_failures);
operation!(copy_for_chmod: "CopyObject" Chmod struck,
    trouble stalls kms unsupported wrong_answers silence_is_rejected conditions late_failures);
operation!(copy_for_rename: "CopyObject" Rename struck,
    trouble stalls kms unsupported wrong_answers silence_is_rejected conditions late_failures);
operation!(get_object: "GetObject" ReadFile struck, trouble stalls kms damaged);
operation!(head_object: "HeadObject" Stat struck, trouble stalls);
operation!(list_objects: "ListObjectsV2" List struck, trouble stalls);
operation!(delete_object: "DeleteObject" Unlink struck, trouble stalls);
operation!(get_tags: "GetObjectTagging" ChangeTagged struck, trouble stalls);
operation!(list_annotations: "ListObjectAnnotations" Change struck, trouble stalls);

// Some rows of each operation that writes, once more, with a look at the local disk: what the store refused is there
// with the reason until the store has it.
operation!(kept_put_object: "PutObject" WriteSmall struck_and_kept,
    only_denied only_key_disabled silence_is_rejected only_lost_race only_reset);
operation!(kept_begin_upload: "CreateMultipartUpload" WriteLarge struck_and_kept, only_denied silence_is_rejected);
operation!(kept_upload_part: "UploadPart" WriteLarge struck_and_kept, only_denied only_key_disabled);
operation!(kept_complete_upload: "CompleteMultipartUpload" WriteLarge struck_and_kept,
    only_denied silence_is_rejected only_lost_race);

operation!(abort_upload: "AbortMultipartUpload" WriteLarge abandoned, trouble stalls);

/// Names of a row's objects begin so; its fault strikes these alone.
const NAME: &str = "struck-";

fn struck(row: Row) {
    deadline(MINUTE * 3, move || Scene::new().one(NAME, row));
}

fn struck_and_kept(row: Row) {
    deadline(MINUTE * 3, move || Scene::keeping().one(NAME, row));
}

/// A large file that becomes a small one needs its upload no more. It is stored whatever becomes of the abort, and what
/// the store did not abort the next mount does.
fn abandoned(Row { operation, work, lasts, fault, ends }: Row) {
    assert_eq!(work, WriteLarge);
    deadline(MINUTE * 3, move || {
        let (endpoint, spill) = (Endpoint::start(), TempDir::new().unwrap());
        let options = [&LIMITS[..], &["--spill-dir", spill.path().to_str().unwrap()]].concat();
        let mount = Mount::with(&endpoint, &options);
        let key = format!("{NAME}file");
        let mut file = File::create(mount.join(&key)).unwrap();
        file.write_all(content(LARGE)).unwrap();
        eventually("it is being uploaded", MINUTE, || endpoint.uploads_of(&key) == 1);
        let times = if lasts == Passing { 1 } else { 0 };
        endpoint.inject_faults(vec![Rule::on(operation, fault).key_contains(&key).times(times)]);
        file.set_len(7).unwrap();
        file.sync_all().unwrap();
        drop(file);
        eventually("the fault has struck", MINUTE, || endpoint.struck() > 0);
        if ends == Well {
            eventually("no upload stays", MINUTE, || endpoint.uploads_of(&key) == 0);
        } else {
            let told = mount.line(|line| line.contains(&key) && line.contains("not be aborted"));
            assert!(told.is_some(), "{}", mount.log());
            assert_eq!(endpoint.uploads_of(&key), 1, "the store has aborted nothing");
        }
        assert!(endpoint.content(&key) == content(7));
        commit(&mount.join("alive"), b"alive").unwrap();
        endpoint.clear_faults();
        assert!(mount.end().success());
        let next = Mount::with(&endpoint, &options);
        assert_eq!(endpoint.uploads(), 0, "{}", next.log());
    });
}

/// A HEAD has no body, so it tells no codes; what may not be asked with HEAD is asked again with a GET.
fn without_code(row: Row) -> Row {
    let ends = match (&row.fault, row.ends) {
        (Fault::Failure { status: 400, .. }, Badly(..)) => Badly(libc::EIO, "HTTP 400"),
        (Fault::Failure { status: 403, .. }, Badly(number, _)) => Badly(number, "HTTP 403"),
        (Fault::Failure { .. }, Badly(number, _)) => Badly(number, SILENT),
        (_, ends) => ends,
    };
    Row { ends, ..row }
}

/// Of time and of tries, so that a fault that stays becomes an error soon.
const LIMITS: [&str; 6] = ["--attempts", "2", "--attempt-timeout", "700ms", "--operation-timeout", "20s"];

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
        let mut options = [&LIMITS[..], &["--kms-requests-per-second", "0", "--metadata-ttl", "0"]].concat();
        if let Some(directory) = &kept {
            options.extend(["--spill-keys", "kms", "--spill-dir", directory.path().to_str().unwrap()]);
        }
        let mount = Mount::with(&endpoint, &options);
        Scene { endpoint, mount, kept }
    }

    /// The row with this endpoint's key in its fault, and what is expected of its operation.
    fn of_this_endpoint(&self, mut row: Row) -> Row {
        if let Fault::Sse { key: Some(key), .. } = &mut row.fault
            && key == OWN_KEY
        {
            self.endpoint.key_arn().clone_into(key);
        }
        if row.work == Stat { without_code(row) } else { row }
    }

    fn one(&self, name: &str, row: Row) {
        let Scene { endpoint, mount, .. } = self;
        let Row { operation, work, lasts, fault, ends } = self.of_this_endpoint(row);
        self.prepare(work, name);
        let times = if lasts == Passing { 1 } else { 0 };
        endpoint.inject_faults(vec![Rule::on(operation, fault.clone()).key_contains(name).times(times)]);
        let mut open = None;
        let outcome = self.carry_out(work, name, &mut open);
        let what = format!("{operation} {lasts:?} {fault:?}");
        match ends {
            Well => assert_eq!(errno(outcome), 0, "{what}"),
            Badly(number, says) => {
                assert_eq!(errno(outcome), number, "{what}");
                assert_told(&what, mount, name, says);
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

/// One line of the log names the object and says why, and what to do.
fn assert_told(what: &str, mount: &Mount, name: &str, says: &str) {
    let line = mount.line(|line| line.contains(name) && line.contains(says));
    let line = line.unwrap_or_else(|| panic!("{what}: no line with {name} and {says:?} in\n{}", mount.log()));
    let coded = !says.is_empty() && !matches!(says, UNREACHABLE | LATE | "was asked for");
    assert!(!coded || line.contains("request "), "{what}: the line names the request: {line}");
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
        let (own, other) = (Some(endpoint.key_arn()), Some(OTHER_KEY));
        let named = [("aws:kms", own), ("aws:kms:dsse", other), ("AES256", None)];
        let faults = named.iter().map(|(algorithm, key)| encrypted(algorithm, *key)).chain([silence()]);
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
