//! Whether a run that has nothing to do is over, and why.

use tokio::time::Instant;

use super::lanes::Lanes;
use super::rescue::Blocked;
use super::{Ending, Stop, Work, WorkError};
use crate::job::Timestamp;
use crate::pacing::Why;
use crate::queue::{Left, ModelLeft};

/// Nothing of ours runs and nothing could be started: whether that is the end. `capped` says
/// that jobs were left because of the cap on cost.
pub(super) async fn when_idle(
    work: &Work,
    lanes: &mut Lanes,
    (capped, blocked): (bool, &Blocked),
) -> Result<Option<Ending>, WorkError> {
    if capped {
        let spent = work.queue.cost_at_most().await?.rounded();
        let cap = work.config.cost_max.unwrap_or_default().rounded();
        return Ok(Some(Ending::Stopped(Stop::CostCap { cap, spent })));
    }
    let Left { ready, snoozed, waiting, running, held } = work.queue.left(&work.config.scope).await?;
    // What waits for a free way is leased to us, and nothing that could be waited for.
    let running = running.saturating_sub(blocked.results());
    if ready + snoozed + running + waiting == 0 {
        return Ok(match held {
            _ if work.config.forever => None,
            0 => Some(blocked.stop().map_or(Ending::Done, Ending::Stopped)),
            held => Some(Ending::Stopped(Stop::Held(held))),
        });
    }
    lanes.refresh(work).await?;
    // Others' jobs may come back, or more may be put in.
    if running > 0 || work.config.forever {
        return Ok(None);
    }
    let models = work.queue.models_left(&work.config.scope).await?;
    Ok(when_lanes_are_shut(work, lanes, &models))
}

/// Jobs of these models are left: whether any lane will take one before long.
fn when_lanes_are_shut(work: &Work, lanes: &Lanes, models: &[ModelLeft]) -> Option<Ending> {
    let now = Instant::now();
    let mut stopped = None;
    let mut parked: Option<(Instant, String)> = None;
    for lane in lanes.of(models) {
        match (&lane.stopped, lane.closed(now)) {
            (Some(why), _) => stopped = Some(why.clone()),
            (None, Some(closed)) if closed.why == Why::Parked && !work.config.wait => {
                if parked.as_ref().is_none_or(|(until, _)| closed.until < *until) {
                    parked = Some((closed.until, format!("{} has used up its quota", lane.model)));
                }
            }
            _ => return None,
        }
    }
    let stop = match (parked, stopped) {
        (Some((until, why)), _) => Stop::Parked { why, until: wall_clock(work, until, now) },
        (None, Some(why)) => Stop::ModelUnavailable(why),
        (None, None) => return None,
    };
    Some(Ending::Stopped(stop))
}

fn wall_clock(work: &Work, at: Instant, now: Instant) -> Timestamp {
    work.clock.now().plus(at.saturating_duration_since(now))
}
