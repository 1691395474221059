//! Every command of the README runs as written, in one folder, in order. What it calls a real
//! run goes to a simulator by the environment; nothing else is changed.

use std::fs;
use std::path::Path;
use std::process::Command;

use nightpress::simulator::{Simulator, SimulatorConfig};

use crate::press::scenario;

/// The fenced blocks of one language, in order.
fn blocks(language: &str) -> Vec<String> {
    let readme = include_str!("../../README.md");
    let fence = format!("```{language}\n");
    readme.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

fn yaml_file(name: &str) -> String {
    let head = format!("# {name}\n");
    blocks("yaml").into_iter().find(|block| block.starts_with(&head)).expect("the README shows the file")
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("creates");
    for entry in fs::read_dir(from).expect("lists").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copies");
        }
    }
}

#[tokio::test]
async fn every_command_of_the_readme_runs_as_written() {
    let dir = tempfile::tempdir().expect("temp dir");
    copy_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs"), &dir.path().join("jobs"));
    fs::write(dir.path().join("spring.yaml"), yaml_file("spring.yaml")).expect("writes");
    let simulator =
        Simulator::start(SimulatorConfig { scenario: scenario(vec![]), ..SimulatorConfig::default() })
            .await
            .expect("starts");
    let program = Path::new(env!("CARGO_BIN_EXE_nightpress"));
    let path = std::env::join_paths(
        [program.parent().expect("a folder").to_owned()]
            .into_iter()
            .chain(std::env::split_paths(&std::env::var_os("PATH").expect("PATH"))),
    )
    .expect("joins");

    let shell = blocks("sh");
    assert!(shell.len() >= 5, "the README has lost its commands");
    assert_eq!(shell[0].trim(), "cargo run --release -- run jobs/demo.yaml --provider simulator");
    assert_eq!(shell[1].trim(), "cargo test");
    for block in shell.iter().filter(|block| block.trim() != "cargo test") {
        let script = block.replace("cargo run --release --", "nightpress");
        let real_run = !script.contains("--provider simulator");
        let mut command = Command::new("sh");
        command.args(["-euc", &script]).current_dir(dir.path()).env("PATH", &path);
        command.env("NIGHTPRESS_API_KEY", "np-test-readme-key");
        if real_run {
            command.env("NIGHTPRESS_BASE_URL", simulator.base_url());
        }
        let run = tokio::task::spawn_blocking(move || command.output().expect("runs")).await.expect("joins");
        assert!(
            run.status.success(),
            "{script}\n{}\n{}\n{}",
            run.status,
            String::from_utf8_lossy(&run.stdout),
            String::from_utf8_lossy(&run.stderr)
        );
    }
    for file in ["usage.csv", "attempts.csv", "summary.json", "nightpress.log", "queue.db", "images"] {
        assert!(dir.path().join("out/spring").join(file).exists(), "{file} is missing");
        assert!(dir.path().join("out/demo-simulator").join(file).exists(), "{file} is missing");
    }
}

#[tokio::test]
async fn the_settings_that_the_readme_shows_are_accepted() {
    let dir = tempfile::tempdir().expect("temp dir");
    fs::write(dir.path().join("spring.yaml"), yaml_file("spring.yaml")).expect("writes");
    fs::write(dir.path().join("nightpress.yaml"), yaml_file("nightpress.yaml")).expect("writes");
    let run = Command::new(env!("CARGO_BIN_EXE_nightpress"))
        .args(["plan", "spring.yaml"])
        .current_dir(dir.path())
        .output()
        .expect("runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
