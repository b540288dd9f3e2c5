//! An attacker who can write to the local disk: what they do to the spill and the journal, while the mount runs and
//! while it is down.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::common::kept::{SEGMENT, background, copy_session, kill, recover, refuse_uploads, session, told};
use crate::common::{BUCKET, Endpoint, MINUTE, Mount, deadline, errno, needs_root, noise, scenario};

/// What the mounts leave in the journal, in the order of a listing.
const NAMES: [&str; 3] = ["one", "three", "two"];
/// Twice what the memory of the mounts holds.
const FILES: u64 = 12;
const FILE_BYTES: usize = 4 << 20;
/// A block of the spill as it lies on the disk (docs/FORMAT.md).
const SLOT_BYTES: usize = 69_632;
const SEALED_BYTES: usize = 65_536 + 68;

/// The spill of one file, as somebody with the rights of the daemon has it.
struct Spilled {
    file: File,
    before: Vec<u8>,
}

impl Spilled {
    /// Every nameless file of the daemon in its spill directory.
    fn all(mount: &Mount) -> Vec<Spilled> {
        let entries = fs::read_dir(format!("/proc/{}/fd", mount.pid())).expect("root may look");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let nameless = |path: &PathBuf| {
            path.read_link()
                .is_ok_and(|to| to.starts_with(mount.spill_dir()) && to.to_string_lossy().ends_with("(deleted)"))
        };
        let open = |path: PathBuf| {
            let file = OpenOptions::new().read(true).write(true).open(&path).expect("root may write");
            Spilled { before: fs::read(path).expect("root may read"), file }
        };
        paths.filter(nameless).map(open).collect()
    }

    fn inode(&self) -> u64 {
        self.file.metadata().expect("it is open").ino()
    }

    /// The places that hold a block.
    fn blocks(&self) -> Vec<usize> {
        let starts = (0..self.before.len()).step_by(SLOT_BYTES);
        starts.filter(|start| self.before[*start..].starts_with(b"dssefs")).collect()
    }

    fn block(&self, start: usize) -> &[u8] {
        &self.before[start..self.before.len().min(start + SEALED_BYTES)]
    }

    fn put(&self, start: usize, bytes: &[u8]) {
        self.file.write_all_at(bytes, start as u64).expect("the disk takes it");
    }

    fn change(&self) {
        self.blocks().iter().for_each(|start| self.put(start + 1000, &[!self.before[start + 1000]]));
    }

    fn swap(&self) {
        let blocks = self.blocks();
        blocks
            .iter()
            .zip(blocks.iter().rev())
            .filter(|(to, from)| to != from)
            .for_each(|(to, from)| self.put(*to, self.block(*from)));
    }

    fn repeat(&self) {
        let blocks = self.blocks();
        blocks[1..].iter().for_each(|to| self.put(*to, self.block(blocks[0])));
    }

    fn zero(&self) {
        self.blocks().iter().for_each(|start| self.put(*start, &[0; SEALED_BYTES]));
    }

    fn cut(&self) {
        self.file.set_len(100).expect("root may");
    }

    fn extend(&self) {
        self.put(self.before.len(), &self.before[..SLOT_BYTES]);
    }
}

fn fill(mount: &Mount, salt: u64) -> Vec<File> {
    let write = |number: u64| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(false).open(mount.join(&number.to_string())).unwrap();
        file.write_all(&noise(salt + number, FILE_BYTES)).unwrap();
        file
    };
    (0..FILES).map(write).collect()
}

/// Commits all files; how many were refused. Whatever is in the store is what was written last.
fn commit_all(endpoint: &Endpoint, files: Vec<File>, salt: u64) -> usize {
    let commit = |(number, file): (u64, File)| {
        let errno = errno(file.sync_all());
        let key = number.to_string();
        if errno == 0 {
            assert!(
                endpoint.content(&key) == noise(salt + number, FILE_BYTES),
                "file {number} is not what was written"
            );
        } else {
            assert_eq!(errno, libc::EIO, "file {number}");
            assert!(endpoint.head(&key).is_none(), "file {number} was refused and is in the store");
        }
        usize::from(errno != 0)
    };
    (0..).zip(files).map(commit).sum()
}

fn told_of(mount: &Mount) -> usize {
    mount.log().lines().filter(|line| line.contains("was changed on the local disk")).count()
}

