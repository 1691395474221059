//! Names of result files that are legal everywhere and cannot leave their folder.

use std::fmt;
use std::str::FromStr;

use unicode_normalization::UnicodeNormalization;

use super::printable::is_unsafe;

/// Longest part of a name in bytes. Most file systems take 255; the rest is for a suffix, an
/// extension and what a temporary name adds.
const PART_BYTES_MAX: usize = 200;

/// Longest whole name in bytes. Windows and some archives stop at 260 for a whole path.
const NAME_BYTES_MAX: usize = 400;

/// Where an image goes below `images/`: a relative path with `/` and without extension.
///
/// Every part is a legal file name on Linux, macOS and Windows, and none leads out of the
/// folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OutputName(String);

/// Why a text cannot name a result file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or an empty part as in `a//b`.
    #[error("a name must not be empty or have an empty part (`//`, a `/` at an end)")]
    EmptyPart,
    /// `/etc/x`, `C:\x`.
    #[error("a name must be relative: it is taken below `images/`")]
    Absolute,
    /// `..` or `.`.
    #[error("a name must not contain `..` or `.` as a part: it could leave the folder")]
    Dots,
    /// Characters that some file system refuses, or that steer a terminal.
    #[error("a name must not contain {0}")]
    Character(String),
    /// A trailing dot or blank, which Windows drops.
    #[error("a part of a name must not begin with a blank or end with a dot or a blank")]
    Edge,
    /// `CON`, `nul`, `COM1` …
    #[error("`{0}` is a device's name on Windows")]
    Reserved(String),
    /// A part above 200 bytes or a whole above 400.
    #[error("a name of {0} bytes is too long: at most {PART_BYTES_MAX} a part and {NAME_BYTES_MAX} in all")]
    TooLong(usize),
}

impl OutputName {
    /// The name as text, with `/` between its parts.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Two names with the same key are the same file on a disk that ignores case or folds
    /// Unicode (macOS, Windows).
    #[must_use]
    pub fn key(&self) -> String {
        Self::key_of(&self.0)
    }

    /// [`OutputName::key`] for a text.
    #[must_use]
    pub fn key_of(name: &str) -> String {
        name.nfkd().flat_map(char::to_lowercase).nfc().collect()
    }

    /// The name of the `n`th image of one answer, from 1: `hero`, `hero-2`, `hero-3`.
    #[must_use]
    pub fn numbered(&self, n: usize) -> Self {
        if n <= 1 { self.clone() } else { Self(format!("{}-{n}", self.0)) }
    }
}

impl fmt::Display for OutputName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for OutputName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with(['/', '\\']) {
            return Err(NameError::Absolute);
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong(text.len()));
        }
        text.split('/').try_for_each(check_part)?;
        Ok(Self(text.to_owned()))
    }
}

fn check_part(part: &str) -> Result<(), NameError> {
    if part.is_empty() {
        return Err(NameError::EmptyPart);
    }
    if matches!(part, "." | "..") {
        return Err(NameError::Dots);
    }
    if part.len() > PART_BYTES_MAX {
        return Err(NameError::TooLong(part.len()));
    }
    if let Some(c) = part.chars().find(|c| matches!(c, '<' | '>' | ':' | '"' | '\\' | '|' | '?' | '*')) {
        return Err(NameError::Character(format!("`{c}`")));
    }
    if part.chars().any(is_unsafe) {
        return Err(NameError::Character("control characters".to_owned()));
    }
    if part.starts_with(' ') || part.ends_with(['.', ' ']) {
        return Err(NameError::Edge);
    }
    let stem = part.split('.').next().unwrap_or(part).trim_end().to_ascii_uppercase();
    if is_device(&stem) {
        return Err(NameError::Reserved(part.to_owned()));
    }
    Ok(())
}

/// Windows' device names (Microsoft, "Naming Files, Paths, and Namespaces", read 2026-11).
fn is_device(stem: &str) -> bool {
    let numbered = |prefix: &str| {
        stem.strip_prefix(prefix).is_some_and(|n| n.len() == 1 && n.as_bytes()[0].is_ascii_digit())
    };
    matches!(stem, "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") || numbered("COM") || numbered("LPT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_some_disk_refuses_are_refused() {
        let check = |text: &str, expect: Option<NameError>| {
            assert_eq!(text.parse::<OutputName>().err(), expect, "{text:?}");
        };
        check("hero", None);
        check("de/hero v2.1", None);
        check("über/猫", None);
        check("", Some(NameError::EmptyPart));
        check("a//b", Some(NameError::EmptyPart));
        check("a/", Some(NameError::EmptyPart));
        check("/etc/x", Some(NameError::Absolute));
        check("../../x", Some(NameError::Dots));
        check("a/../b", Some(NameError::Dots));
        check("C:x", Some(NameError::Character("`:`".to_owned())));
        check("a\\b", Some(NameError::Character("`\\`".to_owned())));
        check("a\u{7}", Some(NameError::Character("control characters".to_owned())));
        check("a.", Some(NameError::Edge));
        check("a /b", Some(NameError::Edge));
        check("con", Some(NameError::Reserved("con".to_owned())));
        check("x/COM1.final", Some(NameError::Reserved("COM1.final".to_owned())));
        check(&"x".repeat(300), Some(NameError::TooLong(300)));
    }

    #[test]
    fn names_that_fold_together_have_one_key() {
        let key = |text: &str| text.parse::<OutputName>().expect("legal").key();
        assert_eq!(key("Hero/Ä"), key("hero/a\u{308}"));
        assert_ne!(key("hero"), key("hero2"));
    }
}
