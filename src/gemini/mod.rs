//! Floor 4: the image API. A job becomes a request, an answer's bytes become images and an
//! outcome, and every fault gets a class.

pub mod answer;
mod caption;
mod class;
pub mod decode;
mod error_body;
pub mod fault;
pub mod hint;
pub mod wire;