/// Does `verb` to what is spilled of each file of a running mount, and commits them.
fn spill_under(verb: impl Fn(&Spilled)) -> (usize, usize) {
    let endpoint = Endpoint::start();
    let mount = Mount::with(&endpoint, &["--memory", "32MiB"]);
    let files = fill(&mount, 1);
    let spilled: Vec<Spilled> = Spilled::all(&mount).into_iter().filter(|spilled| spilled.blocks().len() > 2).collect();
    assert!(spilled.len() > 3, "there is something to tamper with");
    spilled.iter().for_each(verb);
    (commit_all(&endpoint, files, 1), told_of(&mount))
}

#[test]
fn a_spill_that_was_changed_swapped_repeated_zeroed_or_cut_is_never_stored() {
    if needs_root("only root can open the nameless files of the daemon") {
        return;
    }
    for verb in [Spilled::change, Spilled::swap, Spilled::repeat, Spilled::zero, Spilled::cut] {
        deadline(MINUTE * 3, move || {
            let (refused, told) = spill_under(verb);
            assert!(refused > 3 && told >= refused, "{refused} refused, {told} told");
        });
    }
}

#[test]
fn bytes_that_were_added_to_a_spill_are_not_read() {
    if needs_root("only root can open the nameless files of the daemon") {
        return;
    }
    deadline(MINUTE * 3, || assert_eq!(spill_under(Spilled::extend), (0, 0)));
}

#[test]
fn an_older_state_of_a_running_mounts_spill_is_never_stored() {
    if needs_root("only root can open the nameless files of the daemon") {
        return;
    }
    scenario().within(MINUTE * 3).options(&["--memory", "32MiB"]).mounted(|endpoint, mount| {
        let first = fill(&mount, 1);
        let older = Spilled::all(&mount);
        let second = fill(&mount, 100);
        for now in Spilled::all(&mount) {
            let Some(older) = older.iter().find(|older| older.inode() == now.inode()) else { continue };
            let sealed_again =
                |start: &usize| now.before.get(*start..start + 36) != older.before.get(*start..start + 36);
            let starts = older.blocks().into_iter().filter(sealed_again);
            starts.for_each(|start| older.put(start, older.block(start)));
        }
        let refused = commit_all(&endpoint, second, 100);
        assert!(refused > 3 && told_of(&mount) >= refused, "{refused} refused, {} told", told_of(&mount));
        drop(first);
    });
}

/// Where the records of a segment begin, and where the last one ends.
fn bounds(segment: &[u8]) -> Vec<usize> {
    let mut bounds = vec![16];
    while let Some(length) = segment[bounds[bounds.len() - 1]..].first_chunk() {
        bounds.push(bounds[bounds.len() - 1] + 4 + u32::from_be_bytes(*length) as usize);
    }
    bounds
}

/// The verbs on a segment whose records begin at `at`, but for those that nobody can tell from a crash.
fn forgeries(whole: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let at = bounds(whole);
    let (end, record) = (whole.len(), |nth: usize| &whole[at[nth]..at[nth + 1]]);
    let mut changed = whole.to_vec();
    changed[at[2] + 60] ^= 1;
    let mut zeroed = whole.to_vec();
    zeroed[at[1]..at[2]].fill(0);
    vec![
        ("changed", changed),
        ("zeroed", zeroed),
        ("swapped", [&whole[..at[1]], record(2), record(1), &whole[at[3]..]].concat()),
        ("repeated", [whole, record(1)].concat()),
        ("extended", [whole, &[7; 100]].concat()),
        ("cut", whole[..end - 3].to_vec()),
        ("left out", [&whole[..at[1]], &whole[at[2]..]].concat()),
        ("another magic", [b"dssefsj9", &whole[8..]].concat()),
        ("another first record", [&whole[..15], &[1], &whole[16..]].concat()),
    ]
}

