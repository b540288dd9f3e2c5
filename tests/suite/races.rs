//! Lost races, and objects that another host has replaced: what this mount learns of them, every call goes by.
//!
//! The mounts believe what they know for an hour. So whatever a call finds out, it cannot have found out by the mere
//! passing of time.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use crate::common::{Endpoint, MINUTE, Mount, attribute_of, commit, deadline, errno, eventually, names, noise};

const PATIENT: [&str; 2] = ["--metadata-ttl", "1h"];
const OTHER: &[u8] = b"what the other host has stored";

/// A stored file to which this mount has appended, and that it has lost to the other host; it is still open.
fn lost(endpoint: &Endpoint, mount: &Mount, key: &str) -> File {
    let mut file = OpenOptions::new().read(true).append(true).open(mount.join(key)).unwrap();
    file.write_all(&noise(1, 9_000)).unwrap();
    endpoint.put(key, OTHER);
    assert_eq!(errno(file.sync_all()), libc::ESTALE);
    file
}

/// After a race that a closed file had lost, rename(2) of its directory was ESTALE until a program listed it.
#[test]
fn a_directory_is_renamed_after_a_file_in_it_lost_a_race() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        endpoint.put("d/f", b"old");
        let mount = Mount::with(&endpoint, &PATIENT);
        drop(lost(&endpoint, &mount, "d/f"));
        fs::rename(mount.join("d"), mount.join("d2")).unwrap();
        assert_eq!(fs::read(mount.join("d2/f")).unwrap(), OTHER);
        assert_eq!(endpoint.keys(), ["d2/", "d2/f"]);
    });
}

/// The name showed the bytes that had lost, while a rename moved the other host's object.
#[test]
fn the_name_of_a_lost_file_is_the_other_objects_at_once() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        endpoint.put("closed", b"old");
        endpoint.put("open", b"old");
        let mount = Mount::with(&endpoint, &PATIENT);
        assert_eq!(names(&mount.path()), ["closed", "open"]);
        for name in ["open", "closed"] {
            let file = lost(&endpoint, &mount, name);
            let open = (name == "open").then_some(file);
            let path = mount.join(name);
            assert_eq!(fs::read(&path).unwrap(), OTHER);
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            let mode = endpoint.head(name).unwrap().metadata().unwrap()["mode"].clone();
            assert_eq!(mode, 0o100_600.to_string(), "chmod is in the store");
            xattr::set(&path, "user.note", b"kept").unwrap();
            assert!(endpoint.head(name).unwrap().metadata().unwrap().contains_key("note"));
            fs::rename(&path, mount.join("moved")).unwrap();
            assert!(endpoint.head(name).is_none());
            assert_eq!(fs::read(mount.join("moved")).unwrap(), OTHER);
            if let Some(file) = open {
                let mut kept = vec![0; 4096];
                file.read_exact_at(&mut kept, 4096).unwrap();
                assert!(kept == noise(1, 9_000)[4093..4093 + 4096], "its handle reads what it wrote");
                assert_eq!(attribute_of(&file, "user.dsse.verdict").unwrap(), "pending");
            }
            fs::remove_file(mount.join("moved")).unwrap();
            assert!(endpoint.head("moved").is_none());
        }
    });
}

#[test]
fn a_new_file_that_lost_its_name_gives_way_to_the_winner() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &PATIENT);
        names(&mount.path());
        let mut file = File::create_new(mount.join("lock")).unwrap();
        file.write_all(b"mine").unwrap();
        endpoint.put("lock", OTHER);
        assert_eq!(errno(file.sync_all()), libc::ESTALE);
        assert_eq!(fs::read(mount.join("lock")).unwrap(), OTHER);
        assert_eq!(errno(File::create_new(mount.join("lock"))), libc::EEXIST);
        assert_eq!(names(&mount.path()), ["lock"]);
        drop(file);
        assert_eq!(fs::read(mount.join("lock")).unwrap(), OTHER);
    });
}

