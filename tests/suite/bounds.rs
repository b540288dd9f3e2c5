//! What a store that lies, and a user who may not harm others, can make the daemon hold in memory, and how long content
//! may take.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{Dir, Mode, OFlags, openat};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::common::hostile_store::{Asked, HostileStore, Lie, endless, whole};
use crate::common::{Endpoint, MINUTE, Mount, commit, deadline, errno, names, needs_root, scenario};

/// Far below what the lies bring, and far above what a mount with `--memory 32MiB` takes.
const PEAK_BYTES_MAX: u64 = 256 << 20;
/// What a lie brings.
const GIGABYTE: usize = 1 << 30;
const NOBODY: u32 = 65_534;

const LIST: &str = "<?xml version=\"1.0\"?>\n<ListBucketResult><Name>tests</Name><IsTruncated>false</IsTruncated>";
const OBJECT: &str = "<Contents><Key>d/aaaaaaaaaaaaaaaaaaaa</Key><Size>1</Size><ETag>\"x\"</ETag></Contents>";

fn small(endpoint: &Endpoint, store: &HostileStore, options: &[&str]) -> Mount {
    let limits = ["--memory", "32MiB", "--attempt-timeout", "20s", "--operation-timeout", "30s"];
    Mount::through(endpoint, &store.url(), &[&limits, options].concat())
}

fn assert_small(mount: &Mount) {
    let peak = mount.memory_bytes_peak();
    assert!(peak < PEAK_BYTES_MAX, "the daemon had {} MiB", peak >> 20);
}

/// A page of a listing that names `count` objects, and a page after it where `next` is not empty.
fn page(prefix: &str, from: u64, count: u64, next: &str) -> String {
    let mut text =
        format!("<?xml version=\"1.0\"?>\n<ListBucketResult><IsTruncated>{}</IsTruncated>", !next.is_empty());
    if !next.is_empty() {
        write!(text, "<NextContinuationToken>{next}</NextContinuationToken>").unwrap();
    }
    for n in from..from + count {
        let name = format!("{n:0200}");
        // Too large for links, so that no kind is asked for.
        write!(text, "<Contents><Key>{prefix}{name}</Key><Size>5000</Size><ETag>\"{n}\"</ETag></Contents>").unwrap();
    }
    text + "</ListBucketResult>"
}

#[test]
fn a_listing_of_a_gigabyte_is_refused_and_takes_no_memory() {
    for (piece, what) in [(OBJECT, "more than any page"), ("<Contents/>", "elements without end"), (" ", "spaces")] {
        scenario().unmounted(move |endpoint| {
            endpoint.put("d/real", b"content");
            let store = HostileStore::before(&endpoint.url(), move |asked| {
                let is_page = asked.lists("d/") && asked.parameter("delimiter").is_some();
                is_page.then(|| endless(200, LIST, piece, GIGABYTE))
            });
            let mount = small(&endpoint, &store, &[]);
            assert_eq!(
                errno(fs::read_dir(mount.join("d")).and_then(|dir| dir.collect::<Result<Vec<_>, _>>())),
                libc::EIO
            );
            assert_eq!(store.lies(), 1, "{what}: it is not asked for again");
            assert_small(&mount);
            let log = mount.log();
            assert!(log.contains("the most that an answer to this request can have"), "{log}");
        });
    }
}

#[test]
fn an_error_or_a_receipt_of_a_gigabyte_is_refused_and_takes_no_memory() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", b"content");
        let store = HostileStore::before(&endpoint.url(), |asked| {
            let error = "<?xml version=\"1.0\"?>\n<Error><Code>AccessDenied</Code><Message>";
            let strikes = asked.is_of("GET", "file") || asked.is_of("PUT", "new");
            strikes.then(|| endless(403, error, "no ", GIGABYTE))
        });
        let mount = small(&endpoint, &store, &[]);
        assert_eq!(errno(fs::read(mount.join("file"))), libc::EIO);
        assert_eq!(errno(commit(&mount.join("new"), b"content")), libc::EIO);
        assert!(store.lies() >= 2);
        assert_small(&mount);
    });
}

