//! Floor of cli.
