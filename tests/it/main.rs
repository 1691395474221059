//! Tests that take the product as a whole: the library on a simulator, the program as a process,
//! and the house itself.

#![allow(clippy::missing_panics_doc, reason = "tests panic when they fail")]

mod batch;
mod house;
mod press;
