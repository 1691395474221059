//! Statements: prepared once for each connection, bound by number, read row by row.
//!
//! Parameters are written `?1`. A value may be given to a statement that has no use for it, so that
//! statements which belong together are run with one list.

use rusqlite::types::FromSql;
use rusqlite::{CachedStatement, Connection, Statement, ToSql};

use super::fault::Doing;
use super::row::Row;
use crate::queue::QueueError;

/// Values by the number of their parameter, from `?1` on: `params![…]`.
pub(super) type Params<'p> = &'p [&'p dyn ToSql];

/// What is asked of a connection. `what` continues "the queue failed while …".
pub(super) trait Sql {
    /// Runs a statement that answers nothing; returns how many rows it changed.
    fn run(&self, what: &'static str, sql: &'static str, params: Params) -> Result<usize, QueueError>;

    /// As [`Sql::run`], one after the other.
    fn run_all(&self, what: &'static str, sql: &[&'static str], params: Params) -> Result<(), QueueError> {
        sql.iter().try_for_each(|sql| self.run(what, sql, params).map(drop))
    }

    /// Hands each row of an answer to `read`.
    fn each(
        &self,
        what: &'static str,
        sql: &'static str,
        params: Params,
        read: impl FnMut(&Row) -> Result<(), QueueError>,
    ) -> Result<(), QueueError>;

    /// All rows of an answer.
    fn rows<T>(
        &self,
        what: &'static str,
        sql: &'static str,
        params: Params,
        mut read: impl FnMut(&Row) -> Result<T, QueueError>,
    ) -> Result<Vec<T>, QueueError> {
        let mut rows = Vec::new();
        self.each(what, sql, params, |row| {
            rows.push(read(row)?);
            Ok(())
        })?;
        Ok(rows)
    }

    /// The first row of an answer, if it has one.
    fn row_or_none<T>(
        &self,
        what: &'static str,
        sql: &'static str,
        params: Params,
        read: impl FnOnce(&Row) -> Result<T, QueueError>,
    ) -> Result<Option<T>, QueueError>;

    /// The row of an answer that has one.
    fn row<T>(
        &self,
        what: &'static str,
        sql: &'static str,
        params: Params,
        read: impl FnOnce(&Row) -> Result<T, QueueError>,
    ) -> Result<T, QueueError> {
        let none = || Err(rusqlite::Error::QueryReturnedNoRows).doing(what);
        self.row_or_none(what, sql, params, read)?.map_or_else(none, Ok)
    }

    /// The first column of all rows.
    fn values<T: FromSql>(
        &self,
        what: &'static str,
        sql: &'static str,
        params: Params,
    ) -> Result<Vec<T>, QueueError> {
        self.rows(what, sql, params, |row| row.first().doing(what))
    }

    /// The only column of the only row.
    fn value<T: FromSql>(
        &self,
        what: &'static str,
        sql: &'static str,
        params: Params,
    ) -> Result<T, QueueError> {
        self.row(what, sql, params, |row| row.first().doing(what))
    }
}

impl Sql for Connection {
    fn run(&self, what: &'static str, sql: &'static str, params: Params) -> Result<usize, QueueError> {
        bound(self, what, sql, params)?.raw_execute().doing(what)
    }

    fn each(
        &self,
        what: &'static str,
        sql: &'static str,
        params: Params,
        mut read: impl FnMut(&Row) -> Result<(), QueueError>,
    ) -> Result<(), QueueError> {
        let mut statement = bound(self, what, sql, params)?;
        let columns = columns(&statement);
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().doing(what)? {
            read(&Row::new(row, &columns))?;
        }
        Ok(())
    }

    fn row_or_none<T>(
        &self,
        what: &'static str,
        sql: &'static str,
        params: Params,
        read: impl FnOnce(&Row) -> Result<T, QueueError>,
    ) -> Result<Option<T>, QueueError> {
        let mut statement = bound(self, what, sql, params)?;
        let columns = columns(&statement);
        let mut rows = statement.raw_query();
        match rows.next().doing(what)? {
            Some(row) => read(&Row::new(row, &columns)).map(Some),
            None => Ok(None),
        }
    }
}

/// A statement with its values, from the connection's cache.
fn bound<'c>(
    conn: &'c Connection,
    what: &'static str,
    sql: &'static str,
    params: Params,
) -> Result<CachedStatement<'c>, QueueError> {
    let mut statement = conn.prepare_cached(sql).doing(what)?;
    let wanted = statement.parameter_count();
    // NULL means something here: what has no value must not be taken for it.
    if params.len() < wanted {
        return Err(rusqlite::Error::InvalidParameterCount(params.len(), wanted)).doing(what);
    }
    for (number, value) in (1..=wanted).zip(params) {
        statement.raw_bind_parameter(number, value).doing(what)?;
    }
    Ok(statement)
}

fn columns(statement: &Statement) -> Vec<String> {
    statement.column_names().into_iter().map(str::to_owned).collect()
}
