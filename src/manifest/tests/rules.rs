//! The keys of a job, the defaults, ids and references.

use serde_json::json;

use super::*;
use crate::job::{Digest, MediaType, Modalities};

#[test]
fn every_key_arrives() {
    let outcome = Fixture::new().read(
        "x.yaml",
        yaml_job(
            "id: hero\nprompt: a cat\nreferences: [refs/a.png, ./refs/b.jpg]\nmodel: gemini-3-pro-image\n\
             aspect_ratio: '4:3'\nimage_size: 2K\nmodalities: [text, IMAGE]\nstream: true\n\
             output: '{{ tags.locale }}/{{ id }}'\ntags: {locale: de}\npriority: -5\nextra: {a: {b: [1, 2.5, x, null]}}",
        ),
    );
    let job = outcome.job();
    assert_eq!((job.name.as_str(), job.ordinal, job.stream, job.priority), ("hero", 0, true, -5));
    assert_eq!(job.output.as_str(), "de/hero");
    assert_eq!(job.spec.model.as_str(), "gemini-3-pro-image");
    assert_eq!(job.spec.image_size.as_deref(), Some("2K"));
    assert_eq!(job.spec.modalities, Modalities::TextImage);
    assert_eq!(serde_json::Value::from(job.spec.extra.clone()), json!({"a": {"b": [1, 2.5, "x", null]}}));
    assert_eq!(job.spec.references[0].digest, Digest::of(PNG));
    assert_eq!(job.spec.references[1].media, MediaType::WebP);
    assert!(job.spec.references.iter().all(|one| one.path.is_absolute()));
    assert_eq!(outcome.warnings, "");
}

#[test]
fn what_is_not_given_has_the_documented_default() {
    let outcome = Fixture::new().read("x.yaml", yaml_job("prompt: a cat\nid: x"));
    let job = outcome.job();
    assert_eq!(job.spec.model.as_str(), "gemini-3.1-flash-image");
    assert_eq!(job.spec.modalities, Modalities::Image);
    assert_eq!((&job.spec.aspect_ratio, &job.spec.image_size), (&None, &None));
    assert!(job.stream && job.tags.is_empty() && job.spec.extra.is_empty());
    let pro = Fixture::new().read("x.yaml", yaml_job("prompt: a cat\nmodel: gemini-3-pro-image"));
    assert!(!pro.job().stream);
}

#[test]
fn the_command_lines_model_fills_in_jobs_that_name_none() {
    let fixture = Fixture { model: Some("gemini-2.5-flash-image"), ..Fixture::new() };
    let models = |text: &str| -> Vec<String> {
        fixture.read("x.yaml", text).jobs.iter().map(|job| job.spec.model.to_string()).collect()
    };
    let jobs = "jobs:\n- prompt: a\n- {prompt: b, model: gemini-3-pro-image}\n";
    assert_eq!(models(&format!("version: 1\n{jobs}")), ["gemini-2.5-flash-image", "gemini-3-pro-image"]);
    let defaults = "defaults: {model: gemini-3.1-flash-image}\n";
    assert_eq!(
        models(&format!("version: 1\n{defaults}{jobs}")),
        ["gemini-3.1-flash-image", "gemini-3-pro-image"]
    );
}

#[test]
fn defaults_fill_in_and_tags_and_extra_are_merged() {
    let outcome = Fixture::new().read(
        "x.yaml",
        "version: 1\njobs:\n- {id: a}\n- {id: b, prompt: dog, references: [], tags: {x: '9', z: '3'}, extra: {p: {r: 2}}}\n\
         defaults: {prompt: cat, references: refs/a.png, tags: {x: '1', y: '2'}, extra: {p: {q: 1}, s: 1}, output: 'o/{{ id }}', priority: 3, stream: false}\n",
    );
    assert_eq!(outcome.names(), ["a", "b"]);
    let [a, b] = &outcome.jobs[..] else { panic!("{outcome:?}") };
    assert_eq!((a.spec.prompt.as_str(), a.spec.references.len(), a.priority, a.stream), ("cat", 1, 3, false));
    assert_eq!((b.spec.prompt.as_str(), b.spec.references.len(), b.output.as_str()), ("dog", 0, "o/b"));
    let tags: Vec<_> = b.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(tags, ["x=9", "y=2", "z=3"]);
    assert_eq!(serde_json::Value::from(b.spec.extra.clone()), json!({"p": {"q": 1, "r": 2}, "s": 1}));
    check_yaml(
        "version: 1\ndefaults: {id: x, promt: y}\njobs: [{prompt: a}]\n",
        &[
            "2:12: `id` cannot stand in `defaults`: every job needs one of its own",
            "2:19: unknown key `promt`, did you mean `prompt`?",
        ],
    );
}