#[test]
fn a_key_s_description_of_a_gigabyte_ends_the_mount_s_start() {
    scenario().unmounted(|endpoint| {
        let store = HostileStore::before(&endpoint.url(), |asked| {
            (asked.method == "POST" && asked.target == "/")
                .then(|| endless(200, "{\"KeyMetadata\":{\"Arn\":\"", "a", GIGABYTE))
        });
        let (dir, spill) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut command = Mount::command_through(&store.url(), dir.path());
        command.args(["--kms-key-id", "alias/any", "--foreground", "--attempts", "2"]);
        command.arg("--spill-dir").arg(spill.path().join("s"));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains("the most that an answer to this request can have"),
            "{said}"
        );
    });
}

#[test]
fn pages_with_ever_new_tokens_and_names_end_with_enomem() {
    scenario().within(2 * MINUTE).unmounted(|endpoint| {
        endpoint.put("d/real", b"content");
        let asked_for = AtomicU64::new(0);
        let store = HostileStore::before(&endpoint.url(), move |asked| {
            let is_page = asked.lists("d/") && asked.parameter("delimiter").is_some();
            let nth = || asked_for.fetch_add(1, Ordering::Relaxed);
            is_page.then(nth).map(|nth| whole(200, "", &page("d/", nth * 1000, 1000, &format!("token{nth}"))))
        });
        let mount = small(&endpoint, &store, &[]);
        assert_eq!(
            errno(fs::read_dir(mount.join("d")).and_then(|dir| dir.collect::<Result<Vec<_>, _>>())),
            libc::ENOMEM
        );
        assert_small(&mount);
        let log = mount.log();
        assert!(log.contains("the directory \"d/\" cannot be listed") && log.contains("raise --memory"), "{log}");
        assert_eq!(fs::read(mount.join("d/real")).unwrap(), b"content", "what is there can be read");
    });
}

#[test]
fn pages_with_ever_new_tokens_and_no_new_name_end_with_eio() {
    for count in [0, 3] {
        scenario().within(2 * MINUTE).unmounted(move |endpoint| {
            endpoint.put("d/real", b"content");
            let asked_for = AtomicU64::new(0);
            let store = HostileStore::before(&endpoint.url(), move |asked| {
                let is_page = asked.lists("d/") && asked.parameter("delimiter").is_some();
                let nth = || asked_for.fetch_add(1, Ordering::Relaxed);
                is_page.then(nth).map(|nth| whole(200, "", &page("d/", 0, count, &format!("token{nth}"))))
            });
            let mount = small(&endpoint, &store, &[]);
            let listed = fs::read_dir(mount.join("d")).and_then(|dir| dir.collect::<Result<Vec<_>, _>>());
            assert_eq!(errno(listed), libc::EIO);
            assert!((1000..1010).contains(&store.lies()), "{} pages", store.lies());
            let log = mount.log();
            assert!(log.contains("the store does not end its listing of \"d/\""), "{log}");
        });
    }
}

#[test]
fn endless_pages_of_journals_do_not_keep_a_mount_from_starting() {
    scenario().within(2 * MINUTE).unmounted(|endpoint| {
        endpoint.put("file", b"content");
        let asked_for = AtomicU64::new(0);
        let store = HostileStore::before(&endpoint.url(), move |asked| {
            let nth = || asked_for.fetch_add(1, Ordering::Relaxed);
            asked.lists(".dssefs/rename/").then(nth).map(|nth| whole(200, "", &page("", 0, 0, &format!("token{nth}"))))
        });
        let mount = small(&endpoint, &store, &[]);
        assert_eq!(fs::read(mount.join("file")).unwrap(), b"content");
        assert!((1000..1010).contains(&store.lies()), "{} pages", store.lies());
        let log = mount.log();
        assert!(log.contains("the store does not end its listing of \".dssefs/rename/\""), "{log}");
    });
}

