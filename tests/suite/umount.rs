//! `dssefs umount` of a daemon in the background that has changes which the store does not take.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use dssefs_emulator::faults::{Fault, Rule};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::kept::{recover, refuse_uploads, told};
use crate::common::{
    BUCKET, Detached, Endpoint, MINUTE, Mount, attribute, commit, cp, denied, dssefs, eventually, mountinfo_has, names,
    needs_root, scenario,
};

/// A mount whose daemon is nobody's child.
struct Away {
    spill: TempDir,
    log: PathBuf,
    point: Detached,
    _dir: TempDir,
}

impl Away {
    fn mount(endpoint: &Endpoint, more: &[&str]) -> Away {
        let (dir, spill) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let (point, log) = (dir.path().join("mnt"), dir.path().join("log"));
        fs::create_dir(&point).unwrap();
        let mut command = Mount::command(endpoint, BUCKET, &point);
        command.args(["--kms-key-id", endpoint.key_arn(), "--attempts", "2", "--log-file"]).arg(&log);
        let output = command.arg("--spill-dir").arg(spill.path()).args(more).output().unwrap();
        assert!(output.status.success(), "{}", told(&output));
        Away { spill, log, point: Detached(point), _dir: dir }
    }

    fn path(&self) -> &Path {
        &self.point.0
    }

    /// Writes a file whose close fails.
    fn write_in_vain(&self, name: &str) {
        cp(b"content", &self.path().join(name)).unwrap_err();
    }

    fn daemon(&self) -> u32 {
        attribute(self.path(), "user.dsse.mount.pid").unwrap().parse().unwrap()
    }

    fn umount(&self, more: &[&str]) -> Output {
        dssefs().arg("umount").args(more).arg(self.path()).output().unwrap()
    }

    /// The code, and that these words were said.
    fn ends(&self, output: &Output, code: i32, words: &[&str]) {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        assert_eq!(output.status.code(), Some(code), "{}\nthe daemon said:\n{log}", told(output));
        assert!(words.iter().all(|word| told(output).contains(word)), "{words:?} in {}", told(output));
    }
}

#[test]
fn without_a_journal_a_mount_with_unsaved_changes_stays_until_they_are_saved() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let away = Away::mount(&endpoint, &[]);
        const REMEDY: &str = "Allow the action in the caller's IAM policy";
        // Refused for good: the mount itself does not try such a file again until it is closed.
        endpoint.inject_faults(vec![Rule::on("PutObject", denied()).times(0)]);
        ["one", "two"].iter().for_each(|name| away.write_in_vain(name));
        let words = [
            "2 files are still to be stored",
            "stays mounted",
            "  one: ",
            "  two: ",
            "AccessDenied",
            "--force",
            REMEDY,
        ];
        away.ends(&away.umount(&[]), 11, &words);
        assert!(mountinfo_has(away.path()));
        endpoint.clear_faults();
        away.ends(&away.umount(&[]), 0, &[]);
        assert!(!mountinfo_has(away.path()));
        assert_eq!((endpoint.content("one"), endpoint.content("two")), (b"content".to_vec(), b"content".to_vec()));
        assert_eq!(fs::read_dir(away.spill.path()).unwrap().count(), 0, "nothing is left behind");
    });
}

#[test]
fn with_force_what_is_lost_is_named() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let away = Away::mount(&endpoint, &[]);
        refuse_uploads(&endpoint);
        away.write_in_vain("file");
        away.ends(&away.umount(&["--force"]), 11, &["  file: ", "their changes are lost", "ServiceUnavailable"]);
        assert!(!mountinfo_has(away.path()));
        assert!(endpoint.keys().is_empty());
        assert_eq!(fs::read_dir(away.spill.path()).unwrap().count(), 0, "nothing is left behind");
    });
}

