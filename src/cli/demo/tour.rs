//! The tour: ordinary programs at work in the mount, and a check of each claim.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::process::geteuid;

use super::guide::Guide;
use super::stage::{ACCESS_KEY, BUCKET, REGION, SECRET_KEY, Stage};
use super::{head, spill};

/// Longer than the mount, and after it the kernel, believe what they know, so that the next look asks the store.
const STALE: Duration = Duration::from_millis(2_200);
/// Too small for a part of an upload, so that each stays on this side until it is closed.
const OPEN_FILE_BYTES: usize = 4 << 20;
/// Together twice the memory of the mount and more.
const OPEN_FILES: usize = 20;
const MARKER: &[u8] = b"PATIENT RECORD 4711, CONFIDENTIAL. ";

/// Walks through all chapters, or until the user interrupts.
pub(super) fn take(guide: &mut Guide, stage: &Stage<'_>) {
    let chapters: [fn(&mut Guide, &Stage<'_>); 8] =
        [words, copies, changes, trees, claims, answers, listings, leftovers];
    for chapter in chapters {
        if guide.goes_on() {
            chapter(guide, stage);
        }
    }
}

fn words(guide: &mut Guide, _: &Stage<'_>) {
    guide.chapter("Files are files");
    let said = guide.shell(
        "echo 'The quick brown fox' > hello.txt && echo 'jumps over the lazy dog' >> hello.txt && cat hello.txt",
    );
    guide.check(
        "what was written is read",
        said.success && said.text == "The quick brown fox\njumps over the lazy dog\n",
    );
    let said = guide.shell("grep -n lazy hello.txt");
    guide.check("grep finds its line", said.text == "2:jumps over the lazy dog\n");
}

fn copies(guide: &mut Guide, stage: &Stage<'_>) {
    guide.chapter("A larger file, copied in and compared");
    let original = stage.scratch().join("report.bin");
    let original = original.display();
    let said = guide.shell(&format!("head -c 20000000 /dev/urandom > {original} && cp {original} report.bin"));
    guide.check("cp says that all went well, so the object is in S3", said.success);
    let said = guide.shell(&format!("sha256sum report.bin {original}"));
    let digests: Vec<&str> = said.text.lines().filter_map(|line| line.split(' ').next()).collect();
    guide.check("both have the same SHA-256", matches!(digests.as_slice(), [a, b] if a == b && a.len() == 64));
}

fn changes(guide: &mut Guide, stage: &Stage<'_>) {
    guide.chapter("A change in the middle");
    let original = stage.scratch().join("report.bin");
    let patch = "printf 'corrected figures' | dd bs=1 seek=9999999 conv=notrunc status=none";
    let said = guide.shell(&format!("{patch} of=report.bin && {patch} of={}", original.display()));
    guide.check("dd writes at an offset", said.success);
    let said = guide.shell("dd if=report.bin bs=1 skip=9999999 count=17 status=none; echo");
    guide.check("the new bytes are where they belong", said.text == "corrected figures\n");
    let said = guide.shell(&format!("cmp report.bin {} && echo same", original.display()));
    guide.check("and all others are as they were", said.text == "same\n");
}

fn trees(guide: &mut Guide, stage: &Stage<'_>) {
    guide.chapter("A tree of files");
    let tree = stage.scratch().join("tree");
    if let Err(error) = plant(&tree) {
        return guide.check(&format!("a tree can be made on the local disk ({error})"), false);
    }
    let scratch = stage.scratch().display();
    let said = guide.shell(&format!(
        "tar -cf tree.tar -C {scratch} tree && tar -xf tree.tar && tar --compare -f tree.tar && echo same"
    ));
    guide.check("tar finds what it wrote", said.success && said.text.ends_with("same\n"));
    let said = guide.shell(&format!("diff -r tree {} && find tree -type f | wc -l", tree.display()));
    guide.check("and diff finds no difference", said.success && said.text.trim() == "60");
}

/// Sixty small files in six directories.
fn plant(tree: &Path) -> io::Result<()> {
    for directory in ["a", "b", "c", "d", "e", "f"].map(|name| tree.join(name)) {
        std::fs::create_dir_all(&directory)?;
        for number in 0..10 {
            std::fs::write(directory.join(format!("{number}.txt")), format!("{} {number}\n", directory.display()))?;
        }
    }
    Ok(())
}

fn claims(guide: &mut Guide, stage: &Stage<'_>) {
    guide.chapter("How it is encrypted, as the file itself tells");
    let said = guide.shell("getfattr -d hello.txt");
    if !said.success {
        guide.say("getfattr is not installed (apt-get install attr); the same attributes, read by dssefs demo:");
        let names = ["verdict", "algorithm", "key-arn", "evidence", "verified-at", "request-id", "object"];
        names
            .iter()
            .for_each(|name| guide.say(&format!("user.dsse.{name}=\"{}\"", attribute(stage, "hello.txt", name))));
    }
    guide.check("the verdict is compliant", attribute(stage, "hello.txt", "verdict") == "compliant");
    guide.check("the algorithm is aws:kms:dsse", attribute(stage, "hello.txt", "algorithm") == "aws:kms:dsse");
    guide.check(
        "the key is the one that the mount was given",
        attribute(stage, "hello.txt", "key-arn") == stage.key_arn(),
    );
    let file = stage.mountpoint().join("hello.txt");
    let forged = setxattr(&file, "user.dsse.verdict", b"forged", XattrFlags::empty());
    let is_ignored = forged == Ok(()) && attribute(stage, "hello.txt", "verdict") == "compliant";
    guide.check("no program can write a verdict: setxattr(2) changes nothing", is_ignored);
}

/// The value of `user.dsse.NAME`, or what came in its place.
fn attribute(stage: &Stage<'_>, file: &str, name: &str) -> String {
    let mut value = vec![0; 64 * 1024];
    match getxattr(stage.mountpoint().join(file), format!("user.dsse.{name}"), &mut value) {
        Ok(length) => String::from_utf8_lossy(&value[..length]).into_owned(),
        Err(errno) => errno.to_string(),
    }
}

fn answers(guide: &mut Guide, stage: &Stage<'_>) {
    guide.chapter("How it is encrypted, as S3 answers somebody who does not know the mount");
    let (server, region, bucket, key) = (stage.address(), REGION, BUCKET, "hello.txt");
    let request = head::Request { server, region, access_key: ACCESS_KEY, secret_key: SECRET_KEY, bucket, key };
    match head::send(&request) {
        Err(error) => guide.check(&format!("the endpoint answers ({error})"), false),
        Ok(answer) => {
            guide.say(&format!("> HEAD /{bucket}/{key}"));
            guide.say(&answer);
            let algorithm = head::value(&answer, "x-amz-server-side-encryption");
            guide.check("S3 names aws:kms:dsse", algorithm == Some("aws:kms:dsse"));
            let arn = head::value(&answer, "x-amz-server-side-encryption-aws-kms-key-id");
            guide.check("under the mount's key", arn == Some(stage.key_arn()));
        }
    }
}

fn listings(guide: &mut Guide, stage: &Stage<'_>) {
    guide.chapter("What a listing costs");
    sleep(STALE);
    stage.reset_counters();
    let said = guide.shell("ls");
    let counters = stage.counters();
    let (lists, heads) = (counters.requests("ListObjectsV2"), counters.requests("HeadObject"));
    guide.say(&format!(
        "The endpoint counted {lists} ListObjectsV2, {heads} HeadObject and {} KMS calls.",
        counters.all_kms_for_s3()
    ));
    guide.check("ls is one LIST", said.success && lists == 1);
    guide.check("and neither a HEAD nor a KMS call", heads == 0 && counters.all_kms_for_s3() == 0);
}

fn leftovers(guide: &mut Guide, stage: &Stage<'_>) {
    guide.chapter("What rests on the local disk while files are being written");
    guide.say(&format!(
        "{OPEN_FILES} files are open; {} MiB are written to each, and none is closed.",
        OPEN_FILE_BYTES >> 20
    ));
    let files = match write_open_files(stage.mountpoint()) {
        Ok(files) => files,
        Err(error) => return guide.check(&format!("the files can be written ({error})"), false),
    };
    let local: Vec<String> = (0..OPEN_FILES).map(|number| attribute(stage, &open_name(number), "local")).collect();
    let spilled = local.iter().filter(|state| *state == "spilled").count();
    guide.say(&format!("user.dsse.local says that {spilled} of them are spilled."));
    guide.check("memory was not enough for all of them", spilled > 0);
    search(guide, stage);
    let closed = files.into_iter().try_for_each(|file| file.sync_all());
    guide.check("every file is committed by fsync", closed.is_ok());
    let found =
        File::open(stage.mountpoint().join(open_name(0))).and_then(|mut file| spill::contains(&mut file, MARKER));
    guide.check("the same search finds the content in the file that comes back from S3", matches!(found, Ok(true)));
    let said = guide.shell("rm open-* && ls");
    guide.check("the files can be deleted", said.success && !said.text.contains("open-"));
}

fn open_name(number: usize) -> String {
    format!("open-{number:02}.txt")
}

fn write_open_files(dir: &Path) -> io::Result<Vec<File>> {
    let content: Vec<u8> = MARKER.iter().copied().cycle().take(OPEN_FILE_BYTES).collect();
    let write = |number: usize| {
        let mut file = File::create(dir.join(open_name(number)))?;
        file.write_all(&content)?;
        Ok(file)
    };
    (0..OPEN_FILES).map(write).collect()
}

/// Looks through the daemon's descriptors for readable content.
fn search(guide: &mut Guide, stage: &Stage<'_>) {
    if !geteuid().is_root() {
        return guide
            .say("Only root may look at the descriptors of the daemon, which is undumpable; this step is left out.");
    }
    guide.say(&format!(
        "The spill has no name. Its descriptors, searched for {:?}:",
        String::from_utf8_lossy(MARKER).trim()
    ));
    match spill::search(stage.daemon(), stage.spill_dir(), MARKER) {
        Err(error) => guide.check(&format!("the daemon's descriptors can be searched ({error})"), false),
        Ok(found) => {
            let bytes: u64 = found.iter().map(|file| file.bytes).sum();
            guide.say(&format!("{} files with the list of uploads, {} MiB", found.len(), bytes >> 20));
            if let Some(file) = found.iter().max_by_key(|file| file.bytes) {
                guide.say(&format!("{} begins with\n{}", file.path.display(), spill::hexdump(&file.first_bytes)));
            }
            guide.check("there is something on the disk", bytes > 0);
            guide.check("and nothing of it is readable", !found.iter().any(|file| file.readable));
        }
    }
}
