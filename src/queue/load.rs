//! Types of loading a manifest into the queue.

use std::collections::BTreeMap;

use crate::job::{Job, Micros, PriceTable, Spec, SpecField};

/// A job on its way into the queue.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// As the manifest describes it.
    pub job: Job,
    /// What is set aside for one request of it; `None` when its model has no known price.
    pub reservation: Option<Micros>,
    /// What one request of it will probably cost.
    pub estimate: Option<Micros>,
}

impl NewJob {
    /// With what the dearest of the job's models would cost set aside; it is expected to be its own.
    #[must_use]
    pub fn priced(job: Job, prices: &PriceTable) -> Self {
        let others = job.fallback_models.iter().map(|model| {
            let spec = Spec { model: model.clone(), ..job.spec.clone() };
            prices.reservation(&spec)
        });
        let reservation = others.fold(prices.reservation(&job.spec), |most, other| Some(most?.max(other?)));
        Self { reservation, estimate: prices.estimate(&job.spec), job }
    }
}

/// How a load treats what it finds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadPolicy {
    /// A job that succeeded and has changed stays as it was made.
    pub keep_changed: bool,
}

/// What a load does, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadDiff {
    /// Jobs in the manifest.
    pub total: u64,
    /// Jobs that were not there before.
    pub new: u64,
    /// Jobs that are as they were.
    pub unchanged: u64,
    /// Jobs whose description changed and that will be made (again).
    pub changed: u64,
    /// Of `changed`, those that had succeeded: they cost money again.
    pub changed_done: u64,
    /// Jobs that changed and keep what was made ([`LoadPolicy::keep_changed`]).
    pub kept: u64,
    /// How many jobs changed in which field; a job can count in several. Covers `changed` and `kept`.
    pub fields: BTreeMap<SpecField, u64>,
    /// A few ids of changed jobs with their fields, to show a person.
    pub examples: Vec<(String, Vec<SpecField>)>,
    /// Jobs that come back into the manifest.
    pub returned: u64,
    /// Of `unchanged`, those whose files only get another name.
    pub renamed: u64,
    /// Jobs that have left the manifest and are cancelled by this load.
    pub cancelled: u64,
    /// Jobs in the queue before the load that were neither succeeded nor cancelled: what the
    /// guard against a shrunken manifest is measured by.
    pub undone_before: u64,
    /// Estimated cost of all jobs that will be sent after the load, and how many of those jobs
    /// have no known price.
    pub estimate: Micros,
    /// Jobs to be sent whose model has no known price.
    pub unpriced: u64,
    /// Jobs that will be sent: pending after the load.
    pub to_send: u64,
}
