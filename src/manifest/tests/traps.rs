//! What people get wrong without noticing.

use super::*;

#[test]
fn an_unquoted_scalar_that_is_no_text_is_an_error_under_a_text_key() {
    let check = |value: &str, expect: &str| check_job(&format!("prompt: {value}"), expect);
    for value in ["no", "yes", "on", "off", "true", "False"] {
        check(
            value,
            &format!("`prompt` must be text, found the boolean `{value}`; put it in quotes: \"{value}\""),
        );
    }
    for value in ["42", "1.5", "007", "0x1F", "1e3"] {
        check(value, &format!("4:13: `prompt` must be text, found the number `{value}`"));
    }
    for value in ["null", "~", ""] {
        check(value, "`prompt` is null");
    }
    for value in ["\"no\"", "'42'", "|\n  no", "!!str 42", "2026-06-25", "12 cats"] {
        check(value, "");
    }
    check_job("id: 42\nprompt: a cat", "4:9: `id` must be text, found the number `42`");
    check_job("model: 3\nprompt: a cat", "`model` must be text");
    check_job("output: 7\nprompt: a cat", "`output` must be text");
    check_job("prompt: [a, cat]", "`prompt` must be text, found a list");
}

#[test]
fn an_unquoted_ratio_passes() {
    let outcome = Fixture::new().read("x.yaml", yaml_job("prompt: cat\naspect_ratio: 16:9"));
    assert_eq!(outcome.job().spec.aspect_ratio.as_deref(), Some("16:9"));
    check_job("prompt: cat\naspect_ratio: 1:1", "");
}

#[test]
fn json_text_keys_take_text_only() {
    let check = |value: &str, expect: &str| {
        let text = format!("{{\"version\": 1, \"jobs\": [{{\"prompt\": {value}}}]}}");
        let outcome = Fixture::new().read("x.json", text);
        assert!(
            outcome.errors.starts_with("x.json:1:36: ") && outcome.errors.contains(expect),
            "{outcome:?}"
        );
    };
    check("42", "found the number `42`");
    check("null", "`prompt` is null");
    check("true", "found the boolean `true`");
}

#[test]
fn a_prompt_that_a_comment_cut_short_is_warned_of() {
    let warnings = |lines: &str| Fixture::new().read("x.yaml", yaml_job(lines)).warnings;
    let warning = warnings("prompt: cat #1");
    assert!(
        warning.starts_with("x.yaml:4:13: the prompt ends after `cat`: YAML takes what follows"),
        "{warning}"
    );
    assert!(warnings("prompt: a\n  cat #1\nid: x").contains("ends after `a cat`"));
    for fine in [
        "prompt: 'cat' # one",
        "prompt: cat#1",
        "prompt: | # text\n  cat #1",
        "prompt: cat\n# one",
        "# one\nprompt: cat\nid: x # one",
    ] {
        assert_eq!(warnings(fine), "", "{fine}");
    }
}

#[test]
fn tags_keep_the_text_as_it_was_written() {
    let text = yaml_job("prompt: cat\ntags: {locale: no, sku: 007, price: 1.10, on: 'x', date: 2026-01-02}");
    let outcome = Fixture::new().read("x.yaml", text);
    let tags: Vec<_> = outcome.job().tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(tags, ["date=2026-01-02", "locale=no", "on=x", "price=1.10", "sku=007"]);
    let json = r#"{"prompt": "cat", "tags": {"a": 1.10, "b": true, "c": "x"}}"#;
    let outcome = Fixture::new().read("x.jsonl", json);
    let tags: Vec<_> = outcome.job().tags.values().map(String::as_str).collect();
    assert_eq!(tags, ["1.10", "true", "x"]);
    check_job("prompt: cat\ntags: {a: }", "the tag `a` must have a text, found null");
    check_job("prompt: cat\ntags: {a: [1]}", "the tag `a` must have a text, found a list");
    check_job("prompt: cat\ntags: x", "`tags` must be a mapping");
}

#[test]
fn a_prompt_is_kept_byte_for_byte() {
    let check = |name: &str, text: &str, expect: &str| {
        assert_eq!(Fixture::new().read(name, text).job().spec.prompt, expect);
    };
    check("x.yaml", &yaml_job("prompt: \"  a {{ cat }}\\n \""), "  a {{ cat }}\n ");
    check("x.yaml", &yaml_job("prompt: |\n  a\n\n  b"), "a\n\nb\n");
    check("x.csv", "id,prompt\nx,\"  a \"\"cat\"\",\r\nü \"\n", "  a \"cat\",\r\nü ");
    check("x.csv", "id,prompt\nx,  a 5\" cat \r\n", "  a 5\" cat ");
    check("x.jsonl", "{\"prompt\": \" a\\ud83d\\ude00\\t\u{2028} \"}", " a😀\t\u{2028} ");
}

