//! Names and numbers by which things are known.

use std::fmt;
use std::str::FromStr;

macro_rules! number_id {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

number_id! {
    /// A job's key in the queue.
    JobId;
    /// An attempt: one HTTP request in the ledger.
    AttemptId;
    /// A lease's number. It never repeats, so a lease that was lost can never match again.
    Epoch;
    /// One start of the program on a queue.
    RunId;
    /// A lane: provider, model and key.
    LaneId;
    /// A worker process as the queue knows it.
    WorkerId;
    /// A result file.
    OutputId;
}

/// Longest job id, in bytes.
const NAME_BYTES_MAX: usize = 200;

/// A job's id as the manifest gives it: 1 to 200 bytes, no control characters, no blanks at
/// the ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobName(String);

/// Why a text cannot be a job's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobNameError {
    /// Nothing, or blanks only.
    #[error("an id must not be empty")]
    Empty,
    /// Longer than 200 bytes.
    #[error("an id of {0} bytes is too long; at most {NAME_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// A line break, an escape, a direction mark …
    #[error("an id must not contain control characters")]
    Control,
    /// Blanks at an end are invisible and make two ids look alike.
    #[error("an id must not begin or end with a blank")]
    Blank,
}

impl JobName {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for JobName {
    type Err = JobNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() {
            Err(JobNameError::Empty)
        } else if text.len() > NAME_BYTES_MAX {
            Err(JobNameError::TooLong(text.len()))
        } else if text.chars().any(super::printable::is_unsafe) {
            Err(JobNameError::Control)
        } else if text.trim() != text {
            Err(JobNameError::Blank)
        } else {
            Ok(Self(text.to_owned()))
        }
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_refused_for_what_a_person_could_not_see() {
        let check = |text: &str, expect| assert_eq!(text.parse::<JobName>().err(), expect);
        check("hero", None);
        check("a b/ü", None);
        check("  ", Some(JobNameError::Empty));
        check("a\u{1b}[2J", Some(JobNameError::Control));
        check("a\u{202e}b", Some(JobNameError::Control));
        check("hero ", Some(JobNameError::Blank));
        check(&"x".repeat(201), Some(JobNameError::TooLong(201)));
    }
}
