//! Steps that wait for the disk, off the async threads.

use tokio::task::spawn_blocking;

/// Runs `step` where it may block. It runs to its end even when the future is dropped. An error
/// is a panic, in words.
pub(crate) async fn blocking<T: Send + 'static>(
    step: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    #[cfg(test)]
    if let Some(simulated) = STEP_HOOK.get() {
        let done = std::sync::Arc::new(std::sync::Mutex::new(None));
        let slot = std::sync::Arc::clone(&done);
        simulated(Box::new(move || *slot.lock().expect("no panic while held") = Some(step()))).await;
        return Ok(done.lock().expect("no panic while held").take().expect("the step was done"));
    }
    spawn_blocking(step).await.map_err(|error| error.to_string())
}

/// A step whose value goes elsewhere.
#[cfg(test)]
pub(crate) type Step = Box<dyn FnOnce() + Send>;

/// Does a step in a time of its own.
#[cfg(test)]
pub(crate) type StepHook = fn(Step) -> futures_util::future::BoxFuture<'static, ()>;

#[cfg(test)]
thread_local! {
    /// What a simulation does with the steps of its thread.
    pub(crate) static STEP_HOOK: std::cell::Cell<Option<StepHook>> =
        const { std::cell::Cell::new(None) };
}
