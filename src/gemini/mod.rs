//! Floor 4: the image API. A job becomes a request, an answer's bytes become images and an
//! outcome, and every fault gets a class.

pub mod answer;
mod caption;
pub mod decode;
pub mod wire;