/// Sends a copy of what a mount left, with a forged segment in it, and takes what came into the store out again, as the
/// next verb is to bring it once more. Gives the names. A copy, because what was dealt with goes or is set aside.
fn stored_of(endpoint: &Endpoint, session: &Path, verb: &str, forged: &[u8]) -> Vec<String> {
    let copy = TempDir::new().unwrap();
    let own = copy.path().join(session.file_name().unwrap());
    copy_session(session, &own);
    fs::write(own.join(SEGMENT), forged).unwrap();
    let sent = recover(endpoint, &copy, &["upload"]);
    assert_eq!(sent.status.code(), Some(12), "{verb}: {sent:?}");
    assert!(String::from_utf8_lossy(&sent.stderr).contains("damaged: "), "{verb}: {sent:?}");
    assert!(!own.exists(), "{verb}: no mount may meet its entries again");
    let stored = endpoint.keys();
    for name in &stored {
        assert!(NAMES.contains(&name.as_str()), "{verb}: {name}");
        assert_eq!(endpoint.content(name), format!("content of {name}").as_bytes(), "{verb}");
        endpoint.assert_dsse(name);
        endpoint.delete(name);
    }
    stored
}

#[test]
fn whatever_is_done_to_the_journal_of_a_mount_that_is_down_is_told_and_nothing_false_is_stored() {
    scenario().within(MINUTE * 3).with_spill(|endpoint, spill| {
        let first = background(&endpoint, &spill);
        refuse_uploads(&endpoint);
        NAMES.iter().for_each(|name| fs::write(first.join(name), format!("content of {name}")).unwrap());
        kill(first);
        endpoint.clear_faults();
        let segment = session(&spill).join(SEGMENT);
        let whole = fs::read(&segment).unwrap();
        let mut cut = Vec::new();
        for (verb, forged) in forgeries(&whole) {
            fs::write(&segment, &forged).unwrap();
            let listed = recover(&endpoint, &spill, &["list"]);
            assert_eq!(listed.status.code(), Some(12), "{verb}: {listed:?}");
            assert!(String::from_utf8_lossy(&listed.stdout).contains("damaged: "), "{verb}: {listed:?}");
            let stored = stored_of(&endpoint, &session(&spill), verb, &forged);
            match verb {
                "repeated" | "extended" => assert_eq!(stored, NAMES, "{verb}: all of them stand before it"),
                "cut" => cut = stored,
                _ => {}
            }
        }
        assert!(!cut.is_empty(), "a cut takes the end alone, and what is whole before it counts");
        fs::write(&segment, whole).unwrap();
        assert!(recover(&endpoint, &spill, &["upload"]).status.success());
        NAMES.iter().for_each(|name| assert_eq!(endpoint.content(name), format!("content of {name}").as_bytes()));
    });
}

#[test]
fn a_running_mount_stores_what_was_written_whatever_is_done_to_its_journal() {
    scenario().within(MINUTE * 2).with_spill(|endpoint, spill| {
        let mount = background(&endpoint, &spill);
        refuse_uploads(&endpoint);
        fs::write(mount.join("file"), "content").unwrap();
        let segment = session(&spill).join(SEGMENT);
        let whole = fs::read(&segment).unwrap();
        for (_, forged) in forgeries(&whole) {
            fs::write(&segment, forged).unwrap();
        }
        endpoint.clear_faults();
        File::open(mount.join("file")).unwrap().sync_all().unwrap();
        assert_eq!(endpoint.content("file"), b"content");
        fs::write(mount.join("after"), "content").unwrap();
        assert!(mount.end().success());
        assert_eq!(endpoint.content("after"), b"content");
    });
}

#[test]
fn an_older_journal_that_is_put_back_never_replaces_what_is_newer() {
    scenario().within(MINUTE * 2).with_spill(|endpoint, spill| {
        let first = background(&endpoint, &spill);
        refuse_uploads(&endpoint);
        fs::write(first.join("file"), "older").unwrap();
        let segment = session(&spill).join(SEGMENT);
        let older = fs::read(&segment).unwrap();
        fs::write(first.join("file"), "newer").unwrap();
        endpoint.clear_faults();
        OpenOptions::new().write(true).open(first.join("file")).unwrap().sync_all().unwrap();
        assert_eq!(endpoint.content("file"), b"newer");
        kill(first);
        fs::write(&segment, older).unwrap();
        let second = background(&endpoint, &spill);
        assert_eq!(endpoint.content("file"), b"newer");
        assert!(second.log().contains("could not be stored"), "{}", second.log());
    });
}

