//! Values of headers that are not UTF-8, as text: the records of objects are JSON.

use http::HeaderMap;

/// The begin of the names under which the server hands values on that are not ASCII, in hexadecimal digits.
pub(crate) const RAW: &str = "x-dssefs-raw-";

/// A byte that is not UTF-8 is this character and its value. Plane 15 is for private use (Unicode, 23.5).
const FIRST: u32 = 0xF_0000;

/// The text of the header `name`, as it came or as it was put aside.
pub(super) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let aside = || headers.get(format!("{RAW}{name}"))?.to_str().ok().and_then(from_hex);
    let plain = || headers.get(name)?.to_str().ok().map(str::to_owned);
    aside().map(|bytes| text_of(&bytes)).or_else(plain)
}

/// The text of a value.
fn text_of(value: &[u8]) -> String {
    let mut text = String::new();
    for chunk in value.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().filter_map(|byte| char::from_u32(FIRST + u32::from(*byte))));
    }
    text
}

/// The value of a text.
pub(crate) fn bytes_of(text: &str) -> Vec<u8> {
    let byte = |character: char| u32::from(character).checked_sub(FIRST).and_then(|byte| u8::try_from(byte).ok());
    let bytes = |character: char| match byte(character) {
        Some(byte) => vec![byte],
        None => character.to_string().into_bytes(),
    };
    text.chars().flat_map(bytes).collect()
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_was_put_aside_is_read_byte_for_byte() {
        let mut headers = HeaderMap::new();
        headers.insert("x-dssefs-raw-content-disposition", "4bf66cc3b6".parse().unwrap());
        let text = text(&headers, "content-disposition").unwrap();
        assert_eq!(bytes_of(&text), b"K\xf6l\xc3\xb6");
        assert_eq!(super::text(&headers, "expires"), None);
    }
}