#[test]
fn what_a_journal_keeps_does_not_keep_the_mount_and_is_named() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let away = Away::mount(&endpoint, &["--spill-keys", "kms", "--commit", "background"]);
        refuse_uploads(&endpoint);
        fs::write(away.path().join("file"), "content").unwrap();
        let command = format!("dssefs recover {} list", away.spill.path().display());
        away.ends(&away.umount(&[]), 11, &["  file: ", "the journal keeps them", &command]);
        assert!(!mountinfo_has(away.path()));
        let listed = recover(&endpoint, &away.spill, &["list"]);
        let words = ["file  7 bytes", "ServiceUnavailable", "Try again later"];
        assert!(words.iter().all(|word| told(&listed).contains(word)), "{}", told(&listed));
        endpoint.clear_faults();
        assert!(recover(&endpoint, &away.spill, &["upload"]).status.success());
        assert_eq!(endpoint.content("file"), b"content");
    });
}

#[test]
fn a_slow_store_is_waited_for() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let away = Away::mount(&endpoint, &[]);
        endpoint.inject_faults(vec![Rule::on("PutObject", denied()).times(0)]);
        away.write_in_vain("file");
        endpoint.inject_faults(vec![Rule::on("PutObject", Fault::DelayMs(9_000)).times(0)]);
        away.ends(&away.umount(&[]), 0, &["1 file is still to be stored", "  file: "]);
        assert_eq!(endpoint.content("file"), b"content");
    });
}

/// It was 0, and the names that had been told were forgotten.
#[test]
fn a_daemon_that_dies_while_it_is_waited_for_has_stored_nothing_that_anybody_knows_of() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let away = Away::mount(&endpoint, &[]);
        endpoint.inject_faults(vec![Rule::on("PutObject", denied()).times(0)]);
        away.write_in_vain("file");
        endpoint.inject_faults(vec![Rule::on("PutObject", Fault::DelayMs(30_000)).times(0)]);
        endpoint.reset();
        let pid = attribute(away.path(), "user.dsse.mount.pid").unwrap();
        let umount = dssefs().arg("umount").arg(away.path()).stderr(Stdio::piped()).spawn().unwrap();
        // It has asked for what is unsaved, and has had it tried again.
        eventually("the file is tried again", MINUTE, || endpoint.counters().requests("PutObject") > 0);
        sleep(Duration::from_secs(1));
        kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
        away.ends(
            &umount.wait_with_output().unwrap(),
            11,
            &["has died", "  file: ", "did not say what became of them"],
        );
        assert!(!mountinfo_has(away.path()));
        away.ends(&away.umount(&[]), 2, &["not a mount"]);
    });
}

#[test]
fn what_is_unsaved_is_told_by_an_attribute_that_nobody_lists() {
    scenario().mounted(|endpoint, mount| {
        endpoint.inject_faults(vec![Rule::on("PutObject", denied()).times(0)]);
        for n in 0..12 {
            cp(b"content", &mount.join(&format!("file-{n}"))).unwrap_err();
        }
        let report = attribute(&mount.path(), "user.dsse.mount.unsaved.files").unwrap();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!(
            (&report["closed"], &report["kept"], &report["open"]),
            (&12.into(), &0.into(), &0.into()),
            "{report}"
        );
        assert_eq!(report["files"].as_array().unwrap().len(), 10, "{report}");
        assert!(report["files"][0]["error"].as_str().unwrap().contains("AccessDenied"), "{report}");
        let listed: Vec<_> = xattr::list(mount.path()).unwrap().collect();
        assert!(listed.iter().any(|name| name == "user.dsse.mount.unsaved"));
        assert!(!listed.iter().any(|name| name == "user.dsse.mount.unsaved.files"));
        endpoint.clear_faults();
        xattr::set(mount.path(), "user.dsse.mount.retry", b"").unwrap();
        eventually("all are stored", MINUTE / 2, || endpoint.keys().len() == 12);
        assert!(mount.end().success());
    });
}

/// Whether a process that is no child of this one has not ended. A zombie has (proc_pid_stat(5), field 3).
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next()).is_some_and(|state| state != 'Z')
}

