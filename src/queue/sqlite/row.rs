//! A row of an answer, read by the names of its columns.

use std::cell::Cell;

use rusqlite::types::FromSql;

use crate::queue::QueueError;

/// A row, and where its columns stand.
pub(super) struct Row<'r> {
    values: &'r rusqlite::Row<'r>,
    columns: &'r [String],
    /// The column behind the one that was read last. Who reads in the order of the statement finds each at
    /// once: looking for names was half of what a report of a million attempts cost.
    next: Cell<usize>,
}

impl<'r> Row<'r> {
    pub(super) fn new(row: &'r rusqlite::Row<'r>, columns: &'r [String]) -> Self {
        Self { values: row, columns, next: Cell::new(0) }
    }

    /// The first column, where there is no need to name it.
    pub(super) fn first<T: FromSql>(&self) -> Result<T, rusqlite::Error> {
        self.values.get(0)
    }

    fn place(&self, column: &'static str) -> Result<usize, QueueError> {
        let next = self.next.get();
        let is_here = |place: &usize| self.columns[*place] == column;
        let place = (next..self.columns.len()).chain(0..next).find(is_here);
        let missing = || QueueError::Broken { what: column, detail: "no such column".to_owned() };
        let place = place.ok_or_else(missing)?;
        self.next.set(place + 1);
        Ok(place)
    }
}

/// Reads a column of a row; `column` names it for the error too.
pub(super) fn get<T: FromSql>(row: &Row, column: &'static str) -> Result<T, QueueError> {
    let value = row.values.get(row.place(column)?);
    value.map_err(|error| QueueError::Broken { what: column, detail: error.to_string() })
}

/// Reads a column of text where it stands.
pub(super) fn text<'r>(row: &'r Row<'r>, column: &'static str) -> Result<&'r str, QueueError> {
    let broken = |detail| QueueError::Broken { what: column, detail };
    let value = row.values.get_ref(row.place(column)?).map_err(|error| broken(error.to_string()))?;
    value.as_str().map_err(|error| broken(error.to_string()))
}

/// Reads a column whose text is a value of ours.
pub(super) fn parsed<T>(row: &Row, column: &'static str) -> Result<T, QueueError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text(row, column)?
        .parse()
        .map_err(|error: T::Err| QueueError::Broken { what: column, detail: error.to_string() })
}

/// Reads a column that counts something.
pub(super) fn count(row: &Row, column: &'static str) -> Result<u64, QueueError> {
    unsigned(get(row, column)?, column)
}

/// Reads a column that counts something or is empty.
pub(super) fn count_or_none(row: &Row, column: &'static str) -> Result<Option<u64>, QueueError> {
    let n: Option<i64> = get(row, column)?;
    n.map(|n| unsigned(n, column)).transpose()
}

/// Reads a column that fits a narrower number.
pub(super) fn narrow<T: TryFrom<i64>>(row: &Row, column: &'static str) -> Result<T, QueueError> {
    let n: i64 = get(row, column)?;
    T::try_from(n).map_err(|_| QueueError::Broken { what: column, detail: format!("{n} is out of range") })
}

fn unsigned(n: i64, column: &'static str) -> Result<u64, QueueError> {
    u64::try_from(n).map_err(|_| QueueError::Broken { what: column, detail: format!("{n} is negative") })
}

/// A number of ours as SQLite keeps it. Numbers above 2^63 do not occur; they would be cut there.
pub(super) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
