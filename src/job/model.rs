//! What is known about the models: facts with their source. A model that is not in the table
//! is no error; names are open strings.

use std::fmt;
use std::str::FromStr;

/// A model's name as it stands in the request's path: letters, digits, `.`, `_` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelName(String);

impl ModelName {
    /// The model of a job that names none.
    #[must_use]
    pub fn default_model() -> Self {
        Self("gemini-3.1-flash-image".to_owned())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether its answers are streamed when the manifest does not say: as the pages document
    /// it, no for gemini-3-pro-image, yes for all others and for unknown models.
    #[must_use]
    pub fn streams_by_default(&self) -> bool {
        self.0 != "gemini-3-pro-image"
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A text that cannot stand in a request's path as a model's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a model's name has 1 to 100 letters, digits, `.`, `_` or `-`")]
pub struct ModelNameError;

impl FromStr for ModelName {
    type Err = ModelNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let fits = (1..=100).contains(&text.len()) && text.chars().all(legal) && !text.starts_with('.');
        fits.then(|| Self(text.to_owned())).ok_or(ModelNameError)
    }
}

/// What is known about one model.
#[derive(Debug, Clone, Copy)]
pub struct ModelFacts {
    /// Its name.
    pub name: &'static str,
    /// The day Google shut it down (year, month, day) and the model that follows it.
    pub shutdown: Option<(&'static str, &'static str)>,
    /// Ratios on the provider's pages.
    pub ratios_documented: &'static [&'static str],
    /// Ratios that Google takes beyond those.
    pub ratios_google: &'static [&'static str],
    /// Sizes that it serves, by Google's page.
    pub sizes: &'static [&'static str],
    /// Sizes on the provider's pages.
    pub sizes_documented: &'static [&'static str],
    /// The most reference images.
    pub references_max: usize,
    /// Tokens of one image by size; the first is also that of an unnamed size.
    pub image_tokens: &'static [(&'static str, u64)],
}

const RATIOS_PAGES: &[&str] = &["1:1", "4:3", "3:4", "16:9", "9:16"];
const SIZES_PAGES: &[&str] = &["1K", "2K", "4K"];
const RATIOS_GOOGLE: &[&str] = &["2:3", "3:2", "4:5", "5:4", "21:9"];
const RATIOS_GOOGLE_FLASH: &[&str] = &["2:3", "3:2", "4:5", "5:4", "21:9", "1:4", "4:1", "1:8", "8:1"];
/// Google shut its preview models down on this day (provider's page of gemini-3-pro-image and
/// Google's deprecation list, read 2026-11).
const PREVIEW_SHUTDOWN: &str = "2026-06-25";

const PRO: ModelFacts = ModelFacts {
    name: "gemini-3-pro-image",
    shutdown: None,
    ratios_documented: RATIOS_PAGES,
    ratios_google: RATIOS_GOOGLE,
    sizes: &["1K", "2K", "4K"],
    sizes_documented: SIZES_PAGES,
    references_max: 14,
    image_tokens: &[("1K", 1120), ("2K", 1120), ("4K", 2000)],
};
const FLASH: ModelFacts = ModelFacts {
    name: "gemini-3.1-flash-image",
    shutdown: None,
    ratios_documented: RATIOS_PAGES,
    ratios_google: RATIOS_GOOGLE_FLASH,
    sizes: &["1K", "2K", "4K", "512"],
    sizes_documented: SIZES_PAGES,
    references_max: 14,
    image_tokens: &[("1K", 1120), ("2K", 1680), ("4K", 2520), ("512", 747)],
};

/// Ratios and sizes: the provider's pages and Google's image generation page; tokens: Google's
/// price page; all read 2026-11.
const KNOWN: &[ModelFacts] = &[
    PRO,
    FLASH,
    ModelFacts {
        name: "gemini-2.5-flash-image",
        shutdown: None,
        ratios_documented: RATIOS_PAGES,
        ratios_google: RATIOS_GOOGLE,
        sizes: &["1K"],
        sizes_documented: SIZES_PAGES,
        references_max: 3,
        image_tokens: &[("1K", 1290)],
    },
    ModelFacts {
        name: "gemini-3-pro-image-preview",
        shutdown: Some((PREVIEW_SHUTDOWN, "gemini-3-pro-image")),
        ..PRO
    },
    ModelFacts {
        name: "gemini-3.1-flash-image-preview",
        shutdown: Some((PREVIEW_SHUTDOWN, "gemini-3.1-flash-image")),
        ..FLASH
    },
];

/// The models that the provider's pages describe.
#[must_use]
pub const fn known_models() -> &'static [ModelFacts] {
    KNOWN
}

/// What is known about `model`; `None` for a name that no page mentions.
#[must_use]
pub fn model_facts(model: &ModelName) -> Option<&'static ModelFacts> {
    KNOWN.iter().find(|facts| facts.name == model.as_str())
}

impl ModelFacts {
    /// Tokens that one image of `size` costs; for an unknown size, those of the dearest.
    #[must_use]
    pub fn image_tokens_of(&self, size: Option<&str>) -> u64 {
        let named = match size {
            None => self.image_tokens.first(),
            Some(size) => self.image_tokens.iter().find(|(name, _)| *name == size),
        };
        let dearest = || self.image_tokens.iter().map(|(_, tokens)| *tokens).max().unwrap_or(0);
        named.map_or_else(dearest, |(_, tokens)| *tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_name_cannot_leave_its_place_in_the_path() {
        assert!("gemini-3.1-flash-image".parse::<ModelName>().is_ok());
        for wrong in ["", "a/b", "a:b", "..", "a?b", "a b", "models/x"] {
            assert!(wrong.parse::<ModelName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_unknown_size_is_reserved_as_the_dearest() {
        assert_eq!(FLASH.image_tokens_of(None), 1120);
        assert_eq!(FLASH.image_tokens_of(Some("2K")), 1680);
        assert_eq!(FLASH.image_tokens_of(Some("8K")), 2520);
    }
}
