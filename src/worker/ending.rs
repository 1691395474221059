//! Whether a run that has nothing to do is over, and why.

use tokio::time::Instant;

use super::lanes::Lanes;
use super::rescue::Blocked;
use super::{Ending, Stop, Work, WorkError};
use crate::job::Timestamp;
use crate::pacing::Why;
use crate::queue::Left;

/// Nothing of ours runs and nothing could be started: whether that is the end. `capped` says
/// that jobs were left because of the cap on cost.
pub(super) async fn when_idle(
    work: &Work,
    lanes: &mut Lanes,
    (capped, blocked): (bool, &Blocked),
) -> Result<Option<Ending>, WorkError> {
    let left = work.queue.left(&work.config.scope).await?;
    // What waits for a free way is leased to us, and nothing that could be waited for.
    let running = left.running.saturating_sub(blocked.results());
    if capped {
        if running > 0 {
            // What others reserve and do not need comes back.
            return Ok(None);
        }
        let spent = work.queue.cost_at_most().await?.rounded();
        let cap = work.config.cost_max.unwrap_or_default().rounded();
        return Ok(Some(Ending::Stopped(Stop::CostCap { cap, spent })));
    }
    let Left { ready, snoozed, waiting, held, .. } = left;
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
    if lanes.is_unreachable(Instant::now()) {
        let why = lanes.trouble().unwrap_or_else(|| "no answer came".to_owned());
        return Ok(Some(Ending::Stopped(Stop::Unreachable(why))));
    }
    Ok(when_lanes_are_shut(work, lanes))
}

/// Jobs are left: whether any lane will take one before long.
fn when_lanes_are_shut(work: &Work, lanes: &Lanes) -> Option<Ending> {
    let now = Instant::now();
    let mut stopped = None;
    let mut parked: Option<(Timestamp, String)> = None;
    for left in lanes.models() {
        for lane in lanes.of(left) {
            let until = lane.closed(now).filter(|closed| closed.why == Why::Parked);
            let until = until.map(|closed| wall_clock(work, closed.until, now));
            // Who is to wait, waits; but not for what comes after the deadline.
            let waits =
                |until| work.config.wait && work.config.deadline.is_none_or(|deadline| until < deadline);
            match (&lane.stopped, until) {
                (Some(why), _) => stopped = Some(why.clone()),
                (None, Some(until)) if !waits(until) => {
                    if parked.as_ref().is_none_or(|(first, _)| until < *first) {
                        parked = Some((until, format!("{} has used up its quota", lane.model)));
                    }
                }
                // It may stand in, and found nothing that it may take.
                _ if lane.dry && lane.model.as_str() != left.model => {}
                _ => return None,
            }
        }
    }
    let stop = match (parked, stopped) {
        (Some((until, why)), _) => Stop::Parked { why, until },
        (None, Some(why)) => Stop::ModelUnavailable(why),
        (None, None) => return None,
    };
    Some(Ending::Stopped(stop))
}

fn wall_clock(work: &Work, at: Instant, now: Instant) -> Timestamp {
    work.clock.now().plus(at.saturating_duration_since(now))
}