#[test]
fn a_page_of_more_names_than_were_asked_for_is_refused() {
    scenario().unmounted(|endpoint| {
        endpoint.put("d/real", b"content");
        let store = HostileStore::before(&endpoint.url(), |asked| {
            let is_page = asked.lists("d/") && asked.parameter("delimiter").is_some();
            is_page.then(|| whole(200, "", &page("d/", 0, 1001, "")))
        });
        let mount = small(&endpoint, &store, &[]);
        let listed = fs::read_dir(mount.join("d")).and_then(|dir| dir.collect::<Result<Vec<_>, _>>());
        assert_eq!(errno(listed), libc::EIO);
        assert!(mount.log().contains("the listing has more keys than requested"), "{}", mount.log());
    });
}

/// Answers a GET of the object `link`, whose HEAD told of the length `told`, with a longer body.
fn longer_link(asked: &Asked, etag: &str) -> Option<Lie> {
    let etag = etag.to_owned();
    asked.is_of("GET", "link").then(|| -> Lie {
        Box::new(move |client| {
            write!(client, "HTTP/1.1 200 Lie\r\netag: {etag}\r\ncontent-length: 900000000\r\n\r\n")?;
            let chunk = vec![b'x'; 1 << 20];
            (0..900).try_for_each(|_| client.write_all(&chunk))
        })
    })
}

#[test]
fn a_link_whose_content_is_longer_than_head_told_is_refused_unread() {
    scenario().unmounted(|endpoint| {
        {
            let honest = Mount::of(&endpoint);
            std::os::unix::fs::symlink("target", honest.join("link")).unwrap();
        }
        let etag = endpoint.head("link").unwrap().e_tag().unwrap().to_owned();
        let store = HostileStore::before(&endpoint.url(), move |asked| longer_link(asked, &etag));
        let mount = small(&endpoint, &store, &[]);
        assert_eq!(errno(fs::read_link(mount.join("link"))), libc::EIO);
        assert_eq!(store.lies(), 1);
        assert_small(&mount);
        assert!(
            mount.log().contains("the answer has 900000000 bytes, and the daemon expected at most 6"),
            "{}",
            mount.log()
        );
    });
}

#[test]
fn content_that_trickles_fails_the_read_when_the_limits_of_time_are_over() {
    scenario().unmounted(|endpoint| {
        endpoint.put("file", &[b'x'; 600]);
        let etag = endpoint.head("file").unwrap().e_tag().unwrap().to_owned();
        let store = HostileStore::before(&endpoint.url(), move |asked| {
            let etag = etag.clone();
            asked.is_of("GET", "file").then(|| -> Lie {
                Box::new(move |client| {
                    write!(client, "HTTP/1.1 200 Lie\r\netag: {etag}\r\ncontent-length: 600\r\n\r\n")?;
                    // Ten minutes, unless the mount hangs up.
                    (0..600).try_for_each(|_| {
                        std::thread::sleep(Duration::from_secs(1));
                        client.write_all(b"x")
                    })
                })
            })
        });
        let limits = ["--attempt-timeout", "2s", "--operation-timeout", "10s", "--attempts", "3"];
        let mount = Mount::through(&endpoint, &store.url(), &limits);
        assert_eq!(errno(fs::read(mount.join("file"))), libc::EIO);
        // The kernel reads ahead first, and asks once more for the page itself.
        assert!([3, 6].contains(&store.lies()), "{} requests: each read as often as --attempts says", store.lies());
        assert!(mount.log().contains("the content timed out"), "{}", mount.log());
    });
}

/// Lets this process have as many files open as the system allows.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}

