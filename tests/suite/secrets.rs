//! What is left of secrets, and what the daemon has given up, seen from outside.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use dssefs_emulator::faults::{Fault, Rule};
use rustix::process::{Pid, Resource, Rlimit, Signal, geteuid, prlimit};

use crate::common::{
    ACCESS_KEY, BUCKET, Endpoint, MINUTE, Mount, SECRET_KEY, attribute, commit, deadline, dssefs, errno, eventually,
    mountinfo_has, needs_root, noise, scenario, seed,
};

const PROTECTION: &str = "user.dsse.mount.protection";

/// The lines of every thread's status (proc_pid_status(5)) with one of these names.
fn threads(mount: &Mount, names: &[&str]) -> Vec<BTreeMap<String, String>> {
    threads_of(mount.pid(), names)
}

fn threads_of(pid: u32, names: &[&str]) -> Vec<BTreeMap<String, String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the daemon runs");
    let statuses = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    let pairs = |status: String| {
        let pairs = status.lines().filter_map(|line| line.split_once(":\t"));
        pairs
            .filter(|(name, _)| names.contains(name))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    };
    statuses.map(pairs).collect()
}

/// Keeps threads of all kinds busy, so that those which start late are there too.
fn work(mount: &Mount) {
    for number in 0..8 {
        commit(&mount.join(&format!("work-{number}")), &noise(number, 2 << 20)).unwrap();
    }
    fs::read_dir(mount.path()).unwrap().for_each(|entry| drop(fs::read(entry.unwrap().path()).unwrap()));
}

#[test]
fn every_thread_has_given_up_capabilities_and_system_calls() {
    scenario().within(MINUTE * 2).options(&["--sandbox", "require"]).mounted(|_endpoint, mount| {
        work(&mount);
        let threads = threads(&mount, &["CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd", "Seccomp", "NoNewPrivs"]);
        assert!(threads.len() > 4, "{threads:?}");
        for thread in &threads {
            assert_eq!((thread["Seccomp"].as_str(), thread["NoNewPrivs"].as_str()), ("2", "1"));
            let sets = thread.iter().filter(|(name, _)| name.starts_with("Cap"));
            // Only root may lower the bound; for others nothing comes of it.
            let bound = |name: &str| name == "CapBnd" && !geteuid().is_root();
            for (name, set) in sets.filter(|(name, _)| !bound(name)) {
                assert_eq!(u64::from_str_radix(set, 16), Ok(0), "{name} of {thread:?}");
            }
        }
        let told = attribute(&mount.path(), PROTECTION).unwrap();
        for layer in ["dumps=none", "capabilities=none", "landlock=on", "seccomp=on", "keys-unlocked=0"] {
            assert!(told.contains(layer), "{layer} is not in {told}");
        }
    });
}

#[test]
fn without_the_sandbox_nothing_is_given_up_and_the_mount_says_so() {
    scenario().options(&["--sandbox", "off"]).mounted(|_endpoint, mount| {
        assert!(threads(&mount, &["Seccomp"]).iter().all(|thread| thread["Seccomp"] == "0"));
        assert!(attribute(&mount.path(), PROTECTION).unwrap().contains("sandbox=off"));
    });
}

/// The process that mounts and unmounts for the daemon.
fn mount_helper(mount: &Mount) -> PathBuf {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", mount.pid())).unwrap();
    let process = Path::new("/proc").join(children.trim());
    let arguments = fs::read(process.join("cmdline")).unwrap();
    assert!(arguments.split(|byte| *byte == 0).any(|argument| argument == b"mount-helper"), "{children}");
    process
}

fn write_more_than_memory(mount: &Mount, endpoint: &Endpoint, name: &str) -> Vec<u8> {
    let content = noise(seed(), 4 << 20);
    let mut files: Vec<File> = (0..12).map(|n| File::create(mount.join(&format!("{name}-{n}"))).unwrap()).collect();
    files.iter_mut().for_each(|file| file.write_all(&content).unwrap());
    drop(files);
    assert!(endpoint.content(&format!("{name}-11")) == content);
    content
}

#[test]
fn a_confined_daemon_spills_commits_and_unmounts_for_everybody_who_asks() {
    scenario().within(MINUTE * 3).options(&["--memory", "32MiB"]).mounted(|endpoint, mut mount| {
        let attendant = mount_helper(&mount);
        let content = write_more_than_memory(&mount, &endpoint, "umount");
        // It waits for the daemon's end, which is not over until the test, its parent, has taken notice.
        let mut umount = dssefs().arg("umount").arg(mount.path()).spawn().unwrap();
        assert!(mount.ended().is_some_and(|status| status.success()), "{}", mount.log());
        assert!(umount.wait().unwrap().success());
        eventually("the helper ends with its daemon", MINUTE, || !attendant.join("cmdline").exists());

        let mount = Mount::with(&endpoint, &["--memory", "32MiB"]);
        let (path, attendant) = (mount.path(), mount_helper(&mount));
        write_more_than_memory(&mount, &endpoint, "signal");
        assert!(fs::read(mount.join("umount-3")).unwrap() == content);
        assert!(mount.end().success());
        assert!(!mountinfo_has(&path));
        eventually("the helper ends with its daemon", MINUTE, || !attendant.join("cmdline").exists());
    });
}

#[test]
fn a_service_manager_that_signals_every_process_gets_a_clean_unmount() {
    scenario().mounted(|_endpoint, mount| {
        let attendant = mount_helper(&mount);
        let pid: i32 = attendant.file_name().unwrap().to_str().unwrap().parse().unwrap();
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            rustix::process::kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
        }
        let path = mount.path();
        commit(&mount.join("file"), b"content").unwrap();
        assert!(mount.end().success());
        assert!(!mountinfo_has(&path));
    });
}

