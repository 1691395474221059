//! The house's own rules, checked on its source.

use std::fs;
use std::path::{Path, PathBuf};

const FLOORS: [&str; 10] =
    ["job", "manifest", "pacing", "queue", "gemini", "output", "worker", "report", "simulator", "cli"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("lists").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The floors that a file names as `crate::floor` or in `crate::{floor…, floor…}`.
fn imported_floors(text: &str) -> Vec<&str> {
    let word = |text: &'_ str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let mut floors = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            floors.push(&rest[..word(rest)]);
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if begins && depth == 0 && c.is_alphabetic() => {
                    floors.push(&group[at..at + word(&group[at..])]);
                    begins = false;
                }
                _ => {}
            }
        }
    }
    floors
}

#[test]
fn imports_are_seen_alone_and_in_groups() {
    let text = "use crate::job::{A, worker}; use crate::{gemini::{self, x}, output::B, cli}; crate::queue;";
    assert_eq!(imported_floors(text), ["job", "gemini", "output", "cli", "queue"]);
}

#[test]
fn a_floor_imports_nothing_from_a_floor_above_it() {
    let mut wrong = Vec::new();
    for (level, floor) in FLOORS.iter().enumerate() {
        for path in sources(&root().join("src").join(floor)) {
            let text = fs::read_to_string(&path).expect("reads");
            let imported = imported_floors(&text);
            for above in &FLOORS[level + 1..] {
                if imported.iter().any(|floor| floor == above) {
                    wrong.push(format!("{} imports {above}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn sql_lives_in_the_queue_alone() {
    for path in sources(&root().join("src")) {
        let text = fs::read_to_string(&path).expect("reads");
        let in_queue = path.starts_with(root().join("src/queue"));
        for driver in ["sqlx", "rusqlite"] {
            assert!(in_queue || !text.contains(driver), "{} speaks SQL", path.display());
        }
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for path in sources(&root().join("src")) {
        let text = fs::read_to_string(&path).expect("reads");
        assert!(text.starts_with("//! "), "{} has no module documentation", path.display());
    }
}

/// `path/to/file.rs::a_test` in a table of the documentation.
#[test]
fn every_test_that_the_documentation_names_exists() {
    let text = fs::read_to_string(root().join("docs/what-happens-when.md")).expect("reads");
    let mut named = 0;
    for (number, row) in text.lines().enumerate().filter(|(_, line)| line.starts_with("| ")) {
        let is_head = row.starts_with("| fault") || row.starts_with("|---");
        let tests = row.split('`').filter(|word| word.contains(".rs::")).count();
        assert!(is_head || tests > 0, "row {} names no test: {row}", number + 1);
    }
    for word in text.split('`').filter(|word| word.contains(".rs::")) {
        let (file, name) = word.split_once("::").expect("a test");
        let code = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(code.contains(&format!("fn {name}(")), "{file} has no test {name}");
        named += 1;
    }
    assert!(named > 40, "only {named} tests are named");
}
