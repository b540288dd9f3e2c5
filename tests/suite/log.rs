//! What happens to the log happens to no file of the mount; and signals that are about the terminal and the log.

use std::fs::{self, File};
use std::io::{self, PipeReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dssefs_emulator::faults::Rule;
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{
    BUCKET, Detached, Endpoint, MINUTE, Mount, attribute, commit, denied, dssefs, errno, eventually, mountinfo_has,
    needs_root, scenario,
};

/// A mount whose standard error is a pipe, and its other end.
fn piped(endpoint: &Endpoint, options: &[&str]) -> (Mount, PipeReader) {
    let (reader, writer) = io::pipe().unwrap();
    (Mount::with_stderr(endpoint, options, Stdio::from(writer)), reader)
}

/// A file with changes, and the program that has it open.
fn open_dirty(path: &Path) -> File {
    let mut file = File::create(path).unwrap();
    file.write_all(b"content").unwrap();
    file
}

#[test]
fn a_mount_whose_terminal_is_gone_stores_what_is_open_when_it_is_ended() {
    scenario().unmounted(|endpoint| {
        let (mount, reader) = piped(&endpoint, &["-v"]);
        drop(reader);
        let _file = open_dirty(&mount.join("file"));
        let status = mount.end();
        assert!(status.success(), "{status}");
        assert_eq!(endpoint.content("file"), b"content");
    });
}

#[test]
fn an_error_that_cannot_be_logged_is_an_error_of_its_file_alone() {
    scenario().unmounted(|endpoint| {
        let (mut mount, reader) = piped(&endpoint, &[]);
        drop(reader);
        endpoint.inject_fault("PutObject", denied());
        assert_eq!(errno(commit(&mount.join("denied"), b"content")), libc::EACCES);
        commit(&mount.join("file"), b"content").unwrap();
        assert!(!mount.has_ended());
        assert_eq!(endpoint.content("file"), b"content");
    });
}

#[test]
fn a_log_that_nobody_reads_holds_up_no_program_and_says_later_what_is_missing() {
    scenario().within(MINUTE * 3).unmounted(|endpoint| {
        let (mount, mut reader) = piped(&endpoint, &["-vv"]);
        for round in 0..300 {
            commit(&mount.join(&format!("file-{}", round % 10)), b"content").unwrap();
        }
        let told = std::thread::spawn(move || {
            let mut log = String::new();
            reader.read_to_string(&mut log).map(|_| log)
        });
        // Each makes a line, and one of them finds the queue half empty.
        std::thread::sleep(std::time::Duration::from_secs(1));
        commit(&mount.join("last"), b"content").unwrap();
        assert!(mount.end().success());
        let log = told.join().unwrap().unwrap();
        assert!(log.len() > 1 << 20, "the queue was full: {}", log.len());
        assert!(log.contains("lines of the log are missing here"));
        assert!(log.lines().last().is_some_and(|line| line.len() > 20), "the last line is whole");
    });
}

#[test]
fn a_log_that_nobody_reads_does_not_keep_the_daemon_from_ending() {
    scenario().within(MINUTE * 3).unmounted(|endpoint| {
        let (mount, _reader) = piped(&endpoint, &["-vv"]);
        for round in 0..20 {
            commit(&mount.join(&format!("file-{round}")), b"content").unwrap();
        }
        assert!(mount.end().success());
    });
}

#[test]
fn a_hangup_in_the_foreground_stores_what_is_open_and_unmounts() {
    scenario().mounted(|endpoint, mut mount| {
        let _file = open_dirty(&mount.join("file"));
        // By the kernel and by the shell.
        mount.signal(Signal::HUP);
        mount.signal(Signal::HUP);
        let status = mount.ended().expect("SIGHUP ends it");
        assert!(status.success(), "{status}\n{}", mount.log());
        assert!(!mountinfo_has(&mount.path()));
        assert_eq!(endpoint.content("file"), b"content");
    });
}

#[test]
fn a_hangup_that_nohup_took_away_ends_nothing() {
    scenario().unmounted(|endpoint| {
        let mut mount = Mount::under(&endpoint, &["nohup"], &[]);
        mount.signal(Signal::HUP);
        commit(&mount.join("file"), b"content").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        commit(&mount.join("file"), b"content").unwrap();
        assert!(!mount.has_ended());
    });
}

/// A daemon in the background, its mount point, and what unmounts it in the end.
fn in_background(endpoint: &Endpoint, dir: &Path, options: &[&str]) -> (PathBuf, Detached) {
    let point = dir.join("mnt");
    fs::create_dir(&point).unwrap();
    let mut command = Mount::command(endpoint, BUCKET, &point);
    command.args(["--kms-key-id", endpoint.key_arn(), "--spill-dir"]).arg(dir.join("spill")).args(options);
    // A daemon without a system's log keeps standard error, and the test does not wait for its end.
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    let end = Detached(point.clone());
    assert!(status.success(), "{status}");
    (point, end)
}

fn hang_up(point: &Path) {
    let pid = attribute(point, "user.dsse.mount.pid").unwrap().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::HUP).unwrap();
}