#[test]
fn the_mount_of_a_killed_daemon_stays_and_refuses_so_that_nothing_is_written_below_it() {
    scenario().mounted(|_endpoint, mut mount| {
        let attendant = mount_helper(&mount);
        mount.signal(Signal::KILL);
        mount.ended().unwrap();
        eventually("the helper ends with its daemon", MINUTE, || !attendant.join("cmdline").exists());
        assert!(mountinfo_has(&mount.path()));
        let refused = fs::write(mount.join("file"), "content").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOTCONN));
    });
}

#[test]
fn a_credential_process_is_run_again_inside_the_sandbox() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let dir = tempfile::tempdir().unwrap();
        let (program, runs, config) = (dir.path().join("program"), dir.path().join("runs"), dir.path().join("config"));
        let script = format!(
            "#!/bin/sh\necho run >>{}\nexpires=$(date -u -d '+14 seconds' +%Y-%m-%dT%H:%M:%SZ)\n\
             echo '{{\"Version\":1,\"AccessKeyId\":\"{ACCESS_KEY}\",\"SecretAccessKey\":\"{SECRET_KEY}\",\
             \"Expiration\":\"'$expires'\"}}'\n",
            runs.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(&config, format!("[default]\ncredential_process = {}\n", program.display())).unwrap();
        let environment =
            [("AWS_ACCESS_KEY_ID", None), ("AWS_SECRET_ACCESS_KEY", None), ("AWS_CONFIG_FILE", config.to_str())];
        let mount = Mount::with_environment(&endpoint, &environment, &[]);
        let count = || fs::read_to_string(&runs).unwrap_or_default().lines().count();
        let at_start = count();
        assert!(at_start > 0);
        let mut number = 0;
        eventually("the credentials are renewed", MINUTE, || {
            number += 1;
            commit(&mount.join(&format!("{number}")), b"content").unwrap();
            std::thread::sleep(Duration::from_millis(300));
            count() > at_start
        });
        commit(&mount.join("after"), b"content").unwrap();
        assert!(threads(&mount, &["Seccomp"]).iter().all(|thread| thread["Seccomp"] == "2"));
        assert!(mount.end().success());
    });
}

#[test]
fn a_daemon_of_root_keeps_the_right_to_read_credentials_that_belong_to_somebody_else() {
    deadline(MINUTE, || {
        if needs_root("only root has files of others to read") {
            return;
        }
        let endpoint = Endpoint::start();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        let text = format!("[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&path, Some(65_534), Some(65_534)).unwrap();
        let environment = [
            ("AWS_ACCESS_KEY_ID", None),
            ("AWS_SECRET_ACCESS_KEY", None),
            ("AWS_SHARED_CREDENTIALS_FILE", path.to_str()),
        ];
        let mount = Mount::with_environment(&endpoint, &environment, &[]);
        commit(&mount.join("file"), b"content").unwrap();
        let told = attribute(&mount.path(), PROTECTION).unwrap();
        assert!(told.contains("capabilities=dac_read_search"), "{told}");
    });
}

/// As tools do that write the keys of a session into the profile and replace them every hour.
#[test]
fn credentials_that_are_replaced_in_their_file_are_used_without_a_new_mount() {
    scenario().within(MINUTE * 3).unmounted(|endpoint| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        let replace = |secret: &str| {
            let text = format!("[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {secret}\n");
            let new = dir.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, &path).unwrap();
        };
        replace(SECRET_KEY);
        let environment = [
            ("AWS_ACCESS_KEY_ID", None),
            ("AWS_SECRET_ACCESS_KEY", None),
            ("AWS_SHARED_CREDENTIALS_FILE", path.to_str()),
        ];
        let mount = Mount::with_environment(&endpoint, &environment, &[]);
        commit(&mount.join("before"), b"content").unwrap();
        replace("of another account");
        let refused = || errno(fs::metadata(mount.join("missing"))) == libc::EACCES;
        eventually("the wrong ones are used", MINUTE, refused);
        replace(SECRET_KEY);
        eventually("the right ones are used", MINUTE, || commit(&mount.join("after"), b"content").is_ok());
        assert_eq!(endpoint.content("after"), b"content");
    });
}

#[test]
fn a_daemon_that_is_aborted_leaves_no_core_even_without_a_limit() {
    deadline(MINUTE, || {
        if needs_root("only root can raise the limit of another process") {
            return;
        }
        let endpoint = Endpoint::start();
        let mut mount = Mount::of(&endpoint);
        let filter = fs::read_to_string(format!("/proc/{}/coredump_filter", mount.pid())).unwrap();
        assert_eq!(filter.trim(), "00000000");
        let pid = Pid::from_raw(mount.pid().cast_signed()).unwrap();
        if prlimit(Some(pid), Resource::Core, Rlimit { current: Some(1 << 30), maximum: Some(1 << 30) }).is_err() {
            println!("the limit cannot be raised here, and holds as well");
        }
        mount.signal(Signal::ABORT);
        let status: ExitStatus = mount.ended().unwrap();
        assert_eq!((status.signal(), status.core_dumped()), (Some(libc::SIGABRT), false));
    });
}

/// A mapping that can be written to, and its flags.
struct Region {
    start: u64,
    end: u64,
    flags: String,
}

fn regions(pid: u32) -> Vec<Region> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("root may look");
    let mut regions: Vec<Region> = Vec::new();
    for line in smaps.lines() {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let bounds = range.map(|(start, end)| (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16)));
        if let Some((Ok(start), Ok(end))) = bounds {
            regions.push(Region { start, end, flags: String::new() });
        } else if let (Some(flags), Some(region)) = (line.strip_prefix("VmFlags:"), regions.last_mut()) {
            region.flags = flags.to_owned();
        }
    }
    regions.retain(|region| region.flags.contains(" wr"));
    regions
}

