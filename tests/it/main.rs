//! Tests that take the product as a whole: the library on a simulator, the program as a process,
//! and the house itself.

#![allow(clippy::expect_used, clippy::panic, reason = "a test panics when it fails")]

mod batch;
mod bucket;
mod crash;
mod deploy;
#[cfg(unix)]
mod cut;
mod house;
#[cfg(all(unix, debug_assertions))]
mod kill;
#[cfg(all(unix, debug_assertions))]
mod kill_many;
mod lanes;
mod machine;
mod many;
#[allow(dead_code, reason = "the tests of the engine use the rest")]
#[path = "../support/postgres.rs"]
mod postgres;
mod objects;
mod press;
mod program;
mod raw;
mod readme;
#[path = "../support/s3.rs"]
mod s3;
mod watched;
#[cfg(unix)]
mod wire;
mod words;
