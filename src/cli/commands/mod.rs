//! The commands, one file each.

pub(super) mod cancel;
pub(super) mod completions;
pub(super) mod jobs;
pub(super) mod load;
pub(super) mod plan;
pub(super) mod report;
pub(super) mod retry;
pub(super) mod run;
pub(super) mod show;
pub(super) mod simulate;
pub(super) mod status;
pub(super) mod work;
pub(super) mod workers;