/// Whether `needle` is in this process's memory, separately for what a core image may hold and what is marked to be
/// left out.
fn in_memory(pid: u32, needle: &[u8]) -> (bool, bool) {
    const STEP: usize = 1 << 20;
    let memory = File::open(format!("/proc/{pid}/mem")).expect("root may look");
    let (mut dumped, mut left_out) = (false, false);
    let mut bytes = vec![0; STEP + needle.len()];
    for region in regions(pid) {
        let found = (region.start..region.end).step_by(STEP).any(|at| {
            let wanted = bytes.len().min((region.end - at) as usize);
            let got = memory.read_at(&mut bytes[..wanted], at).unwrap_or(0);
            holds(&bytes[..got], needle)
        });
        *(if region.flags.contains(" dd") { &mut left_out } else { &mut dumped }) |= found;
    }
    (dumped, left_out)
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    // Compares only where the first byte is right: there are many bytes, and debug builds are slow.
    bytes.iter().enumerate().any(|(at, byte)| *byte == needle[0] && bytes[at..].starts_with(needle))
}

#[test]
fn content_is_gone_from_the_daemons_memory_once_it_is_stored_or_read() {
    deadline(MINUTE * 5, || {
        if needs_root("only root can look into the daemon's memory") {
            return;
        }
        let endpoint = Endpoint::start();
        let mount = Mount::of(&endpoint);
        let [written, read] = [noise(seed(), 64), noise(seed() ^ 1, 64)];
        let content = |marker: &[u8]| marker.repeat(4096);
        endpoint.put("read", &content(&read));

        let mut file = File::create(mount.join("written")).unwrap();
        file.write_all(&content(&written)).unwrap();
        assert!(in_memory(mount.pid(), &written).1, "content that is held is in pages that are left out of dumps");
        file.sync_all().unwrap();
        drop(file);
        assert!(fs::read(mount.join("read")).unwrap() == content(&read));

        // The kernel's last requests stay in the buffers of the threads that took them, until the next ones of that
        // length.
        let mut rounds = 0;
        eventually("later requests take the place of the last ones", MINUTE * 3, || {
            rounds += 1;
            std::thread::scope(|scope| {
                for number in 0..8 {
                    let path = mount.join(&format!("noise-{number}"));
                    scope.spawn(move || commit(&path, &noise(number + rounds, 3 << 20)).unwrap());
                }
            });
            in_memory(mount.pid(), &written) == (false, false) && in_memory(mount.pid(), &read) == (false, false)
        });
    });
}

/// Everything in the files below a directory.
fn bytes_below(directory: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            all.extend(bytes_below(&entry.path()));
        } else {
            File::open(entry.path()).unwrap().read_to_end(&mut all).unwrap();
        }
    }
    all
}

#[test]
fn neither_spill_nor_journal_nor_the_fullest_log_hold_content_attributes_or_credentials() {
    const CONTENT: &str = "CONTENT-of-the-planted-record-4711";
    const VALUE: &str = "VALUE-of-the-planted-attribute-4712";
    const NAME: &str = "NAME-of-the-planted-file-4713";
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let spill = tempfile::tempdir().unwrap();
        let options =
            ["--spill-keys", "kms", "--commit", "background", "--spill-dir", spill.path().to_str().unwrap(), "-vv"];
        let mount = Mount::with(&endpoint, &options);
        let down =
            Fault::Failure { status: 503, code: "ServiceUnavailable".to_owned(), message: "scripted".to_owned() };
        endpoint.inject_faults(vec![Rule::on("PutObject", down).times(0)]);
        let path = mount.join(NAME);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).unwrap();
        file.write_all(CONTENT.repeat(1000).as_bytes()).unwrap();
        xattr::set(&path, "user.planted", VALUE.as_bytes()).unwrap();
        drop(file);
        eventually("the store has refused it", MINUTE, || {
            attribute(&path, "user.dsse.last-error").is_ok_and(|error| !error.is_empty())
        });
        let kept = bytes_below(spill.path());
        assert!(kept.len() > CONTENT.len() * 1000, "there is something to search");
        for marker in [CONTENT, VALUE, NAME, SECRET_KEY] {
            assert!(!holds(&kept, marker.as_bytes()), "{marker} is readable on the disk");
        }
        endpoint.clear_faults();
        eventually("it is stored", MINUTE, || endpoint.head(NAME).is_some());
        assert!(endpoint.content(NAME) == CONTENT.repeat(1000).as_bytes());
        let log = mount.log();
        assert!(log.len() > 10_000, "the log is the fullest there is");
        for marker in [CONTENT, VALUE, SECRET_KEY] {
            let line = log.lines().find(|line| line.contains(marker));
            assert!(line.is_none(), "{marker} is in the log: {line:?}");
        }
    });
}

/// The sealed files of a living daemon, which have no name: what whoever has the disk finds of them.
fn bytes_of_nameless_files(mount: &Mount) -> Vec<u8> {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", mount.pid())).expect("root may look");
    let mut all = Vec::new();
    for descriptor in descriptors.map(|entry| entry.unwrap().path()) {
        let target = fs::read_link(&descriptor).unwrap_or_default();
        let nameless = target.starts_with(mount.spill_dir()) && target.to_string_lossy().ends_with(" (deleted)");
        if nameless {
            File::open(&descriptor).unwrap().read_to_end(&mut all).unwrap();
        }
    }
    all
}

