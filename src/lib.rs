//! nightpress prints manifests of image prompts: a durable queue, workers that respect the
//! provider's limits, and a ledger in which every request and every cent is accounted for.
//!
//! The modules are floors. A floor imports only from the floors before it in this list, and
//! data goes down the list once, from manifest to report. `ARCHITECTURE.md` draws the map.

#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "small numbers in tests"
    )
)]

#[cfg(test)]
mod fuzz;
mod platform;

pub mod job;
pub mod manifest;
pub mod queue;
pub mod pacing;
pub mod gemini;
pub mod output;
pub mod worker;
pub mod report;
pub mod simulator;
pub mod cli;
