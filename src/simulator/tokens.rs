//! The bill of one answer, in tokens.

use super::dice::{Dice, Purpose};
use super::request::Ask;
use crate::gemini::wire::{ModalityTokens, UsageMetadata};
use crate::job::Usage;

/// What a reference image costs as input (Google's token page: 258 for a tile, read 2026-11).
const REFERENCE_TOKENS: u64 = 258;
/// Characters of a prompt for two tokens: the pages' example has 44 characters and 8 tokens.
const CHARS_FOR_TWO_TOKENS: u64 = 11;
/// What thinking about a picture costs; the pages' example has 264.
const THOUGHT_TOKENS: (u64, u64) = (180, 420);

/// Tokens of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    text_in: u64,
    images_in: u64,
    text_out: u64,
    images_out: u64,
    /// `None` for models that do not think.
    thoughts: Option<u64>,
}

impl Tally {
    /// What is spent before there is a picture. The same for each try of a request.
    pub(super) fn of(ask: &Ask, seed: u64) -> Self {
        let mut dice = Dice::new(seed, Purpose::Answer, &ask.digest, 1);
        let thinks = !ask.model.name.starts_with("gemini-2.5");
        Self {
            text_in: text_tokens(&ask.prompt),
            images_in: REFERENCE_TOKENS * ask.references.len() as u64,
            text_out: 0,
            images_out: 0,
            thoughts: thinks.then(|| dice.between(THOUGHT_TOKENS.0, THOUGHT_TOKENS.1)),
        }
    }

    /// Adds so many pictures, and the caption that goes with them.
    pub(super) fn images(&mut self, ask: &Ask, count: u64) {
        self.images_out = count * ask.model.image_tokens_of(Some(&ask.size));
        if ask.text && count > 0 {
            self.text_out = 6 + text_tokens(&ask.prompt);
        }
    }

    /// As the wire has it.
    pub(super) fn metadata(&self) -> UsageMetadata {
        let details = |text, image| {
            [("TEXT", text), ("IMAGE", image)]
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(modality, token_count)| ModalityTokens { modality: modality.to_owned(), token_count })
                .collect()
        };
        let usage = self.usage();
        UsageMetadata {
            prompt_token_count: usage.prompt,
            candidates_token_count: usage.candidates,
            total_token_count: usage.total,
            thoughts_token_count: usage.thoughts,
            traffic_type: Some("ON_DEMAND".to_owned()),
            prompt_tokens_details: details(self.text_in, self.images_in),
            candidates_tokens_details: details(self.text_out, self.images_out),
            ..UsageMetadata::default()
        }
    }

    /// As nightpress has it. An answer without output states no output tokens, as Google's does.
    pub(super) fn usage(&self) -> Usage {
        let (input, output) = (self.text_in + self.images_in, self.text_out + self.images_out);
        Usage {
            prompt: Some(input),
            candidates: (output > 0).then_some(output),
            image: (self.images_out > 0).then_some(self.images_out),
            thoughts: self.thoughts,
            total: Some(input + output + self.thoughts.unwrap_or(0)),
        }
    }
}

fn text_tokens(text: &str) -> u64 {
    (text.chars().count() as u64 * 2).div_ceil(CHARS_FOR_TWO_TOKENS).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_prompt_costs_the_pages_tokens() {
        assert_eq!(text_tokens("Generate an image of a sunset over mountains"), 8);
    }
}
