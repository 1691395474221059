//! Floor of report.
