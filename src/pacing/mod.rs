//! Floor of pacing.
