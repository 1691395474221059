//! Images that an answer names by URL, into the spool. The picture is paid for, so a download
//! that fails is tried again before the picture is given up.

use std::time::Duration;

use tokio::time::sleep;

use super::spooler::{PIECE_BYTES, Spooler, Trouble};
use crate::gemini::answer::ImageSink as _;
use crate::gemini::decode::Limits;
use crate::gemini::{FetchError, ImageFetcher};

/// Downloads of one image, and the pause after the first that fails; later ones are longer.
const DOWNLOADS_MAX: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// Fetches the image at `url`. Returns its number in the spool; what an earlier try left there
/// has another number. Not cancel-safe: see [`Spooler`].
pub(super) async fn download(
    fetcher: &ImageFetcher,
    url: &str,
    spooler: &mut Spooler,
) -> Result<Result<usize, FetchError>, Trouble> {
    let mut tries = 1;
    loop {
        match once(fetcher, url, spooler).await? {
            Err(error) if error.may_pass() && tries < DOWNLOADS_MAX => {
                tracing::warn!(error = error.to_string(), tries, "an image's download failed");
                sleep(PAUSE * tries).await;
                tries += 1;
            }
            ended => return Ok(ended),
        }
    }
}

async fn once(
    fetcher: &ImageFetcher,
    url: &str,
    spooler: &mut Spooler,
) -> Result<Result<usize, FetchError>, Trouble> {
    let number = spooler.images();
    let mut body = match fetcher.fetch(url, Limits::default().image_bytes_max).await {
        Ok(body) => body,
        Err(error) => return Ok(Err(error)),
    };
    loop {
        match body.next().await {
            Ok(Some(block)) => {
                for piece in block.chunks(PIECE_BYTES) {
                    spooler.image(number, piece);
                    spooler.flush_if_full().await?;
                }
            }
            Ok(None) => return Ok(Ok(number)),
            Err(error) => return Ok(Err(error)),
        }
    }
}