#[test]
fn the_spill_of_a_living_daemon_holds_no_content() {
    const MARKER: &[u8] = b"CONTENT-of-the-planted-record-4714";
    const FILES: usize = 12;
    deadline(MINUTE * 3, || {
        if needs_root("only root can look at the daemon's descriptors") {
            return;
        }
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &["--memory", "32MiB"]);
        let content = MARKER.repeat((4 << 20) / MARKER.len());
        let mut files: Vec<File> =
            (0..FILES).map(|number| File::create(mount.join(&format!("file-{number}"))).unwrap()).collect();
        files.iter_mut().for_each(|file| file.write_all(&content).unwrap());
        let spilled = bytes_of_nameless_files(&mount);
        // The files have more than the share of writing, three quarters of the memory.
        let least = FILES * content.len() - (24 << 20);
        assert!(spilled.len() >= least, "{} bytes are on the disk", spilled.len());
        assert!(!holds(&spilled, &MARKER[..16]), "content is readable on the disk");
        drop(files);
        assert!(endpoint.content("file-0") == content, "what was sealed comes back");
    });
}

/// Content, the plaintext of KMS's keys, and credentials, in the log of a mount that was asked for everything that a
/// filter can name.
fn search_the_fullest_log(format: &str) {
    const SMALL: &str = "CONTENT-of-the-planted-record-4715";
    const LARGE: &str = "CONTENT-of-the-planted-record-4716";
    const VALUE: &str = "VALUE-of-the-planted-attribute-4717";
    let endpoint = Endpoint::start();
    let of_others = [("small-of-others", SMALL), ("large-of-others", LARGE)].map(|(name, content)| {
        let content = content.repeat(10_000);
        endpoint.put(name, content.as_bytes());
        (name, content)
    });
    let environment = [("DSSEFS_LOG", Some("trace")), ("LOG_SENSITIVE_BODIES", Some("true"))];
    let options = ["--sign-payload", "--spill-keys", "kms", "--log-format", format, "--memory", "32MiB"];
    let mount = Mount::with_environment(&endpoint, &environment, &options);
    commit(&mount.join("small"), SMALL.repeat(100).as_bytes()).unwrap();
    xattr::set(mount.join("small"), "user.planted", VALUE.as_bytes()).unwrap();
    let large = LARGE.repeat((20 << 20) / LARGE.len());
    commit(&mount.join("large"), large.as_bytes()).unwrap();
    assert!(endpoint.counters().operation("UploadPart").requests > 1, "it went in parts");
    for (name, content) in of_others {
        assert!(fs::read(mount.join(name)).unwrap() == content.as_bytes());
    }
    let log = mount.log();
    assert!(log.contains("DEBUG") && log.contains("large"), "the log is the fullest there is");
    let base64 = |text: &str| base64_simd::STANDARD.encode_to_string(text);
    let small = SMALL.repeat(3);
    for marker in [SMALL, LARGE, VALUE, SECRET_KEY, "Plaintext", &base64(&small)[..40]] {
        let line = log.lines().find(|line| line.contains(marker));
        assert!(line.is_none(), "{marker} is in the log: {:.400}", line.unwrap_or_default());
    }
}

#[test]
fn a_filter_that_asks_for_everything_gets_no_bodies_into_the_text() {
    deadline(MINUTE * 3, || search_the_fullest_log("text"));
}

#[test]
fn a_filter_that_asks_for_everything_gets_no_bodies_into_the_json() {
    deadline(MINUTE * 3, || search_the_fullest_log("json"));
}

/// What a core image of a process holds, as the kernel chooses it by `coredump_filter` (core(5)), of memory that can be
/// written to: its own pages by bit 0, shared ones by bit 1, private ones of files by bit 2, shared ones of files by
/// bit 3; nothing that is marked to be left out.
fn core_image(pid: u32, filter: u32) -> Vec<u8> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("root may look");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("root may look");
    let mut image = Vec::new();
    for region in regions(pid).into_iter().filter(|region| !region.flags.contains(" dd")) {
        let start = format!("{:x}-", region.start);
        let line = maps.lines().find(|line| line.trim_start_matches('0').starts_with(&start)).unwrap_or_default();
        let is_of_a_file = line.contains(" /") && !line.contains("/dev/zero") && !line.contains("/memfd:");
        let bit = u32::from(region.flags.contains(" sh")) + 2 * u32::from(is_of_a_file);
        if filter & (1 << bit) != 0 {
            let mut bytes = vec![0; (region.end - region.start) as usize];
            let got = memory.read_at(&mut bytes, region.start).unwrap_or(0);
            image.extend_from_slice(&bytes[..got]);
        }
    }
    image
}

/// The kernel makes no image of a process that is not dumpable, so the tools' way is gone: what they take of a living
/// process, by the filter that it has. The default filter shows that the search finds something where there is
/// something to find.
#[test]
fn an_image_that_a_tool_takes_of_the_living_daemon_holds_nothing_of_it() {
    const DEFAULT: u32 = 0x33;
    deadline(MINUTE * 3, || {
        if needs_root("only root can look into the daemon's memory") {
            return;
        }
        let endpoint = Endpoint::start();
        let mount = Mount::of(&endpoint);
        let marker = noise(seed() ^ 2, 64);
        let mut file = File::create(mount.join("file-in-the-image")).unwrap();
        file.write_all(&marker.repeat(4096)).unwrap();
        let usual = core_image(mount.pid(), DEFAULT);
        assert!(holds(&usual, b"file-in-the-image") && holds(&usual, SECRET_KEY.as_bytes()), "{}", usual.len());
        let filter = fs::read_to_string(format!("/proc/{}/coredump_filter", mount.pid())).unwrap();
        let image = core_image(mount.pid(), u32::from_str_radix(filter.trim(), 16).unwrap());
        assert_eq!(image.len(), 0, "a filter of zero chooses nothing that can be written to");
        assert!(in_memory(mount.pid(), &marker).1, "the content is there, in pages that every filter leaves out");
    });
}