#[test]
fn an_empty_prompt_is_an_error() {
    check_job("prompt: ''", "4:13: the prompt is empty");
    check_job("prompt: \" \\n\"", "the prompt is empty");
    check_job("id: hero", "4:5: this job has no `prompt`");
    check_job("prompt: \"a\\0b\"", "`prompt` must not contain a NUL");
    check_job(&format!("prompt: {}", "x ".repeat(1 << 20)), "the prompt has 2097151 bytes; at most 1048576");
}

#[test]
fn names_that_would_leave_the_folder_or_collide_are_errors() {
    let check =
        |value: &str, expect: &str| check_job(&format!("prompt: cat\nid: x\noutput: \"{value}\""), expect);
    check("../../etc/x", "6:13: the output of job `x`: `../../etc/x`: a name must not contain `..`");
    check("/etc/x", "a name must be relative");
    check("C:\\\\x", "must not contain `:`");
    check("con", "a device's name on Windows");
    check("a.png/b", "a folder must not end in `.png`");
    check("de/{{ id }}", "");
    check_yaml(
        "version: 1\njobs:\n- {id: Hero, prompt: a}\n- {id: a, prompt: a, output: b}\n- {id: hero, prompt: b}\n- {id: c, prompt: c, output: B}\n- {id: b/c, prompt: d}\n",
        &[
            "5:3: the output of job `hero`: `hero` is the same file as that of job 1 on line 3 (upper and lower case are one on many disks)",
            "6:30: the output of job `c`: `B` is the same file as that of job 2 on line 4 (upper and lower case are one on many disks)",
        ],
    );
    let outcome = Fixture::new().read("x.yaml", yaml_job("prompt: cat\nid: x\noutput: x.PNG"));
    assert!(outcome.warnings.contains("6:13: `output` ends in `.png`"), "{outcome:?}");
}

#[test]
fn what_is_not_text_gets_one_error_that_says_so() {
    let check = |name: &str, bytes: &[u8], expect: &str| {
        let outcome = Fixture::new().read(name, bytes);
        assert_eq!(outcome.errors, format!("{name}:{expect}"));
    };
    for name in ["x.yaml", "x.json", "x.jsonl", "x.csv"] {
        check(name, b"", "1:1: the manifest has no jobs; it needs one at least");
        check(name, b" \n\n", "1:1: the manifest has no jobs; it needs one at least");
        check(name, b"\xff\xfei\0d\0", "1:1: the file is UTF-16; save it as UTF-8");
        check(
            name,
            b"\x89PNG\r\n\x1a\n",
            "1:1: the file is a picture, not text; a manifest is YAML, JSON, JSONL or CSV",
        );
        let nul = "there is a NUL byte here: the file is binary or UTF-16; save it as UTF-8 text";
        check(name, b"\n\0\n", &format!("2:1: {nul}"));
    }
    check(
        "x.csv",
        b"prompt\ncat\nna\xefve\n",
        "3:3: the byte 0xef is not valid UTF-8 here; save the file as UTF-8",
    );
}

#[test]
fn what_cannot_be_read_or_has_an_unknown_format_is_told() {
    let fixture = Fixture::new();
    let missing = fixture.read_source(Source::File(fixture.path().join("none.yaml")));
    assert_eq!(missing.errors, "cannot read the manifest none.yaml");
    fs::create_dir(fixture.path().join("d.yaml")).expect("created");
    let folder = fixture.read_source(Source::File(fixture.path().join("d.yaml")));
    assert_eq!(folder.errors, "cannot read the manifest d.yaml");
    assert!(
        fixture
            .read("x.txt", "")
            .errors
            .starts_with("cannot tell the format of x.txt by its name; use .yaml")
    );
}

#[test]
fn a_document_above_the_bound_is_refused_by_its_size_and_a_table_is_not() {
    let fixture = Fixture::new();
    for (name, is_refused) in [("x.yaml", true), ("x.json", true), ("x.jsonl", false)] {
        let file = fs::File::create(fixture.path().join(name)).expect("created");
        file.set_len(DOCUMENT_BYTES_MAX + 1).expect("grown");
        let errors = fixture.read_source(Source::File(fixture.path().join(name))).errors;
        let expect = format!("{name} has more than 128 MiB; use JSONL or CSV for a manifest of that size");
        assert_eq!(errors == expect, is_refused, "{errors}");
    }
}
