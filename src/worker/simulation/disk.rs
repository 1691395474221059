//! The disk in virtual time: a step that blocks is done at once between two waits, and a process
//! can die in the middle of it, at any [`CrashPoint`] that it passes.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use futures_util::future::FutureExt as _;
use tokio::time::sleep;

use super::world::World;
use crate::job::{CRASH_HOOK, CrashPoint};
use crate::output::{STEP_HOOK, Step};

thread_local! {
    /// The world that this thread simulates.
    static WORLD: RefCell<Option<Arc<World>>> = const { RefCell::new(None) };
    /// Crash points that the step under way passes before it dies.
    static FUSE: Cell<Option<u32>> = const { Cell::new(None) };
}

/// What a step unwinds with when it dies.
struct Died;

/// While this lives, steps of this thread go through [`step`].
pub(super) struct Installed;

impl Installed {
    pub(super) fn new(world: &Arc<World>) -> Self {
        WORLD.set(Some(Arc::clone(world)));
        CRASH_HOOK.set(Some(burn));
        STEP_HOOK.set(Some(|done| step(done).boxed()));
        Self
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        WORLD.set(None);
        CRASH_HOOK.set(None);
        STEP_HOOK.set(None);
    }
}

fn burn(_: CrashPoint) {
    match FUSE.get() {
        Some(0) => resume_unwind(Box::new(Died)),
        Some(left) => FUSE.set(Some(left - 1)),
        None => {}
    }
}

/// A step that would block. Never returns if the process dies of it.
async fn step(step: Step) {
    let world = WORLD.with_borrow(Clone::clone).expect("asked before");
    let (before, fuse, after) = world.disk_step();
    sleep(before).await;
    // Whose step it is cannot be told, so nobody dies of it while several live.
    let only = world.only_life();
    FUSE.set(fuse.filter(|_| only.is_some()));
    let done = catch_unwind(AssertUnwindSafe(step));
    FUSE.set(None);
    match done {
        Ok(()) => sleep(after).await,
        Err(panic) if panic.is::<Died>() => {
            world.dies(only.expect("it was armed"), "in a step on the disk");
            pending::<()>().await;
        }
        Err(panic) => resume_unwind(panic),
    }
}
