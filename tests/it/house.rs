//! The house's own rules, checked on its source.

use std::fs;
use std::path::{Path, PathBuf};

const FLOORS: [&str; 10] =
    ["job", "manifest", "queue", "pacing", "gemini", "output", "worker", "report", "simulator", "cli"];

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

#[test]
fn a_floor_imports_nothing_from_a_floor_above_it() {
    let mut wrong = Vec::new();
    for (level, floor) in FLOORS.iter().enumerate() {
        for path in sources(&root().join("src").join(floor)) {
            let text = fs::read_to_string(&path).expect("reads");
            for above in &FLOORS[level + 1..] {
                let imports =
                    [format!("crate::{above}::"), format!("crate::{above};"), format!("crate::{above}}}")];
                if imports.iter().any(|import| text.contains(import)) {
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
        assert!(in_queue || !text.contains("sqlx"), "{} speaks SQL", path.display());
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for path in sources(&root().join("src")) {
        let text = fs::read_to_string(&path).expect("reads");
        assert!(text.starts_with("//! "), "{} has no module documentation", path.display());
    }
}
