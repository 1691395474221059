//! What is measured: the rows of the table.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::picture::png;

/// One row.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Of each answer's picture, before base64. The whole picture is one line of the stream.
    pub(crate) image_bytes: usize,
    /// Requests at once.
    pub(crate) concurrency: u32,
    pub(crate) jobs: u32,
    /// Reference images of each job, chosen from [`REFERENCE_FILES`] files.
    pub(crate) references: usize,
}

/// Bytes of a reference image.
pub(crate) const REFERENCE_BYTES: usize = 5_000_000;
/// Reference images that the jobs share.
pub(crate) const REFERENCE_FILES: usize = 20;

/// So many jobs that starting the program, which is counted, weighs little.
pub(crate) const CASES: &[Case] = &[
    Case { name: "200KB, 8 at once", image_bytes: 200_000, concurrency: 8, jobs: 1000, references: 0 },
    Case { name: "200KB, 32 at once", image_bytes: 200_000, concurrency: 32, jobs: 1000, references: 0 },
    Case { name: "2MB, 8 at once", image_bytes: 2_000_000, concurrency: 8, jobs: 200, references: 0 },
    Case { name: "2MB, 64 at once", image_bytes: 2_000_000, concurrency: 64, jobs: 256, references: 0 },
    Case { name: "20MB, 32 at once", image_bytes: 20_000_000, concurrency: 32, jobs: 64, references: 0 },
    Case { name: "20MB, 64 at once", image_bytes: 20_000_000, concurrency: 64, jobs: 64, references: 0 },
    Case {
        name: "40MB in one line, 8 at once",
        image_bytes: 40_000_000,
        concurrency: 8,
        jobs: 16,
        references: 0,
    },
    Case {
        name: "200KB, 14 references of 5MB, 32 at once",
        image_bytes: 200_000,
        concurrency: 32,
        jobs: 32,
        references: 14,
    },
];

impl Case {
    /// The references of job `number`, which it shares with its neighbours.
    pub(crate) fn references_of<T: Clone>(&self, number: u32, files: &[T]) -> Vec<T> {
        let skipped = usize::try_from(number).unwrap_or(0) % files.len().max(1);
        files.iter().cycle().skip(skipped).take(self.references).cloned().collect()
    }

    /// Writes the reference files to `root`; none where the case has none.
    pub(crate) fn write_references(&self, root: &Path) -> Result<Vec<PathBuf>> {
        if self.references == 0 {
            return Ok(Vec::new());
        }
        (0..REFERENCE_FILES)
            .map(|number| {
                let path = root.join(format!("reference-{number}.png"));
                std::fs::write(&path, png(REFERENCE_BYTES, number as u64 + 1))?;
                Ok(path)
            })
            .collect()
    }
}
