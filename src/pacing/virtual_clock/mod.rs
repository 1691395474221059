//! Lanes against simulated servers on a virtual clock: the proof that the rules of this floor
//! reach a limit and stay under it.
//!
//! `cargo test --lib pacing -- --nocapture` prints the table; `NIGHTPRESS_SEEDS=50` runs more
//! seeds of each case.

mod clock;
mod cases;
mod servers;
mod table;
mod workers;
