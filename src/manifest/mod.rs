//! Floor 1: a manifest (YAML, JSON, JSONL or CSV) becomes checked [`Job`]s, or a list of all
//! that is wrong with it.
//!
//! The way of a job: a reader (`yaml`, `json`, `jsonl`, `csv`) turns text into `raw` nodes with
//! places; `keys` turns one mapping into the typed values of `fields`; `check` adds the
//! defaults; `build` checks what keys mean together, gives ids and output names, and makes the
//! job. Whatever is wrong on the way goes to `diagnostic`, and reading goes on.
//!
//! This floor reads the manifest and its reference images and writes nothing. It does not know
//! what was loaded before.

mod advice;
mod build;
mod check;
mod csv;
mod diagnostic;
mod fields;
mod format;
mod json;
mod jsonl;
mod keys;
mod lines;
mod names;
mod objects;
mod pattern;
mod plain;
mod raw;
mod reference;
mod suggest;
mod text;
mod value;
mod yaml;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use jiff::civil::Date;

use self::check::Checker;
pub use self::diagnostic::{DIAGNOSTICS_MAX, Diagnostic, Diagnostics, Location, Severity};
pub use self::format::Format;
use self::lines::LineError;
pub use self::objects::{BlockingObjects, ObjectBytes, ObjectError, ObjectReader, ObjectStamp, Objects};
use self::reference::Base;
pub use self::reference::{DigestCache, DigestEntry, ReferenceError};
use self::text::NotText;
use crate::job::{Job, ModelName, ObjectUrl, Provider};

/// Largest YAML or JSON manifest in MiB: these are held in memory as a whole, several times over. A
/// hundred thousand jobs with prompts of a thousand letters are as large. JSONL and CSV have no such
/// bound.
pub const DOCUMENT_MIB_MAX: u64 = 128;

/// The same in bytes.
pub const DOCUMENT_BYTES_MAX: u64 = DOCUMENT_MIB_MAX << 20;

/// Where a manifest comes from.
pub enum Source {
    /// A file; its extension names the format, and references are relative to its folder.
    File(PathBuf),
    /// The same in object storage.
    Object {
        /// Its address.
        url: ObjectUrl,
        /// Its size.
        bytes: u64,
        /// Its text.
        input: Box<dyn io::Read>,
    },
    /// JSONL from standard input.
    Stdin {
        /// The text.
        input: Box<dyn BufRead>,
        /// References are relative to this folder.
        folder: PathBuf,
    },
}

/// What a manifest is read with.
#[derive(Debug)]
pub struct ReadOptions<'a> {
    /// Decides which ratios and sizes are warned of.
    pub provider: Provider,
    /// `--model`: for jobs that name none, nor do the defaults.
    pub default_model: Option<ModelName>,
    /// `--max-request-bytes`: a job whose request would be larger is an error.
    pub request_bytes_max: u64,
    /// Models that were shut down on this day or before are warned of.
    pub today: Date,
    /// What is known of reference images; it learns what is read.
    pub digests: &'a mut DigestCache,
}

/// A manifest without errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// How many jobs it has.
    pub jobs: u64,
    /// What a person should look at; equal ones are one.
    pub warnings: Diagnostics,
}

/// Why a manifest cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It cannot be read.
    #[error("cannot read the manifest {}", path.display())]
    Unreadable {
        /// Its path; `-` for standard input.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its extension names no format.
    #[error("cannot tell the format of {} by its name; use .yaml, .yml, .json, .jsonl, .ndjson or .csv", .0.display())]
    UnknownFormat(PathBuf),
    /// A YAML or JSON manifest above [`DOCUMENT_BYTES_MAX`].
    #[error("{} has more than {DOCUMENT_MIB_MAX} MiB; use JSONL or CSV for a manifest of that size", .0.display())]
    TooLarge(PathBuf),
    /// It has errors: all of them.
    #[error("{errors}")]
    Invalid {
        /// What is wrong.
        errors: Diagnostics,
        /// What is odd beside that.
        warnings: Diagnostics,
    },
}

