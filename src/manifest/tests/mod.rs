//! Whole manifests in, jobs or diagnostics out.

mod formats;
mod fuzz;
mod rules;
mod traps;

use std::fs;
use std::path::Path;

use super::*;

/// What became of a manifest.
#[derive(Debug)]
struct Outcome {
    jobs: Vec<Job>,
    /// Without the folder, one a line.
    errors: String,
    warnings: String,
}

impl Outcome {
    fn job(&self) -> &Job {
        assert_eq!(self.errors, "");
        &self.jobs[0]
    }

    fn names(&self) -> Vec<&str> {
        assert_eq!(self.errors, "");
        self.jobs.iter().map(|job| job.name.as_str()).collect()
    }
}

/// A folder with a manifest and some pictures: `a.png` (a PNG), `b.jpg` (a WebP by its bytes),
/// `no.png` (HTML).
struct Fixture {
    dir: tempfile::TempDir,
    model: Option<&'static str>,
    provider: Provider,
    request_bytes_max: u64,
}

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let refs = dir.path().join("refs");
        fs::create_dir(&refs).expect("created");
        fs::write(refs.join("a.png"), PNG).expect("written");
        fs::write(refs.join("b.jpg"), b"RIFF\x10\0\0\0WEBPVP8 ").expect("written");
        fs::write(refs.join("no.png"), b"<!doctype html><p>404").expect("written");
        Self { dir, model: None, provider: Provider::Anyfast, request_bytes_max: 100 << 20 }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn read(&self, name: &str, bytes: impl AsRef<[u8]>) -> Outcome {
        let path = self.path().join(name);
        fs::write(&path, bytes).expect("written");
        self.read_source(Source::File(path))
    }

    fn read_source(&self, source: Source) -> Outcome {
        let mut jobs = Vec::new();
        let mut digests = DigestCache::default();
        let options = ReadOptions {
            provider: self.provider,
            default_model: self.model.map(|name| name.parse().expect("a model")),
            request_bytes_max: self.request_bytes_max,
            today: Date::constant(2026, 11, 20),
            digests: &mut digests,
        };
        let (errors, warnings) = match read(source, options, &mut |job| jobs.push(job)) {
            Ok(summary) => {
                assert_eq!(summary.jobs, jobs.len() as u64);
                (String::new(), summary.warnings.to_string())
            }
            Err(ManifestError::Invalid { errors, warnings }) => (errors.to_string(), warnings.to_string()),
            Err(other) => (other.to_string(), String::new()),
        };
        let folder = format!("{}/", self.path().display());
        let clean =
            |text: String| text.replace(&folder, "").replace(": error: ", ": ").replace(": warning: ", ": ");
        Outcome { jobs, errors: clean(errors), warnings: clean(warnings) }
    }
}

/// Reads `text` as YAML, and fails unless its errors are `expect`.
fn check_yaml(text: &str, expect: &[&str]) {
    let outcome = Fixture::new().read("x.yaml", text);
    let errors: Vec<_> = outcome.errors.lines().map(|line| line.trim_start_matches("x.yaml:")).collect();
    assert_eq!(errors, expect, "{text}");
}

/// Reads one job of these YAML lines, and fails unless the only error contains `expect`.
fn check_job(lines: &str, expect: &str) {
    let outcome = Fixture::new().read("x.yaml", yaml_job(lines));
    if expect.is_empty() {
        assert_eq!(outcome.errors, "", "{lines}");
    } else {
        assert_eq!(outcome.errors.lines().count(), 1, "{lines}: {}", outcome.errors);
        assert!(outcome.errors.contains(expect), "{lines}: {}", outcome.errors);
    }
}

/// A manifest with one job of these lines.
fn yaml_job(lines: &str) -> String {
    format!("version: 1\njobs:\n  -\n    {}\n", lines.replace('\n', "\n    "))
}