/// Tries to open what a debugger of the same user would, and tells of each file what became of it. The kernel keeps the
/// last from whom it would keep ptrace(2) (proc_pid_syscall(5)).
const INTRUDER: &str = "for name in mem environ syscall; do
    if (: <\"/proc/$1/$name\") 2>/dev/null; then echo $name open; else echo $name refused; fi
done";

/// What a process of this user could look into of another one.
fn intrude(user: &str, pid: u32) -> String {
    let mut intruder = Command::new("setpriv");
    intruder.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"]);
    let output = intruder.args(["sh", "-c", INTRUDER, "sh", &pid.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn another_process_of_the_user_cannot_look_into_the_daemon() {
    deadline(MINUTE, || {
        if needs_root("only root can become another user") {
            return;
        }
        let endpoint = Endpoint::start();
        let mount = Mount::by(&endpoint, 65_534);
        let status = fs::read_to_string(format!("/proc/{}/status", mount.pid())).unwrap();
        assert!(status.contains("Uid:\t65534\t65534"), "{status}");
        // A process that does not defend itself shows what the intruder is able to, wherever the kernel leaves it to
        // the owner.
        let asleep = ["--reuid=65534", "--regid=65534", "--clear-groups", "sleep", "60"];
        let mut other = Command::new("setpriv").args(asleep).spawn().unwrap();
        let is_asleep =
            || fs::read(format!("/proc/{}/cmdline", other.id())).is_ok_and(|line| line.starts_with(b"sleep"));
        eventually("the other sleeps", MINUTE, is_asleep);
        let seen = intrude("65534", other.id());
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(seen.contains("environ open"), "the intruder can do nothing at all: {seen}");
        assert_eq!(intrude("65534", mount.pid()), "mem refused\nenviron refused\nsyscall refused\n");
        assert!(mount.end().success());
    });
}

/// A pair of data keys, as text of KMS, and how the keys that seal come of it.
struct Pair {
    wrapped: [String; 2],
    epoch: u64,
    salt: Vec<u8>,
}

/// The pairs of data keys of the one session: those of the session, and those after each renewal.
fn wrapped_keys(spill: &Path) -> Vec<Pair> {
    let session = fs::read_dir(spill).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir());
    let names = fs::read_dir(session.expect("a session")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        names.filter(|path| path.extension().is_some_and(|ending| ending == "json")).collect();
    files.sort_by_key(|path| (!path.ends_with("session.json"), path.clone()));
    // One that is being written is whole the next time.
    let described = files.iter().filter_map(|path| {
        let described: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        let wrapped = [0, 1].map(|layer| described["keys"][layer]["wrapped"].as_str().unwrap().to_owned());
        let salt = serde_json::from_value(described["derivation"]["salt"].clone()).unwrap();
        Some(Pair { wrapped, epoch: described["derivation"]["epoch"].as_u64().unwrap(), salt })
    });
    described.collect()
}

/// The data keys of a pair, as KMS gives them to whoever names the mount, the session, the layer and the epoch.
fn data_keys(endpoint: &Endpoint, spill: &Path, pair: &Pair) -> [Vec<u8>; 2] {
    let [inner, outer] = &pair.wrapped;
    [("inner", inner), ("outer", outer)]
        .map(|(layer, wrapped)| unwrapped(endpoint, spill, wrapped, layer, pair.epoch).expect("KMS gives it back"))
}

/// The keys that seal, as FORMAT.md says that they come of the data keys.
fn layer_keys(data_keys: &[Vec<u8>; 2], pair: &Pair) -> [Vec<u8>; 2] {
    let derive = |data_key: &[u8], info: &[u8]| {
        let mut key = vec![0; 32];
        let extracted = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &pair.salt).extract(data_key);
        extracted.expand(&[info], ring::hkdf::HKDF_SHA256).unwrap().fill(&mut key).unwrap();
        key
    };
    let [inner, outer] = data_keys;
    [derive(inner, b"dssefs journal v2 in-1"), derive(outer, b"dssefs journal v2 out1")]
}

fn kms_client(endpoint: &Endpoint) -> aws_sdk_kms::Client {
    use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region};
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint.url())
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "tests"))
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    aws_sdk_kms::Client::from_conf(config.build())
}

/// What KMS makes of a wrapped key for a caller that names the mount, the session, this layer and this epoch. None if
/// it refuses.
fn unwrapped(endpoint: &Endpoint, spill: &Path, wrapped: &str, layer: &str, epoch: u64) -> Option<Vec<u8>> {
    let session = fs::read_dir(spill).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
    let described: serde_json::Value =
        serde_json::from_slice(&fs::read(session.join("session.json")).unwrap()).unwrap();
    let kms = kms_client(endpoint);
    let blob = base64_simd::STANDARD.decode_to_vec(wrapped).unwrap();
    let ask = kms.decrypt().key_id(endpoint.key_arn()).ciphertext_blob(aws_sdk_kms::primitives::Blob::new(blob));
    let ask = ask.encryption_context("dssefs:source", described["source"].as_str().unwrap());
    let ask = ask.encryption_context("dssefs:session", described["name"].as_str().unwrap());
    let ask = ask.encryption_context("dssefs:layer", layer).encryption_context("dssefs:epoch", epoch.to_string());
    let answer = endpoint.with(|_| async { ask.send().await }).ok()?;
    Some(answer.plaintext.unwrap().into_inner())
}

/// The forms in which a key could lie somewhere: as it is, and as KMS sends it.
fn forms(key: &[u8]) -> [Vec<u8>; 2] {
    [key.to_vec(), base64_simd::STANDARD.encode_to_string(key).into_bytes()]
}

