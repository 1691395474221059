//! The layout of a run folder.

use std::path::{Path, PathBuf};

/// A run folder: one manifest, one provider, one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// The folder at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The queue's database.
    pub fn queue(&self) -> PathBuf {
        self.0.join("queue.db")
    }

    /// Results, named by the manifest.
    pub fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    /// Unfinished downloads; empty between runs.
    pub fn spool(&self) -> PathBuf {
        self.0.join("spool")
    }

    /// Says where the results go, where that is not `images/` here.
    pub fn results_url(&self) -> PathBuf {
        self.0.join("results.url")
    }

    /// One row a job.
    pub fn usage_csv(&self) -> PathBuf {
        self.0.join("usage.csv")
    }

    /// One row a request.
    pub fn attempts_csv(&self) -> PathBuf {
        self.0.join("attempts.csv")
    }

    /// The run in figures.
    pub fn summary_json(&self) -> PathBuf {
        self.0.join("summary.json")
    }

    /// JSON lines.
    pub fn log(&self) -> PathBuf {
        self.0.join("nightpress.log")
    }
}