/// Reads a manifest and hands its jobs to `sink` in their order, one by one as they are checked.
///
/// **The jobs are only good if this returns `Ok`**: an error on the last line voids them all.
/// After the first error none are handed on; the rest of the file is still checked. A caller
/// stages them or reads twice; a second time is cheap, since references are not read again.
///
/// JSONL and CSV are read as streams: beside its place and hashes of its names nothing is kept
/// of a job. YAML and JSON are held in memory.
pub fn read(
    source: Source,
    options: ReadOptions<'_>,
    sink: &mut dyn FnMut(Job),
) -> Result<Summary, ManifestError> {
    match source {
        Source::Stdin { mut input, folder } => {
            let mut checker = Checker::new(options, PathBuf::from("-"), Base::Folder(folder), sink);
            let outcome = jsonl::read(input.as_mut(), &mut checker);
            conclude(outcome, checker, Path::new("-"))
        }
        Source::File(path) => {
            let unreadable = |source| ManifestError::Unreadable { path: path.clone(), source };
            let file = File::open(&path).map_err(unreadable)?;
            let found = file.metadata().map_err(unreadable)?;
            if found.is_dir() {
                return Err(unreadable(io::ErrorKind::IsADirectory.into()));
            }
            let base = Base::Folder(path.parent().unwrap_or(Path::new("")).to_owned());
            read_text((path, found.len(), Box::new(file)), base, options, sink)
        }
        Source::Object { url, bytes, input } => {
            let path = PathBuf::from(url.to_string());
            read_text((path, bytes, input), Base::Bucket(url.parent()), options, sink)
        }
    }
}

/// A manifest of this path, size and text.
fn read_text(
    (path, bytes, input): (PathBuf, u64, Box<dyn io::Read>),
    base: Base,
    options: ReadOptions<'_>,
    sink: &mut dyn FnMut(Job),
) -> Result<Summary, ManifestError> {
    let format = Format::of(&path).ok_or_else(|| ManifestError::UnknownFormat(path.clone()))?;
    let is_document = matches!(format, Format::Yaml | Format::Json);
    if is_document && bytes > DOCUMENT_BYTES_MAX {
        return Err(ManifestError::TooLarge(path));
    }
    let mut checker = Checker::new(options, path.clone(), base, sink);
    let mut input = BufReader::with_capacity(64 << 10, input);
    let outcome = match format {
        Format::Jsonl => jsonl::read(&mut input, &mut checker),
        Format::Csv => csv::read(&mut input, &mut checker),
        Format::Yaml | Format::Json => {
            let mut bytes = Vec::new();
            let read = input
                .take(DOCUMENT_BYTES_MAX + 1)
                .read_to_end(&mut bytes)
                .map_err(|source| ManifestError::Unreadable { path: path.clone(), source })?;
            if read as u64 > DOCUMENT_BYTES_MAX {
                return Err(ManifestError::TooLarge(path));
            }
            document(format, &bytes, &mut checker).map_err(LineError::NotText)
        }
    };
    conclude(outcome, checker, &path)
}

/// A manifest that is held in memory.
fn document(format: Format, bytes: &[u8], checker: &mut Checker<'_>) -> Result<(), NotText> {
    let mark = text::check_start(bytes)?;
    let text = text::decode(bytes.get(mark..).unwrap_or_default(), Location::START)?;
    if text.trim().is_empty() {
        return Ok(());
    }
    let parsed = match format {
        Format::Json => json::parse(text, Location::START, checker.out()),
        _ => yaml::parse(text, checker.out()),
    };
    checker.document(parsed.root, parsed.whole);
    Ok(())
}

fn conclude(
    outcome: Result<(), LineError>,
    mut checker: Checker<'_>,
    path: &Path,
) -> Result<Summary, ManifestError> {
    match outcome {
        Ok(()) => {}
        Err(LineError::NotText(NotText { at, message })) => {
            checker.job_was_unreadable();
            checker.out().error(at, message);
        }
        Err(LineError::Io(source)) => {
            return Err(ManifestError::Unreadable { path: path.to_owned(), source });
        }
    }
    let (jobs, errors, warnings) = checker.finish();
    if errors.is_empty() {
        Ok(Summary { jobs, warnings })
    } else {
        Err(ManifestError::Invalid { errors, warnings })
    }
}