/// `dssefs umount` did not return while a bind mount was there.
#[test]
fn a_bind_mount_that_holds_the_file_system_is_named_with_code_13() {
    if needs_root("only root can make a bind mount") {
        return;
    }
    scenario().within(MINUTE * 3).unmounted(|endpoint| {
        let away = Away::mount(&endpoint, &[]);
        let place = TempDir::new().unwrap();
        let bound = Detached(place.path().join("bound\u{1b}[2J"));
        fs::create_dir(&bound.0).unwrap();
        mount_bind(away.path(), &bound.0).unwrap();
        let daemon = away.daemon();
        let output = away.umount(&[]);
        away.ends(&output, 13, &["bound\\u{1b}[2J", "still mounted elsewhere", &format!("process {daemon}")]);
        assert!(!told(&output).contains('\u{1b}'));
        assert!(!mountinfo_has(away.path()) && lives(daemon));
        commit(&bound.0.join("later"), b"content").unwrap();
        let left = names(away.spill.path());
        assert!(!left.iter().any(|name| name.starts_with("ended-")), "no report file is left behind: {left:?}");
        unmount(&bound.0, UnmountFlags::empty()).unwrap();
        eventually("the daemon ends", MINUTE, || !lives(daemon));
        assert_eq!(endpoint.content("later"), b"content");
    });
}

/// A process in a mount namespace of its own, as a container has it; it ends with the test.
struct Contained(Child);

impl Contained {
    fn start() -> Contained {
        let mut contained = Command::new("unshare");
        let contained = contained.args(["--mount", "sleep", "600"]).stdin(Stdio::null()).spawn().unwrap();
        let contained = Contained(contained);
        let own = fs::read_link("/proc/self/ns/mnt").unwrap();
        let theirs = format!("/proc/{}/ns/mnt", contained.0.id());
        let comm = format!("/proc/{}/comm", contained.0.id());
        eventually("the process has a mount namespace of its own", MINUTE, || {
            fs::read_link(&theirs).unwrap() != own && fs::read_to_string(&comm).unwrap() == "sleep\n"
        });
        contained
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_in_another_mount_namespace_that_holds_the_file_system_is_named_with_code_13() {
    if needs_root("only root can make a mount namespace") {
        return;
    }
    scenario().within(MINUTE * 3).unmounted(|endpoint| {
        let away = Away::mount(&endpoint, &[]);
        let daemon = away.daemon();
        commit(&away.path().join("file"), b"content").unwrap();
        let contained = Contained::start();
        let process = format!("process {} (sleep)", contained.0.id());
        away.ends(&away.umount(&[]), 13, &[&process, "mount namespace of its own"]);
        assert!(!mountinfo_has(away.path()) && lives(daemon));
        drop(contained);
        eventually("the daemon ends", MINUTE, || !lives(daemon));
        assert_eq!(endpoint.content("file"), b"content");
    });
}

#[test]
fn names_of_unsaved_files_are_printed_escaped() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let away = Away::mount(&endpoint, &[]);
        endpoint.inject_faults(vec![Rule::on("PutObject", denied()).times(0)]);
        away.write_in_vain("a\u{1b}]0;title\u{7}\r\n  b: stored\u{202e}");
        let output = away.umount(&["--force"]);
        away.ends(&output, 11, &["  a\\u{1b}]0;title\\u{7}\\r\\n  b: stored\\u{202e}: "]);
        assert!(!told(&output).contains(['\u{1b}', '\u{7}', '\r', '\u{202e}']), "{:?}", told(&output));
    });
}

/// A directory within the mount, and a link to the mount point.
#[test]
fn only_the_mount_itself_is_unmounted_also_through_a_link() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let away = Away::mount(&endpoint, &[]);
        fs::create_dir(away.path().join("below")).unwrap();
        let output = dssefs().arg("umount").arg(away.path().join("below")).output().unwrap();
        away.ends(&output, 2, &["not a mount of dssefs"]);
        let place = TempDir::new().unwrap();
        let link = place.path().join("link");
        std::os::unix::fs::symlink(away.path(), &link).unwrap();
        away.ends(&dssefs().arg("umount").arg(&link).output().unwrap(), 0, &[]);
        assert!(!mountinfo_has(away.path()));
    });
}
