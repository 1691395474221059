//! A manifest on its way into the queue: checked as a whole first, then read once more and staged
//! in batches, compared, and applied in one go.

use std::collections::BTreeMap;
use std::io::{BufRead, Cursor, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use jiff::tz::TimeZone;
use tokio::sync::mpsc;

use super::destination::address_of;
use super::settings::LoadSettings;
use super::terminal::Terminal;
use super::text;
use crate::job::{Clock, Job, Micros, ObjectUrl, PriceTable, printable};
use crate::manifest::{
    self, BlockingObjects, DigestCache, ManifestError, ObjectStamp, Objects, ReadOptions, Source,
};
use crate::output::Buckets;
use crate::queue::{LoadDiff, NewJob, Queue};

/// Jobs that go into the staging area at once.
const STAGED_AT_ONCE: usize = 500;
/// Batches that the reader may be ahead of the queue.
const BATCHES_AHEAD: usize = 2;
/// The most that is taken from standard input, which is held in memory.
const STDIN_BYTES_MAX: u64 = 512 << 20;
/// A load may cancel this share of the jobs that are not done.
const SHRINK_PERCENT_MAX: u64 = 20;

/// A manifest and what it is read with.
#[derive(Clone)]
pub(super) struct Loader {
    path: PathBuf,
    origin: Origin,
    objects: BlockingObjects,
    settings: LoadSettings,
    today: jiff::civil::Date,
}

/// Where a manifest's text is.
#[derive(Clone)]
enum Origin {
    File,
    /// It came from standard input, read to its end.
    Stdin(Arc<[u8]>),
    /// In object storage, as it was when it was looked at.
    Object(ObjectUrl, ObjectStamp),
}

/// What a whole manifest without errors asks for.
#[derive(Debug, Clone, Default)]
pub(super) struct Contents {
    pub(super) jobs: u64,
    /// Jobs by model.
    pub(super) models: BTreeMap<String, u64>,
    /// Of those, models without a known price.
    pub(super) unpriced: Vec<String>,
    /// The first reference that is a file of this machine.
    pub(super) local_reference: Option<PathBuf>,
}

impl Loader {
    /// Takes standard input to its end, if that is where the manifest comes from; looks at an object.
    pub(super) async fn new(path: &Path, settings: LoadSettings, clock: &dyn Clock) -> Result<Self> {
        let objects: Arc<dyn Objects> = Arc::new(Buckets::brief());
        let origin = match address_of(path)? {
            None if path == Path::new("-") => Origin::Stdin(read_stdin()?),
            None => Origin::File,
            Some(url) => {
                let stamp = objects.stamp(&url).await.context("cannot read the manifest")?;
                Origin::Object(url, stamp)
            }
        };
        let now = jiff::Timestamp::from_millisecond(clock.now().as_ms()).unwrap_or_default();
        let today = now.to_zoned(TimeZone::system()).date();
        let objects = BlockingObjects::new(objects);
        Ok(Self { path: path.to_owned(), origin, objects, settings, today })
    }

    /// What is told of references, so that no file is read again that stayed the same.
    pub(super) async fn known_digests(queue: &dyn Queue) -> Result<DigestCache> {
        Ok(DigestCache::from_entries(queue.reference_stamps().await?))
    }

    /// Reads the whole manifest. Warnings are told; errors are told all together, and end it.
    pub(super) async fn check(
        &self,
        digests: DigestCache,
        terminal: &Terminal,
    ) -> Result<(Contents, DigestCache)> {
        let mut digests = digests.with_objects(self.objects.clone());
        let this = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut contents = Contents::default();
            let read = this.read(&mut digests, &mut |job| contents.add(&job, &this.settings.prices));
            (read, contents, digests)
        });
        let (read, mut contents, digests) = reading.await.context("reading the manifest failed")?;
        match read {
            Ok(summary) => {
                if !summary.warnings.is_empty() {
                    terminal.note(&summary.warnings.to_string());
                }
                contents.jobs = summary.jobs;
                Ok((contents, digests))
            }
            Err(ManifestError::Invalid { errors, warnings }) => {
                if !warnings.is_empty() {
                    terminal.note(&warnings.to_string());
                }
                terminal.note(&errors.to_string());
                let shown = self.path.display().to_string();
                bail!("{} in {}; nothing was loaded", text::count(errors.total(), "error"), printable(&shown))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads it once more and puts its jobs into the queue's staging area.
    pub(super) async fn stage(&self, queue: &dyn Queue, mut digests: DigestCache) -> Result<DigestCache> {
        let (sender, mut batches) = mpsc::channel(BATCHES_AHEAD);
        let this = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut batch = Vec::with_capacity(STAGED_AT_ONCE);
            let read = this.read(&mut digests, &mut |job| {
                batch.push(NewJob::priced(job, &this.settings.prices));
                if batch.len() == STAGED_AT_ONCE {
                    // A queue that failed takes no more; its error is told below.
                    drop(sender.blocking_send(std::mem::take(&mut batch)));
                }
            });
            drop(sender.blocking_send(batch));
            (read, digests)
        });
        let mut staged = Ok(());
        while let Some(batch) = batches.recv().await {
            staged = queue.stage(batch).await;
            if staged.is_err() {
                batches.close();
                while batches.recv().await.is_some() {}
            }
        }
        let (read, digests) = reading.await.context("reading the manifest failed")?;
        staged?;
        read.context("the manifest changed while it was read; try again when it is complete")?;
        Ok(digests)
    }

    fn read(
        &self,
        digests: &mut DigestCache,
        sink: &mut dyn FnMut(Job),
    ) -> Result<manifest::Summary, ManifestError> {
        let source = match &self.origin {
            Origin::File => Source::File(self.path.clone()),
            Origin::Object(url, stamp) => {
                // The same both times: another one is an error.
                let input = self.objects.read(url, stamp).map_err(|error| ManifestError::Unreadable {
                    path: self.path.clone(),
                    source: std::io::Error::other(error),
                })?;
                Source::Object { url: url.clone(), bytes: stamp.bytes, input: Box::new(input) }
            }
            Origin::Stdin(bytes) => {
                let input: Box<dyn BufRead> = Box::new(Cursor::new(Arc::clone(bytes)));
                Source::Stdin { input, folder: PathBuf::new() }
            }
        };
        let options = ReadOptions {
            provider: self.settings.provider,
            default_model: self.settings.model.clone(),
            request_bytes_max: self.settings.request_bytes_max,
            today: self.today,
            digests,
        };
        manifest::read(source, options, sink)
    }
}