#[test]
fn three_thousand_open_directories_of_a_thousand_names_share_them() {
    deadline(2 * MINUTE, || {
        let endpoint =
            Endpoint::with_objects((0..1000).map(|n| format!("d/{n:04}-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")));
        // The listing stays fresh, and so does what is shared, as when others ask all the time.
        let mount = Mount::with(&endpoint, &["--memory", "32MiB", "--metadata-ttl", "10m"]);
        raise_open_files();
        assert_eq!(names(&mount.join("d")).len(), 1000);
        let before = mount.memory_bytes_peak();
        let open = |_| {
            let mut dir = fs::read_dir(mount.join("d")).unwrap();
            assert!(dir.next().unwrap().is_ok());
            dir
        };
        let held: Vec<fs::ReadDir> = (0..3000).map(open).collect();
        let grown = mount.memory_bytes_peak() - before;
        assert!(grown < 64 << 20, "{} MiB more", grown >> 20);
        assert!(held.into_iter().all(|dir| dir.count() == 999), "each reads them all");
    });
}

/// Runs `work` in a thread that is the user `nobody`, who reaches the mount by a descriptor of its root.
fn as_nobody<T: Send + 'static>(root: &Path, work: impl FnOnce(std::os::fd::OwnedFd) -> T + Send + 'static) -> T {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let worker = std::thread::spawn(move || {
        let nobody = rustix::process::Uid::from_raw(NOBODY);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        work(root)
    });
    worker.join().unwrap()
}

#[test]
fn one_user_opens_1024_directories_and_16384_files_and_others_go_on() {
    if needs_root("only root can become another user, and may always use allow_other") {
        return;
    }
    scenario().within(3 * MINUTE).options(&["--allow-other", "--metadata-ttl", "10m"]).mounted(|_endpoint, mount| {
        fs::create_dir(mount.join("d")).unwrap();
        commit(&mount.join("file"), b"content").unwrap();
        fs::set_permissions(mount.join("file"), fs::Permissions::from_mode(0o644)).unwrap();
        raise_open_files();
        let root = mount.path();
        let flood = move |name: &'static str, flags: OFlags| {
            as_nobody(&root, move |root| {
                let mut held = Vec::new();
                let refused = loop {
                    match openat(&root, name, flags | OFlags::CLOEXEC, Mode::empty()) {
                        Ok(fd) => held.push(fd),
                        Err(error) => break error,
                    }
                };
                (held, refused)
            })
        };
        for (name, flags, count) in [("d", OFlags::DIRECTORY, 1024), ("file", OFlags::RDONLY, 16_384)] {
            let (held, refused) = flood(name, flags);
            assert_eq!((held.len(), refused), (count, rustix::io::Errno::MFILE), "{name}");
            assert_eq!(names(&mount.join("d")).len(), 0, "root goes on");
            assert_eq!(fs::read(mount.join("file")).unwrap(), b"content", "root goes on");
            drop(held);
            // The kernel tells of closed files in the background.
            let reopened = || as_nobody(&mount.path(), move |root| openat(&root, name, flags, Mode::empty()).is_ok());
            crate::common::eventually("a place for who has closed", MINUTE, reopened);
        }
        let log = mount.log();
        assert_eq!(log.matches("user 65534 has 1024 directories open here").count(), 1, "{log}");
        assert_eq!(log.matches("user 65534 has 16384 files open here").count(), 1, "{log}");
    });
}

