//! This process's memory: kept out of core dumps, out of debuggers, and out of swap, as far as the system lets it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dssefs_seal::secret::{KeysUnlocked, Locking, harden_process, lock_memory, try_to_lock_keys};

/// The swap areas in use (proc_swaps(5)).
const SWAPS: &str = "/proc/swaps";
/// Where the kernel tells what devices lie on (sysfs(5)).
const SYS: &str = "/sys";

/// Devices above devices are followed so far.
const DEVICES_DEEP_MAX: usize = 16;

/// What holds.
pub(super) struct Protected {
    /// In a few words.
    pub(super) summary: String,
    /// Whether there is locked memory for keys.
    pub(super) keys: Result<(), KeysUnlocked>,
}

/// Protects the memory, and warns of what does not hold. To be called before there are keys: memory that was refused is
/// not asked for again.
pub(super) fn protect() -> Protected {
    let hardening = harden_process();
    for (measure, error) in hardening.failures() {
        tracing::warn!(measure, %error, "a crash could leave keys and content in a core image");
    }
    let locking = lock_memory();
    if let Err(error) = &locking {
        tracing::warn!(%error, "memory cannot be locked, and may be swapped out");
    }
    let keys = try_to_lock_keys();
    if let Err(error) = &keys {
        tracing::warn!("{error}");
    }
    let dumps = if hardening.is_complete() { "none" } else { "possible" };
    let locked = match &locking {
        Ok(Locking::Everything) => "all".to_owned(),
        Ok(Locking::UpTo(bytes)) => format!("{bytes}"),
        Err(_) => "0".to_owned(),
    };
    let (table, all_locked) = (fs::read_to_string(SWAPS).ok(), matches!(locking, Ok(Locking::Everything)));
    let swap = swap(Path::new(SYS), table.as_deref(), all_locked);
    Protected { summary: format!("dumps={dumps} memory-locked={locked} swap={swap}"), keys }
}

/// In one word what the swap of this host is, with a warning where it matters.
fn swap(sys: &Path, table: Option<&str>, all_locked: bool) -> &'static str {
    let Some(table) = table else { return "unknown" };
    let areas = areas(table);
    let open: Vec<&PathBuf> = areas.iter().filter(|area| !is_safe(sys, area)).collect();
    match open.as_slice() {
        [] if areas.is_empty() => "none",
        [] => "encrypted",
        [area, ..] => {
            let area = area.display();
            if all_locked {
                tracing::info!(
                    %area,
                    "swap is not known to be encrypted; the memory of this process is locked, that of programs is not"
                );
            } else {
                tracing::warn!(
                    %area,
                    "swap is not known to be encrypted, and content in memory may be written to it: \
                     encrypt it (a random key in crypttab(5)), or turn it off (swapoff(8)), \
                     or raise the limit of locked memory (LimitMEMLOCK=infinity)"
                );
            }
            "in-the-clear"
        }
    }
}

/// The files and devices of the table: a heading, then a line for each, blanks in names as octal numbers.
fn areas(table: &str) -> Vec<PathBuf> {
    let names = table.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().next());
    names.map(|name| PathBuf::from(name.replace("\\040", " ").replace("\\134", "\\"))).collect()
}

/// Whether what is swapped there does not rest anywhere in the clear.
fn is_safe(sys: &Path, area: &Path) -> bool {
    let device = match area.metadata() {
        Ok(metadata) if metadata.rdev() != 0 => metadata.rdev(),
        Ok(metadata) => metadata.dev(),
        Err(_) => return false,
    };
    let numbers = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let directory = sys.join("dev/block").join(numbers).canonicalize();
    directory.is_ok_and(|directory| is_safe_device(&directory, DEVICES_DEEP_MAX))
}

