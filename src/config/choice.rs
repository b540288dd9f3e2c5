//! Options whose values are an enumeration of a lower room, which knows nothing of clap.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use dssefs_fs::namespace::{AttributeSource, PosixForm};
use dssefs_fs::vfs::{ErrnoStyle, NoncompliantRead};

/// One value of an option: what is typed, what `--help` says of it, and what it means.
type Choice<T> = (&'static str, &'static str, T);

/// `--on-noncompliant-read`; the first one is the default.
const NONCOMPLIANT_READS: [Choice<NoncompliantRead>; 2] = [
    ("serve", "Serve the content; the attributes tell the verdict", NoncompliantRead::Serve),
    ("refuse", "Answer EKEYREJECTED before a byte is served", NoncompliantRead::Refuse),
];

/// `--errno`; the first one is the default.
const ERRNO_STYLES: [Choice<ErrnoStyle>; 2] = [
    ("native", "ENOKEY, EKEYREVOKED, EKEYEXPIRED, EKEYREJECTED", ErrnoStyle::Native),
    ("posix", "EACCES in place of those, and EIO in place of EPROTO", ErrnoStyle::Posix),
];

/// `--attributes`; the first one is the default.
const ATTRIBUTE_SOURCES: [Choice<AttributeSource>; 2] = [
    ("full", "From each object's HEAD", AttributeSource::Full),
    ("listing", "From listings; chmod and chown are refused", AttributeSource::Listing),
];

/// `--posix-metadata`; the first one is the default.
const POSIX_FORMS: [Choice<PosixForm>; 3] = [
    ("s3fs", "As s3fs, geesefs and rclone: mode, uid, gid, mtime", PosixForm::S3fs),
    ("aws", "As FSx for Lustre, File Gateway and DataSync: file-permissions, file-owner and so on", PosixForm::Aws),
    ("both", "Both", PosixForm::Both),
];

pub(super) fn noncompliant_read() -> impl TypedValueParser<Value = NoncompliantRead> {
    parser(&NONCOMPLIANT_READS)
}

pub(super) fn errno_style() -> impl TypedValueParser<Value = ErrnoStyle> {
    parser(&ERRNO_STYLES)
}

pub(super) fn attribute_source() -> impl TypedValueParser<Value = AttributeSource> {
    parser(&ATTRIBUTE_SOURCES)
}

pub(super) fn posix_form() -> impl TypedValueParser<Value = PosixForm> {
    parser(&POSIX_FORMS)
}

fn parser<T: Copy + Send + Sync + 'static>(choices: &'static [Choice<T>]) -> impl TypedValueParser<Value = T> {
    let values = choices.iter().map(|(name, help, _)| PossibleValue::new(*name).help(*help));
    PossibleValuesParser::new(values).try_map(|typed| {
        let choice = choices.iter().find(|(name, ..)| *name == typed);
        // The parser has refused all other texts.
        choice.map(|(.., value)| *value).ok_or("no such choice")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_parsed_by_its_name_alone() {
        let command = || clap::Command::new("mount").arg(clap::Arg::new("errno").value_parser(errno_style()));
        let parse = |text: &str| command().try_get_matches_from(["mount", text]);
        for (name, _, style) in ERRNO_STYLES {
            assert_eq!(parse(name).unwrap().get_one::<ErrnoStyle>("errno"), Some(&style), "{name}");
        }
        let refused = parse("Posix").unwrap_err().to_string();
        assert!(refused.contains("native") && refused.contains("posix"), "{refused}");
    }
}