#[test]
fn open_directories_of_one_user_hold_half_of_what_there_is_for_names() {
    if needs_root("only root can become another user, and may always use allow_other") {
        return;
    }
    scenario().within(2 * MINUTE).unmounted(|endpoint| {
        endpoint.put("real/file", b"content");
        // Directories `d0` to `d199` of a thousand long names each.
        let root: String =
            (0..200).map(|n| format!("<CommonPrefixes><Prefix>d{n}/</Prefix></CommonPrefixes>")).collect();
        let root = format!("{LIST}{root}<CommonPrefixes><Prefix>real/</Prefix></CommonPrefixes></ListBucketResult>");
        let store = HostileStore::before(&endpoint.url(), move |asked| {
            if asked.parameter("prefix") == Some("") && asked.parameter("delimiter").is_some() {
                return Some(whole(200, "", &root));
            }
            let name = asked.parameter("prefix").filter(|_| asked.lists("d"))?.strip_suffix("%2F")?;
            let count = asked.parameter("max-keys")?.parse().ok()?;
            Some(whole(200, "", &page(&format!("{name}/"), 0, count, "")))
        });
        let mount = small(&endpoint, &store, &["--allow-other"]);
        let (opened, refused) = as_nobody(&mount.path(), |root| {
            let mut held = Vec::new();
            for n in 0..200 {
                let dir = openat(&root, format!("d{n}"), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
                let mut dir = Dir::new(dir).unwrap();
                match dir.read().unwrap() {
                    Ok(_) => held.push(dir),
                    Err(error) => return (held.len(), Some(error)),
                }
            }
            (held.len(), None)
        });
        // 32 MiB, and each directory takes a thousand times 264 bytes.
        assert_eq!((opened, refused), (127, Some(rustix::io::Errno::NOMEM)));
        assert_small(&mount);
        assert_eq!(names(&mount.join("real")), ["file"], "others go on");
    });
}

#[test]
fn an_answer_of_more_than_100_headers_is_refused() {
    scenario().unmounted(|endpoint| {
        for key in ["few", "many"] {
            endpoint.put(key, b"content");
        }
        let store = HostileStore::before(&endpoint.url(), |asked| {
            let answer = |headers: usize| {
                let more: String = (0..headers).map(|n| format!("x-header-{n}: x\r\n")).collect();
                whole(200, &format!("etag: \"e\"\r\nlast-modified: Mon, 30 Nov 2026 10:00:00 GMT\r\n{more}"), "")
            };
            let few = asked.is_of("HEAD", "few").then(|| answer(96));
            few.or_else(|| asked.is_of("HEAD", "many").then(|| answer(97)))
        });
        let mount = small(&endpoint, &store, &["--attempts", "1"]);
        fs::metadata(mount.join("few")).unwrap();
        assert_eq!(errno(fs::metadata(mount.join("many"))), libc::EIO, "one header more: {}", mount.log());
    });
}

#[test]
fn credentials_of_a_gigabyte_are_refused() {
    scenario().unmounted(|endpoint| {
        let store = HostileStore::before(&endpoint.url(), |asked| {
            asked.target.starts_with("/credentials").then(|| endless(200, "{\"AccessKeyId\":\"", "a", GIGABYTE))
        });
        let point = tempfile::tempdir().unwrap();
        let mut command = Mount::command_through(&store.url(), point.path());
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        command.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/credentials", store.url()));
        command.args(["--kms-key-id", endpoint.key_arn(), "--foreground", "--attempts", "1", "--spill-dir"]);
        let output = command.arg(point.path().join("../spill-of-credentials")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(store.lies() > 0, "{said}");
        assert!(
            !output.status.success() && said.contains("the most that an answer to this request can have"),
            "{said}"
        );
    });
}

#[test]
fn a_page_with_a_key_that_was_not_asked_for_is_refused() {
    scenario().unmounted(|endpoint| {
        endpoint.put("d/real", b"content");
        let store = HostileStore::before(&endpoint.url(), |asked| {
            let is_page = asked.lists("d/") && asked.parameter("delimiter").is_some();
            is_page.then(|| whole(200, "", &page("elsewhere/", 0, 1, "")))
        });
        let mount = small(&endpoint, &store, &[]);
        assert_eq!(errno(fs::read_dir(mount.join("d")).and_then(Iterator::collect::<Result<Vec<_>, _>>)), libc::EIO);
        assert!(mount.log().contains("a key outside the requested prefix"), "{}", mount.log());
    });
}
