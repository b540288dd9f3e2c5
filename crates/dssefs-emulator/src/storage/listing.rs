//! Walking keys in order, with a prefix and a delimiter: pure.

use std::collections::BTreeMap;
use std::ops::Bound;

/// What a listing asks for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Query<'a> {
    /// Only keys that start so.
    pub(crate) prefix: &'a str,
    /// Keys that share the part up to the first delimiter behind the prefix are rolled up into one common prefix.
    pub(crate) delimiter: Option<&'a str>,
    /// Only keys and common prefixes behind this one; a common prefix that the marker lies in was listed already.
    pub(crate) after: &'a str,
}

/// One entry of a listing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a, V> {
    /// A key.
    Key(&'a str, &'a V),
    /// A common prefix of at least one key.
    Prefix(&'a str),
}

/// An iterator over the entries in the order of their UTF-8 bytes. A common prefix costs one look-up, however many keys
/// are in it.
#[derive(Debug)]
pub(crate) struct Walk<'a, V, F> {
    keys: &'a BTreeMap<String, V>,
    visible: F,
    query: Query<'a>,
    from: Option<Bound<String>>,
}

impl<'a, V, F: Fn(&V) -> bool> Walk<'a, V, F> {
    /// Walks the keys whose value is `visible`.
    pub(crate) fn new(keys: &'a BTreeMap<String, V>, visible: F, query: Query<'a>) -> Self {
        let from = start(&query);
        Walk { keys, visible, query, from }
    }
}

impl<'a, V, F: Fn(&V) -> bool> Iterator for Walk<'a, V, F> {
    type Item = Found<'a, V>;

    fn next(&mut self) -> Option<Found<'a, V>> {
        loop {
            let from = self.from.take()?;
            let (key, value) = self.keys.range((from, Bound::Unbounded)).next()?;
            if !key.starts_with(self.query.prefix) {
                return None;
            }
            if !(self.visible)(value) {
                self.from = Some(Bound::Excluded(key.clone()));
                continue;
            }
            let Some(common) = common_prefix(key, &self.query) else {
                self.from = Some(Bound::Excluded(key.clone()));
                return Some(Found::Key(key, value));
            };
            self.from = successor(common).map(Bound::Included);
            return Some(Found::Prefix(common));
        }
    }
}

fn start(query: &Query<'_>) -> Option<Bound<String>> {
    if query.after < query.prefix || query.after.is_empty() {
        return Some(Bound::Included(query.prefix.to_owned()));
    }
    match common_prefix(query.after, query) {
        Some(common) => successor(common).map(Bound::Included),
        None => Some(Bound::Excluded(query.after.to_owned())),
    }
}

fn common_prefix<'k>(key: &'k str, query: &Query<'_>) -> Option<&'k str> {
    let delimiter = query.delimiter.filter(|delimiter| !delimiter.is_empty())?;
    let rest = key.strip_prefix(query.prefix)?;
    let at = rest.find(delimiter)?;
    Some(&key[..query.prefix.len() + at + delimiter.len()])
}

/// The smallest string behind all strings that start with `prefix`, if there is one.
fn successor(prefix: &str) -> Option<String> {
    let mut successor = prefix.to_owned();
    while let Some(last) = successor.pop() {
        // The order of UTF-8 bytes is the order of code points; the surrogates are a hole in them.
        let next = if last == '\u{D7FF}' { Some('\u{E000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            successor.push(next);
            return Some(successor);
        }
    }
    None
}
