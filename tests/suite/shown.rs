//! Foreign text in messages: it neither rules the terminal nor begins a line.

use std::fs;
use std::process::Output;

use dssefs_emulator::faults::{Fault, Rule};

use crate::common::kept::{ask, background, kill, recover, refuse_uploads, told};
use crate::common::{MINUTE, scenario};

/// A name that sets the terminal's title, clears a line, begins a line that looks like a result, and turns its end
/// around.
const NAME: &str = "file\u{1b}]0;title\u{7}\r\u{1b}[2K\ngood    all\u{9b}2K\u{202e}cod.\u{2066}\u{200b}";
/// The same as it is printed.
const SHOWN: &str = "file\\u{1b}]0;title\\u{7}\\r\\u{1b}[2K\\ngood    all\\u{9b}2K\\u{202e}cod.\\u{2066}\\u{200b}";

/// Nothing but text and the line breaks of the program itself, none of which begins what the name wanted.
fn is_harmless(output: &Output) {
    let said = told(output);
    let raw = |character: char| {
        (character.is_control() && character != '\n') || "\u{202e}\u{2066}\u{200b}\u{feff}".contains(character)
    };
    assert!(!said.contains(raw), "{said:?}");
    assert!(!said.lines().any(|line| line.trim_start().starts_with("good    all")), "{said}");
}

#[test]
fn a_mistaken_variable_of_the_environment_is_named_and_not_printed() {
    let mut command = crate::common::dssefs();
    command.args(["mount", "bucket", "/mnt"]).env("DSSEFS_COMMIT", "x\u{1b}[2K\ngood    all");
    let output = command.output().unwrap();
    is_harmless(&output);
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    assert!(told(&output).contains("DSSEFS_COMMIT"), "{}", told(&output));
}

#[test]
fn recover_prints_the_control_characters_of_a_name_escaped() {
    scenario().within(MINUTE * 2).with_spill(|endpoint, spill| {
        let mount = background(&endpoint, &spill);
        refuse_uploads(&endpoint);
        fs::write(mount.join(NAME), "content").unwrap();
        kill(mount);

        let listed = recover(&endpoint, &spill, &["list"]);
        is_harmless(&listed);
        assert!(told(&listed).contains(&format!("  {SHOWN}  7 bytes")), "{}", told(&listed));

        let document = recover(&endpoint, &spill, &["list", "--json"]);
        is_harmless(&document);
        let document: serde_json::Value = serde_json::from_slice(&document.stdout).unwrap();
        assert_eq!(document["sessions"][0]["files"][0]["key"], NAME);

        let to = spill.path().join("exported\u{1b}[2J");
        let exported = recover(&endpoint, &spill, &["export", NAME, to.to_str().unwrap()]);
        assert_eq!(fs::read(&to).unwrap(), b"content", "{}", told(&exported));
        is_harmless(&exported);
        let missing = recover(&endpoint, &spill, &["export", &format!("no-{NAME}"), to.to_str().unwrap()]);
        assert_eq!(missing.status.code(), Some(2), "{}", told(&missing));
        is_harmless(&missing);

        is_harmless(&recover(&endpoint, &spill, &["upload"]));
        endpoint.clear_faults();
        let sent = recover(&endpoint, &spill, &["upload"]);
        assert!(told(&sent).contains(&format!("stored: {SHOWN}\n")), "{}", told(&sent));
        is_harmless(&sent);
    });
}

#[test]
fn doctor_prints_a_message_of_kms_in_its_own_line() {
    scenario().unmounted(|endpoint| {
        let message = "denied\r\u{1b}[2Kgood    all\ngood    all\u{202e}".to_owned();
        let denial = Fault::Failure { status: 400, code: "AccessDeniedException".into(), message };
        endpoint.inject_faults(vec![Rule::on("kms:DescribeKey", denial).times(0)]);
        let output = ask(&endpoint, "doctor").args(["tests", "--kms-key-id", "alias/none"]).output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{}", told(&output));
        is_harmless(&output);
        assert!(told(&output).contains("denied\\r\\u{1b}[2Kgood    all\\ngood    all\\u{202e}"), "{}", told(&output));
    });
}

#[test]
fn a_mistaken_argument_is_printed_escaped() {
    let mistaken = [
        vec!["recover", "/var/empty", "list", "--endpoint-url", "ftp://\u{1b}[2J\ngood    all"],
        vec!["doctor", "bucket\u{1b}[2J\ngood    all"],
        vec!["mount", "bucket\u{1b}[2J\ngood    all", "/var/empty/\u{1b}[2J"],
    ];
    for arguments in mistaken {
        let output = crate::common::dssefs().args(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", told(&output));
        is_harmless(&output);
    }
}
