//! Names of files are in the log, and may hold any character. None of them begins a line of its own, or speaks to the terminal.

use std::fmt::Write;

/// An event in text, with its line break at the end and no other.
pub(super) fn in_one_line(event: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(event);
    let mut line = escaped(text.strip_suffix('\n').unwrap_or(&text));
    line.push('\n');
    line.into_bytes()
}

/// `text` with its control characters and line breaks as Rust writes them: `\n`, `\u{1b}`.
pub(in crate::cli) fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
            // A String takes everything.
            let _ = write!(line, "{}", character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
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
}
