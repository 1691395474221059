//! Floor of worker.
