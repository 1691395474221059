//! What a manifest's reader has to say: errors and warnings with their places, bounded in
//! number, in the order of the file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::job::printable;

/// Errors that are kept, and distinct warnings; the rest is only counted. Nobody reads more,
/// and a wrong CSV of a million rows must not fill the memory.
pub const DIAGNOSTICS_MAX: usize = 100;

/// Characters of foreign text that a message shows.
const EXCERPT_CHARS_MAX: usize = 60;

/// A place in a manifest; both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The line.
    pub line: u32,
    /// The character in it.
    pub column: u32,
}

impl Location {
    /// The first character of a file.
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

/// Whether a diagnostic stops the manifest from being loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// It does.
    Error,
    /// It does not, but a person should look.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing that is wrong or odd, where, and what would be right. Its text is safe for a
/// terminal: `jobs.yaml:3:5: error: unknown key …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The manifest as the caller named it; `-` for standard input.
    pub file: Arc<Path>,
    /// Where it is; for a collapsed warning, where it is for the first time.
    pub location: Location,
    /// What was found and what would be right.
    pub message: String,
    /// How many equal warnings follow in other places.
    pub more: u64,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity, file, location, message, more } = self;
        let file = file.display().to_string();
        write!(f, "{}:{}:{}: {severity}: {message}", printable(&file), location.line, location.column)?;
        if *more > 0 {
            write!(f, " (and {more} more like it)")?;
        }
        Ok(())
    }
}

/// The diagnostics of one severity: the first [`DIAGNOSTICS_MAX`] and how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics {
    kept: Vec<Diagnostic>,
    total: u64,
}

impl Diagnostics {
    /// Those that were kept, in the order of the file.
    pub fn kept(&self) -> &[Diagnostic] {
        &self.kept
    }

    /// How many there are in all; a collapsed warning counts once.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// There are none.
    pub const fn is_empty(&self) -> bool {
        self.total == 0
    }
}

/// One line each, then how many more there are.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, diagnostic) in self.kept.iter().enumerate() {
            let separator = if n == 0 { "" } else { "\n" };
            write!(f, "{separator}{diagnostic}")?;
        }
        match self.total.saturating_sub(self.kept.len() as u64) {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more"),
        }
    }
}

impl std::error::Error for Diagnostics {}

/// Where the readers and checks put what they find.
#[derive(Debug)]
pub(super) struct Collector {
    file: Arc<Path>,
    errors: Diagnostics,
    warnings: Diagnostics,
}

impl Collector {
    pub(super) fn new(file: PathBuf) -> Self {
        Self { file: file.into(), errors: Diagnostics::default(), warnings: Diagnostics::default() }
    }

    /// An error. The same one in the same place is reported once: a YAML alias is read at
    /// every use.
    pub(super) fn error(&mut self, location: Location, message: impl Into<String>) {
        let message = message.into();
        let said = |one: &Diagnostic| one.location == location && one.message == message;
        if self.errors.kept.iter().any(said) {
            return;
        }
        let diagnostic = self.diagnostic(Severity::Error, location, message);
        self.errors.total += 1;
        if self.errors.kept.len() < DIAGNOSTICS_MAX {
            self.errors.kept.push(diagnostic);
        }
    }

    /// A warning. An equal message elsewhere makes the first one's count go up instead.
    pub(super) fn warning(&mut self, location: Location, message: impl Into<String>) {
        let message = message.into();
        if let Some(first) = self.warnings.kept.iter_mut().find(|one| one.message == message) {
            first.more += u64::from(first.location != location);
            return;
        }
        let diagnostic = self.diagnostic(Severity::Warning, location, message);
        self.warnings.total += 1;
        if self.warnings.kept.len() < DIAGNOSTICS_MAX {
            self.warnings.kept.push(diagnostic);
        }
    }

    pub(super) const fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Errors and warnings, each in the order of the file.
    pub(super) fn finish(mut self) -> (Diagnostics, Diagnostics) {
        self.errors.kept.sort_by_key(|one| one.location);
        self.warnings.kept.sort_by_key(|one| one.location);
        (self.errors, self.warnings)
    }

    fn diagnostic(&self, severity: Severity, location: Location, message: String) -> Diagnostic {
        Diagnostic { severity, file: Arc::clone(&self.file), location, message, more: 0 }
    }
}

/// Foreign text for a message: in backticks, on one line, harmless, and not too long.
pub(super) fn excerpt(text: &str) -> String {
    let (shown, rest) = match text.char_indices().nth(EXCERPT_CHARS_MAX) {
        Some((end, _)) => (&text[..end], "…"),
        None => (text, ""),
    };
    format!("`{}{rest}`", printable(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: u32) -> Location {
        Location { line, column: 1 }
    }

    #[test]
    fn the_first_hundred_errors_are_kept_and_the_rest_is_counted() {
        let mut collector = Collector::new("x.csv".into());
        for line in (1..=150).rev() {
            collector.error(at(line), format!("wrong {line}"));
        }
        let (errors, _) = collector.finish();
        assert_eq!((errors.kept().len(), errors.total()), (DIAGNOSTICS_MAX, 150));
        let text = errors.to_string();
        assert!(text.starts_with("x.csv:51:1: error: wrong 51\n"), "{text}");
        assert!(text.ends_with("\n… and 50 more"), "{text}");
    }

    #[test]
    fn equal_warnings_collapse_into_one_with_a_count() {
        let mut collector = Collector::new("x.csv".into());
        for line in 1..=42 {
            collector.warning(at(line), "odd");
        }
        let (errors, warnings) = collector.finish();
        assert!(errors.is_empty());
        assert_eq!(warnings.to_string(), "x.csv:1:1: warning: odd (and 41 more like it)");
    }

    #[test]
    fn the_same_error_in_the_same_place_is_said_once() {
        let mut collector = Collector::new("x.csv".into());
        collector.error(at(1), "wrong");
        collector.error(at(1), "wrong");
        assert_eq!(collector.finish().0.total(), 1);
    }

    #[test]
    fn an_excerpt_is_short_and_harmless() {
        assert_eq!(excerpt("a\u{1b}[2J\n"), "`a\\u{1b}[2J\\n`");
        assert_eq!(excerpt(&"ü".repeat(61)), format!("`{}…`", "ü".repeat(60)));
    }
}
