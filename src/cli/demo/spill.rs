//! A look at what the daemon has on the local disk while files are being written.
//!
//! The spill has no name: the daemon unlinks it as soon as it is made. Only a descriptor of the daemon is left. The
//! kernel shows that to root alone, because the daemon has made itself undumpable.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// One file of the spill, as found among the daemon's descriptors.
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) first_bytes: Vec<u8>,
    /// Whether the marker was in it.
    pub(super) readable: bool,
}

const CHUNK_BYTES: usize = 1 << 20;
const SHOWN_BYTES: usize = 64;

/// Searches every descriptor of process `pid` that leads into `dir`.
pub(super) fn search(pid: u32, dir: &Path, marker: &[u8]) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        // A descriptor may be closed between the listing and this look; then there is nothing to see.
        if path.read_link().is_ok_and(|target| target.starts_with(dir)) {
            found.push(look(&path, marker)?);
        }
    }
    Ok(found)
}

fn look(path: &Path, marker: &[u8]) -> io::Result<Found> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut first_bytes = vec![0; SHOWN_BYTES.min(usize::try_from(bytes).unwrap_or(SHOWN_BYTES))];
    file.read_exact(&mut first_bytes)?;
    let readable = contains(&mut first_bytes.as_slice().chain(file), marker)?;
    Ok(Found { path: path.to_owned(), bytes, first_bytes, readable })
}

/// Whether `marker` is in `source`, read chunk by chunk with an overlap, so that no border hides it.
pub(super) fn contains(source: &mut impl Read, marker: &[u8]) -> io::Result<bool> {
    let overlap = marker.len().saturating_sub(1);
    let mut window = Vec::with_capacity(CHUNK_BYTES + overlap);
    loop {
        let kept = window.len().min(overlap);
        window.drain(..window.len() - kept);
        if source.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut window)? == 0 {
            return Ok(false);
        }
        if holds(&window, marker) {
            return Ok(true);
        }
    }
}

/// Compares only where the first byte is right, which in sealed blocks is one place in 256.
fn holds(window: &[u8], marker: &[u8]) -> bool {
    let starts = window.iter().enumerate().filter(|(_, byte)| marker.first() == Some(*byte));
    starts.into_iter().any(|(at, _)| window[at..].starts_with(marker))
}

/// Sixteen bytes a line: hexadecimal, and as text where they are text.
pub(super) fn hexdump(bytes: &[u8]) -> String {
    let line = |bytes: &[u8]| {
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String =
            bytes.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect();
        format!("{:<48} |{text}|", hex.join(" "))
    };
    bytes.chunks(16).map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_found_on_any_border() {
        for at in [0, 1, CHUNK_BYTES - 3, CHUNK_BYTES, 2 * CHUNK_BYTES - 1] {
            let mut bytes = vec![b'.'; 3 * CHUNK_BYTES];
            bytes[at..at + 6].copy_from_slice(b"marker");
            assert!(contains(&mut bytes.as_slice(), b"marker").unwrap(), "at {at}");
        }
        assert!(!contains(&mut vec![b'.'; 2 * CHUNK_BYTES].as_slice(), b"marker").unwrap());
        assert!(!contains(&mut &b"marke"[..], b"marker").unwrap());
    }

    #[test]
    fn own_descriptors_in_a_directory_are_found_and_searched() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let mut open = tempfile::tempfile_in(dir.path()).unwrap();
        open.write_all(b"some plain marker here").unwrap();
        let found = search(std::process::id(), &dir.path().canonicalize().unwrap(), b"marker").unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].readable && found[0].bytes == 22);
        assert_eq!(found[0].first_bytes, b"some plain marker here");
    }

    #[test]
    fn a_dump_shows_bytes_and_text() {
        assert_eq!(hexdump(b"AB\0"), format!("{:<48} |AB.|", "41 42 00"));
    }
}
