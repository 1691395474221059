//! Floor 0: the words of the field as types. Values only; nothing here does I/O
//! except [`SystemClock`], the one place that reads the machine's clock, and [`crash_point()`], where
//! tests end the program.
//!
//! A [`Job`] asks for one answer of the API. What it asks for is its [`Spec`]; the spec's
//! digest decides whether a job is the same as last night's. An attempt is one HTTP request.

mod crash_point;
mod digest;
mod id;
mod media;
mod model;
mod money;
mod name;
mod object;
mod price;
mod printable;
mod provider;
mod spec;
pub(crate) mod state;
mod time;
mod usage;

#[cfg(test)]
pub(crate) use crash_point::CRASH_HOOK;
pub use crash_point::{CRASH_AT, CrashPoint, crash_point};
pub use digest::{Digest, DigestWriter, ParseDigestError};
pub use id::{AttemptId, Epoch, JobId, JobName, JobNameError, LaneId, OutputId, RunId, WorkerId};
pub use media::MediaType;
pub use model::{ModelFacts, ModelName, known_models, model_facts};
pub use money::Micros;
pub use name::{NameError, OutputName};
pub use object::{ObjectUrl, ObjectUrlError, StoreKind};
pub use price::{Price, PriceTable, THOUGHT_TOKENS_RESERVED};
pub use printable::{Printable, json_safe, printable};
pub use provider::{ParseProviderError, Provider};
pub use spec::{Job, Modalities, Reference, Spec, SpecField, merge_json};
pub use state::{AttemptOutcome, JobState, UnknownText};
pub use time::{Clock, ManualClock, SystemClock, Timestamp};
pub use usage::Usage;
