//! Floor 4: the image API. A job becomes a request, an answer's bytes become images and an
//! outcome, and every fault gets a class.
//!
//! Read in this order: `request`, `client`, [`decode`], [`answer`], [`fault`] (types and words),
//! `class` (the table), [`hint`].

pub mod answer;
mod caption;
mod class;
mod client;
pub mod decode;
mod delivery;
#[cfg(test)]
pub(crate) mod double;
mod error_body;
pub mod fault;
mod fetch;
#[cfg(test)]
mod fuzz_tests;
pub mod hint;
mod key;
mod request;
mod spelling;
pub mod wire;

pub use client::{Client, ClientError, Reply, ReplyBody, Timeouts, TransportError, is_loopback};
pub use delivery::{of_damaged_image, of_fetch, of_lost_connection};
pub use fetch::{FetchBody, FetchError, ImageFetcher};
pub use key::{Key, KeyError};
pub use request::{Endpoint, Method, RequestBody};