#[test]
fn a_hangup_in_the_background_opens_the_log_anew_and_keeps_the_mount() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let dir = tempfile::tempdir().unwrap();
        let [log, old] = ["log", "log.1"].map(|name| dir.path().join(name));
        let (point, _end) = in_background(&endpoint, dir.path(), &["-vv", "--log-file", log.to_str().unwrap()]);
        let mut file = open_dirty(&point.join("file"));
        for round in 0..2 {
            fs::rename(&log, &old).unwrap();
            hang_up(&point);
            eventually("the log goes on", MINUTE, || fs::read_to_string(&log).is_ok_and(|text| !text.is_empty()));
            assert_eq!(log.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            commit(&point.join(format!("file-{round}")), b"content").unwrap();
            let stored = || fs::read_to_string(&log).unwrap().contains(&format!("file-{round}"));
            eventually("lines are in the new file", MINUTE, stored);
        }
        file.write_all(b" and more").unwrap();
        drop(file);
        eventually("the unmount", MINUTE, || dssefs().arg("umount").arg(&point).status().unwrap().success());
        assert_eq!(endpoint.content("file"), b"content and more");
    });
}

#[test]
fn a_hangup_in_the_background_without_a_log_file_does_nothing() {
    scenario().unmounted(|endpoint| {
        let dir = tempfile::tempdir().unwrap();
        let (point, _end) = in_background(&endpoint, dir.path(), &[]);
        let mut file = open_dirty(&point.join("file"));
        hang_up(&point);
        std::thread::sleep(std::time::Duration::from_millis(300));
        file.write_all(b" and more").unwrap();
        file.sync_all().unwrap();
        assert_eq!(endpoint.content("file"), b"content and more");
        drop(file);
        eventually("the unmount", MINUTE, || dssefs().arg("umount").arg(&point).status().unwrap().success());
    });
}

#[test]
fn a_name_with_line_breaks_begins_no_line_of_the_log() {
    scenario().options(&[]).mounted(|endpoint, mount| {
        let name = "a\n2026-01-01T00:00:00Z ERROR dssefs: forged\u{1b}[2J";
        endpoint.put(&format!("{name}/file"), b"content");
        // The directory is to get a marker, and the warning that it has none names it.
        endpoint.inject_faults(vec![Rule::on("PutObject", denied()).times(0)]);
        fs::remove_file(mount.join(name).join("file")).unwrap();
        let escaped = "a\\n2026-01-01T00:00:00Z ERROR dssefs: forged";
        eventually("the log names it", MINUTE, || mount.log().contains(escaped));
        let log = mount.log();
        assert!(!log.lines().any(|line| line.starts_with("2026-01-01")), "{log}");
        assert!(!log.contains('\u{1b}'));
    });
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// It was followed, wherever it led.
#[test]
fn a_log_that_is_a_link_a_fifo_or_a_directory_is_code_2_and_nothing_is_written_through_it() {
    scenario().unmounted(|endpoint| {
        let dir = tempfile::tempdir().unwrap();
        let [point, link, pipe, target] = ["mnt", "link", "fifo", "target"].map(|name| dir.path().join(name));
        fs::create_dir(&point).unwrap();
        fs::write(&target, "as it was").unwrap();
        symlink(&target, &link).unwrap();
        fifo(&pipe);
        for (log, kind) in [(link.as_path(), "symbolic link"), (&pipe, "fifo"), (dir.path(), "directory")] {
            for more in [&[][..], &["--foreground"]] {
                let mut command = Mount::command(&endpoint, BUCKET, &point);
                command.args(["--kms-key-id", endpoint.key_arn(), "--spill-dir"]).arg(dir.path().join("spill"));
                let output = command.arg("--log-file").arg(log).args(more).output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(2), "{kind}: {said}");
                assert!(said.contains(&format!("it is a {kind}")) && said.contains("--log-file"), "{said}");
            }
        }
        assert_eq!(fs::read(&target).unwrap(), b"as it was");
        assert!(!mountinfo_has(&point));
    });
}

/// The mount helper waited for a reader, and the daemon for the helper.
#[test]
fn a_fifo_in_the_place_of_the_log_is_not_waited_for_by_a_hangup_or_by_the_end() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let dir = tempfile::tempdir().unwrap();
        let [log, old] = ["log", "log.1"].map(|name| dir.path().join(name));
        let (point, _end) = in_background(&endpoint, dir.path(), &["--log-file", log.to_str().unwrap()]);
        fs::rename(&log, &old).unwrap();
        fifo(&log);
        let pid = attribute(&point, "user.dsse.mount.pid").unwrap();
        hang_up(&point);
        let told = || fs::read_to_string(&old).unwrap().contains("it is a fifo");
        eventually("the old log says why it goes on", MINUTE, told);
        fs::write(point.join("file"), "content").unwrap();
        kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::TERM).unwrap();
        eventually("the daemon has ended", MINUTE / 2, || !Path::new("/proc").join(&pid).exists());
        assert!(!mountinfo_has(&point));
        assert_eq!(endpoint.content("file"), b"content");
    });
}

