//! Floor of manifest.
