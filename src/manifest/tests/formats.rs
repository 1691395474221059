//! What each format has of its own.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

#[test]
fn the_four_formats_say_the_same() {
    let fixture = Fixture::new();
    let json = r#"{"id": "a", "prompt": "x, \"y\"", "references": ["refs/a.png", "refs/b.jpg"], "modalities": ["TEXT", "IMAGE"], "stream": false, "tags": {"locale": "de"}, "priority": 2, "extra": {"k": [1]}, "output": "{{ tags.locale }}/{{ id }}"}"#;
    let csv = "id,prompt,references,modalities,stream,locale,priority,extra,output\r\n\
               a,\"x, \"\"y\"\"\",refs/a.png; refs/b.jpg,TEXT+IMAGE,FALSE,de,2,\"{\"\"k\"\": [1]}\",{{ tags.locale }}/{{ id }}\r\n";
    let numbered = "id,prompt,reference_2,reference_1,modalities,stream,locale,priority,extra,output\n\
                    a,\"x, \"\"y\"\"\",refs/b.jpg,refs/a.png,\"TEXT,IMAGE\",false,de,2,\"{\"\"k\"\": [1]}\",{{ tags.locale }}/{{ id }}\n";
    let whole = format!("{{\"version\": 1, \"jobs\": [{json}]}}");
    let expect = fixture.read("x.jsonl", json).job().clone();
    for (name, text) in [
        ("x.yaml", whole.as_str()),
        ("x.json", &whole),
        ("x.csv", csv),
        ("y.csv", numbered),
        ("x.ndjson", json),
    ] {
        for bom in ["", "\u{feff}"] {
            let outcome = fixture.read(name, format!("{bom}{text}"));
            assert_eq!(outcome.job(), &expect, "{name}");
            assert_eq!(outcome.warnings, "", "{name}");
        }
        let outcome = fixture.read(name, text.replace("\r\n", "\n").replace('\n', "\r\n"));
        assert_eq!(outcome.job(), &expect, "{name}");
    }
    let input = Box::new(io::Cursor::new(json.as_bytes().to_vec()));
    let folder = fixture.path().to_owned();
    assert_eq!(fixture.read_source(Source::Stdin { input, folder }).job(), &expect);
}

#[test]
fn a_jsonl_header_sets_up_the_lines_below_it() {
    let fixture = Fixture::new();
    let outcome = fixture
        .read("x.jsonl", "\n{\"version\": 1, \"defaults\": {\"priority\": 4}}\n\n{\"prompt\": \"a\"}\n");
    assert_eq!((outcome.jobs.len(), outcome.job().priority, outcome.job().ordinal), (1, 4, 0));
    let wrong =
        fixture.read("x.jsonl", "{\"version\": 2, \"jobs\": []}\n{\"prompt\": \"a\"}\n{\"version\": 1}\n");
    assert_eq!(
        wrong.errors,
        "x.jsonl:1:13: this program reads `version: 1`, found the number `2`\n\
         x.jsonl:1:24: JSONL has no `jobs`: each job is a line of its own\n\
         x.jsonl:3:1: this job has no `prompt`\n\
         x.jsonl:3:2: unknown key `version`; known keys are id, prompt, references, model, fallback_models, aspect_ratio, image_size, modalities, stream, output, tags, priority, extra, template"
    );
    let job = fixture.read("x.jsonl", "{\"version\": 1, \"prompt\": \"a\"}\n");
    assert!(job.errors.starts_with("x.jsonl:1:2: unknown key `version`"), "{job:?}");
    let only = fixture.read("x.jsonl", "{\"version\": 1}\n");
    assert_eq!(only.errors, "x.jsonl:1:1: the manifest has no jobs; it needs one at least");
}

#[test]
fn a_broken_jsonl_line_spoils_itself_only() {
    let outcome = Fixture::new()
        .read("x.jsonl", "{\"prompt\": \"a\"\n[1]\n{\"prompt\": 1, \"id\": \"a\", \"id\": \"b\"}\nnull\n");
    let lines: Vec<_> = outcome.errors.lines().collect();
    assert_eq!(lines.len(), 5, "{lines:#?}");
    assert!(lines[0].starts_with("x.jsonl:1:15: JSON: expected `,` or `}`"), "{lines:#?}");
    assert!(
        lines[1].starts_with("x.jsonl:2:1: a job is a mapping with a `prompt`, found a list"),
        "{lines:#?}"
    );
    assert!(lines[2].starts_with("x.jsonl:3:12: `prompt` must be text"), "{lines:#?}");
    assert!(lines[3].starts_with("x.jsonl:3:26: the key `id` was given before"), "{lines:#?}");
    assert!(
        lines[4].starts_with("x.jsonl:4:1: a job is a mapping with a `prompt`, found null"),
        "{lines:#?}"
    );
}

#[test]
fn a_csv_header_must_make_sense() {
    let check = |text: &str, expect: &str| {
        let errors = Fixture::new().read("x.csv", text).errors;
        assert!(errors.contains(expect), "{text}: {errors}");
    };
    check("promt\ncat\n", "x.csv:1:1: unknown column `promt`, did you mean `prompt`?");
    check("id,Prompt\nx,cat\n", "x.csv:1:4: unknown column `Prompt`, did you mean `prompt`?");
    check("prompt,id,id\na,b,c\n", "x.csv:1:11: the column `id` stands here twice, as 2 and 3");
    check("prompt,\na,b\n", "x.csv:1:8: column 2 has no name");
    check("a cat\na dog\n", "the first row must name the columns, and one of them must be `prompt`");
    check("id;prompt\nx;cat\n", "separated by semicolons here; save the table with commas");
    check("prompt\n", "the manifest has no jobs");
}

