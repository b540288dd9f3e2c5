//! Escapes foreign text before it is printed: names of files and objects, messages of the store, of KMS and of other
//! programs.
//!
//! Such text may hold any character. Printed raw, an escape sequence controls the terminal, a line break begins a line
//! that the program did not write, and a bidirectional control reorders other characters. The log, the messages and the
//! results share this one rule. A message keeps the line breaks that this program wrote. So the foreign value is
//! escaped where it enters the message. This room uses no other.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

/// `text` with the characters of `is_hidden` as Rust writes them (`\n`, `\u{1b}`), and with bytes that are not UTF-8
/// as `\xNN`.
#[must_use]
pub fn shown(text: &(impl AsRef<OsStr> + ?Sized)) -> String {
    let bytes = text.as_ref().as_bytes();
    let mut line = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_hidden(character) {
                line.extend(character.escape_default());
            } else {
                line.push(character);
            }
        }
        for byte in chunk.invalid() {
            // A String takes everything.
            let _ = write!(line, "\\x{byte:02x}");
        }
    }
    line
}

/// The sentence of a foreign error, or of any other value, in one line.
#[must_use]
pub fn shown_value(value: &(impl std::fmt::Display + ?Sized)) -> String {
    shown(&value.to_string())
}

/// A JSON text with the same characters as `\uNNNN`. They occur only in its strings, where RFC 8259 (7) lets any
/// character be written so. The line feeds that a pretty printer puts between values stay.
#[must_use]
pub fn shown_json(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if is_hidden(character) && character != '\n' {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        } else {
            text.push(character);
        }
    }
    text
}

/// Characters that a terminal obeys or hides: control characters (Unicode's class Cc, with ESC and C1), line
/// and paragraph separators, and the format characters of class Cf that change the order of others or are invisible
/// (UTS #55 and UAX #9 name the risk).
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_neither_rules_the_terminal_nor_begins_a_line() {
        let text = "a\n  good: all\r\u{1b}]0;title\u{7}\u{9b}2K\u{85}\u{2028}ä\u{202e}cba\u{2066}\u{200b}\u{feff}";
        let expected =
            "a\\n  good: all\\r\\u{1b}]0;title\\u{7}\\u{9b}2K\\u{85}\\u{2028}ä\\u{202e}cba\\u{2066}\\u{200b}\\u{feff}";
        assert_eq!(shown(text), expected);
    }

    #[test]
    fn bytes_that_are_not_utf8_are_shown_by_their_numbers() {
        assert_eq!(shown(OsStr::from_bytes(b"/mnt/a\xff\xc3b")), "/mnt/a\\xff\\xc3b");
    }

    #[test]
    fn every_control_and_bidirectional_character_is_escaped() {
        let bidirectional = ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}').chain('\u{200b}'..='\u{200f}');
        for character in ('\0'..='\u{1f}').chain('\u{7f}'..='\u{9f}').chain(bidirectional) {
            assert!(!shown(&String::from(character)).contains(character), "{character:?}");
        }
        for character in " ~\u{a0}äß漢🦀\\".chars() {
            assert_eq!(shown(&String::from(character)), String::from(character));
        }
    }

    #[test]
    fn json_stays_the_same_value_and_hides_nothing() {
        let value = serde_json::json!({ "key": "a\u{1b}[2J\u{7f}\u{9b}\u{202e}\u{e0041}\n\"ä" });
        let text = shown_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(text.chars().all(|character| character == '\n' || !is_hidden(character)), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
