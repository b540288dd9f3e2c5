//! `dssefs umount` of a daemon in the background that has changes which the store does not take.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use dssefs::emulator::faults::{Fault, Rule};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::kept::{recover, refuse_uploads, told};
use crate::common::{
    BUCKET, Detached, Endpoint, MINUTE, Mount, attribute, cp, deadline, denied, dssefs, eventually, mountinfo_has,
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
    deadline(MINUTE * 2, || {
        let endpoint = Endpoint::start();
        let away = Away::mount(&endpoint, &[]);
        // Refused for good: the mount itself does not try such a file again until it is closed.
        endpoint.spoil(vec![Rule::on("PutObject", denied()).times(0)]);
        ["one", "two"].iter().for_each(|name| away.write_in_vain(name));
        let words =
            ["2 files are still to be stored", "stays mounted", "  one: ", "  two: ", "AccessDenied", "--force"];
        away.ends(&away.umount(&[]), 11, &words);
        assert!(mountinfo_has(away.path()));
        endpoint.heal();
        away.ends(&away.umount(&[]), 0, &[]);
        assert!(!mountinfo_has(away.path()));
        assert_eq!((endpoint.content("one"), endpoint.content("two")), (b"content".to_vec(), b"content".to_vec()));
        assert_eq!(fs::read_dir(away.spill.path()).unwrap().count(), 0, "nothing is left behind");
    });
}

#[test]
fn with_force_what_is_lost_is_named() {
    deadline(MINUTE * 2, || {
        let endpoint = Endpoint::start();
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
    deadline(MINUTE * 2, || {
        let endpoint = Endpoint::start();
        let away = Away::mount(&endpoint, &["--spill-keys", "kms", "--commit", "background"]);
        refuse_uploads(&endpoint);
        fs::write(away.path().join("file"), "content").unwrap();
        let command = format!("dssefs recover {} list", away.spill.path().display());
        away.ends(&away.umount(&[]), 11, &["  file: ", "the journal keeps them", &command]);
        assert!(!mountinfo_has(away.path()));
        let listed = recover(&endpoint, &away.spill, &["list"]);
        assert!(told(&listed).contains("file  7 bytes"), "{}", told(&listed));
        endpoint.heal();
        assert!(recover(&endpoint, &away.spill, &["upload"]).status.success());
        assert_eq!(endpoint.content("file"), b"content");
    });
}

#[test]
fn a_slow_store_is_waited_for() {
    deadline(MINUTE * 2, || {
        let endpoint = Endpoint::start();
        let away = Away::mount(&endpoint, &[]);
        endpoint.spoil(vec![Rule::on("PutObject", denied()).times(0)]);
        away.write_in_vain("file");
        endpoint.spoil(vec![Rule::on("PutObject", Fault::DelayMs(9_000)).times(0)]);
        away.ends(&away.umount(&[]), 0, &["1 file is still to be stored", "  file: "]);
        assert_eq!(endpoint.content("file"), b"content");
    });
}

/// It was 0, and the names that had been told were forgotten.
#[test]
fn a_daemon_that_dies_while_it_is_waited_for_has_stored_nothing_that_anybody_knows_of() {
    deadline(MINUTE * 2, || {
        let endpoint = Endpoint::start();
        let away = Away::mount(&endpoint, &[]);
        endpoint.spoil(vec![Rule::on("PutObject", denied()).times(0)]);
        away.write_in_vain("file");
        endpoint.spoil(vec![Rule::on("PutObject", Fault::DelayMs(30_000)).times(0)]);
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
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::of(&endpoint);
        endpoint.spoil(vec![Rule::on("PutObject", denied()).times(0)]);
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
        endpoint.heal();
        xattr::set(mount.path(), "user.dsse.mount.retry", b"").unwrap();
        eventually("all are stored", MINUTE / 2, || endpoint.keys().len() == 12);
        assert!(mount.end().success());
    });
}
