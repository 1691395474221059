//! The states of a job and the outcomes of an attempt, spelled the same everywhere.

/// A text that names no state or outcome: never a default, always an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no {what}; expected one of {expected}")]
pub struct UnknownText {
    /// What was looked for.
    pub what: &'static str,
    /// What stood there.
    pub found: String,
    /// All that would be right, separated by commas.
    pub expected: String,
}

/// An enum whose variants are spelled one way, in the queue, the reports and on the command line.
macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident, $what:literal, { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// All of them, in their order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// As it is written in the queue, the reports and on the command line.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::job::UnknownText;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|one| one.as_str() == text).ok_or_else(|| $crate::job::UnknownText {
                    what: $what,
                    found: text.to_owned(),
                    expected: Self::ALL.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    };
}
pub(crate) use text_enum;

text_enum! {
    /// The states of a job.
    JobState, "job state", {
        /// Needs another job's output.
        Waiting = "waiting",
        /// Can be claimed once it is due.
        Pending = "pending",
        /// Leased to a worker.
        Running = "running",
        /// Its files are durable and recorded.
        Succeeded = "succeeded",
        /// A person must decide.
        Held = "held",
        /// A permanent error, or its allowance is used up.
        Failed = "failed",
        /// The provider's safety filter said no; a person must change the prompt.
        Refused = "refused",
        /// A job that it needed did not succeed.
        Skipped = "skipped",
        /// By a person, or because it left the manifest.
        Cancelled = "cancelled",
    }
}

impl JobState {
    /// No worker will touch it again unless a person or a manifest says so. `held` is not
    /// final: it waits for a decision.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Refused | Self::Skipped | Self::Cancelled)
    }
}

text_enum! {
    /// What became of one HTTP request.
    AttemptOutcome, "attempt outcome", {
        /// On its way; not yet known.
        Sent = "sent",
        /// Images arrived and are durable.
        Succeeded = "succeeded",
        /// Turned away by a rate limit; uses up nothing.
        Throttled = "throttled",
        /// Worth another try.
        Transient = "transient",
        /// An answer without an image.
        NoImage = "no_image",
        /// The safety filter said no.
        Refused = "refused",
        /// A permanent error.
        Failed = "failed",
        /// Cut off by us; possibly billed.
        Aborted = "aborted",
        /// The process died before the answer; possibly billed.
        Lost = "lost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_survives_its_text_and_unknown_text_is_an_error() {
        for state in JobState::ALL {
            assert_eq!(state.as_str().parse::<JobState>(), Ok(*state));
        }
        for outcome in AttemptOutcome::ALL {
            assert_eq!(outcome.as_str().parse::<AttemptOutcome>(), Ok(*outcome));
        }
        let error = "done".parse::<JobState>().expect_err("unknown");
        assert!(error.to_string().contains("succeeded"), "{error}");
    }
}