/// What the starter of a mount in the background has read on standard error, and the log's file.
fn told_at_start(endpoint: &Endpoint, options: &[&str]) -> (String, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let [point, log, errors, out] = ["mnt", "log", "errors", "out"].map(|name| dir.path().join(name));
    fs::create_dir(&point).unwrap();
    let mut command = Mount::command(endpoint, BUCKET, &point);
    command.args(["--kms-key-id", endpoint.key_arn(), "--spill-dir"]).arg(dir.path().join("spill"));
    if options.contains(&"--log-file") {
        command.args(options).arg(&log);
    } else {
        command.args(options);
    }
    let [to_errors, to_out] = [&errors, &out].map(|path| File::create(path).unwrap());
    let status = command.stdout(to_out).stderr(to_errors).status().unwrap();
    let _end = Detached(point.clone());
    assert!(status.success(), "{status}");
    assert_eq!(fs::read_to_string(&out).unwrap().lines().count(), 1);
    let settings = attribute(&point, "user.dsse.mount.settings").unwrap();
    // The log has a thread of its own.
    std::thread::sleep(std::time::Duration::from_millis(300));
    (fs::read_to_string(&errors).unwrap(), fs::read_to_string(&log).unwrap_or_default(), settings)
}

/// It was two lines about what the daemon had given up and where the mount is.
#[test]
fn a_person_is_told_the_sentence_of_success_and_the_log_file_has_the_rest() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let (errors, _, _) = told_at_start(&endpoint, &[]);
        assert!(!errors.contains("INFO"), "{errors}");
        let (errors, log, _) = told_at_start(&endpoint, &["--log-file"]);
        assert_eq!(errors, "");
        assert!(log.contains("INFO") && log.contains("is mounted at"), "{log}");
        // Where there is a system's log, more is said there.
        if !Path::new("/dev/log").exists() {
            let (errors, _, _) = told_at_start(&endpoint, &["-v"]);
            assert!(errors.contains("INFO"), "{errors}");
        }
    });
}

#[test]
fn options_that_take_a_protection_away_are_warned_of_and_stand_in_the_settings() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let (_, log, settings) = told_at_start(&endpoint, &["--log-file"]);
        assert!(!log.contains("WARN") || !log.contains("--last-writer-wins"), "{log}");
        let usual = ["last-writer-wins=false", "allow-insecure-endpoint=false", "sandbox=on", "sign-payload=false"];
        let is_set = |settings: &str, setting: &str| settings.split(' ').any(|is| is == setting);
        assert!(usual.iter().all(|setting| is_set(&settings, setting)), "{settings}");
        let dangerous = ["--last-writer-wins", "--allow-insecure-endpoint", "--sandbox=off"];
        let options = [&dangerous[..], &["--sign-payload", "--on-noncompliant-read=refuse", "--log-file"]].concat();
        let (_, log, settings) = told_at_start(&endpoint, &options);
        for option in ["--last-writer-wins:", "--allow-insecure-endpoint:", "--sandbox off:"] {
            assert!(log.lines().any(|line| line.contains("WARN") && line.contains(option)), "{option}: {log}");
        }
        let url = format!("endpoint-url={}", endpoint.url());
        let key = format!("kms-key={}", endpoint.key_arn());
        for setting in [
            "last-writer-wins=true",
            "allow-insecure-endpoint=true",
            "sandbox=off",
            "sign-payload=true",
            "on-noncompliant-read=refuse",
            "region=us-east-1",
            &url,
            &key,
        ] {
            assert!(is_set(&settings, setting), "{setting} in {settings}");
        }
    });
}

/// Root would make, or lengthen, a file of that name wherever the owner of the directory likes.
#[test]
fn root_opens_no_log_below_a_directory_that_another_user_may_change() {
    const OTHER: u32 = 65_534;
    if needs_root("only root can be led elsewhere by another user") {
        return;
    }
    scenario().unmounted(|endpoint| {
        let dir = tempfile::tempdir().unwrap();
        let [point, theirs, victim] = ["mnt", "theirs", "victim"].map(|name| dir.path().join(name));
        for path in [&point, &theirs, &victim, &theirs.join("plain")] {
            fs::create_dir(path).unwrap();
        }
        symlink(&victim, theirs.join("link")).unwrap();
        for path in [theirs.clone(), theirs.join("plain"), theirs.join("link")] {
            std::os::unix::fs::lchown(path, Some(OTHER), Some(OTHER)).unwrap();
        }
        for log in ["link/log", "plain/log", "log"] {
            let mut command = Mount::command(&endpoint, BUCKET, &point);
            command.args(["--kms-key-id", endpoint.key_arn(), "--spill-dir"]).arg(dir.path().join("spill"));
            let output = command.arg("--log-file").arg(theirs.join(log)).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{log}: {said}");
            assert!(said.contains(&format!("belongs to user {OTHER}")) && said.contains("--log-file"), "{said}");
            assert!(!theirs.join(log).exists() && !mountinfo_has(&point), "{log}");
        }
    });
}
