//! `nightpress.yaml` of the current directory: the options of `run` and `work` under the names of
//! their flags with `_`, prices, and limits of single models.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args as _;
use serde::de::{self, Deserializer, IgnoredAny, Visitor};
use serde::{Deserialize, de::DeserializeOwned};

use super::options::{LoadOptions, Options, OutputOptions, QueueOptions, ScopeOptions, SendOptions};
use super::value::Count;
use crate::job::{Micros, Price, PriceTable};

/// Its name.
pub(super) const FILE_NAME: &str = "nightpress.yaml";
/// The largest one that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Keys that are no flags.
const OTHER_KEYS: [&str; 2] = ["prices", "models"];

/// What the file says.
#[derive(Debug, Clone, Default)]
pub(super) struct Config {
    pub(super) options: Options,
    pub(super) prices: BTreeMap<String, Price>,
    /// Requests a minute of single models.
    pub(super) rpm_by_model: BTreeMap<String, u32>,
    /// Images a minute of single models.
    pub(super) ipm_by_model: BTreeMap<String, u32>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{} has {bytes} bytes; at most {FILE_BYTES_MAX} are read", path.display())]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("{}:{line}: unknown key `{key}`{}", path.display(), hint(suggestion.as_deref()))]
    UnknownKey { path: PathBuf, line: usize, key: String, suggestion: Option<String> },
    #[error("{} is not right: {source}", path.display())]
    Invalid { path: PathBuf, source: Box<serde_saphyr::Error> },
    #[error("{}: the price of {model} {problem}", path.display())]
    Price { path: PathBuf, model: String, problem: &'static str },
}

fn hint(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(
        || {
            "; the keys are the long flags of `nightpress run --help` with `_`, `prices` and `models`"
                .to_owned()
        },
        |key| format!(", did you mean `{key}`?"),
    )
}

impl Config {
    /// Reads the file in `folder`; nothing is said where there is none.
    pub(super) fn read(folder: &Path) -> Result<Self, ConfigError> {
        let path = folder.join(FILE_NAME);
        let unreadable = |source| ConfigError::Unreadable { path: path.clone(), source };
        let bytes = match std::fs::metadata(&path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(unreadable(error)),
        };
        if bytes > FILE_BYTES_MAX {
            return Err(ConfigError::TooLarge { path, bytes });
        }
        let text = std::fs::read_to_string(&path).map_err(unreadable)?;
        Self::parse(&path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Self::default());
        }
        check_keys(path, text)?;
        let section: Other = part(path, text)?;
        let mut prices = BTreeMap::new();
        for (model, price) in section.prices {
            let wrong = |problem| ConfigError::Price { path: path.to_owned(), model: model.clone(), problem };
            let price = price.check().map_err(wrong)?;
            prices.insert(model, price);
        }
        let limits = |of: fn(&ModelEntry) -> Option<Count>| {
            section.models.iter().filter_map(|(name, one)| Some((name.clone(), of(one)?.0))).collect()
        };
        let (rpm_by_model, ipm_by_model) = (limits(|one| one.rpm), limits(|one| one.ipm));
        Ok(Self {
            options: Options {
                load: part::<LoadOptions>(path, text)?,
                scope: part::<ScopeOptions>(path, text)?,
                send: part::<SendOptions>(path, text)?,
                queue: part::<QueueOptions>(path, text)?,
                output: part::<OutputOptions>(path, text)?,
            },
            prices,
            rpm_by_model,
            ipm_by_model,
        })
    }

    /// The table of list prices with the file's own in their places.
    pub(super) fn price_table(&self) -> PriceTable {
        let mut table = PriceTable::default();
        for (model, price) in &self.prices {
            table.set(model, *price);
        }
        table
    }
}

/// The keys of the file that belong to `T`; the others are other parts' business.
fn part<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    let invalid = |source| ConfigError::Invalid { path: path.to_owned(), source: Box::new(source) };
    serde_saphyr::from_str(text).map_err(invalid)
}

fn check_keys(path: &Path, text: &str) -> Result<(), ConfigError> {
    let found: Keys = part(path, text)?;
    let command = Options::augment_args(clap::Command::new("options"));
    let flags: Vec<&str> = command.get_arguments().map(|flag| flag.get_id().as_str()).collect();
    let known = || OTHER_KEYS.iter().copied().chain(flags.iter().copied());
    let Some(key) = found.0.into_iter().find(|key| !known().any(|known| known == key)) else { return Ok(()) };
    let line = text.lines().position(|line| line.trim_start_matches(['"', '\'']).starts_with(&key));
    Err(ConfigError::UnknownKey {
        path: path.to_owned(),
        line: line.map_or(1, |index| index + 1),
        suggestion: nearest(&key, known()),
        key,
    })
}

/// The keys of a mapping, whatever their values are.
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("keys and values, such as `concurrency: 4`")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }

        deserializer.deserialize_map(KeyVisitor)
    }
}