impl Contents {
    fn add(&mut self, job: &Job, prices: &PriceTable) {
        *self.models.entry(job.spec.model.as_str().to_owned()).or_default() += 1;
        for model in job.fallback_models.iter().chain([&job.spec.model]) {
            let is_known = self.unpriced.iter().any(|known| known == model.as_str());
            if prices.get(model).is_none() && !is_known {
                self.unpriced.push(model.as_str().to_owned());
            }
        }
        if self.local_reference.is_none() {
            let mut local = job.spec.references.iter().filter(|reference| reference.object().is_none());
            self.local_reference = local.next().map(|reference| reference.path.clone());
        }
    }

    /// What must be seen to where other machines work on the batch too.
    pub(super) fn note_for_others(&self) -> Option<String> {
        let path = self.local_reference.as_ref()?.display().to_string();
        Some(format!(
            "note: references such as {} must stand at the same path on every machine that works on this batch; \
             or put them into a bucket and write s3://…",
            printable(&path)
        ))
    }

    /// A cap on cost says nothing about a model without a price.
    pub(super) fn check_cap(&self, cap: Option<Micros>) -> Result<()> {
        if cap.is_none() || self.unpriced.is_empty() {
            return Ok(());
        }
        bail!(
            "--max-cost cannot hold: there is no price for {}; add it to `prices:` in {}",
            self.unpriced.join(", "),
            super::config::FILE_NAME
        )
    }
}