#[test]
fn an_error_in_the_defaults_is_reported_once() {
    check_yaml(
        "version: 1\ndefaults: {references: [refs/none.png], model: 'a b', priority: x}\njobs: [{prompt: a}, {prompt: b}]\n",
        &[
            "2:25: the reference `refs/none.png`: cannot read it: No such file or directory (os error 2)",
            "2:48: `model` `a b`: a model's name has 1 to 100 letters, digits, `.`, `_` or `-`",
            "2:65: `priority` must be a whole number of 32 bits, found the text `x`",
        ],
    );
}

#[test]
fn the_top_level_must_be_complete() {
    let check = |text: &str, expect: &str| {
        let errors = Fixture::new().read("x.yaml", text).errors;
        assert_eq!(errors, format!("x.yaml:{expect}"), "{text}");
    };
    check("jobs: [{prompt: a}]", "1:1: `version` is missing; add `version: 1`");
    check("version: 2\njobs: [{prompt: a}]", "1:10: this program reads `version: 1`, found the number `2`");
    check("version: '1'\njobs: [{prompt: a}]", "1:10: this program reads `version: 1`, found the text `1`");
    check(
        "version: 1\nmodel: x\njobs: [{prompt: a}]",
        "2:1: `model` belongs to a job or under `defaults:`, not to the top level",
    );
    check("version: 1\n", "1:1: `jobs` is missing; add the list of jobs under `jobs:`");
    check("version: 1\njobs: []\n", "2:7: the manifest has no jobs; it needs one at least");
    check("version: 1\njobs: {}\n", "2:7: `jobs` must be a list, found a mapping");
    check("version: 1\njobs: [cat]\n", "2:8: a job is a mapping with a `prompt`, found the text `cat`");
    check("- prompt: a", "1:1: a manifest is a mapping with `version: 1` and `jobs:`, found a list");
    check("# nothing\n", "1:1: the manifest has no jobs; it needs one at least");
    check(
        "version: 1\ndefault: {}\njobs: [{prompt: a}]",
        "2:1: unknown key `default`, did you mean `defaults`?",
    );
    check(
        "version: 1\ndefaults: x\njobs: [{prompt: a}]",
        "2:11: `defaults` must be a mapping of job keys, found the text `x`",
    );
    check(
        "version: 1\njobs: [{prompt: a}]\n---\nx: 1",
        "3:1: a second YAML document begins here; a manifest is one document",
    );
}

#[test]
fn unknown_keys_are_errors_with_a_suggestion_or_the_list() {
    check_job("promt: a\nprompt: b", "4:5: unknown key `promt`, did you mean `prompt`?");
    check_job("aspectRatio: a\nprompt: b", "unknown key `aspectRatio`, did you mean `aspect_ratio`?");
    check_job("zzz: a\nprompt: b", "unknown key `zzz`; known keys are id, prompt, references, model");
    check_job("\"a\\e[2J\": a\nprompt: b", "unknown key `a\\u{1b}[2J`");
}

#[test]
fn all_errors_come_at_once_in_the_order_of_the_file() {
    check_yaml(
        "version: 3\njobs:\n- id: a\n  prompt: no\n  references: [refs/none.png, refs/no.png, refs]\n  stream: maybe\n- id: a\n  prompt: ''\n  modalities: [AUDIO]\n  output: ../x\n",
        &[
            "1:10: this program reads `version: 1`, found the number `3`",
            "4:11: `prompt` must be text, found the boolean `no`; put it in quotes: \"no\"",
            "5:16: the reference `refs/none.png`: cannot read it: No such file or directory (os error 2)",
            "5:31: the reference `refs/no.png`: it is no PNG, JPEG or WebP by its bytes; it begins with `<!doctype ht`",
            "5:44: the reference `refs`: it is not a regular file",
            "6:11: `stream` must be true or false, found the text `maybe`",
            "7:7: the id `a` is already taken by job 1 on line 3; ids are unique",
            "8:11: the prompt is empty",
            "9:15: `modalities` must be [IMAGE] or [TEXT, IMAGE], found `AUDIO`",
            "10:11: the output of job `a`: `../x`: a name must not contain `..` or `.` as a part: it could leave the folder",
        ],
    );
    // A prompt under a wrong name is one mistake, not two.
    check_yaml("version: 1\njobs:\n- promt: x\n", &["3:3: unknown key `promt`, did you mean `prompt`?"]);
    check_yaml(
        "version: 1\njobs:\n- id: a\n  prompt: ''\n  output: ../x\n- id: b\n  prompt: x: y\n",
        &[
            "4:11: the prompt is empty",
            "5:11: the output of job `a`: `../x`: a name must not contain `..` or `.` as a part: it could leave the folder",
            "7:12: YAML: mapping values are not allowed in this context; a text with `: ` in it needs quotes",
        ],
    );
}

