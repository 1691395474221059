//! Floor 4: the image API. A job becomes a request, an answer's bytes become images and an
//! outcome, and every fault gets a class.

mod client;
mod fetch;
mod key;
mod request;
pub mod wire;

pub use client::{Client, ClientError, Reply, ReplyBody, Timeouts, TransportError, is_loopback};
pub use fetch::{FetchBody, FetchError, ImageFetcher};
pub use key::{Key, KeyError};
pub use request::{Endpoint, Method, RequestBody};
