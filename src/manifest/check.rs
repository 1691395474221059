//! A manifest from top to bottom: version, defaults, and its jobs one after another.

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::ReadOptions;
use super::build::{JobBuilder, Places, Settings};
use super::diagnostic::{Collector, Diagnostics, Location};
use super::fields::{Fields, JOB_KEYS, unknown_key};
use super::keys::{KeyReader, Owner};
use super::raw::{Entry, Kind, Node, Scalar, Value};
use super::reference::{Base, DigestCache};
use crate::job::Job;

const NO_JOBS: &str = "the manifest has no jobs; it needs one at least";

/// The version of the manifest's form that this program reads.
const VERSION: &str = "1";

/// Keys of a manifest's top level.
const TOP_KEYS: &[&str] = &["version", "defaults", "jobs"];

/// Jobs of one manifest. At 20 images a minute they would take a year.
const JOBS_MAX: u32 = 10_000_000;

/// Checks jobs as they come and hands them on.
pub(super) struct Checker<'a> {
    digests: &'a mut DigestCache,
    base: Base,
    out: Collector,
    builder: JobBuilder,
    defaults: Fields,
    /// Jobs so far, also those that are wrong.
    jobs: u32,
    /// Something was no job at all; that there is none is then not worth saying.
    unreadable: bool,
    sink: &'a mut dyn FnMut(Job),
}

impl<'a> Checker<'a> {
    pub(super) fn new(
        options: ReadOptions<'a>,
        file: PathBuf,
        base: Base,
        sink: &'a mut dyn FnMut(Job),
    ) -> Self {
        let ReadOptions { provider, default_model, request_bytes_max, today, digests } = options;
        digests.recheck();
        Self {
            digests,
            base,
            out: Collector::new(file),
            builder: JobBuilder::new(Settings { provider, default_model, request_bytes_max, today }),
            defaults: Fields::default(),
            jobs: 0,
            unreadable: false,
            sink,
        }
    }

    /// For what the readers find themselves.
    pub(super) const fn out(&mut self) -> &mut Collector {
        &mut self.out
    }

    /// A line or row could not be read as a job; its error was reported.
    pub(super) const fn job_was_unreadable(&mut self) {
        self.unreadable = true;
    }

    /// How many jobs there were, the errors, the warnings.
    pub(super) fn finish(mut self) -> (u64, Diagnostics, Diagnostics) {
        if self.jobs == 0 && !self.unreadable {
            self.out.error(Location::START, NO_JOBS);
        }
        let (errors, warnings) = self.out.finish();
        (u64::from(self.jobs), errors, warnings)
    }

    /// A whole YAML or JSON manifest, or what stood before its syntax error.
    pub(super) fn document(&mut self, root: Option<Node<'_>>, whole: bool) {
        self.unreadable |= !whole;
        let Some(root) = root else { return };
        let at = root.at;
        let entries = match root.value {
            Value::Map(entries) => entries,
            Value::Scalar(Scalar { kind: Kind::Null, .. }) => return,
            value => {
                self.unreadable = true;
                let found = value.describe();
                let message = format!("a manifest is a mapping with `version: 1` and `jobs:`, found {found}");
                return self.out.error(at, message);
            }
        };
        let jobs = self.top(at, entries, whole);
        if let Some(Node { at, value }) = jobs {
            match value {
                Value::List(jobs) if jobs.is_empty() && whole => {
                    self.unreadable = true;
                    self.out.error(at, NO_JOBS);
                }
                Value::List(jobs) => {
                    // Stops by itself at a count that is an error.
                    let _ = jobs.into_iter().try_for_each(|job| self.job(job));
                }
                value => {
                    self.unreadable = true;
                    let found = value.describe();
                    self.out.error(at, format!("`jobs` must be a list, found {found}"));
                }
            }
        } else if whole {
            self.unreadable = true;
            self.out.error(at, "`jobs` is missing; add the list of jobs under `jobs:`");
        }
    }

    /// The first line of a JSONL file, when it sets up the others. There the version may be
    /// left out.
    pub(super) fn header(&mut self, node: Node<'_>) {
        let at = node.at;
        let Value::Map(entries) = node.value else { return };
        if let Some(jobs) = self.top(at, entries, false) {
            self.unreadable = true;
            self.out.error(jobs.at, "JSONL has no `jobs`: each job is a line of its own");
        }
    }

    /// Reads version and defaults wherever they stand, and returns the jobs.
    fn top<'n>(
        &mut self,
        at: Location,
        entries: Vec<Entry<'n>>,
        must_have_version: bool,
    ) -> Option<Node<'n>> {
        let mut jobs = None;
        let mut version = false;
        for entry in entries {
            match entry.key.as_ref() {
                "version" => {
                    version = true;
                    self.version(&entry.value);
                }
                "defaults" => self.read_defaults(entry.value),
                "jobs" => jobs = Some(entry.value),
                key if JOB_KEYS.contains(&key) => {
                    let message =
                        format!("`{key}` belongs to a job or under `defaults:`, not to the top level");
                    self.out.error(entry.key_at, message);
                }
                key => self.out.error(entry.key_at, unknown_key(key, TOP_KEYS)),
            }
        }
        if must_have_version && !version {
            self.out.error(at, "`version` is missing; add `version: 1`");
        }
        jobs
    }

    fn version(&mut self, node: &Node<'_>) {
        let known =
            matches!(&node.value, Value::Scalar(Scalar { kind: Kind::Number, text, .. }) if text == VERSION);
        if !known {
            let found = node.value.describe();
            self.out.error(node.at, format!("this program reads `version: {VERSION}`, found {found}"));
        }
    }

    fn read_defaults(&mut self, node: Node<'_>) {
        let found = node.value.describe();
        match node.value {
            Value::Map(entries) => self.defaults = self.fields(entries, Owner::Defaults),
            Value::Scalar(Scalar { kind: Kind::Null, .. }) => {}
            _ => self.out.error(node.at, format!("`defaults` must be a mapping of job keys, found {found}")),
        }
    }

    fn fields(&mut self, entries: Vec<Entry<'_>>, owner: Owner) -> Fields {
        let mut reader = KeyReader {
            out: &mut self.out,
            digests: self.digests,
            patterns: &mut self.builder.patterns,
            base: &self.base,
            reference_bytes_max: self.builder.settings.request_bytes_max,
        };
        reader.read(entries, owner)
    }

    /// One job; breaks when there are too many.
    pub(super) fn job(&mut self, node: Node<'_>) -> ControlFlow<()> {
        let at = node.at;
        if self.jobs >= JOBS_MAX {
            self.out.error(at, format!("more than {JOBS_MAX} jobs; split the manifest"));
            return ControlFlow::Break(());
        }
        self.jobs += 1;
        match node.value {
            Value::Map(entries) => {
                let own = self.fields(entries, Owner::Job);
                let places = Places::of(&own, at, self.jobs);
                let job = self.builder.build(own.or_defaults(&self.defaults), places, &mut self.out);
                if let Ok(job) = job
                    && !self.out.has_errors()
                {
                    (self.sink)(job);
                }
            }
            value => {
                let found = value.describe();
                self.out.error(at, format!("a job is a mapping with a `prompt`, found {found}"));
            }
        }
        ControlFlow::Continue(())
    }
}
