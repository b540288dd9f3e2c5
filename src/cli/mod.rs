//! The command line: one file for each command, the list of exit codes, and everything that the program prints.
//!
//! The room decides nothing about files or encryption: it reads arguments, starts the daemon or the endpoint, and tells
//! people and scripts how it went. What it promises to scripts is listed in `docs/CLI.md`. It may use `config`,
//! `daemon`, `escaping` and `mounts`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the room that talks to the terminal")]

mod background;
#[cfg(feature = "serve")]
mod demo;
mod doctor;
mod exit;
mod logging;
mod mount;
mod mount_helper;
mod recover;
#[cfg(feature = "serve")]
mod serve;
mod umount;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::Problems;
use dssefs_s3::escaping::{shown, shown_value};

pub use exit::Exit;

/// Mounts an S3 bucket as a directory in which every file is a proven DSSE-KMS object.
#[derive(Debug, Parser)]
#[command(name = "dssefs", version = crate::daemon::VERSION, max_term_width = 120, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mount a bucket on a directory
    Mount(Box<mount::Arguments>),
    /// Unmount, and wait until everything is written and the daemon is gone
    Umount(umount::Arguments),
    /// List, send, copy out or give up what mounts could not store (needs --spill-keys kms there)
    Recover(Box<recover::Arguments>),
    /// Look at the store, the key and what crashed mounts have left, without mounting
    Doctor(Box<doctor::Arguments>),
    /// Mount and unmount for a daemon that has given up the right to; started by `mount`
    #[command(hide = true, alias = "porter")]
    MountHelper(mount_helper::Arguments),
    /// Serve an S3 and KMS endpoint from a local directory, for development and tests; its content is NOT encrypted on
    /// disk
    #[cfg(feature = "serve")]
    Serve(serve::Arguments),
    /// Start an endpoint, mount a bucket of it, and take a tour
    #[cfg(feature = "serve")]
    Demo(demo::Arguments),
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let exit = match Cli::try_parse() {
        Ok(cli) => run(cli.command),
        Err(error) => usage(&mistake(error, std::env::args_os())),
    };
    exit.into()
}

fn run(command: Command) -> Exit {
    match command {
        Command::Mount(arguments) => mount::run(&arguments),
        Command::Umount(arguments) => umount::run(&arguments),
        Command::Recover(arguments) => recover::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::MountHelper(arguments) => mount_helper::run(arguments),
        #[cfg(feature = "serve")]
        Command::Serve(arguments) => serve::run(&arguments),
        #[cfg(feature = "serve")]
        Command::Demo(arguments) => demo::run(&arguments),
    }
}

/// Help and version were asked for; everything else that clap returns is a mistake.
fn usage(error: &clap::Error) -> Exit {
    // A closed terminal takes no help, and the exit code says it too.
    let _ = error.print();
    if error.use_stderr() { Exit::Usage } else { Exit::Ok }
}

/// The same mistake in the same arguments, written as they may be printed: the parser quotes them, between line breaks
/// of its own.
fn mistake(error: clap::Error, given: impl Iterator<Item = OsString>) -> clap::Error {
    let given: Vec<OsString> = given.collect();
    let printable: Vec<OsString> = given.iter().map(|argument| shown(argument).into()).collect();
    if let Some(name) = strange_variable() {
        let text = format!(
            "the variable {name} has characters that no option takes, such as control characters; set it again"
        );
        return Cli::command().error(error.kind(), text);
    }
    if printable == given {
        return error;
    }
    match Cli::try_parse_from(printable) {
        Err(error) => error,
        Ok(_) => Cli::command().error(error.kind(), "an argument has characters that it may not have"),
    }
}

/// A variable of the environment that an option is taken from, whose value the parser could not quote in one line.
fn strange_variable() -> Option<String> {
    let is_option = |name: &str| name.starts_with("DSSEFS_") || name == "AWS_CA_BUNDLE";
    let mut variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    variables.find(|(name, value)| is_option(name) && *value != *shown(value)).map(|(name, _)| name)
}

/// Prints an error with its causes in one line, whatever foreign text is in it.
fn complain(error: &dyn std::error::Error) {
    say(&shown(&sentence(error)));
}

/// Prints what is wrong with the arguments, a line for each problem: the values in it are foreign text.
fn complain_of(problems: &Problems) {
    problems.0.iter().for_each(|problem| say(&shown_value(problem)));
}

