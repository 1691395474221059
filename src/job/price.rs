//! What an answer costs, as an estimate: prices are data that the user may override.

use std::collections::BTreeMap;

use super::{Micros, ModelName, Spec, Usage, model_facts};

/// Thought tokens that are set aside for a request whose cost is not known yet. Twice the most
/// that was seen (2,048 is a common thinking budget; field observation, 2026-11).
pub const THOUGHT_TOKENS_RESERVED: u64 = 4_096;

/// Tokens set aside for one reference image: what Gemini 3 counts for an image at its highest
/// media resolution (Google's media resolution page, read 2026-11).
const REFERENCE_TOKENS_RESERVED: u64 = 1_120;

/// Bytes of a prompt that make at least one token. English has about four letters a token and
/// Chinese three bytes a character, so three errs on the dear side.
const PROMPT_BYTES_PER_TOKEN: u64 = 3;

/// How one model is billed. Rates are nano-dollars a token: `0.30 $/M tokens` is 300.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Price {
    /// By tokens.
    PerToken {
        /// Prompt tokens, nano-dollars each.
        input_nanos: u64,
        /// Text and thoughts that come out, nano-dollars a token.
        text_nanos: u64,
        /// Image tokens that come out, nano-dollars each.
        image_nanos: u64,
    },
    /// A fixed sum for a request that brought an image.
    PerRequest(Micros),
}

/// Prices by model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceTable(BTreeMap<String, Price>);

impl Default for PriceTable {
    /// Google's list prices in dollars a million tokens, as carried by litellm 1.109.1
    /// (2026-11). The gateway's own prices are not published: every figure made from these is
    /// an estimate.
    fn default() -> Self {
        let per_million = |input: u64, text: u64, image: u64| Price::PerToken {
            input_nanos: input,
            text_nanos: text,
            image_nanos: image,
        };
        let flash_25 = per_million(300, 2_500, 30_000);
        let flash_31 = per_million(500, 3_000, 60_000);
        let pro = per_million(2_000, 12_000, 120_000);
        let table = [
            ("gemini-2.5-flash-image", flash_25),
            ("gemini-3.1-flash-image", flash_31),
            ("gemini-3.1-flash-image-preview", flash_31),
            ("gemini-3-pro-image", pro),
            ("gemini-3-pro-image-preview", pro),
        ];
        Self(table.into_iter().map(|(name, price)| (name.to_owned(), price)).collect())
    }
}

impl PriceTable {
    /// Sets a model's price.
    pub fn set(&mut self, model: &str, price: Price) {
        self.0.insert(model.to_owned(), price);
    }

    /// A model's price; `None` if it is not known.
    #[must_use]
    pub fn get(&self, model: &ModelName) -> Option<Price> {
        self.0.get(model.as_str()).copied()
    }

    /// What an answer with this usage cost. `None` without a price, or, for prices by token,
    /// when the answer reported no tokens.
    #[must_use]
    pub fn cost(&self, model: &ModelName, usage: &Usage) -> Option<Micros> {
        match self.get(model)? {
            Price::PerRequest(sum) => Some(sum),
            Price::PerToken { .. } if usage.is_empty() => None,
            Price::PerToken { input_nanos, text_nanos, image_nanos } => {
                let candidates = usage.candidates.unwrap_or(0);
                // Details need not add up to the count: image tokens are what the details
                // say, and the rest of the candidates is text.
                let image = usage.image.unwrap_or(candidates);
                let text = candidates.saturating_sub(image).saturating_add(usage.thoughts.unwrap_or(0));
                let nanos = u128::from(usage.prompt.unwrap_or(0)) * u128::from(input_nanos)
                    + u128::from(text) * u128::from(text_nanos)
                    + u128::from(image) * u128::from(image_nanos);
                Some(micros_of(nanos))
            }
        }
    }

    /// What is set aside for one request before it is sent: one image of the asked size, the
    /// prompt, the references and [`THOUGHT_TOKENS_RESERVED`]. `None` without a price.
    #[must_use]
    pub fn reservation(&self, spec: &Spec) -> Option<Micros> {
        match self.get(&spec.model)? {
            Price::PerRequest(sum) => Some(sum),
            Price::PerToken { .. } => self.cost(&spec.model, &expected_usage(spec, THOUGHT_TOKENS_RESERVED)),
        }
    }

    /// What one request will probably cost: as the reservation, with few thoughts. `None`
    /// without a price.
    #[must_use]
    pub fn estimate(&self, spec: &Spec) -> Option<Micros> {
        /// Thought tokens of the answer in the provider's page on gemini-3.1-flash-image.
        const THOUGHT_TOKENS_TYPICAL: u64 = 264;
        self.cost(&spec.model, &expected_usage(spec, THOUGHT_TOKENS_TYPICAL))
    }
}

fn expected_usage(spec: &Spec, thoughts: u64) -> Usage {
    /// For a model that no page describes: as many as the dearest image that one does.
    const IMAGE_TOKENS_UNKNOWN: u64 = 2_520;
    let image = model_facts(&spec.model)
        .map_or(IMAGE_TOKENS_UNKNOWN, |facts| facts.image_tokens_of(spec.image_size.as_deref()));
    let prompt = (spec.prompt.len() as u64).div_ceil(PROMPT_BYTES_PER_TOKEN)
        + spec.references.len() as u64 * REFERENCE_TOKENS_RESERVED;
    Usage {
        prompt: Some(prompt),
        candidates: Some(image),
        image: Some(image),
        thoughts: Some(thoughts),
        total: None,
    }
}

fn micros_of(nanos: u128) -> Micros {
    Micros(i64::try_from((nanos + 500) / 1_000).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flash() -> ModelName {
        ModelName::default_model()
    }

    #[test]
    fn candidates_beyond_the_image_detail_are_text() {
        let usage = Usage {
            prompt: Some(8),
            candidates: Some(2_340),
            image: Some(2_000),
            thoughts: Some(264),
            total: None,
        };
        // 8 × 0.5 + (340 + 264) × 3 + 2000 × 60 micro-dollars
        assert_eq!(PriceTable::default().cost(&flash(), &usage), Some(Micros(121_816)));
    }

    #[test]
    fn an_answer_without_usage_or_a_model_without_price_costs_an_unknown_sum() {
        let prices = PriceTable::default();
        assert_eq!(prices.cost(&flash(), &Usage::default()), None);
        let unknown = "unheard-of".parse().expect("legal");
        assert_eq!(prices.cost(&unknown, &Usage { prompt: Some(1), ..Usage::default() }), None);
    }

    #[test]
    fn a_price_by_request_needs_no_usage() {
        let mut prices = PriceTable::default();
        prices.set("gemini-3.1-flash-image", Price::PerRequest(Micros(39_000)));
        assert_eq!(prices.cost(&flash(), &Usage::default()), Some(Micros(39_000)));
    }
}