/// The known key that was probably meant: one slip for every three letters is forgiven.
fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let key = key.to_lowercase().replace('-', "_");
    let slips_max = (key.chars().count() / 3).min(3);
    known
        .map(|one| (strsim::damerau_levenshtein(&key, one), one))
        .filter(|(slips, _)| *slips <= slips_max)
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, one)| one.to_owned())
}

#[derive(Deserialize)]
struct Other {
    #[serde(default)]
    prices: BTreeMap<String, PriceEntry>,
    #[serde(default)]
    models: BTreeMap<String, ModelEntry>,
}

/// Dollars for a million tokens, or for a request that brought an image.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceEntry {
    input: Option<f64>,
    text: Option<f64>,
    image: Option<f64>,
    request: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelEntry {
    #[serde(default, deserialize_with = "scalar")]
    rpm: Option<Count>,
    #[serde(default, deserialize_with = "scalar")]
    ipm: Option<Count>,
}

impl PriceEntry {
    fn check(&self) -> Result<Price, &'static str> {
        const FORM: &str = "must be {input: 2.0, text: 12.0, image: 120} in dollars a million tokens, or \
                            {request: 0.039} in dollars a request";
        match (self.input, self.text, self.image, self.request) {
            (Some(input), Some(text), Some(image), None) => {
                // A dollar a million tokens is a thousand nano-dollars a token, and so many
                // micro-dollars a thousand tokens.
                let nanos = |usd| {
                    let thousandth = Micros::from_usd(usd / 1e3).ok_or("must not be negative")?;
                    u64::try_from(thousandth.0).map_err(|_| "must not be negative")
                };
                Ok(Price::PerToken {
                    input_nanos: nanos(input)?,
                    text_nanos: nanos(text)?,
                    image_nanos: nanos(image)?,
                })
            }
            (None, None, None, Some(request)) => {
                Micros::from_usd(request).map(Price::PerRequest).ok_or("must not be negative")
            }
            _ => Err(FORM),
        }
    }
}

/// A single value by the same parser that a flag has: `rpm: 60` and `rpm: "60"` are the same.
pub(super) fn scalar<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    deserializer.deserialize_any(Scalar(PhantomData))
}

struct Scalar<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Scalar<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a single value")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        text.parse().map(Some).map_err(|error| E::custom(format!("`{text}`: {error}")))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::value::AtOnce;
    use crate::job::Provider;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new(FILE_NAME), text).map_err(|error| error.to_string())
    }

    #[test]
    fn every_kind_of_value_is_read_as_a_flag_would_be() {
        let config = parse(
            "provider: google\nconcurrency: 4\nmax_cost: 2.5\ndeadline: 06:30\ntimeout: 90s\nwait: true\n\
             max_failures: 5%\njob: 'hero*'\nprices:\n  house-model: {request: 0.039}\n  \
             other: {input: 0.3, text: 2.5, image: 30}\nmodels:\n  other: {rpm: 12, ipm: 9}\n",
        )
        .expect("is right");
        let send = &config.options.send;
        assert_eq!(config.options.load.provider, Some(Provider::Google));
        assert_eq!(send.concurrency, Some(AtOnce::Fixed(4)));
        assert_eq!(send.max_cost.map(|usd| usd.0), Some(Micros(2_500_000)));
        assert_eq!(send.timeout.map(|span| span.0), Some(Duration::from_secs(90)));
        assert_eq!(send.wait, Some(true));
        assert!(send.deadline.is_some());
        assert_eq!(config.options.scope.job.as_deref(), Some("hero*"));
        assert_eq!(config.prices["house-model"], Price::PerRequest(Micros(39_000)));
        let tokens = Price::PerToken { input_nanos: 300, text_nanos: 2_500, image_nanos: 30_000 };
        assert_eq!(config.prices["other"], tokens);
        assert_eq!((config.rpm_by_model["other"], config.ipm_by_model["other"]), (12, 9));
    }

    #[test]
    fn an_unknown_key_is_an_error_with_the_one_that_was_meant() {
        let check = |text: &str, expect: &str| {
            let error = parse(text).expect_err("refused");
            assert!(error.contains(expect), "{error}");
        };
        check(
            "rpm: 5\nconcurency: 4\n",
            "nightpress.yaml:2: unknown key `concurency`, did you mean `concurrency`?",
        );
        check("max-cost: 4\n", "did you mean `max_cost`?");
        check("zebra: 4\n", "unknown key `zebra`; the keys are");
        check("api_key: secret\n", "unknown key `api_key`");
    }

    #[test]
    fn a_wrong_value_says_where_and_what_would_be_right() {
        let check = |text: &str, expect: &str| {
            let error = parse(text).expect_err("refused");
            assert!(error.contains(expect), "{error}");
        };
        check("concurrency: 0\n", "expected auto or a number, at least 1");
        check("provider: acme\n", "expected anyfast, google or simulator");
        check("prices: {m: {input: 1}}\n", "the price of m must be {input");
        check("prices: {m: {request: -1}}\n", "must not be negative");
    }

    #[test]
    fn an_empty_file_says_nothing() {
        assert!(parse("").is_ok());
        assert!(parse("# all by flags\n\n").is_ok());
    }
}