/// A line on standard error. A closed terminal takes none, and the exit code says it too.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// An error with its causes, as far as its own sentence does not hold them already.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !sentence.contains(&text) {
            sentence = format!("{}: {text}", sentence.trim_end_matches('.'));
        }
        cause = next.source();
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_free_of_contradictions() {
        Cli::command().debug_assert();
    }

    /// A daemon of an older version may start this program after an upgrade.
    #[test]
    fn the_mount_helper_also_has_its_former_name() {
        for name in ["mount-helper", "porter"] {
            let cli = Cli::try_parse_from(["dssefs", name, "s3://bucket/", "--read-only"]).unwrap();
            assert!(matches!(cli.command, Command::MountHelper(_)), "{name}");
        }
    }

    #[test]
    fn a_mistaken_argument_begins_no_line_of_its_own() {
        for forged in ["--commit=1\n\u{1b}[2Kgood", "--no-such\nINFO: mounted\u{202e}"] {
            let words = ["dssefs", "mount", "bucket", "/mnt", forged];
            let error = Cli::try_parse_from(words).expect_err("a mistake");
            let said = mistake(error, words.iter().map(OsString::from)).render().to_string();
            assert!(!said.contains(['\u{1b}', '\u{202e}']), "{said:?}");
            assert!(said.lines().next().is_some_and(|line| line.contains("\\n")), "{said}");
        }
    }

    #[test]
    fn an_error_without_lines_of_its_own_is_one_line() {
        let forged = std::io::Error::other("denied\r\u{1b}[2Kgood    all\n  next: line");
        assert_eq!(shown(&sentence(&forged)), "denied\\r\\u{1b}[2Kgood    all\\n  next: line");
    }

    #[test]
    fn the_store_of_recover_is_told_at_any_place() {
        for told in ["--region eu-west-1 DIR list", "DIR --region eu-west-1 list", "DIR list --region eu-west-1 --json"]
        {
            let words = ["dssefs", "recover"].into_iter().chain(told.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{told}");
        }
    }

    const PAGE: &str = include_str!("../../docs/CLI.md");

    /// What the table of a command says of one of its options.
    struct Row {
        variable: Option<&'static str>,
        default: Option<&'static str>,
    }

    fn row(command: &str, flag: &str) -> Option<Row> {
        let is_of_command = |title: &str| title.split(' ').take(2).eq(["dssefs", command]);
        let section = PAGE.split("\n## ").find(|section| section.lines().next().is_some_and(is_of_command))?;
        let mut header: Vec<&str> = Vec::new();
        for line in section.lines().filter(|line| line.starts_with("| ")) {
            let cells: Vec<&'static str> = line.trim_matches('|').split('|').map(str::trim).collect();
            if cells[0] == "option" {
                header = cells;
                continue;
            }
            // `--a`, `--b` share a row, and their cells are lists in the same order, or hold for both.
            let Some(place) = cells[0].split(", ").position(|name| name == format!("`--{flag}`")) else { continue };
            let cell = |title: &str| {
                let whole = cells[header.iter().position(|name| *name == title)?];
                Some(whole.split(", ").nth(place).unwrap_or(whole))
            };
            return Some(Row { variable: cell("variable"), default: cell("default") });
        }
        None
    }

    /// The value in a cell, and not what a person is told in its place.
    fn value(cell: &str) -> Option<&str> {
        cell.strip_prefix('`')?.strip_suffix('`')
    }

    fn check(command: &str, argument: &clap::Arg) {
        let Some(flag) = argument.get_long().filter(|flag| *flag != "help") else { return };
        let takes_value = argument.get_action().takes_values();
        let real = argument.get_default_values().first().and_then(|value| value.to_str()).filter(|_| takes_value);
        // What several commands share is in the table of `mount`; but where a command chooses later than clap, it
        // chooses for itself.
        let shared = || row("mount", flag).map(|row| Row { default: row.default.filter(|_| real.is_some()), ..row });
        let Some(Row { variable, default }) = row(command, flag).or_else(shared) else {
            assert!(PAGE.contains(&format!("`--{flag}`")), "docs/CLI.md does not name --{flag} of {command}");
            return;
        };
        let environment = argument.get_env().and_then(std::ffi::OsStr::to_str);
        if let Some(variable) = variable {
            assert_eq!(value(variable), environment, "the variable of --{flag} of {command}");
        }
        let Some(default) = default else { return };
        let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
        match (real, value(default)) {
            (Some(real), told) => assert_eq!(told, Some(real), "the default of --{flag} of {command}"),
            // What is chosen later than by clap, the help says.
            (None, Some(told)) => {
                let said = help.split_once("[default: ").is_some_and(|(_, said)| said.contains(told));
                assert!(said, "the help of --{flag} of {command} does not say its default {told}: {help}");
            }
            (None, None) => assert!(takes_value || ["no", ""].contains(&default), "--{flag} of {command}: {default}"),
        }
    }

    #[test]
    fn every_option_of_every_command_is_documented_with_its_variable_and_its_default() {
        let mut checked = 0;
        for command in Cli::command().get_subcommands() {
            let nested = command.get_subcommands().flat_map(clap::Command::get_arguments);
            for argument in command.get_arguments().chain(nested).filter(|argument| !argument.is_hide_set()) {
                check(command.get_name(), argument);
                checked += 1;
            }
        }
        assert!(checked > 60, "{checked} options");
    }
}