#[test]
fn a_table_has_a_bound_on_its_columns() {
    let table = |columns: usize| {
        let names = (1..columns).map(|n| format!(",t{n}")).collect::<Vec<_>>().concat();
        format!("prompt{names}\ncat,x{}\n", ",".repeat(columns - 2))
    };
    assert_eq!(Fixture::new().read("x.csv", table(1_000)).job().tags.len(), 1);
    let wide = Fixture::new().read("x.csv", table(1_001)).errors;
    assert!(wide.starts_with("x.csv:1:4895: more than 1000 columns; delete those"), "{wide}");
    let row = Fixture::new().read("x.csv", format!("prompt\n{}\n", ",".repeat(1_000_000))).errors;
    assert_eq!(row.lines().count(), 1, "{row}");
    assert!(row.starts_with("x.csv:2:1001: more than 1000 columns"), "{row}");
}

#[test]
fn unknown_csv_columns_are_tags_and_near_misses_are_warned_of() {
    let outcome =
        Fixture::new().read("x.csv", "prompt,aspect-ratio,locale,tags\ncat,16:9,de,\"{\"\"a\"\": 7}\"\n");
    let tags: Vec<_> = outcome.job().tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(tags, ["a=7", "aspect-ratio=16:9", "locale=de"]);
    assert_eq!(
        outcome.warnings,
        "x.csv:1:8: the column `aspect-ratio` becomes a tag; did you mean `aspect_ratio`?"
    );
}

#[test]
fn csv_rows_are_checked_cell_by_cell() {
    let outcome = Fixture::new().read(
        "x.csv",
        "id,prompt,stream,priority,extra\n\n,a,,,\nx,b\ny,\"c\nd\",maybe,high,[1]\n,,,,\nz,,true,1,{\n",
    );
    let lines: Vec<_> = outcome.errors.lines().collect();
    assert_eq!(
        lines,
        [
            "x.csv:4:1: this row has 2 cells where the header has 5; a cell with a comma needs quotes",
            "x.csv:6:4: `stream` must be true or false, found the text `maybe`",
            "x.csv:6:10: `priority` must be a whole number of 32 bits, found the text `high`",
            "x.csv:6:15: `extra` must be a mapping that is merged into the request, found a list",
            "x.csv:8:1: this job has no `prompt`",
            "x.csv:8:12: JSON: expected a key in double quotes; found the end",
        ]
    );
}

#[test]
fn an_unclosed_quote_is_reported_where_it_begins() {
    let outcome = Fixture::new().read("x.csv", "prompt\ncat\n\"dog\nbird\n");
    assert_eq!(outcome.errors, "x.csv:3:1: the quote that begins this cell is never closed");
}

#[test]
fn many_jobs_in_yaml_work() {
    let mut text = "version: 1\ndefaults: &d {tags: {a: b}}\njobs:\n".to_owned();
    for n in 0..5000 {
        let _ =
            writeln!(text, "  - id: job-{n}\n    prompt: A cat with {n} whiskers\n    aspect_ratio: 16:9");
    }
    assert_eq!(Fixture::new().read("x.yaml", text).jobs.len(), 5000);
}

#[test]
fn a_second_reading_takes_the_digests_from_the_cache() {
    let fixture = Fixture::new();
    let path = fixture.path().join("x.csv");
    fs::write(&path, "prompt,references\ncat,refs/a.png\ndog,refs/a.png\n").expect("written");
    let mut digests = DigestCache::default();
    let read_with = |digests: &mut DigestCache| {
        let options = ReadOptions {
            provider: Provider::Anyfast,
            default_model: None,
            request_bytes_max: 1 << 20,
            today: Date::constant(2026, 11, 20),
            digests,
        };
        let mut seen = Vec::new();
        read(Source::File(path.clone()), options, &mut |job| seen.push(job.spec.references[0].digest))
            .expect("valid");
        seen
    };
    let first = read_with(&mut digests);
    assert_eq!(first[0], first[1]);
    let kept: Vec<DigestEntry> = digests.entries().cloned().collect();
    assert_eq!(kept.len(), 1);
    let mut again = DigestCache::from_entries(kept);
    assert_eq!(read_with(&mut again), first);
    fs::write(fixture.path().join("refs/a.png"), [PNG, b"changed"].concat()).expect("written");
    assert_ne!(read_with(&mut again), first);
}

/// Bytes that look like a manifest often enough to get past the first character.
fn manifest_like() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "version: 1\n",
        "jobs:\n",
        "- ",
        "  ",
        "prompt: ",
        "prompt,",
        "id",
        "\"",
        "'",
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\n",
        "#",
        "&a ",
        "*a",
        "<<: ",
        "!!str ",
        "{{",
        "}}",
        "no",
        "42",
        "\r\n",
        "\u{feff}",
        "é",
        "|",
        ">",
        "\t",
        "{\"prompt\": \"a\"}",
        "\\u00",
        "-",
        "?",
        "%",
        "~",
        "refs/a.png",
        "tags: ",
        "template: true\n",
    ];
    let word = prop_oneof![
        9 => prop::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(word, 0..24).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in manifest_like()) {
        let fixture = Fixture::new();
        for name in ["x.yaml", "x.json", "x.jsonl", "x.csv"] {
            let outcome = fixture.read(name, &bytes);
            prop_assert!(!outcome.jobs.is_empty() || !outcome.errors.is_empty(), "{}", name);
        }
    }
}