#[test]
fn a_file_that_another_host_removed_is_gone_when_its_changes_are_refused() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        endpoint.put("f", b"old");
        let mount = Mount::with(&endpoint, &PATIENT);
        names(&mount.path());
        let file = OpenOptions::new().write(true).open(mount.join("f")).unwrap();
        file.write_all_at(b"new", 0).unwrap();
        endpoint.delete("f");
        assert_eq!(errno(file.sync_all()), libc::ESTALE);
        assert_eq!(errno(File::open(mount.join("f"))), libc::ENOENT);
        assert_eq!(names(&mount.path()), Vec::<String>::new());
        commit(&mount.join("f"), b"another").unwrap();
        assert_eq!(errno(file.sync_all()), libc::ESTALE, "the lost file takes nothing from the new one");
        assert_eq!(endpoint.content("f"), b"another");
    });
}

/// What lost may be stored after all, when the winner is gone; then the name is its own again.
#[test]
fn a_lost_file_takes_its_name_back_when_the_winner_is_gone() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &PATIENT);
        let mut file = File::create_new(mount.join("f")).unwrap();
        file.write_all(b"mine").unwrap();
        endpoint.put("f", OTHER);
        assert_eq!(errno(file.sync_all()), libc::ESTALE);
        assert_eq!(fs::read(mount.join("f")).unwrap(), OTHER);
        endpoint.delete("f");
        file.sync_all().unwrap();
        assert_eq!(endpoint.content("f"), b"mine");
        assert_eq!(attribute_of(&file, "user.dsse.verdict").unwrap(), "compliant");
        assert_eq!(fs::read(mount.join("f")).unwrap(), b"mine");
        fs::remove_file(mount.join("f")).unwrap();
        drop(file);
        eventually("nothing is left, nor held for the handle", MINUTE, || endpoint.keys().is_empty());
    });
}

/// The name that a lost file would take back is the one in its directory, wherever that is now.
#[test]
fn a_lost_file_does_not_come_back_under_a_directory_that_was_renamed() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &PATIENT);
        fs::create_dir(mount.join("d")).unwrap();
        let mut file = File::create_new(mount.join("d/f")).unwrap();
        file.write_all(b"mine").unwrap();
        endpoint.put("d/f", OTHER);
        assert_eq!(errno(file.sync_all()), libc::ESTALE);
        fs::rename(mount.join("d"), mount.join("d2")).unwrap();
        assert_eq!(errno(file.sync_all()), libc::ESTALE);
        drop(file);
        assert_eq!(endpoint.keys(), ["d2/", "d2/f"]);
        assert_eq!(endpoint.content("d2/f"), OTHER);
    });
}

/// Calls on a file by its name. Each has to succeed at the first or the second try.
type Call = (&'static str, fn(&Path) -> io::Result<()>);

fn by_name() -> [Call; 6] {
    [
        ("chmod", |path| fs::set_permissions(path, Permissions::from_mode(0o600))),
        ("setfattr", |path| xattr::set(path, "user.note", b"kept")),
        ("utimens", |path| {
            let times = rustix::fs::Timestamps {
                last_access: rustix::fs::Timespec { tv_sec: 7, tv_nsec: 0 },
                last_modification: rustix::fs::Timespec { tv_sec: 7, tv_nsec: 0 },
            };
            rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty()).map_err(Into::into)
        }),
        ("mv", |path| fs::rename(path, path.with_extension("moved"))),
        ("truncate", |path| {
            let by_path = "import os, sys; os.truncate(sys.argv[1], 5)";
            let status = std::process::Command::new("python3").args(["-c", by_path]).arg(path).status()?;
            if status.success() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
        }),
        ("O_TRUNC", |path| commit(path, b"mine")),
    ]
}