#[test]
fn a_description_of_a_session_that_was_changed_is_refused_and_told() {
    /// What is printed of each file that is found.
    const OF_A_FILE: &str = "of them kept here";
    scenario().within(MINUTE * 2).with_spill(|endpoint, spill| {
        let first = background(&endpoint, &spill);
        refuse_uploads(&endpoint);
        fs::write(first.join("file"), "content").unwrap();
        kill(first);
        let list = || {
            let listed = recover(&endpoint, &spill, &["list"]);
            (listed.status.success(), told(&listed))
        };
        let (succeeded, said) = list();
        assert!(succeeded && said.contains(OF_A_FILE), "{said}");
        let path = session(&spill).join("session.json");
        let whole = fs::read_to_string(&path).unwrap();
        let described: serde_json::Value = serde_json::from_str(&whole).unwrap();
        let with = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut changed = described.clone();
            change(&mut changed);
            changed.to_string()
        };
        for (verb, forged) in [
            ("changed source", with(&|session| session["source"] = "s3://tests/other".into())),
            ("changed name", with(&|session| session["name"] = "00".repeat(16).into())),
            ("changed identity", with(&|session| session["identity"][3] = 255.into())),
            (
                "swapped keys",
                with(&|session| {
                    let [inner, outer] = [0, 1].map(|layer| session["keys"][layer]["wrapped"].clone());
                    (session["keys"][0]["wrapped"], session["keys"][1]["wrapped"]) = (outer, inner);
                }),
            ),
            ("swapped layers", with(&|session| session["keys"].as_array_mut().unwrap().swap(0, 1))),
            ("another key", with(&|session| session["keys"][0]["wrapped"] = "AAAA".into())),
            ("cut", whole[..whole.len() / 2].to_owned()),
            ("extended", format!("{whole}x")),
            ("zeroed", "\0".repeat(whole.len())),
            ("empty", String::new()),
        ] {
            fs::write(&path, forged).unwrap();
            let (succeeded, said) = list();
            assert!(!succeeded && !said.contains(OF_A_FILE), "{verb}: {said}");
            assert!(said.contains("damaged: ") || said.contains("not opened: "), "{verb}: {said}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(recover(&endpoint, &spill, &["list"]).status.code(), Some(12));
        fs::write(&path, whole).unwrap();
        endpoint.clear_faults();
        assert!(recover(&endpoint, &spill, &["upload"]).status.success());
        assert_eq!(endpoint.content("file"), b"content");
    });
}

/// An upload that nobody finishes, by an ordinary client.
fn begin_upload(endpoint: &Endpoint, key: &str) -> String {
    endpoint.with(|s3| async move {
        let begun = s3.create_multipart_upload().bucket(BUCKET).key(key).send().await.expect("an upload");
        begun.upload_id().expect("an id").to_owned()
    })
}

#[test]
fn a_list_of_uploads_that_was_changed_keeps_no_mount_from_starting_and_reaches_no_upload_beside_it() {
    scenario().within(MINUTE * 2).with_spill(|endpoint, spill| {
        let [beside, below] = ["beside", "team/below"].map(|key| begin_upload(&endpoint, key));
        let named = format!("s3://tests/team\n+{beside}\n");
        let lists: [(&str, Vec<u8>); 7] = [
            ("names an upload beside the mount", named.clone().into_bytes()),
            ("of another mount", format!("s3://tests\n+{beside}\n+{below}\n").into_bytes()),
            ("zeroed", vec![0; 1000]),
            ("not text", vec![0xFF; 100_000]),
            ("cut", b"s3://tests/te".to_vec()),
            ("repeated", named.repeat(1000).into_bytes()),
            ("ended", format!("s3://tests/team\n+{below}\n-{below}\n-{below}\n").into_bytes()),
        ];
        for (verb, list) in lists {
            write_list(spill.path(), verb, &list);
        }
        let options = ["--kms-key-id", endpoint.key_arn(), "--spill-dir", spill.path().to_str().unwrap()];
        let mount = Mount::source(&endpoint, "tests/team", &options);
        fs::write(mount.join("file"), "content").unwrap();
        assert!(mount.end().success());
        assert_eq!(endpoint.uploads(), 2, "neither upload was this mount's to end");
    });
}

fn write_list(directory: &Path, name: &str, list: &[u8]) {
    fs::write(directory.join(format!("uploads-{}", name.replace(' ', "-"))), list).unwrap();
}
