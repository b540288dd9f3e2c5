//! Sizes, durations and permissions as people write them.

use std::time::Duration;

/// A text that is not a size.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// No number, a fraction, or an unknown unit.
    #[error(
        "{0:?} is not a size; write a whole number and a unit, such as 64MiB or 2GiB \
         (B, KiB, MiB, GiB, TiB, kB, MB, GB, TB)"
    )]
    Invalid(String),
    /// More bytes than 64 bits count.
    #[error("{0:?} is more than 64 bits can count; write a smaller size")]
    TooLarge(String),
}

/// A text that is not a duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a duration of at most {MAX_HOURS} hours; write a whole number and a unit, \
     such as 500ms, 1s, 2m or 1h, or 0"
)]
pub struct DurationError(String);

/// A text that is not a set of permissions.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a set of permissions; write three octal digits, such as 0644 or 750")]
pub struct ModeError(String);

/// A day: what is older is not a cache but a copy.
const MAX_HOURS: u64 = 24;

/// The units of sizes. Without a unit a number is a number of bytes.
const SIZE_UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
];

/// The units of durations, in milliseconds. Only zero needs none.
const TIME_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// Reads a size in bytes, such as `64MiB`, `2 GiB`, `100MB` or `4096`. The case of the unit does not matter.
///
/// # Errors
/// [`SizeError`].
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let invalid = || SizeError::Invalid(text.to_owned());
    let (number, unit) = number_and_unit(text).ok_or_else(invalid)?;
    let (_, scale) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
    number.checked_mul(*scale).ok_or_else(|| SizeError::TooLarge(text.to_owned()))
}

/// Reads a duration between 0 and 24 hours.
///
/// # Errors
/// [`DurationError`].
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let invalid = || DurationError(text.to_owned());
    let milliseconds = match number_and_unit(text).ok_or_else(invalid)? {
        (0, unit) if unit.is_empty() => 0,
        (number, unit) => {
            let (_, scale) = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
            number.checked_mul(*scale).filter(|ms| *ms <= MAX_HOURS * 3_600_000).ok_or_else(invalid)?
        }
    };
    Ok(Duration::from_millis(milliseconds))
}

/// Reads permission bits (0 to 0777) in octal, with or without a leading 0 or 0o.
///
/// # Errors
/// [`ModeError`]; the set-user-id, set-group-id and sticky bits are refused too.
pub fn parse_mode(text: &str) -> Result<u32, ModeError> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let octal = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let mode = octal.then(|| u32::from_str_radix(digits, 8).ok()).flatten();
    mode.filter(|mode| *mode <= 0o777).ok_or_else(|| ModeError(text.to_owned()))
}

/// The leading digits as a number, and the rest as a unit in lower case.
fn number_and_unit(text: &str) -> Option<(u64, String)> {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    Some((digits.parse().ok()?, unit.trim().to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_binary_and_decimal_units() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64MiB", 64 << 20),
            ("2gib", 2 << 30),
            ("1 TiB", 1 << 40),
            ("100MB", 100_000_000),
            ("7B", 7),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in ["", "MiB", "1.5GiB", "-1", "1M", "1 mi b", "0x10"] {
            assert_eq!(parse_size(text), Err(SizeError::Invalid(text.to_owned())), "{text:?}");
        }
        assert_eq!(parse_size("99999999TiB"), Err(SizeError::TooLarge("99999999TiB".to_owned())));
    }

    #[test]
    fn durations_are_read_and_bounded() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("24h"), Ok(Duration::from_secs(86_400)));
        for text in ["", "1", "25h", "s", "1d", "1.5s", "99999999999999999999s"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn permissions_are_octal_and_nothing_more() {
        assert_eq!(parse_mode("0644"), Ok(0o644));
        assert_eq!(parse_mode("750"), Ok(0o750));
        assert_eq!(parse_mode("0o700"), Ok(0o700));
        for text in ["", "8", "1777", "4755", "u+x", "+7"] {
            assert!(parse_mode(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn each_unit_has_its_largest_value() {
        assert_eq!(parse_size("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(parse_size("16777215TiB"), Ok(16_777_215 << 40));
        assert_eq!(parse_size("16777216TiB"), Err(SizeError::TooLarge("16777216TiB".to_owned())));
        for (text, longest) in [("86400000ms", true), ("86400001ms", false), ("1440m", true), ("1441m", false)] {
            assert_eq!(parse_duration(text).ok(), longest.then_some(Duration::from_secs(86_400)), "{text}");
        }
        assert_eq!((parse_mode("777"), parse_mode("0777"), parse_mode("0")), (Ok(0o777), Ok(0o777), Ok(0)));
        assert!(parse_mode("1000").is_err() && parse_mode("01000").is_err());
    }

    #[test]
    fn each_unit_has_its_own_scale() {
        let sizes =
            ["1B", "1KiB", "1MiB", "1GiB", "1TiB", "1kB", "1MB", "1GB", "1TB"].map(|text| parse_size(text).unwrap());
        let decimal = [1_000, 1_000_000, 1_000_000_000, 1_000_000_000_000];
        assert_eq!(sizes[..5], [1, 1 << 10, 1 << 20, 1 << 30, 1 << 40]);
        assert_eq!(sizes[5..], decimal);
        let times = ["1ms", "1s", "1m", "1h"].map(|text| parse_duration(text).unwrap().as_millis());
        assert_eq!(times, [1, 1_000, 60_000, 3_600_000]);
        assert!(parse_duration("0x").is_err() && parse_duration("0 days").is_err(), "zero of what?");
    }
}
