//! `dssefs recover`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::complain;
use super::exit::Exit;
use crate::config::{Connection, RawStore};
use crate::daemon::StartError;
use crate::daemon::recover::{self, Found};

/// The arguments of `dssefs recover`.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The directory that the mount was given as --spill-dir
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    store: RawStore,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Name the files that S3 does not have as they should be
    List {
        /// As one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Send them, under the keys that they were to be stored under; a mount of the bucket does the same when it starts
    Upload,
    /// Write one of them to a new local file, in clear
    Export {
        /// Its key, as list names it
        key: String,
        /// The file to be made
        to: PathBuf,
    },
    /// Give up all of them, for good
    Discard,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let store = match Connection::check(&arguments.store) {
        Ok(store) => store,
        Err(problems) => {
            eprintln!("{problems}");
            return Exit::Usage;
        }
    };
    let directory = arguments.directory.as_path();
    let outcome = match &arguments.action {
        Action::List { json } => list(&store, directory, *json),
        Action::Upload => upload(&store, directory),
        Action::Export { key, to } => export(&store, directory, key, to),
        Action::Discard => discard(directory),
    };
    outcome.unwrap_or_else(|error| {
        complain(&error);
        Exit::from(&error)
    })
}

fn list(store: &Connection, directory: &Path, as_json: bool) -> Result<Exit, StartError> {
    let found = recover::list(store, directory)?;
    if as_json {
        println!("{}", document(&found));
    } else {
        found.iter().for_each(print_session);
    }
    Ok(if found.iter().all(|session| session.damage.is_empty()) { Exit::Ok } else { Exit::Damaged })
}

fn print_session(found: &Found) {
    println!("{} ({})", found.source, found.session.display());
    for file in &found.files {
        let why = file.reason.as_deref().unwrap_or("not sent yet");
        let elsewhere = match file.uploaded_bytes {
            0 => String::new(),
            bytes => format!(", {bytes} in an upload that is not complete"),
        };
        println!("  {}  {} bytes, {} of them kept here{elsewhere}: {why}", file.key, file.size, file.kept_bytes);
    }
    for damage in &found.damage {
        println!("  damaged: {damage}");
    }
    if found.files.is_empty() && found.damage.is_empty() {
        println!("  nothing");
    }
}

fn document(found: &[Found]) -> serde_json::Value {
    let session = |found: &Found| {
        let files: Vec<_> = found
            .files
            .iter()
            .map(|file| {
                json!({
                    "key": file.key,
                    "size": file.size,
                    "kept_bytes": file.kept_bytes,
                    "uploaded_bytes": file.uploaded_bytes,
                    "reason": file.reason,
                })
            })
            .collect();
        json!({ "source": found.source, "session": found.session, "files": files, "damage": found.damage })
    };
    json!({ "sessions": found.iter().map(session).collect::<Vec<_>>() })
}

fn upload(store: &Connection, directory: &Path) -> Result<Exit, StartError> {
    let sent = recover::upload(store, directory)?;
    for key in &sent.stored {
        println!("stored: {key}");
    }
    for (key, reason) in &sent.kept {
        eprintln!("kept: {key}: {reason}");
    }
    for damage in &sent.damage {
        eprintln!("damaged: {damage}");
    }
    Ok(match (sent.damage.is_empty(), sent.kept.is_empty()) {
        (false, _) => Exit::Damaged,
        (true, false) => Exit::Unsaved,
        (true, true) => Exit::Ok,
    })
}

fn export(store: &Connection, directory: &Path, key: &str, to: &Path) -> Result<Exit, StartError> {
    let bytes = recover::export(store, directory, key, to)?;
    println!("{} has {bytes} bytes of {key}, in clear", to.display());
    Ok(Exit::Ok)
}

fn discard(directory: &Path) -> Result<Exit, StartError> {
    for removed in recover::discard(directory)? {
        println!("removed: {}", removed.display());
    }
    Ok(Exit::Ok)
}
