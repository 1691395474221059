//! Readers of the four formats: `cargo bench --bench manifest`. Each reads, checks and hands over
//! every job, as the first of the two passes of a load does.

#![allow(clippy::expect_used, reason = "a bench that fails says so")]

use std::fmt::Write as _;
use std::hint::black_box;

use divan::Bencher;
use divan::counter::BytesCount;
use nightpress::job::Provider;
use nightpress::manifest::{DigestCache, ReadOptions, Source, read};

const JOBS: u32 = 10_000;
/// A document is held as a tree; a stream is not.
const JOBS_OF_DOCUMENT: u32 = 2_000;
const REQUEST_BYTES_MAX: u64 = 20 << 20;

fn prompt(n: u32) -> String {
    format!("A bottle of mineral water number {n} on wet slate, morning light, soft shadows, no text")
}

fn jsonl(jobs: u32) -> String {
    let mut text = String::new();
    for n in 0..jobs {
        let prompt = prompt(n);
        let line = r#""aspect_ratio":"16:9","output":"{{ tags.locale }}/{{ id }}","tags":{"locale":"de"}"#;
        writeln!(text, r#"{{"id":"product-{n:07}","prompt":"{prompt}",{line}}}"#)
            .expect("a String takes all");
    }
    text
}

/// Without ids: they are made from prompt and digest.
fn jsonl_without_ids(jobs: u32) -> String {
    let mut text = String::new();
    for n in 0..jobs {
        writeln!(text, r#"{{"prompt":"{}"}}"#, prompt(n)).expect("a String takes all");
    }
    text
}

fn csv(jobs: u32) -> String {
    let mut text = "id,prompt,aspect_ratio,output,locale\n".to_owned();
    for n in 0..jobs {
        let prompt = prompt(n);
        writeln!(text, r#"product-{n:07},"{prompt}",16:9,{{{{ tags.locale }}}}/{{{{ id }}}},de"#)
            .expect("a String takes all");
    }
    text
}

fn json(jobs: u32) -> String {
    let lines = jsonl(jobs);
    let lines: Vec<&str> = lines.lines().collect();
    format!("{{\"version\":1,\"jobs\":[\n{}\n]}}\n", lines.join(",\n"))
}

fn yaml(jobs: u32) -> String {
    let mut text = "version: 1\ndefaults:\n  output: \"{{ tags.locale }}/{{ id }}\"\njobs:\n".to_owned();
    for n in 0..jobs {
        let prompt = prompt(n);
        writeln!(text, "  - id: product-{n:07}\n    prompt: {prompt}").expect("a String takes all");
        writeln!(text, "    aspect_ratio: \"16:9\"\n    tags: {{ locale: de }}").expect("a String takes all");
    }
    text
}

fn main() {
    divan::main();
}

fn bench(bencher: Bencher<'_, '_>, extension: &str, text: &str) {
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join(format!("bench.{extension}"));
    std::fs::write(&path, text).expect("writes");
    bencher.counter(BytesCount::of_str(text)).bench_local(|| {
        let mut digests = DigestCache::default();
        let options = ReadOptions {
            provider: Provider::Simulator,
            default_model: None,
            request_bytes_max: REQUEST_BYTES_MAX,
            today: jiff::civil::date(2026, 11, 1),
            digests: &mut digests,
        };
        let mut jobs = 0_u64;
        read(Source::File(path.clone()), options, &mut |job| jobs += u64::from(black_box(job).stream))
            .expect("a manifest without errors");
        jobs
    });
}

#[divan::bench]
fn of_jsonl(bencher: Bencher<'_, '_>) {
    bench(bencher, "jsonl", &jsonl(JOBS));
}

#[divan::bench]
fn of_jsonl_without_ids(bencher: Bencher<'_, '_>) {
    bench(bencher, "jsonl", &jsonl_without_ids(JOBS));
}

#[divan::bench]
fn of_csv(bencher: Bencher<'_, '_>) {
    bench(bencher, "csv", &csv(JOBS));
}

#[divan::bench]
fn of_json(bencher: Bencher<'_, '_>) {
    bench(bencher, "json", &json(JOBS_OF_DOCUMENT));
}

#[divan::bench]
fn of_yaml(bencher: Bencher<'_, '_>) {
    bench(bencher, "yaml", &yaml(JOBS_OF_DOCUMENT));
}
