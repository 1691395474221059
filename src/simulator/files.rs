//! Pictures by URL, and URLs that are up to no good.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;

use super::service::Service;

/// What `endless.png` sends before it gives up, in pieces of this size.
const ENDLESS_PIECE_BYTES: usize = 64 << 10;
const ENDLESS_PIECES: usize = (1 << 30) / ENDLESS_PIECE_BYTES;
/// An address that no client may be led to: that of cloud metadata services.
const PRIVATE_URL: &str = "http://169.254.169.254/latest/meta-data/";

pub(super) async fn file(State(service): State<Arc<Service>>, Path(name): Path<String>) -> Response {
    match (name.as_str(), service.file(&name)) {
        (_, Some(picture)) => answer(StatusCode::OK, picture.media.mime(), Body::from(picture.bytes)),
        ("redirect.png", None) => {
            let mut response = answer(StatusCode::FOUND, "text/plain", Body::empty());
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_static(PRIVATE_URL));
            response
        }
        ("page.png", None) => answer(
            StatusCode::OK,
            "text/html",
            Body::from("<!DOCTYPE html><html><body>Sign in</body></html>"),
        ),
        ("endless.png", None) => answer(StatusCode::OK, "image/png", endless(&service)),
        _ => answer(StatusCode::NOT_FOUND, "text/plain", Body::from("no such file\n")),
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Begins as a PNG and does not end for a long time.
fn endless(service: &Arc<Service>) -> Body {
    let stop = service.stop.clone();
    let piece = Bytes::from(vec![0; ENDLESS_PIECE_BYTES]);
    let head = Bytes::from_static(b"\x89PNG\r\n\x1a\n");
    let pieces = std::iter::once(head).chain(std::iter::repeat_n(piece, ENDLESS_PIECES));
    let pieces = pieces.take_while(move |_| !stop.is_cancelled()).map(Ok::<_, std::convert::Infallible>);
    Body::from_stream(futures_util::stream::iter(pieces))
}