/// Mounts with a journal that has to keep a file, and gives the data keys that it began with, and the keys that seal.
fn mount_with_journal(endpoint: &Endpoint, spill: &Path, more: &[&str]) -> (Mount, [Vec<u8>; 2], [Vec<u8>; 2]) {
    let options = ["--spill-keys", "kms", "--commit", "background", "--spill-dir", spill.to_str().unwrap(), "-vv"];
    let mount = Mount::with(endpoint, &[&options[..], more].concat());
    let pair = wrapped_keys(spill).remove(0);
    let data_keys = data_keys(endpoint, spill, &pair);
    let sealing = layer_keys(&data_keys, &pair);
    let down = Fault::Failure { status: 503, code: "ServiceUnavailable".to_owned(), message: "scripted".to_owned() };
    endpoint.inject_faults(vec![Rule::on("PutObject", down).key_contains("file").times(0)]);
    fs::write(mount.join("file"), "content").unwrap();
    (mount, data_keys, sealing)
}

fn assert_nowhere(keys: &[Vec<u8>], spill: &Path, log: &str) {
    let kept = bytes_below(spill);
    for form in keys.iter().flat_map(|key| forms(key)) {
        assert!(!holds(&kept, &form), "a key is on the disk");
        assert!(!holds(log.as_bytes(), &form), "a key is in the log");
    }
}

#[test]
fn the_keys_of_the_journal_and_the_spill_are_nowhere_but_in_pages_that_no_dump_takes() {
    deadline(MINUTE * 4, || {
        if needs_root("only root can look into the daemon's memory") {
            return;
        }
        let (endpoint, spill) = (Endpoint::start(), tempfile::tempdir().unwrap());
        let (mut mount, data_keys, keys) = mount_with_journal(&endpoint, spill.path(), &[]);
        for (layer, key) in ["inner", "outer"].iter().zip(&keys) {
            assert_eq!(in_memory(mount.pid(), key), (false, true), "the {layer} key, in (dumped, left out) pages");
        }
        for form in data_keys.iter().flat_map(|key| forms(key)) {
            let gone = || in_memory(mount.pid(), &form) == (false, false);
            eventually("the data keys are gone, and as KMS has sent them", Duration::from_secs(15), gone);
        }
        assert_nowhere(&data_keys, spill.path(), &mount.log());
        assert_nowhere(&keys, spill.path(), &mount.log());
        mount.signal(Signal::ABORT);
        assert!(!mount.ended().unwrap().core_dumped(), "there is an image to be searched");
        assert_nowhere(&keys, spill.path(), &mount.log());
    });
}

#[test]
fn keys_that_were_replaced_are_gone_from_memory_with_the_answers_that_brought_them() {
    deadline(MINUTE * 4, || {
        if needs_root("only root can look into the daemon's memory") {
            return;
        }
        let (endpoint, spill) = (Endpoint::start(), tempfile::tempdir().unwrap());
        let (mount, first, sealing) = mount_with_journal(&endpoint, spill.path(), &["--spill-key-lifetime", "1s"]);
        eventually("the keys are renewed", MINUTE, || wrapped_keys(spill.path()).len() > 1);
        let second = data_keys(&endpoint, spill.path(), &wrapped_keys(spill.path()).pop().unwrap());
        let gone = |form: &[u8]| in_memory(mount.pid(), form) == (false, false);
        for form in first.iter().chain(&second).chain(&sealing).flat_map(|key| forms(key)) {
            eventually("neither keys nor answers of KMS stay", Duration::from_secs(20), || gone(&form));
        }
        assert_nowhere(&first, spill.path(), &mount.log());
        assert_nowhere(&second, spill.path(), &mount.log());
        endpoint.clear_faults();
        eventually("the file is stored", MINUTE, || endpoint.head("file").is_some());
        assert!(mount.end().success());
    });
}

#[test]
fn a_data_key_is_bound_to_its_layer_and_its_epoch() {
    deadline(MINUTE * 2, || {
        let (endpoint, spill) = (Endpoint::start(), tempfile::tempdir().unwrap());
        let (mount, ..) = mount_with_journal(&endpoint, spill.path(), &[]);
        let pair = wrapped_keys(spill.path()).remove(0);
        let [inner, outer] = &pair.wrapped;
        let ask = |wrapped: &str, layer: &str, epoch| unwrapped(&endpoint, spill.path(), wrapped, layer, epoch);
        assert!(ask(inner, "inner", 0).is_some() && ask(outer, "outer", 0).is_some());
        assert!(ask(inner, "outer", 0).is_none() && ask(outer, "inner", 0).is_none(), "one passes for the other");
        assert!(ask(inner, "inner", 1).is_none() && ask(outer, "outer", 1).is_none(), "one passes for a later one");
        endpoint.clear_faults();
        assert!(mount.end().success());
    });
}

/// An answer of kms:GenerateDataKey, to be given again and again.
fn recorded(endpoint: &Endpoint) -> Fault {
    let ask = kms_client(endpoint).generate_data_key().key_id(endpoint.key_arn());
    let ask = ask.key_spec(aws_sdk_kms::types::DataKeySpec::Aes256);
    let answer = endpoint.with(|_| async { ask.send().await }).expect("KMS gives a key");
    let text = |blob: Option<aws_sdk_kms::primitives::Blob>| {
        base64_simd::STANDARD.encode_to_string(blob.expect("both forms of it").into_inner())
    };
    let body = serde_json::json!({
        "CiphertextBlob": text(answer.ciphertext_blob), "Plaintext": text(answer.plaintext),
        "KeyId": endpoint.key_arn(),
    });
    Fault::Alter { headers: BTreeMap::new(), body: Some(body.to_string()) }
}

#[test]
fn a_mount_whose_kms_gives_both_layers_one_key_does_not_start() {
    deadline(MINUTE, || {
        let (endpoint, spill) = (Endpoint::start(), tempfile::tempdir().unwrap());
        endpoint.inject_faults(vec![Rule::on("kms:GenerateDataKey", recorded(&endpoint)).times(0)]);
        let place = tempfile::tempdir().unwrap();
        let mut command = Mount::command(&endpoint, BUCKET, place.path());
        command.args(["--foreground", "--kms-key-id", endpoint.key_arn(), "--spill-keys", "kms"]);
        let ended = command.arg("--spill-dir").arg(spill.path()).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && said.contains("that it had given before"), "{:?}: {said}", ended.status);
    });
}

