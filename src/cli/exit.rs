//! Exit codes, all of them.
//!
//! | code | what it says |
//! |---|---|
//! | 0 | every job succeeded (cancelled ones do not count), or the command did what it was asked |
//! | 1 | finished, but some jobs failed, were refused or skipped |
//! | 2 | wrong usage, key or manifest: nothing was sent |
//! | 3 | stopped early with jobs left or held: money, key, budget, deadline, disk, a locked queue, a bucket that is away, a parked lane |
//! | 130 | interrupted by Ctrl-C with jobs left: the same command resumes |
//! | 143 | ended by SIGTERM or SIGHUP with jobs left: the same command resumes |

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use super::signals::Signal;
use crate::job::JobState;
use crate::output::{PublishError, StoreError, Trouble};
use crate::queue::{Left, QueueError};
use crate::worker::Ending;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// All went well.
    Done,
    /// Finished, and not every job succeeded.
    SomeFailed,
    /// Nothing was sent.
    Usage,
    /// Jobs are left or held.
    Stopped,
    /// A signal ended it.
    Interrupted(Signal),
}

impl Exit {
    /// The number that the shell sees.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::SomeFailed => 1,
            Self::Usage => 2,
            Self::Stopped => 3,
            Self::Interrupted(Signal::Interrupt) => 130,
            Self::Interrupted(Signal::Terminate) => 143,
        }
    }

    /// How a run ended that left `scope` behind like this.
    pub(super) const fn of_run(ending: &Ending, signal: Option<Signal>, scope: ScopeEnd) -> Self {
        match (ending, signal) {
            // It came while the last requests ended: nothing is left for another command.
            (Ending::Interrupted, _) if scope.left == 0 => Self::of_run(&Ending::Done, None, scope),
            (Ending::Interrupted, Some(signal)) => Self::Interrupted(signal),
            (Ending::Interrupted, None) => Self::Interrupted(Signal::Interrupt),
            (Ending::Stopped(_), _) => Self::Stopped,
            (Ending::Done, _) if scope.left > 0 => Self::Stopped,
            (Ending::Done, _) if scope.unsuccessful => Self::SomeFailed,
            (Ending::Done, _) => Self::Done,
        }
    }
}

impl Exit {
    /// How a command ended that failed before anything was sent.
    pub(super) fn of_error(error: &anyhow::Error) -> Self {
        let is_of_machine = error.chain().any(|cause| {
            let queue = cause.downcast_ref::<QueueError>();
            let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
            let store = match cause.downcast_ref::<PublishError>() {
                Some(PublishError::Store(error)) => error.trouble(),
                _ => cause.downcast_ref::<StoreError>().and_then(StoreError::trouble),
            };
            matches!(
                queue,
                Some(QueueError::Disk { .. } | QueueError::Locked { .. } | QueueError::Unreachable { .. })
            ) || matches!(
                io,
                Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem)
            ) || store == Some(Trouble::Away)
        });
        if is_of_machine { Self::Stopped } else { Self::Usage }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// What a run left behind in its scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ScopeEnd {
    /// Jobs that are neither final nor being worked on elsewhere, and held ones.
    pub(super) left: u64,
    /// At least one job failed, was refused or skipped.
    pub(super) unsuccessful: bool,
}

impl ScopeEnd {
    pub(super) const fn new(left: &Left, unsuccessful: bool) -> Self {
        let left = left.ready + left.snoozed + left.waiting + left.running + left.held;
        Self { left, unsuccessful }
    }
}

/// States in which a job ended without success.
pub(super) const UNSUCCESSFUL: [JobState; 3] = [JobState::Failed, JobState::Refused, JobState::Skipped];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Stop;

    #[test]
    fn every_ending_has_the_code_that_the_contract_gives_it() {
        let check = |ending: &Ending, signal, left, unsuccessful, expect: u8| {
            let exit = Exit::of_run(ending, signal, ScopeEnd { left, unsuccessful });
            assert_eq!(exit.code(), expect, "{ending:?} {signal:?} {left} {unsuccessful}");
        };
        check(&Ending::Done, None, 0, false, 0);
        check(&Ending::Done, None, 0, true, 1);
        check(&Ending::Done, None, 2, true, 3);
        check(&Ending::Stopped(Stop::Deadline), None, 5, true, 3);
        check(&Ending::Stopped(Stop::Held(1)), None, 1, false, 3);
        check(&Ending::Interrupted, Some(Signal::Interrupt), 5, true, 130);
        check(&Ending::Interrupted, Some(Signal::Terminate), 5, false, 143);
        // A signal that came when all was done changes nothing, nor one during the last request.
        check(&Ending::Interrupted, Some(Signal::Interrupt), 0, false, 0);
        check(&Ending::Interrupted, Some(Signal::Terminate), 0, true, 1);
        check(&Ending::Done, Some(Signal::Interrupt), 0, false, 0);
        assert_eq!(Exit::Usage.code(), 2);
    }

    #[test]
    fn held_and_running_jobs_count_as_left() {
        let left = Left { held: 1, running: 1, ..Left::default() };
        assert_eq!(ScopeEnd::new(&left, false).left, 2);
    }
}
