//! Where a queue is: `postgres://user@host/database`, and how it is shown without its password.

use std::fmt;

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use url::Url;

use crate::queue::QueueError;

/// What an address may say behind its `?`; `password` too, though it is no good place for it.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];
/// Statements that a connection keeps prepared: all there are.
const STATEMENTS_MAX: usize = 256;

/// A PostgreSQL database. What is shown of it holds no password and no parameter.
#[derive(Clone)]
pub struct Address {
    pub(super) options: PgConnectOptions,
    shown: String,
}

impl Address {
    /// Reads `postgres://user@host/database`. What it leaves out comes from `PGHOST`, `PGUSER`,
    /// `PGPASSWORD`, `PGDATABASE` … and the password file, as with every program of PostgreSQL.
    pub fn parse(text: &str) -> Result<Self, QueueError> {
        let wrong = |why: &str| QueueError::BadAddress { why: why.to_owned() };
        // No error of the parser is passed on: it may quote what it could not read.
        let url: Url = text.parse().map_err(|_| wrong("it is no URL"))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(wrong("it does not begin with postgres://"));
        }
        for (key, _) in url.query_pairs() {
            let is_known = PARAMETERS.contains(&&*key) || key.starts_with("options[");
            if !is_known {
                return Err(wrong(&format!("its parameter `{key}` is not known")));
            }
        }
        let options = PgConnectOptions::from_url(&url).map_err(|_| wrong("a parameter cannot be read"))?;
        let options = if options.get_application_name().is_none() {
            options.application_name("nightpress")
        } else {
            options
        };
        let options = options.statement_cache_capacity(STATEMENTS_MAX).disable_statement_logging();
        let place = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        let database = options.get_database().unwrap_or_else(|| options.get_username());
        let shown = format!("postgres://{}@{place}/{database}", options.get_username());
        Ok(Self { options, shown })
    }

    /// Whether a text is meant to be one.
    #[must_use]
    pub fn is_one(text: &str) -> bool {
        text.starts_with("postgres://") || text.starts_with("postgresql://")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// The options hold the password, so they are never printed.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        let address =
            Address::parse("postgres://ann:s3cr3t%40@db.example:5433/press?sslmode=require").unwrap();
        assert_eq!(address.to_string(), "postgres://ann@db.example:5433/press");
        let shown = format!("{address:?} {address}");
        assert!(!shown.contains("s3cr3t"), "{shown}");
        let address = Address::parse("postgres://ann@db/press?password=s3cr3t").unwrap();
        assert!(!format!("{address:?} {address}").contains("s3cr3t"));
        let socket = Address::parse("postgresql://ann@%2Frun%2Fpg/press").unwrap();
        assert_eq!(socket.to_string(), "postgres://ann@/run/pg/press");
    }

    #[test]
    fn a_wrong_address_is_refused_without_being_quoted() {
        for wrong in [
            "postgres://ann:s3cr3t@h:notaport/x",
            "mysql://ann:s3cr3t@h/x",
            "postgres://a:s3cr3t@h/x?sslmod=require",
        ] {
            let error = Address::parse(wrong).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{error}");
        }
        let typo = Address::parse("postgres://h/x?sslmod=require").unwrap_err();
        assert!(typo.to_string().contains("`sslmod`"), "{typo}");
    }
}