#[test]
fn a_key_that_kms_gives_again_at_a_later_renewal_is_not_used() {
    deadline(MINUTE * 2, || {
        let (endpoint, spill) = (Endpoint::start(), tempfile::tempdir().unwrap());
        let (mount, ..) = mount_with_journal(&endpoint, spill.path(), &["--spill-key-lifetime", "1s"]);
        let down =
            Fault::Failure { status: 503, code: "ServiceUnavailable".to_owned(), message: "scripted".to_owned() };
        let (one, other) = (recorded(&endpoint), recorded(&endpoint));
        let answers = [one.clone(), other.clone(), one, other];
        let mut rules: Vec<Rule> =
            (1..).zip(answers).map(|(nth, answer)| Rule::on("kms:GenerateDataKey", answer).nth(nth)).collect();
        rules.push(Rule::on("PutObject", down).key_contains("file").times(0));
        endpoint.inject_faults(rules);
        let is_told = || mount.log().contains("that it had given before");
        eventually("the repeated key is refused", MINUTE, is_told);
        assert!(mount.log().contains("the present ones stay in use"), "{}", mount.log());
        endpoint.clear_faults();
        eventually("the file is stored", MINUTE, || endpoint.head("file").is_some());
        assert!(mount.end().success());
    });
}

/// Starts a program without any locked memory, and without the capabilities by which root would have some.
fn without_locked_memory() -> Vec<&'static str> {
    let limit = ["prlimit", "--memlock=0:0"];
    let capabilities = ["setpriv", "--bounding-set", "-ipc_lock,-sys_resource"];
    if geteuid().is_root() { [&limit[..], &capabilities].concat() } else { limit.to_vec() }
}

#[test]
fn keys_that_cannot_be_locked_are_warned_of_once_and_told_in_the_attribute() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let mount = Mount::under(&endpoint, &without_locked_memory(), &[]);
        let log = mount.log();
        let warnings: Vec<&str> = log.lines().filter(|line| line.contains("memory for keys")).collect();
        assert_eq!(warnings.len(), 1, "{log}");
        for part in ["WARN", "limit of locked memory is 0 bytes", "ulimit -l", "LimitMEMLOCK"] {
            assert!(warnings[0].contains(part), "{part} is not in {}", warnings[0]);
        }
        let told = attribute(&mount.path(), PROTECTION).unwrap();
        assert!(told.contains("memory-locked=0 ") && told.contains("keys-locked=0 "), "{told}");
        assert!(!told.contains("keys-unlocked=0 "), "{told}");
        commit(&mount.join("file"), b"content").unwrap();
        assert!(mount.end().success());
    });
}

#[test]
fn a_sandbox_that_is_required_refuses_keys_that_cannot_be_locked() {
    deadline(MINUTE, || {
        let (endpoint, dir) = (Endpoint::start(), tempfile::tempdir().unwrap());
        let point = dir.path().join("mnt");
        fs::create_dir(&point).unwrap();
        let mut mount = Mount::command(&endpoint, BUCKET, &point);
        mount.args(["--foreground", "--sandbox", "require", "--kms-key-id", endpoint.key_arn(), "--spill-dir"]);
        mount.arg(dir.path().join("spill"));
        let output = under(&without_locked_memory(), &mount).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{said}");
        assert!(said.contains("ulimit -l") && said.contains("--sandbox require"), "{said}");
        assert!(!mountinfo_has(&point));
    });
}

#[test]
fn doctor_remarks_that_keys_cannot_be_locked() {
    deadline(MINUTE, || {
        let (endpoint, dir) = (Endpoint::start(), tempfile::tempdir().unwrap());
        let mut doctor = dssefs();
        doctor.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        doctor.args(["doctor", BUCKET, "--region", "us-east-1", "--force-path-style", "--spill-dir"]).arg(dir.path());
        doctor.args(["--kms-key-id", endpoint.key_arn(), "--endpoint-url", &endpoint.url()]);
        doctor.args(["--kms-endpoint-url", &endpoint.url()]);
        let remark = |output: std::process::Output| {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            said.lines().any(|line| line.starts_with("remark ") && line.contains("memory for keys"))
        };
        assert!(remark(under(&without_locked_memory(), &doctor).output().unwrap()));
        assert!(!remark(doctor.output().unwrap()), "with the limit of this process");
    });
}