fn read_stdin() -> Result<Arc<[u8]>> {
    let mut bytes = Vec::new();
    let input = std::io::stdin().lock();
    let read =
        input.take(STDIN_BYTES_MAX + 1).read_to_end(&mut bytes).context("cannot read standard input")?;
    if read as u64 > STDIN_BYTES_MAX {
        bail!(
            "standard input has more than {STDIN_BYTES_MAX} bytes; put it into a .jsonl file, which is read as a stream"
        );
    }
    Ok(bytes.into())
}

/// Stops a load that would cancel too much: a manifest that was cut off must not end a batch.
pub(super) fn check_shrink(diff: &LoadDiff, prune: bool) -> Result<()> {
    if prune || diff.cancelled * 100 <= diff.undone_before * SHRINK_PERCENT_MAX {
        return Ok(());
    }
    bail!(
        "the manifest has shrunk: loading it would cancel {} of {} not yet done. If that is meant, say --prune; \
         nothing was changed",
        diff.cancelled,
        text::count(diff.undone_before, "job")
    )
}

/// What a load does, for a person.
pub(super) fn diff_lines(diff: &LoadDiff) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = |n: u64, what: &str| {
        if n > 0 {
            parts.push(format!("{} {what}", text::grouped(n)));
        }
    };
    part(diff.new, "new");
    part(diff.unchanged, "unchanged");
    part(diff.changed, "changed");
    part(diff.kept, "changed but kept as made");
    part(diff.returned, "back in the manifest");
    part(diff.renamed, "only renamed");
    part(diff.cancelled, "cancelled (no longer in the manifest)");
    let mut lines = vec![format!("{}: {}", text::count(diff.total, "job"), parts.join(", "))];
    if diff.changed + diff.kept > 0 {
        let fields = diff.fields.iter().map(|(field, n)| format!("{field} in {}", text::count(*n, "job")));
        lines.push(format!("changed: {}", fields.collect::<Vec<_>>().join(", ")));
        for (job, fields) in &diff.examples {
            let fields: Vec<&str> = fields.iter().map(|field| field.as_str()).collect();
            lines.push(format!("  {}: {}", printable(job), fields.join(", ")));
        }
    }
    if diff.changed_done > 0 {
        lines.push(format!(
            "{} done and will be made, and paid, again; --keep-changed keeps what was made",
            match diff.changed_done {
                1 => "1 of them was".to_owned(),
                n => format!("{} of them were", text::grouped(n)),
            }
        ));
    }
    lines
}

/// Keeps the digests of reference images for the next run.
pub(super) async fn save_digests(queue: &dyn Queue, digests: &DigestCache) -> Result<()> {
    Ok(queue.save_reference_stamps(digests.entries().cloned().collect()).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::SpecField;

    #[test]
    fn a_manifest_may_shrink_by_a_fifth_of_what_is_not_done() {
        let diff = |cancelled, undone_before| LoadDiff { cancelled, undone_before, ..LoadDiff::default() };
        assert!(check_shrink(&diff(0, 0), false).is_ok());
        assert!(check_shrink(&diff(20, 100), false).is_ok());
        let error = check_shrink(&diff(21, 100), false).expect_err("stopped");
        assert!(
            error.to_string().contains("21 of 100 jobs") && error.to_string().contains("--prune"),
            "{error}"
        );
        assert!(check_shrink(&diff(100, 100), true).is_ok());
    }

    #[test]
    fn a_load_says_what_changed_and_what_it_costs() {
        let diff = LoadDiff {
            total: 40,
            new: 3,
            unchanged: 35,
            changed: 2,
            changed_done: 1,
            fields: [(SpecField::Prompt, 2)].into(),
            examples: vec![("hero".to_owned(), vec![SpecField::Prompt, SpecField::Model])],
            ..LoadDiff::default()
        };
        let expect = [
            "40 jobs: 3 new, 35 unchanged, 2 changed",
            "changed: prompt in 2 jobs",
            "  hero: prompt, model",
            "1 of them was done and will be made, and paid, again; --keep-changed keeps what was made",
        ];
        assert_eq!(diff_lines(&diff), expect);
    }
}
