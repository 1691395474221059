//! Bytes to text: a manifest is UTF-8, and what is not gets one error that says what it is.

use super::diagnostic::Location;
use super::raw::Cursor;

/// Why some bytes cannot be read as a manifest, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NotText {
    pub(super) at: Location,
    pub(super) message: String,
}

/// UTF-8's byte-order mark, which editors on Windows put in front.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// What the first bytes of a file may be instead of text.
const OTHERS: &[(&[u8], &str)] = &[
    (b"\xff\xfe", "the file is UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "the file is UTF-16; save it as UTF-8"),
    (
        b"PK\x03\x04",
        "the file is a ZIP archive or an Excel workbook, not text; save the table as CSV in UTF-8",
    ),
    (b"\x1f\x8b", "the file is compressed by gzip, not text; unpack it first"),
    (b"\x89PNG", "the file is a picture, not text; a manifest is YAML, JSON, JSONL or CSV"),
    (b"\xff\xd8\xff", "the file is a picture, not text; a manifest is YAML, JSON, JSONL or CSV"),
    (b"%PDF", "the file is a PDF, not text; a manifest is YAML, JSON, JSONL or CSV"),
];

/// Checks the first bytes of a file and returns how many of them are a byte-order mark.
pub(super) fn check_start(bytes: &[u8]) -> Result<usize, NotText> {
    if let Some((_, message)) = OTHERS.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Err(NotText { at: Location::START, message: (*message).to_owned() });
    }
    Ok(if bytes.starts_with(BOM) { BOM.len() } else { 0 })
}

/// The text in `bytes`, which begin at `at`: valid UTF-8 without NUL.
pub(super) fn decode(bytes: &[u8], at: Location) -> Result<&str, NotText> {
    let place = |offset: usize| {
        let before = bytes.get(..offset).unwrap_or_default();
        let before = String::from_utf8_lossy(before);
        Cursor::new(at).advance(&before, before.len())
    };
    if let Some(offset) = memchr::memchr(0, bytes) {
        let message = "there is a NUL byte here: the file is binary or UTF-16; save it as UTF-8 text";
        return Err(NotText { at: place(offset), message: message.to_owned() });
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let offset = error.valid_up_to();
        let byte = bytes.get(offset).copied().unwrap_or_default();
        let message = format!("the byte 0x{byte:02x} is not valid UTF-8 here; save the file as UTF-8");
        NotText { at: place(offset), message }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_text_is_named() {
        let check = |bytes: &[u8], expect: &str| {
            let message = check_start(bytes).expect_err("refused").message;
            assert!(message.contains(expect), "{message}");
        };
        check(b"\xff\xfei\0d\0", "UTF-16");
        check(b"PK\x03\x04\x14\0", "Excel");
        check(b"\x89PNG\r\n\x1a\n", "picture");
        assert_eq!(check_start(b"\xef\xbb\xbfid"), Ok(3));
        assert_eq!(check_start(b"id"), Ok(0));
    }

    #[test]
    fn bad_bytes_are_reported_with_their_place() {
        let check = |bytes: &[u8], line, column, expect: &str| {
            let error = decode(bytes, Location::START).expect_err("refused");
            assert_eq!(error.at, Location { line, column });
            assert!(error.message.contains(expect), "{}", error.message);
        };
        check(b"a\nb\xff", 2, 2, "0xff");
        check(b"a\n\xc3\xa4\xe4", 2, 2, "0xe4");
        check(b"ab\0", 1, 3, "NUL");
    }
}
