//! Whom the requests go to.

use std::fmt;
use std::str::FromStr;

/// A provider decides how a request is authenticated and where it goes by default; nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Provider {
    /// The Anyfast gateway: the key travels in the query (`?key=`).
    Anyfast,
    /// Google's own endpoint: the key travels in the header `x-goog-api-key`.
    Google,
    /// The simulator in this process, on loopback. Speaks as Anyfast does.
    Simulator,
}

impl Provider {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Anyfast, Self::Google, Self::Simulator];

    /// As it is written on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anyfast => "anyfast",
            Self::Google => "google",
            Self::Simulator => "simulator",
        }
    }

    /// Where its requests go unless `--base-url` says otherwise. The simulator has no fixed
    /// address. Anyfast: the pages' `servers` entry (2026-11); Google: ai.google.dev (2026-11).
    #[must_use]
    pub const fn default_base_url(self) -> Option<&'static str> {
        match self {
            Self::Anyfast => Some("https://www.anyfast.ai"),
            Self::Google => Some("https://generativelanguage.googleapis.com"),
            Self::Simulator => None,
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names no provider.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no provider; expected anyfast, google or simulator")]
pub struct ParseProviderError(String);

impl FromStr for Provider {
    type Err = ParseProviderError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|one| one.as_str() == text)
            .ok_or_else(|| ParseProviderError(text.to_owned()))
    }
}
