//! Many rows with one statement: what a hop to the connection's thread costs is paid once for
//! all, and only a few statement texts exist to be cached.

use std::fmt::Write as _;
use std::sync::Arc;

use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Encode, Sqlite, SqliteConnection, Type};

use super::fault::Doing;
use crate::queue::QueueError;

/// Most rows in one statement. A power of two.
const ROWS_MAX: usize = 256;
/// Up to this many rows go in one statement of their very number: what is settled at once is about
/// as many as requests are in flight, and a hop costs more than a text in the cache.
const ROWS_EXACT_MAX: usize = 64;

/// The values of one row, in the order of its columns.
#[derive(Default)]
pub(super) struct Values {
    arguments: SqliteArguments,
    failed: Option<sqlx::error::BoxDynError>,
}

impl Values {
    pub(super) fn put<'t, T: Encode<'t, Sqlite> + Type<Sqlite>>(&mut self, value: T) {
        if let Err(error) = self.arguments.add(value) {
            self.failed.get_or_insert(error);
        }
    }

    /// As `put`, for text: saves the wrapping at most call sites.
    pub(super) fn text(&mut self, value: &str) {
        self.put(value.to_owned());
    }

    fn finish(self) -> Result<SqliteArguments, sqlx::Error> {
        self.failed.map_or(Ok(self.arguments), |error| Err(sqlx::Error::Encode(error)))
    }
}

/// A row on its way into a table.
pub(super) trait Row {
    /// Everything before `VALUES`: `INSERT INTO t (a, b)`.
    const HEAD: &'static str;
    /// How many columns that names.
    const COLUMNS: usize;
    /// Puts the values in order.
    fn values(self, to: &mut Values);
}

/// Inserts all rows in chunks of 256, 128 and what remains.
pub(super) async fn insert<R: Row>(
    conn: &mut SqliteConnection,
    what: &'static str,
    rows: Vec<R>,
) -> Result<(), QueueError> {
    insert_then(conn, what, rows, "").await.map(drop)
}

/// As [`insert`], and runs `then` in the same hop as the last rows; answers with what it returns. It
/// takes no parameters: what it needs is in the rows.
pub(super) async fn insert_then<R: Row>(
    conn: &mut SqliteConnection,
    what: &'static str,
    rows: Vec<R>,
    then: &'static str,
) -> Result<Vec<SqliteRow>, QueueError> {
    let mut left = rows.len();
    let mut rows = rows.into_iter();
    let mut size = ROWS_MAX;
    let mut text: Option<Arc<str>> = None;
    while left > 0 {
        if left <= ROWS_EXACT_MAX && size != left {
            size = left;
            text = None;
        }
        while size > left {
            size /= 2;
            text = None;
        }
        let is_last = size == left && !then.is_empty();
        let mut values = Values::default();
        values.arguments.reserve(size * R::COLUMNS, 0);
        rows.by_ref().take(size).for_each(|row| row.values(&mut values));
        let arguments = values.finish().doing(what)?;
        if is_last {
            let sql = AssertSqlSafe(statement::<R>(size, then));
            return sqlx::query_with(sql, arguments).fetch_all(&mut *conn).await.doing(what);
        }
        let sql = text.get_or_insert_with(|| statement::<R>(size, "")).clone();
        sqlx::query_with(AssertSqlSafe(sql), arguments).execute(&mut *conn).await.doing(what)?;
        left -= size;
    }
    Ok(Vec::new())
}

fn statement<R: Row>(rows: usize, then: &str) -> Arc<str> {
    let row = format!("({})", vec!["?"; R::COLUMNS].join(","));
    let mut sql = format!("{} VALUES {row}", R::HEAD);
    for _ in 1..rows {
        // Writing to a String cannot fail.
        let _ = write!(sql, ",{row}");
    }
    if !then.is_empty() {
        let _ = write!(sql, ";{then}");
    }
    sql.into()
}
