//! Floor of simulator.