#[test]
fn each_key_says_what_it_takes() {
    let check = |line: &str, expect: &str| check_job(&format!("prompt: cat\n{line}"), expect);
    check("modalities: [TEXT]", "`modalities` must be [IMAGE] or [TEXT, IMAGE], found `TEXT`");
    check("modalities: []", "`modalities` must be");
    check("extra: {contents: []}", "`extra` cannot have `contents`");
    check("modalities: {a: 1}", "found a mapping");
    check("modalities: image", "");
    check("modalities: [Image, text]", "");
    check("stream: yes", "`stream` must be true or false, found the boolean `yes`");
    check("stream: \"true\"", "`stream` must be true or false, found the text `true`");
    check("template: 1", "`template` must be true or false");
    check("priority: 2147483648", "`priority` must be a whole number of 32 bits");
    check("priority: 1.5", "`priority` must be");
    check("aspect_ratio: ''", "`aspect_ratio` is empty");
    check("image_size: 512", "`image_size` must be text, found the number `512`; put it in quotes: \"512\"");
    check("image_size: \"512\"", "");
    check("extra: [1]", "`extra` must be a mapping");
    check("extra: {a: yes}", "`yes` can be text or a truth value");
    check("extra: {a: 007}", "the number `007` is none that JSON can hold");
    check("extra: {a: {b: 1}, c: true}", "");
    check("model: a/b", "`model` `a/b`: a model's name has");
    check("id: \" x\"", "`id` ` x`: an id must not begin or end with a blank");
    check("references: [42]", "`references` must be text, found the number `42`");
    check("references: ['']", "a reference is empty");
    check("references: ['https://x.test/a.png']", "is a URL; download it");
    check(&format!("references: [{}]", "refs/a.png, ".repeat(101)), "101 references; a job may have 100");
    check(
        &format!("tags: {{{}}}", (0..201).map(|n| format!("t{n}: x")).collect::<Vec<_>>().join(", ")),
        "201 tags; a job may have 200",
    );
    check("output: '{{ id '", "`output` `{{ id ` is no pattern: syntax error");
    check("output: '{{ tags.x }}'\nid: y", "`tags.x` has no value: this job has no tags");
}

#[test]
fn an_output_pattern_of_the_defaults_is_wrong_for_the_job_that_lacks_a_tag() {
    check_yaml(
        "version: 1\ndefaults: {output: '{{ tags.locale }}/{{ id }}'}\njobs:\n- {id: a, prompt: x, tags: {locale: de}}\n- {id: b, prompt: x, tags: {local: de}}\n",
        &[
            "5:3: the output of job `b`: `{{ tags.locale }}/{{ id }}` cannot be filled in: `tags.locale` has no value, did you mean `tags.local`; this job's tags are `local`",
        ],
    );
}

#[test]
fn a_prompt_is_a_template_only_where_the_job_asks_for_it() {
    let prompt = |lines: &str| Fixture::new().read("x.yaml", yaml_job(lines)).job().spec.prompt.clone();
    assert_eq!(prompt("prompt: 'a {{ cat }} {% if'"), "a {{ cat }} {% if");
    assert_eq!(
        prompt("id: x\nprompt: '{{ tags.animal }} {{ id }}'\ntags: {animal: cat}\ntemplate: true"),
        "cat x"
    );
    check_job("prompt: 'a {{ cat }}'\ntemplate: true", "4:13: the prompt as a template: `cat` is unknown");
    check_job("prompt: 'a {{ id }}'\ntemplate: true", "this job's id is made from its prompt; give it an id");
    check_job("prompt: '{{ tags.x }}'\ntags: {x: ' '}\ntemplate: true", "the prompt is empty");
}

#[test]
fn a_job_without_an_id_is_named_by_its_content_and_never_by_its_place() {
    let fixture = Fixture::new();
    let names = |text: &str| -> Vec<String> {
        fixture.read("x.csv", text).names().iter().map(|&name| name.to_owned()).collect()
    };
    let before = names("prompt\na black cat\na black cat\nein Hündchen\n");
    assert!(
        before[0].starts_with("a-black-cat-") && before[0].len() == "a-black-cat-".len() + 8,
        "{before:?}"
    );
    assert_eq!(before[1], format!("{}-2", before[0]));
    assert!(before[2].starts_with("ein-hundchen-"), "{before:?}");
    let after = names("prompt\nnew on top\na black cat\na black cat\nein Hündchen\n");
    assert_eq!(after[1..], before[..]);
    let taken = fixture.read("x.csv", format!("id,prompt\n,a black cat\n{},x\n", before[0]));
    assert!(
        taken.errors.contains("x.csv:3:1: the id")
            && taken.errors.contains("is already taken by job 1 on line 2"),
        "{taken:?}"
    );
}

