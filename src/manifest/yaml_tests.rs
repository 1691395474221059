//! YAML into raw nodes: what is read, what is refused, and what stays within bounds.

use serde_json::json;

use super::*;
use crate::manifest::value::to_json;

fn read(text: &str) -> (Option<serde_json::Value>, String) {
    let mut out = Collector::new("x.yaml".into());
    let parsed = parse(text, &mut out);
    let value = parsed.root.and_then(|root| to_json(&root, &mut out));
    (value, out.finish().0.to_string())
}

#[test]
fn anchors_aliases_and_merge_keys_work() {
    let text = "base: &base {a: x, b: {c: [1]}}\nother: &other {d: z, a: w}\n\
                one: {<<: *base, a: y}\ntwo: {<<: [*base, *other], e: *base}\nk: &k key\nm: {*k : 1}\n";
    let (value, errors) = read(text);
    assert_eq!(errors, "");
    let value = value.expect("reads");
    assert_eq!(value["one"], json!({"a": "y", "b": {"c": [1]}}));
    assert_eq!(value["two"]["d"], "z");
    assert_eq!(value["two"]["a"], "x");
    assert_eq!(value["two"]["e"], value["base"]);
    assert_eq!(value["m"], json!({"key": 1}));
}

#[test]
fn an_alias_bomb_is_an_error() {
    let mut lines = vec!["a0: &a0 [x, x, x, x, x, x, x, x, x, x]".to_owned()];
    for n in 1..12 {
        let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
        lines.push(format!("a{n}: &a{n} [{aliases}]"));
    }
    let (_, errors) = read(&lines.join("\n"));
    assert!(errors.contains("multiply the file too often"), "{errors}");
}

#[test]
fn more_values_than_a_manifest_can_have_are_an_error_of_one_line() {
    // Written out that would be a file of ten megabytes, and some seconds.
    let row = vec!["x"; 1_000].join(", ");
    let rows = vec!["*r"; 300].join(", ");
    let zeros = "0, ".repeat(200_000);
    let many = vec!["*s"; 30].join(", ");
    let (value, errors) = read(&format!("a: [{zeros}]\nr: &r [{row}]\ns: &s [{rows}]\njobs: [{many}]"));
    assert!(value.is_none());
    let place = errors.strip_suffix(&format!(": error: {TOO_MANY_NODES}")).unwrap_or_default();
    assert!(place.starts_with("x.yaml:4:"), "{errors}");
}

#[test]
fn nested_anchors_do_not_fill_the_memory() {
    let (depth, items) = (60, "0,".repeat(100_000));
    let open = (0..depth).map(|n| format!("&a{n} [")).collect::<Vec<_>>().concat();
    let (_, errors) = read(&format!("jobs: {open}{items}0{}", "]".repeat(depth)));
    assert!(errors.ends_with(TOO_MANY_NODES), "{errors}");
}

#[test]
fn aliases_cannot_nest_deeper_than_text() {
    let mut lines = vec!["a0: &a0 [x]".to_owned()];
    lines.extend((1..200).map(|n| format!("a{n}: &a{n} [*a{}]", n - 1)));
    let (_, errors) = read(&lines.join("\n"));
    assert!(errors.contains("more than 64 levels of nesting by this alias"), "{errors}");
}

#[test]
fn deep_nesting_is_an_error_and_no_stack_overflow() {
    for text in ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000)] {
        let (_, errors) = read(&text);
        assert!(errors.starts_with("x.yaml:1:"), "{errors}");
    }
}

#[test]
fn duplicate_keys_are_errors_with_both_lines() {
    let (_, errors) = read("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n");
    assert_eq!(
        errors,
        "x.yaml:4:3: error: the key `c` was given before on line 3; keep one of them\n\
         x.yaml:5:1: error: the key `a` was given before on line 1; keep one of them"
    );
}

#[test]
fn what_this_reader_does_not_take_is_said() {
    let check = |text: &str, expect: &str| {
        let (_, errors) = read(text);
        assert!(errors.contains(expect), "{text}: {errors}");
    };
    check("a: 1\n---\nb: 2\n", "x.yaml:2:1: error: a second YAML document");
    check("a: !secret x\n", "x.yaml:1:12: error: the YAML tag `!secret` is not known");
    check("? [a, b]\n: 1\n", "a key must be text");
    check("a: &a [*a]\n", "inside of what it stands for");
    check("a: *b\n", "x.yaml:1:4: error: YAML:");
    check("a: {<<: x}\n", "`<<` takes a mapping");
    check("a: [1\nb: 2\n", "error: YAML:");
    check(
        "a: x: y\n",
        "error: YAML: mapping values are not allowed in this context; a text with `: ` in it needs quotes",
    );
}

#[test]
fn what_stands_before_a_syntax_error_is_kept() {
    let (value, errors) = read("version: 1\njobs:\n- id: a\n- id: b\n- id: c\n  prompt: x: y\n");
    assert!(errors.starts_with("x.yaml:6:"), "{errors}");
    assert_eq!(value, Some(json!({"version": 1, "jobs": [{"id": "a"}, {"id": "b"}]})));
}

#[test]
fn a_long_commented_out_part_is_no_error() {
    let comments = "# - id: old\n".repeat(5000);
    let (value, errors) = read(&format!("a:\n{comments}  - 1\n{comments}"));
    assert_eq!((value, errors), (Some(json!({"a": [1]})), String::new()));
}