/// With an hour of trust, these calls failed on every try once another host had replaced the file.
#[test]
fn estale_does_not_stick_to_a_name_whose_object_was_replaced() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        by_name().iter().for_each(|(name, _)| endpoint.put(name, b"old content"));
        let mount = Mount::with(&endpoint, &PATIENT);
        for (name, call) in by_name() {
            let path = mount.join(name);
            assert_eq!(fs::metadata(&path).unwrap().len(), 11);
            endpoint.put(name, OTHER);
            let first = errno(call(&path));
            assert!(first == 0 || (first == libc::ESTALE && name == "O_TRUNC"), "{name}: {first}");
            if first != 0 {
                assert_eq!(endpoint.content(name), OTHER, "{name}");
                call(&path).unwrap_or_else(|error| panic!("{name} once more: {error}"));
            }
            let expected = match name {
                "truncate" => &OTHER[..5],
                "O_TRUNC" => b"mine",
                _ => OTHER,
            };
            let key = if name == "mv" { "mv.moved" } else { name };
            assert_eq!(endpoint.content(key), expected, "{name}");
            endpoint.assert_dsse(key);
        }
        // Of what O_TRUNC had written; the other calls left nothing behind.
        let lost = || mount.log().matches("another writer was first").count();
        eventually("the log names what is lost", MINUTE, || lost() > 0);
        assert_eq!(lost(), 1, "{}", mount.log());
        assert_eq!(xattr::get(mount.path(), "user.dsse.mount.unsaved").unwrap().unwrap(), b"1");
    });
}

#[test]
fn estale_does_not_stick_to_a_link_or_directory_that_was_replaced() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let (mount, other) = (Mount::with(&endpoint, &PATIENT), Mount::with(&endpoint, &["--metadata-ttl", "0"]));
        symlink("first", other.join("link")).unwrap();
        fs::create_dir(other.join("d")).unwrap();
        for path in ["link", "d"] {
            fs::symlink_metadata(mount.join(path)).unwrap();
        }
        fs::remove_file(other.join("link")).unwrap();
        symlink("second", other.join("link")).unwrap();
        assert_eq!(fs::read_link(mount.join("link")).unwrap(), Path::new("second"));
        for (mode, by) in [(0o711, &other), (0o700, &mount), (0o755, &other), (0o750, &mount)] {
            fs::set_permissions(by.join("d"), Permissions::from_mode(mode)).unwrap();
            let stored = endpoint.head("d/").unwrap().metadata().unwrap()["mode"].clone();
            assert_eq!(stored, (0o040_000 | mode).to_string());
        }
    });
}

/// The store had the name, and the mount went on saying that there was no such file.
#[test]
fn a_name_that_is_taken_is_there_at_once() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        let mount = Mount::with(&endpoint, &PATIENT);
        assert_eq!(names(&mount.path()), Vec::<String>::new());
        endpoint.put("d/", b"");
        assert_eq!(errno(fs::create_dir(mount.join("d"))), libc::EEXIST);
        assert!(fs::metadata(mount.join("d")).unwrap().is_dir());
        assert_eq!(names(&mount.path()), ["d"]);
        endpoint.put("f", OTHER);
        assert_eq!(errno(symlink("target", mount.join("f"))), libc::EEXIST);
        assert_eq!(fs::read(mount.join("f")).unwrap(), OTHER);
    });
}

#[test]
fn estale_does_not_stick_to_the_source_of_a_copy_that_was_replaced() {
    deadline(MINUTE, || {
        let endpoint = Endpoint::start();
        endpoint.put("source", &noise(1, 9_000));
        let mount = Mount::with(&endpoint, &PATIENT);
        fs::metadata(mount.join("source")).unwrap();
        endpoint.put("source", OTHER);
        let copy = || {
            let (from, to) = (File::open(mount.join("source"))?, File::create(mount.join("copy"))?);
            let length = usize::try_from(from.metadata()?.len()).unwrap();
            rustix::fs::copy_file_range(&from, None, &to, None, length)?;
            to.sync_all()
        };
        assert_eq!(errno(copy()), libc::ESTALE, "it was opened as the version that is gone");
        copy().unwrap();
        assert_eq!(endpoint.content("copy"), OTHER);
    });
}