/// The same program with its arguments and environment, started by another one.
fn under(starter: &[&str], program: &Command) -> Command {
    let (first, arguments) = starter.split_first().unwrap();
    let mut command = Command::new(first);
    command.args(arguments).arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// A store that never answers: what is seen then was given up before a word came from the network.
#[test]
fn the_sandbox_is_closed_before_the_first_answer_of_the_store() {
    deadline(MINUTE, || {
        let (store, dir) = (TcpListener::bind("127.0.0.1:0").unwrap(), tempfile::tempdir().unwrap());
        let point = dir.path().join("mnt");
        fs::create_dir(&point).unwrap();
        let mut command = Mount::command_through(&format!("http://{}", store.local_addr().unwrap()), &point);
        let key = "arn:aws:kms:us-east-1:111122223333:key/00000000-0000-0000-0000-000000000000";
        command.args(["--foreground", "--sandbox", "require", "--kms-key-id", key, "--spill-dir"]);
        command.arg(dir.path().join("spill"));
        let mut daemon = command.spawn().unwrap();
        let (_connection, _) = store.accept().unwrap();
        let threads = threads_of(daemon.id(), &["CapPrm", "CapEff", "Seccomp", "NoNewPrivs"]);
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        assert!(!threads.is_empty());
        for thread in threads {
            assert_eq!((thread["Seccomp"].as_str(), thread["NoNewPrivs"].as_str()), ("2", "1"));
            for set in ["CapPrm", "CapEff"] {
                assert_eq!(u64::from_str_radix(&thread[set], 16), Ok(0), "{set} of {thread:?}");
            }
        }
    });
}

/// The descriptors of a process that are sockets of the network, by the kernel's tables of them (proc_pid_net(5)).
fn network_sockets(process: &Path) -> Vec<PathBuf> {
    let tables = ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"];
    let tables: String =
        tables.iter().map(|table| fs::read_to_string(process.join("net").join(table)).unwrap_or_default()).collect();
    let numbers: Vec<&str> = tables.lines().filter_map(|line| line.split_ascii_whitespace().nth(9)).collect();
    let targets = fs::read_dir(process.join("fd")).unwrap().map(|entry| fs::read_link(entry.unwrap().path()).unwrap());
    let is_of_network = |target: &PathBuf| {
        let text = target.to_string_lossy().into_owned();
        text.strip_prefix("socket:[").is_some_and(|rest| numbers.contains(&rest.trim_end_matches(']')))
    };
    targets.filter(is_of_network).collect()
}

#[test]
fn the_mount_helper_has_no_secrets_no_network_and_only_the_rights_to_mount() {
    const DAC_OVERRIDE: u64 = 1 << 1;
    const DAC_READ_SEARCH: u64 = 1 << 2;
    const SYS_ADMIN: u64 = 1 << 21;
    deadline(MINUTE, || {
        if needs_root("only root can look at the helper's descriptors, and only its helper has capabilities") {
            return;
        }
        let (endpoint, dir) = (Endpoint::start(), tempfile::tempdir().unwrap());
        let log = dir.path().join("log");
        for (options, more) in [(&[][..], 0), (&["--log-file", log.to_str().unwrap()][..], DAC_OVERRIDE)] {
            let mount = Mount::with_environment(&endpoint, &[("AWS_SESSION_TOKEN_OF_A_TEST", Some("token"))], options);
            commit(&mount.join("file"), b"content").unwrap();
            let process = mount_helper(&mount);
            let environment = fs::read(process.join("environ")).unwrap();
            let names: Vec<&[u8]> = environment
                .split(|byte| *byte == 0)
                .filter(|variable| !variable.is_empty())
                .map(|variable| variable.split(|byte| *byte == b'=').next().unwrap())
                .collect();
            assert_eq!(names, [b"PATH"]);
            let arguments = fs::read(process.join("cmdline")).unwrap();
            for secret in [SECRET_KEY, endpoint.key_arn()] {
                assert!(!holds(&arguments, secret.as_bytes()), "{secret} is among the arguments");
            }
            assert_eq!(network_sockets(&process), [] as [PathBuf; 0]);
            let daemon = Path::new("/proc").join(mount.pid().to_string());
            assert!(!network_sockets(&daemon).is_empty(), "those of the daemon are found");
            let pid = process.file_name().unwrap().to_str().unwrap().parse().unwrap();
            for thread in threads_of(pid, &["CapPrm", "CapEff", "CapInh", "NoNewPrivs"]) {
                let held = SYS_ADMIN | DAC_READ_SEARCH | more;
                for (set, wanted) in [("CapPrm", held), ("CapEff", held), ("CapInh", 0)] {
                    assert_eq!(u64::from_str_radix(&thread[set], 16), Ok(wanted), "{set} with {options:?}");
                }
                assert_eq!(thread["NoNewPrivs"], "1");
            }
            assert!(mount.end().success());
        }
    });
}

#[test]
fn without_a_limit_of_locked_memory_all_memory_is_locked() {
    deadline(MINUTE, || {
        if needs_root("only root may lock all memory wherever the limit is low") {
            return;
        }
        let endpoint = Endpoint::start();
        let mount = Mount::of(&endpoint);
        work(&mount);
        let told = attribute(&mount.path(), PROTECTION).unwrap();
        if !told.contains("memory-locked=all ") {
            println!("skipped: root may not raise the limit of locked memory here: {told}");
            return;
        }
        let regions = regions(mount.pid());
        assert!(regions.len() > 10, "{} regions", regions.len());
        let unlocked: Vec<_> = regions.iter().filter(|region| !region.flags.contains(" lo")).collect();
        let bytes: u64 = unlocked.iter().map(|region| region.end - region.start).sum();
        assert_eq!(unlocked.len(), 0, "{bytes} bytes are not locked");
    });
}

#[test]
fn a_limit_of_256_kib_of_locked_memory_is_enough_for_keys_and_less_is_not() {
    deadline(MINUTE, || {
        let (endpoint, dir) = (Endpoint::start(), tempfile::tempdir().unwrap());
        let remarks = |limit: u64| {
            let limit = format!("--memlock={limit}:{limit}");
            let capabilities = ["setpriv", "--bounding-set", "-ipc_lock,-sys_resource"];
            let mut starter = vec!["prlimit", &limit];
            starter.extend(geteuid().is_root().then_some(capabilities).into_iter().flatten());
            let mut doctor = dssefs();
            doctor.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
            doctor.args(["doctor", BUCKET, "--region", "us-east-1", "--force-path-style", "--endpoint-url"]);
            doctor.args([&endpoint.url(), "--spill-dir"]).arg(dir.path());
            let output = under(&starter, &doctor).output().unwrap();
            String::from_utf8_lossy(&output.stdout).contains("the memory for keys cannot be locked")
        };
        assert!(remarks(256 * 1024 - 1));
        assert!(!remarks(256 * 1024));
    });
}
