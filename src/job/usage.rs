//! Tokens, as the API counts them.

/// The tokens of one answer. A figure that the API did not give is `None`, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// `promptTokenCount`.
    pub prompt: Option<u64>,
    /// `candidatesTokenCount`: text and images that came out.
    pub candidates: Option<u64>,
    /// The `IMAGE` entries of `candidatesTokensDetails`.
    pub image: Option<u64>,
    /// `thoughtsTokenCount`.
    pub thoughts: Option<u64>,
    /// `totalTokenCount`.
    pub total: Option<u64>,
}

impl Usage {
    /// Nothing was reported at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.prompt.is_none()
            && self.candidates.is_none()
            && self.image.is_none()
            && self.thoughts.is_none()
            && self.total.is_none()
    }
}
