//! Object storage: how a store is opened, and its errors in our words.
//!
//! Credentials come from where the stores' own tools find them: `AWS_…`, `GOOGLE_…` and `AZURE_…` in
//! the environment, or the role of the machine. They are in no error: what a server says is cut to its
//! code and message, and addresses lose their queries.

use std::sync::Arc;
use std::time::Duration;

use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use super::s3;
use crate::job::{MediaType, ObjectUrl, StoreKind};

/// How long one request may take, its body included: a part of 8 MiB passes at half a megabit a second.
const REQUEST_MAX: Duration = Duration::from_secs(150);
/// Letters of a server's words that are told.
const SAID_CHARS_MAX: usize = 300;

/// How long a failing request is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// At a start, before anything is paid: a person waits for the answer.
    Short,
    /// Where something that was paid for is at stake.
    Long,
}

impl Patience {
    fn retries(self) -> RetryConfig {
        let (retry_timeout, longest) = match self {
            Self::Short => (Duration::from_secs(20), Duration::from_secs(2)),
            Self::Long => (Duration::from_secs(180), Duration::from_secs(15)),
        };
        let backoff =
            BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: longest, base: 2.0 };
        // The time is the bound, not the number.
        RetryConfig { backoff, max_retries: 1_000, retry_timeout }
    }
}

/// What can go wrong with object storage.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot even be tried.
    #[error("{url} cannot be used: {why}")]
    Setup {
        /// The address.
        url: String,
        /// Why not.
        why: String,
    },
    /// A request failed, for good.
    #[error("cannot {what} {at}: {why}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// With which object.
        at: String,
        /// What kind of failure it is.
        trouble: Trouble,
        /// What the store said, and what may be done about it.
        why: String,
    },
    /// It does not keep two writers apart.
    #[error(
        "{url} cannot hold results: {why}. Without that, one worker could write over what another one or a person put \
         there. For stores with ways of their own see AWS_COPY_IF_NOT_EXISTS in docs/buckets.md"
    )]
    NoConditions {
        /// The address.
        url: String,
        /// What it did, or said.
        why: String,
    },
    /// A file of this machine that was to go there, or to come from there.
    #[error("cannot {what} {path}: {source}")]
    Local {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Kinds of failure that are not all the same to who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// There is no such object, or no such bucket.
    NotThere,
    /// There is one already.
    Taken,
    /// The object is another one by now.
    Changed,
    /// The credentials do not serve for it.
    Denied,
    /// The store cannot do that at all.
    Unsupported,
    /// There are none, and the machine has no role that would have some.
    NoCredentials,
    /// It could not be reached, or failed again and again.
    Away,
}

impl StoreError {
    /// What kind of failure it is, if a request failed.
    pub const fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Failed { trouble, .. } => Some(*trouble),
            Self::Setup { .. } | Self::NoConditions { .. } | Self::Local { .. } => None,
        }
    }

    /// For `map_err`: what was tried, and with what.
    pub(super) fn of(what: &'static str, at: String) -> impl FnOnce(object_store::Error) -> Self {
        move |error| {
            let trouble = trouble_of(&error);
            let mut why = said(&error);
            match trouble {
                Trouble::Denied => why.push_str("; look at the credentials and at what they may do"),
                Trouble::NoCredentials => why.insert_str(
                    0,
                    "no credentials were found: set those of docs/buckets.md, such as AWS_ACCESS_KEY_ID and \
                     AWS_SECRET_ACCESS_KEY. The machine was asked for a role instead: ",
                ),
                _ => {}
            }
            Self::Failed { what, at, trouble, why }
        }
    }
}

fn trouble_of(error: &object_store::Error) -> Trouble {
    use object_store::Error;
    match error {
        Error::NotFound { .. } => Trouble::NotThere,
        Error::AlreadyExists { .. } => Trouble::Taken,
        Error::Precondition { .. } | Error::NotModified { .. } => Trouble::Changed,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Trouble::Denied,
        Error::NotSupported { .. } | Error::NotImplemented { .. } => Trouble::Unsupported,
        error if asks_for_a_role(error) => Trouble::NoCredentials,
        _ => Trouble::Away,
    }
}

/// Where a machine in a cloud is told its role, by all three providers' documentation (2026-11). The client has no kind
/// of error for it, only the address of the request that failed.
const METADATA_SERVERS: [&str; 2] = ["http://169.254.169.254/", "http://metadata.google.internal/"];

fn asks_for_a_role(error: &object_store::Error) -> bool {
    let text = error.to_string();
    METADATA_SERVERS.iter().any(|server| text.contains(server))
}

/// Opens the store that an address lies in. Nothing is sent.
pub(super) fn open(url: &ObjectUrl, patience: Patience) -> Result<Arc<dyn ObjectStore>, StoreError> {
    // A provider that is there already is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let retries = patience.retries();
    let setup = |why: String| StoreError::Setup { url: url.to_string(), why };
    let opened: object_store::Result<Arc<dyn ObjectStore>> = match url.kind() {
        StoreKind::S3 => s3::builder(variables(s3::PREFIX))
            .map_err(|unusable| setup(unusable.to_string()))?
            .with_bucket_name(url.bucket())
            .with_retry(retries)
            .with_client_options(client_options(s3::PREFIX))
            .build()
            .map(|store| Arc::new(store) as _),
        StoreKind::Google => GoogleCloudStorageBuilder::from_env()
            .with_bucket_name(url.bucket())
            .with_retry(retries)
            .with_client_options(client_options("GOOGLE_"))
            .build()
            .map(|store| Arc::new(store) as _),
        StoreKind::Azure => MicrosoftAzureBuilder::from_env()
            .with_container_name(url.bucket())
            .with_retry(retries)
            .with_client_options(client_options("AZURE_"))
            .build()
            .map(|store| Arc::new(store) as _),
        // Without its cleanup, which would take a folder away from under the next upload into it.
        StoreKind::File => Ok(Arc::new(LocalFileSystem::new().with_fsync(true))),
    };
    opened
        .map_err(|error| setup(format!("{}; look at {}", told(&error.to_string()), settings_of(url.kind()))))
}

