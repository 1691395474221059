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
/// it was billed. A URL that is not allowed will not be allowed next time, and a picture that is
/// not there for us will hardly be there: few more tries.
#[must_use]
pub fn of_fetch(error: &FetchError, request: &Request<'_>) -> Fault {
    let (class, code) = match error {
        FetchError::Forbidden(_) => (FaultClass::NoImage, "image_url_forbidden"),
        FetchError::TooLarge { .. } => (FaultClass::NoImage, "image_too_large"),
        FetchError::Status(408 | 425 | 429 | 500..) | FetchError::TimedOut | FetchError::Broken(_) => {
            (FaultClass::Transient { hint: None }, "image_url_failed")
        }
        FetchError::Redirects | FetchError::Status(_) => (FaultClass::NoImage, "image_url_failed"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::ModelName;

    #[test]
    fn a_url_that_leads_nowhere_for_good_is_few_tries_and_a_tired_server_is_more() {
        let model = ModelName::default_model();
        let request = Request { model: &model, streamed: false, redact: &str::to_owned };
        let check = |error: FetchError, is_transient: bool| {
            let fault = of_fetch(&error, &request);
            assert_eq!(matches!(fault.class, FaultClass::Transient { .. }), is_transient, "{error}");
            assert_eq!(fault.class == FaultClass::NoImage, !is_transient, "{error}");
            assert!(fault.may_be_billed);
        };
        for status in [204, 206, 400, 401, 403, 404, 405, 410, 451] {
            check(FetchError::Status(status), false);
        }
        for status in [408, 425, 429, 500, 502, 503, 504] {
            check(FetchError::Status(status), true);
        }
        check(FetchError::Redirects, false);
        check(FetchError::TimedOut, true);
        check(FetchError::Broken("reset".to_owned()), true);
    }
}
