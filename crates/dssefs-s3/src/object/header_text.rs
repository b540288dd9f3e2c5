//! Values of headers as text. HTTP lets a value have any byte from 0x80 on (obs-text, RFC 9110, 5.5). Text of this
//! program, of the SDK and of the journal is UTF-8.
//!
//! A value that is UTF-8 is its own text. Each other byte is a character of a private use plane, so that text and
//! bytes are one to one. Characters of that range that a value really has are written byte by byte as well.

/// The character for byte 0 that is not UTF-8. Plane 16 is for private use (Unicode, 23.5); only 0x80 to 0xFF occur.
const FIRST: u32 = 0x10_FE00;

/// The text of a header's value. [`header_bytes`] gives the value back.
#[must_use]
pub fn header_text(value: &[u8]) -> String {
    let mut text = String::with_capacity(value.len());
    for chunk in value.utf8_chunks() {
        for character in chunk.valid().chars() {
            match escaped(character) {
                None => text.push(character),
                Some(_) => text.extend(character.encode_utf8(&mut [0; 4]).bytes().filter_map(escape)),
            }
        }
        text.extend(chunk.invalid().iter().copied().filter_map(escape));
    }
    text
}

/// The bytes of a header's value, of the text that [`header_text`] gave.
#[must_use]
pub fn header_bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        match escaped(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// The length of the value that `text` stands for, in bytes.
#[must_use]
pub fn header_length(text: &str) -> usize {
    text.chars().map(|character| escaped(character).map_or(character.len_utf8(), |_| 1)).sum()
}

/// Whether the value is no UTF-8, so that no text equals it.
#[must_use]
pub fn is_raw(text: &str) -> bool {
    text.chars().any(|character| escaped(character).is_some())
}

fn escape(byte: u8) -> Option<char> {
    char::from_u32(FIRST + u32::from(byte))
}

fn escaped(character: char) -> Option<u8> {
    u32::from(character).checked_sub(FIRST).and_then(|byte| u8::try_from(byte).ok()).filter(|byte| *byte >= 0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_survives_as_text() {
        let private = escape(0xC3).unwrap().to_string();
        for value in [&b""[..], b"plain", "K\u{f6}ln".as_bytes(), b"K\xf6ln", b"\xff\xc3\xb6\xc3", private.as_bytes()] {
            let text = header_text(value);
            assert_eq!(header_bytes(&text), value, "{text:?}");
            assert_eq!(header_length(&text), value.len(), "{text:?}");
        }
    }

    #[test]
    fn only_what_is_no_text_is_written_otherwise() {
        assert_eq!(header_text("K\u{f6}ln".as_bytes()), "K\u{f6}ln");
        assert!(!is_raw("K\u{f6}ln") && is_raw(&header_text(b"K\xf6ln")));
    }
}