/// Where a store's settings stand, for a person whose store could not be opened.
const fn settings_of(kind: StoreKind) -> &'static str {
    match kind {
        StoreKind::S3 => "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the other AWS_… of docs/buckets.md",
        StoreKind::Google => "the file that GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS names",
        StoreKind::Azure => "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
        StoreKind::File => "the path",
    }
}

/// The environment's variables whose names begin with `prefix`, without it. An empty one is as if it were not set,
/// and a line end that a file had is no part of a key.
fn variables(prefix: &str) -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(move |(name, value)| {
        let name = name.to_str()?.strip_prefix(prefix)?.to_owned();
        let value = value.to_str()?.trim();
        (!value.is_empty()).then(|| (name, value.to_owned()))
    })
}

/// As the environment has them, with our limits and with the types of what we write.
fn client_options(prefix: &str) -> ClientOptions {
    let mut options = ClientOptions::new().with_timeout(REQUEST_MAX);
    for (name, value) in variables(prefix) {
        if let Ok(key) = name.to_ascii_lowercase().parse() {
            options = options.with_config(key, value);
        }
    }
    for media in MediaType::ALL {
        options = options.with_content_type_for_suffix(media.extension(), media.mime());
    }
    options
        .with_content_type_for_suffix("csv", "text/csv")
        .with_content_type_for_suffix("json", "application/json")
}

/// The path of a key, which [`ObjectUrl`] and [`crate::job::OutputName`] have checked.
pub(super) fn path_of(key: &str) -> Result<Path, StoreError> {
    Path::parse(key).map_err(|error| StoreError::Setup { url: key.to_owned(), why: error.to_string() })
}

/// What went wrong, for a person: of a server's XML its code and message, of addresses no query, and no
/// more than a few lines.
fn said(error: &object_store::Error) -> String {
    let innermost = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let text = innermost.last().map_or_else(|| error.to_string(), ToString::to_string);
    // Where the cause alone says little, the whole chain is in the outer text.
    told(&if text.len() < 4 { error.to_string() } else { text })
}

fn told(text: &str) -> String {
    let between = |open: &str, close: &str| {
        let (_, rest) = text.split_once(open)?;
        Some(rest.split_once(close)?.0.to_owned())
    };
    let mut told = match (between("<Code>", "</Code>"), between("<Message>", "</Message>")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code,
        _ => without_queries(text),
    };
    if let Some((at, _)) = told.char_indices().nth(SAID_CHARS_MAX) {
        told.truncate(at);
        told.push('…');
    }
    told.trim().replace(['\n', '\r'], " ")
}

/// Addresses lose what stands behind a `?`: that is where signatures are.
fn without_queries(text: &str) -> String {
    let words = text.split(' ').map(|word| match word.split_once('?') {
        Some((address, _)) if address.contains("://") => address,
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(text: &str) -> String {
        said(&object_store::Error::Generic { store: "S3", source: text.to_owned().into() })
    }

    #[test]
    fn what_a_server_says_is_cut_to_its_code_and_message() {
        let xml = "Server returned non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?><Error>\
            <Code>SignatureDoesNotMatch</Code><Message>Check your key.</Message>\
            <AWSAccessKeyId>AKIAEXAMPLE</AWSAccessKeyId><StringToSign>secret</StringToSign></Error>";
        assert_eq!(failed(xml), "SignatureDoesNotMatch: Check your key.");
    }

    #[test]
    fn a_machine_without_a_role_has_no_credentials() {
        let failed = |text: &str| {
            let error = object_store::Error::Generic { store: "S3", source: text.to_owned().into() };
            StoreError::of("write", "s3://studio/a".to_owned())(error)
        };
        let error =
            failed("Error performing PUT http://169.254.169.254/latest/api/token in 1s - connection refused");
        assert_eq!(error.trouble(), Some(Trouble::NoCredentials));
        assert!(error.to_string().contains("no credentials were found"), "{error}");
        let error = failed("Error performing PUT https://s3.example.org/studio in 1s - connection refused");
        assert_eq!(error.trouble(), Some(Trouble::Away));
    }

    #[test]
    fn signatures_in_addresses_are_not_told() {
        let text = "error sending request for url (https://a.blob.core.windows.net/c/x?sig=abc%2F&se=1)";
        assert_eq!(failed(text), "error sending request for url (https://a.blob.core.windows.net/c/x");
    }

    #[test]
    fn every_kind_of_store_is_opened_without_a_word_to_it() {
        for text in ["s3://studio/spring", "gs://studio/spring", "file:///mnt/studio"] {
            open(&text.parse().expect("an address"), Patience::Long).expect("opens");
        }
    }

    #[test]
    fn an_address_that_lacks_its_settings_is_an_error_before_anything_is_sent() {
        let url: ObjectUrl = "az://container/spring".parse().expect("an address");
        let error = open(&url, Patience::Short).expect_err("no account");
        let says = "Account must be specified; look at AZURE_STORAGE_ACCOUNT_NAME";
        assert!(matches!(&error, StoreError::Setup { why, .. } if why.contains(says)), "{error}");
    }
}
