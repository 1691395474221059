//! Faults of the way: connections that break, URLs that lead nowhere, images that arrive damaged.

use std::borrow::Cow;

use super::client::TransportError;
use super::fault::{self, Fault, FaultClass, Request, Transport};
use super::fetch::FetchError;

/// The fault of a connection.
#[must_use]
pub fn of_lost_connection(error: &TransportError, request: &Request<'_>) -> Fault {
    let kind = match error {
        TransportError::Body(_) => {
            let message = (request.redact)(&error.to_string());
            let code = Cow::Borrowed("reference_changed");
            return Fault {
                class: FaultClass::Rejected,
                code,
                message,
                lane_cooldown: false,
                may_be_billed: false,
            };
        }
        TransportError::Connect(_) | TransportError::OutOfFiles(_) => Transport::Connect,
        TransportError::Tls(_) => Transport::Tls,
        TransportError::Idle(_) => Transport::Idle,
        TransportError::Total(_) => Transport::Timeout,
        TransportError::Broken(_) => Transport::Reset,
    };
    fault::of_transport(kind, &error.to_string(), request)
}

/// The fault of an image that came as a URL and could not be fetched. The picture was made, so
/// it was billed. A URL that is not allowed will not be allowed next time: few more tries.
#[must_use]
pub fn of_fetch(error: &FetchError, request: &Request<'_>) -> Fault {
    let (class, code) = match error {
        FetchError::Forbidden(_) => (FaultClass::NoImage, "image_url_forbidden"),
        FetchError::TooLarge { .. } => (FaultClass::NoImage, "image_too_large"),
        FetchError::Redirects | FetchError::Status(_) | FetchError::TimedOut | FetchError::Broken(_) => {
            (FaultClass::Transient { hint: None }, "image_url_failed")
        }
    };
    billed(class, code, (request.redact)(&error.to_string()))
}

/// The fault of an image that is not whole.
#[must_use]
pub fn of_damaged_image(damage: &str) -> Fault {
    billed(FaultClass::Transient { hint: None }, "damaged_image", format!("the image is damaged: {damage}"))
}

fn billed(class: FaultClass, code: &'static str, message: String) -> Fault {
    Fault { class, code: Cow::Borrowed(code), message, lane_cooldown: false, may_be_billed: true }
}
