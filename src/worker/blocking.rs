//! Steps that wait for the disk, off the async threads.

use tokio::task::spawn_blocking;

/// Runs `step` where it may block. It runs to its end even when the future is dropped. An error
/// is a panic, in words.
pub(super) async fn blocking<T: Send + 'static>(
    step: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    #[cfg(test)]
    if super::simulation::disk::is_simulated() {
        return Ok(super::simulation::disk::step(step).await);
    }
    spawn_blocking(step).await.map_err(|error| error.to_string())
}