/// Whether a block device, by its directory in sysfs, is dm-crypt or memory, or lies on nothing but such devices (LVM
/// and the like).
fn is_safe_device(directory: &Path, deep_max: usize) -> bool {
    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap_or_default();
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    if read("dm/uuid").starts_with("CRYPT-") {
        return true;
    }
    if name.starts_with("zram") {
        // Compressed memory, unless it may write to a device when it is full.
        return matches!(read("backing_dev").trim(), "" | "none");
    }
    let below = fs::read_dir(directory.join("slaves")).into_iter().flatten().flatten();
    let below: Vec<PathBuf> = below.filter_map(|entry| entry.path().canonicalize().ok()).collect();
    deep_max > 0 && !below.is_empty() && below.iter().all(|device| is_safe_device(device, deep_max - 1))
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn the_table_of_swap_areas_is_read() {
        let table = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                     /dev/dm-1                               partition\t8388604\t\t0\t\t-2\n\
                     /var/my\\040swap                         file\t\t1024\t\t12\t\t-3\n";
        assert_eq!(areas(table), [Path::new("/dev/dm-1"), Path::new("/var/my swap")]);
        assert!(areas("Filename\tType\tSize\tUsed\tPriority\n").is_empty());
        assert!(areas("").is_empty());
    }

    fn device(sys: &Path, name: &str, files: &[(&str, &str)], below: &[&str]) -> PathBuf {
        let directory = sys.join(name);
        for part in ["dm", "slaves"] {
            fs::create_dir_all(directory.join(part)).unwrap();
        }
        for (file, text) in files {
            fs::write(directory.join(file), text).unwrap();
        }
        for other in below {
            std::os::unix::fs::symlink(sys.join(other), directory.join("slaves").join(other)).unwrap();
        }
        directory
    }

    #[test]
    fn swap_is_safe_in_memory_on_dm_crypt_and_on_what_lies_on_it_alone() {
        let sys = tempfile::tempdir().unwrap();
        let sys = sys.path();
        let plain = device(sys, "sda1", &[], &[]);
        let crypt = device(sys, "dm-0", &[("dm/uuid", "CRYPT-LUKS2-0a1b-swap\n")], &["sda1"]);
        let volume = device(sys, "dm-1", &[("dm/uuid", "LVM-0a1b\n")], &["dm-0"]);
        let mixed = device(sys, "dm-2", &[("dm/uuid", "LVM-0a1c\n")], &["dm-0", "sda1"]);
        let memory = device(sys, "zram0", &[("backing_dev", "none\n")], &[]);
        let spilling = device(sys, "zram1", &[("backing_dev", "/dev/sda1\n")], &[]);
        let safe = [&crypt, &volume, &memory].map(|device| is_safe_device(device, DEVICES_DEEP_MAX));
        let open = [&plain, &mixed, &spilling].map(|device| is_safe_device(device, DEVICES_DEEP_MAX));
        assert_eq!((safe, open), ([true; 3], [false; 3]));
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_safe() {
        assert!(!is_safe(Path::new(SYS), Path::new("/no/such/swap")));
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What [`swap`] says, and the log.
    fn told(sys: &Path, table: Option<&str>, all_locked: bool) -> (&'static str, String) {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        let word = tracing::subscriber::with_default(log, || swap(sys, table, all_locked));
        let bytes = lines.0.lock().unwrap().clone();
        (word, String::from_utf8(bytes).unwrap())
    }

    /// A file of this test is swap, and lies on a device of any kind.
    #[test]
    fn swap_that_is_not_known_to_be_encrypted_is_warned_of_with_its_name_and_the_way_out() {
        let sys = tempfile::tempdir().unwrap();
        let area = tempfile::NamedTempFile::new().unwrap();
        let number = area.path().metadata().unwrap().dev();
        let number = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
        let below = device(sys.path(), "any-0", &[], &[]);
        fs::create_dir_all(sys.path().join("dev/block")).unwrap();
        std::os::unix::fs::symlink(&below, sys.path().join("dev/block").join(number)).unwrap();
        let name = area.path().to_str().unwrap();
        let table = &format!("Filename Type Size Used Priority\n{name} file 1024 0 -2\n");

        let (word, line) = told(sys.path(), Some(table), false);
        assert_eq!(word, "in-the-clear");
        for part in ["WARN", name, "not known to be encrypted", "crypttab(5)", "swapoff(8)", "LimitMEMLOCK"] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        let (word, line) = told(sys.path(), Some(table), true);
        assert_eq!(word, "in-the-clear");
        assert!(line.contains("INFO") && line.contains(name) && !line.contains("WARN"), "{line}");

        fs::write(below.join("dm/uuid"), "CRYPT-PLAIN-swap\n").unwrap();
        assert_eq!(told(sys.path(), Some(table), false), ("encrypted", String::new()));
        assert_eq!(told(sys.path(), Some("Filename Type Size Used Priority\n"), false), ("none", String::new()));
        assert_eq!(told(sys.path(), None, false), ("unknown", String::new()));
    }
}