#[test]
fn warnings_stop_nothing_and_equal_ones_collapse() {
    let jobs: Vec<_> = (0..42).map(|n| format!("- {{id: j{n}, prompt: x, aspect_ratio: '21:9'}}")).collect();
    let jobs = jobs.join("\n");
    let outcome = Fixture::new().read("x.yaml", format!("version: 1\njobs:\n{jobs}"));
    assert_eq!(outcome.jobs.len(), 42);
    assert_eq!(
        outcome.warnings,
        "x.yaml:3:37: aspect_ratio `21:9` is not documented for gemini-3.1-flash-image; documented are 1:1, 4:3, 3:4, 16:9, 9:16; Google itself takes it (and 41 more like it)"
    );
    let text = yaml_job("prompt: x\nmodel: gemini-3.1-flash-image-preview\nreferences: [refs/a.png]");
    let outcome = Fixture::new().read("x.yaml", text);
    assert_eq!(
        outcome.warnings,
        "x.yaml:5:12: Google shut the model `gemini-3.1-flash-image-preview` down on 2026-06-25; its successor is `gemini-3.1-flash-image`"
    );
    let text = yaml_job(
        "prompt: x\nmodel: gemini-2.5-flash-image\nreferences: [refs/a.png, refs/a.png, refs/a.png, refs/b.jpg]",
    );
    let outcome = Fixture::new().read("x.yaml", text);
    assert_eq!(outcome.warnings, "x.yaml:5:12: 4 references; gemini-2.5-flash-image takes 3 at most");
}

#[test]
fn large_files_and_requests_are_warned_of_and_too_large_ones_are_errors() {
    let fixture = Fixture { request_bytes_max: 20_000_000, ..Fixture::new() };
    let large = |name: &str, bytes: u64| {
        let path = fixture.path().join("refs").join(name);
        fs::write(&path, PNG).expect("written");
        fs::File::options().write(true).open(&path).and_then(|file| file.set_len(bytes)).expect("grown");
    };
    large("seven.png", 7_500_000);
    large("fourteen.png", 14_000_000);
    large("huge.png", 20_000_001);
    let read = |list: &str| fixture.read("x.yaml", yaml_job(&format!("prompt: x\nreferences: [{list}]")));
    let outcome = read("refs/seven.png");
    assert!(outcome.warnings.contains("has 7.5 MB; above 7 MB it may be refused"), "{outcome:?}");
    let outcome = read("refs/fourteen.png");
    assert!(outcome.warnings.contains("the request has about 18.7 MB; above 18 MB"), "{outcome:?}");
    let outcome = read("refs/seven.png, refs/seven.png, refs/seven.png");
    assert!(outcome.errors.contains("x.yaml:4:5: the request would have about 30001"), "{outcome:?}");
    assert!(outcome.errors.contains("at most 20000000 are allowed (`--max-request-bytes`)"), "{outcome:?}");
    let outcome = read("refs/huge.png");
    assert!(outcome.errors.contains("its 20000001 bytes are more than a request may have"), "{outcome:?}");
}

#[test]
fn nothing_is_handed_on_after_an_error() {
    let outcome =
        Fixture::new().read("x.jsonl", "{\"prompt\":\"a\"}\n{\"prompt\":\"\"}\n{\"prompt\":\"c\"}\n");
    assert_eq!(outcome.jobs.len(), 1);
    assert_eq!(outcome.errors, "x.jsonl:2:11: the prompt is empty");
}

#[test]
fn models_that_stand_in_are_a_list_without_the_jobs_own() {
    let fixture = Fixture::new();
    let check = |name: &str, text: &str, expect: &[&str]| {
        let outcome = fixture.read(name, text);
        let found: Vec<_> = outcome.job().fallback_models.iter().map(ModelName::as_str).collect();
        assert_eq!(found, expect, "{text}");
    };
    check("x.jsonl", r#"{"prompt": "a"}"#, &[]);
    check(
        "x.yaml",
        "version: 1\ndefaults: { fallback_models: [gemini-3.1-flash-image, gemini-2.5-flash-image] }\n\
         jobs: [{ prompt: a, model: gemini-2.5-flash-image }]\n",
        &["gemini-3.1-flash-image"],
    );
    check(
        "x.csv",
        "prompt,fallback_models\na,gemini-3-pro-image; gemini-2.5-flash-image;gemini-3-pro-image\n",
        &["gemini-3-pro-image", "gemini-2.5-flash-image"],
    );
    check_job("prompt: a\nfallback_models: gemini-3-pro-image", "`fallback_models` must be a list of models");
    check_job("prompt: a\nfallback_models: [no such/model]", "`fallback_models`");
}
