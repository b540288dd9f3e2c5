//! `dssefs recover`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::exit::Exit;
use super::{complain, complain_of, logging, say};
use crate::config::{Connection, RawStore, check_store};
use crate::daemon::StartError;
use crate::daemon::recover::{self, Found, Wanted};
use dssefs_s3::escaping::{shown, shown_json, shown_value};

/// The arguments of `dssefs recover`.
#[derive(Args, Debug)]
#[command(mut_args = |argument| { let anywhere = !argument.is_positional(); argument.global(anywhere) })]
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
    /// Send them, under the keys and the encryption context that they were to be stored under
    Upload,
    /// Write one of them to a new local file, in clear
    Export {
        /// The mount that left it, as list names it, where several left a file of that key
        #[arg(long, value_name = "SOURCE")]
        source: Option<String>,
        /// Its key, as list names it, or s3://bucket/key
        key: String,
        /// The file to be made
        to: PathBuf,
    },
    /// Give up all of them, for good
    Discard,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let _logging = logging::start_of_command();
    let store = match check_store(&arguments.store) {
        Ok(store) => store,
        Err(problems) => {
            complain_of(&problems);
            return Exit::Usage;
        }
    };
    let directory = arguments.directory.as_path();
    let outcome = match &arguments.action {
        Action::List { json } => list(&store, directory, *json),
        Action::Upload => upload(&store, directory),
        Action::Export { source, key, to } => export(&store, directory, Wanted { key, source: source.as_deref() }, to),
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
        println!("{}", shown_json(&document(&found).to_string()));
    } else {
        found.iter().for_each(print_session);
    }
    let unopened = found.iter().find_map(|session| session.error.as_ref());
    let damaged = found.iter().any(|session| !session.damage.is_empty());
    Ok(unopened.map_or(if damaged { Exit::Damaged } else { Exit::Ok }, Exit::from))
}

fn print_session(found: &Found) {
    println!("{} ({})", shown(&found.source), shown(&found.session));
    for file in &found.files {
        let why = file.reason.as_deref().unwrap_or("not sent yet");
        let elsewhere = match file.uploaded_bytes {
            0 => String::new(),
            bytes => format!(", {bytes} in an upload that is not complete"),
        };
        let (key, why) = (shown(&file.key), shown(why));
        println!("  {key}  {} bytes, {} of them kept here{elsewhere}: {why}", file.size, file.kept_bytes);
    }
    for damage in &found.damage {
        println!("  damaged: {}", shown(damage));
    }
    if let Some(error) = &found.error {
        println!("  not opened: {}", shown_value(error));
    }
    if found.files.is_empty() && found.damage.is_empty() && found.error.is_none() {
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
        let error = found.error.as_ref().map(ToString::to_string);
        json!({
            "source": found.source,
            "session": found.session,
            "files": files,
            "damage": found.damage,
            "error": error,
        })
    };
    json!({ "sessions": found.iter().map(session).collect::<Vec<_>>() })
}

fn upload(store: &Connection, directory: &Path) -> Result<Exit, StartError> {
    let sent = recover::upload(store, directory)?;
    if sent.aborted > 0 {
        println!("aborted: {} uploads that a crash had left", sent.aborted);
    }
    for key in &sent.stored {
        println!("stored: {}", shown(key));
    }
    for (key, reason) in &sent.kept {
        say(&format!("kept: {}: {}", shown(key), shown(reason)));
    }
    for damage in &sent.damage {
        say(&format!("damaged: {}", shown(damage)));
    }
    print_failed(&sent.failed);
    Ok(match (sent.failed.first(), sent.damage.is_empty(), sent.kept.is_empty()) {
        (Some((_, error)), ..) => Exit::from(error),
        (None, false, _) => Exit::Damaged,
        (None, true, false) => Exit::Unsaved,
        (None, true, true) => Exit::Ok,
    })
}

fn print_failed(failed: &[(PathBuf, StartError)]) {
    for (session, error) in failed {
        say(&format!("not dealt with: {}: {}", shown(session), shown_value(error)));
    }
}

/// Prints what was written, also when it may not be the newest state: the exit code says that.
fn export(store: &Connection, directory: &Path, wanted: Wanted<'_>, to: &Path) -> Result<Exit, StartError> {
    let exported = recover::export(store, directory, wanted, to)?;
    let (to, bytes, key, source) = (shown(to), exported.bytes, shown(wanted.key), shown(&exported.source));
    println!("{to} has {bytes} bytes of {key}, left by a mount of {source}, in clear");
    print_failed(&exported.unread);
    Ok(exported.unread.first().map_or(Exit::Ok, |(_, error)| Exit::from(error)))
}

fn discard(directory: &Path) -> Result<Exit, StartError> {
    let discarded = recover::discard(directory)?;
    for removed in &discarded.removed {
        println!("removed: {}", shown(removed));
    }
    for error in &discarded.strange {
        let error = shown_value(error);
        say(&format!("not removed: {error}; its mount is unknown, so remove it by hand if it is of no use"));
    }
    Ok(if discarded.strange.is_empty() { Exit::Ok } else { Exit::Damaged })
}
