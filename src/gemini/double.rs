//! Where a test stands in for the server: below the timeouts of the client, above the network.

use std::fmt::Debug;

use async_trait::async_trait;

use super::client::TransportError;
use crate::job::Spec;

/// Answers requests in the server's place.
#[async_trait]
pub(crate) trait Double: Debug + Send + Sync {
    /// The head of an answer. Its body may be a stream that takes its time and breaks.
    async fn answer(&self, spec: &Spec, stream: bool) -> Result<reqwest::Response, TransportError>;
}
