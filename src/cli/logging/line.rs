//! Names of files are in the log, and may hold any character. None of them begins a line of its own, or rules the
//! terminal.

use dssefs_s3::escaping::{shown, shown_json};

/// An event in text, with its line break at the end and no other.
pub(super) fn in_one_line(event: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(event);
    let mut line = shown(text.strip_suffix('\n').unwrap_or(&text));
    line.push('\n');
    line.into_bytes()
}

/// An event in JSON, whose own escapes end at U+001F.
pub(super) fn in_json(event: &[u8]) -> Vec<u8> {
    shown_json(&String::from_utf8_lossy(event)).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_begin_a_line_of_its_own() {
        let event = "INFO stored key=a\n2026-01-01 ERROR forged\r\u{1b}[2J\u{85}\u{2028}ä\n";
        let expected = "INFO stored key=a\\n2026-01-01 ERROR forged\\r\\u{1b}[2J\\u{85}\\u{2028}ä\n";
        assert_eq!(String::from_utf8(in_one_line(event.as_bytes())).unwrap(), expected);
    }

    #[test]
    fn a_line_of_json_has_no_raw_control_or_bidirectional_character() {
        let event = "{\"key\":\"a\u{9b}2J\u{202e}b\"}\n";
        assert_eq!(String::from_utf8(in_json(event.as_bytes())).unwrap(), "{\"key\":\"a\\u009b2J\\u202eb\"}\n");
    }
}
