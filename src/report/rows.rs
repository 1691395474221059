//! Rows of a report on their way to where reports go.

use crate::output::{NewReport, PublishError, Results};
use crate::queue::QueueError;

/// What can go wrong while reports are written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The queue could not be read.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The disk or the bucket said no.
    #[error("{0}; when that is mended, `nightpress report` writes the reports")]
    Write(#[from] PublishError),
    /// A row could not be put into its format. Cannot happen as long as all rows have as many
    /// cells as the header.
    #[error("cannot format a row of {name}: {source}; this is a bug in nightpress")]
    Format {
        /// The report.
        name: &'static str,
        /// Why not.
        source: csv::Error,
    },
}

/// A report that is being written.
#[derive(Debug)]
pub(super) struct Rows {
    name: &'static str,
    report: NewReport,
}

impl Rows {
    /// Begins a report of this name.
    pub(super) async fn begin(results: &Results, name: &'static str) -> Result<Self, ReportError> {
        Ok(Self { name, report: results.report(name).await? })
    }

    /// Adds rows, each a list of cells.
    pub(super) async fn add<R>(&mut self, rows: impl IntoIterator<Item = R>) -> Result<(), ReportError>
    where
        R: IntoIterator,
        R::Item: AsRef<[u8]>,
    {
        let format = |source| ReportError::Format { name: self.name, source };
        let mut page = csv::Writer::from_writer(Vec::new());
        for row in rows {
            page.write_record(row).map_err(format)?;
        }
        let page = page.into_inner().map_err(|error| format(error.into_error().into()))?;
        Ok(self.report.write(&page).await?)
    }

    /// Puts the report in place, if all of it was `written`.
    pub(super) async fn end(self, written: Result<(), ReportError>) -> Result<(), ReportError> {
        match written {
            Ok(()) => Ok(self.report.finish().await?),
            Err(error) => {
                self.report.discard().await;
                Err(error)
            }
        }
    }
}
