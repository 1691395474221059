//! Floor of output.
