//! The simulator's own account of every request: what a test holds the client's ledger against.

use crate::job::{Digest, Usage};

use super::fault::Fault;
use super::request::Method;

/// Entries that are kept; of later requests only the number is.
const ENTRIES_MAX: usize = 200_000;

/// One request, as the simulator saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its number, from 1, in order of arrival.
    pub number: u64,
    /// When it arrived, in milliseconds since the simulator's start.
    pub at_ms: u64,
    /// When its answer ended or its connection was gone; `None` while it runs.
    pub ended_at_ms: Option<u64>,
    /// The version in its path: `v1beta` as the pages have it, or `v1`.
    pub api_version: String,
    /// The model in its path.
    pub model: String,
    /// How it asked.
    pub method: Method,
    /// The first hex digits of its key's digest, to tell keys apart.
    pub key: String,
    /// Its text parts; empty if it was refused before they were read.
    pub prompt: String,
    /// Digests of the reference images that it brought.
    pub references: Vec<Digest>,
    /// How often the same was asked and let through, this time included; 0 if it was not.
    pub nth_try: u64,
    /// The status of its answer; `None` if there was none.
    pub status: Option<u16>,
    /// A limit refused it.
    pub throttled: bool,
    /// What was made to go wrong.
    pub fault: Option<Fault>,
    /// Digests of the result pictures of its answer, whether or not all bytes arrived.
    pub images: Vec<Digest>,
    /// What the provider bills for it, told or not.
    pub billed: Usage,
    /// What its answer has told so far of it.
    pub told: Usage,
    /// Bytes of the body that were handed to the connection.
    pub body_bytes: u64,
    /// The body was played to its end.
    pub complete: bool,
}

/// All requests so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestLog {
    /// In order of arrival.
    pub entries: Vec<LogEntry>,
    /// Requests beyond the entries that are kept.
    pub forgotten: u64,
}

impl RequestLog {
    /// What the answers told, added up.
    #[must_use]
    pub fn told(&self) -> Usage {
        self.entries.iter().map(|entry| entry.told).fold(Usage::default(), sum)
    }

    /// What the provider bills, added up.
    #[must_use]
    pub fn billed(&self) -> Usage {
        self.entries.iter().map(|entry| entry.billed).fold(Usage::default(), sum)
    }

    /// How many requests the limits refused.
    #[must_use]
    pub fn throttled(&self) -> usize {
        self.entries.iter().filter(|entry| entry.throttled).count()
    }

    /// Enters a request; its number.
    pub(super) fn begin(&mut self, at_ms: u64, model: &str, method: Method) -> u64 {
        let number = self.entries.len() as u64 + self.forgotten + 1;
        if self.entries.len() >= ENTRIES_MAX {
            self.forgotten += 1;
            return number;
        }
        self.entries.push(LogEntry {
            number,
            at_ms,
            ended_at_ms: None,
            api_version: String::new(),
            model: model.to_owned(),
            method,
            key: String::new(),
            prompt: String::new(),
            references: Vec::new(),
            nth_try: 0,
            status: None,
            throttled: false,
            fault: None,
            images: Vec::new(),
            billed: Usage::default(),
            told: Usage::default(),
            body_bytes: 0,
            complete: false,
        });
        number
    }

    /// Changes an entry; nothing if it is not kept.
    pub(super) fn update(&mut self, number: u64, change: impl FnOnce(&mut LogEntry)) {
        let at = usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX);
        if let Some(entry) = self.entries.get_mut(at) {
            change(entry);
        }
    }
}

fn sum(a: Usage, b: Usage) -> Usage {
    let add = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (None, None) => None,
        (a, b) => Some(a.unwrap_or(0) + b.unwrap_or(0)),
    };
    Usage {
        prompt: add(a.prompt, b.prompt),
        candidates: add(a.candidates, b.candidates),
        image: add(a.image, b.image),
        thoughts: add(a.thoughts, b.thoughts),
        total: add(a.total, b.total),
    }
}
