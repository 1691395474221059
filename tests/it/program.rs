//! The real program as a process: what a person or a script sees of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nightpress::simulator::{Fault, FaultRule, Scenario, Simulator, SimulatorConfig};

use crate::press::{KEY, scenario};

/// A folder to work in and a simulator that stands for the real API.
pub(crate) struct Desk {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) simulator: Simulator,
}

impl Desk {
    pub(crate) async fn new(faults: Vec<FaultRule>) -> Self {
        Self::of(scenario(faults)).await
    }

    pub(crate) async fn of(scenario: Scenario) -> Self {
        let config = SimulatorConfig { scenario, ..SimulatorConfig::default() };
        let simulator = Simulator::start(config).await.expect("starts");
        Self { dir: tempfile::tempdir().expect("temp dir"), simulator }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("writes");
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightpress"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_remove("ANYFAST_API_KEY")
            .env_remove("GEMINI_API_KEY")
            .env("NIGHTPRESS_API_KEY", KEY)
            .env("NIGHTPRESS_BASE_URL", self.simulator.base_url())
            .env("NIGHTPRESS_BACKOFF_BASE", "1ms")
            // How a limit is found out has tests of its own; here it would only take its time.
            .env("NIGHTPRESS_RPM", "600000")
            .env("NIGHTPRESS_CONCURRENCY", "8")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs to the end without holding up the simulator, which lives on this thread's runtime.
    pub(crate) async fn run(&self, args: &[&str]) -> Seen {
        self.finish(self.command(args).spawn().expect("starts")).await
    }

    pub(crate) async fn finish(&self, child: Child) -> Seen {
        let output = tokio::task::spawn_blocking(move || child.wait_with_output().expect("ends")).await;
        Seen::new(output.expect("joins"))
    }

    pub(crate) async fn requests(&self, n: usize) {
        while self.simulator.log().entries.len() < n {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn sent(&self) -> usize {
        self.simulator.log().entries.len()
    }
}

/// What a process said and how it ended.
pub(crate) struct Seen {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Seen {
    pub(crate) fn new(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    pub(crate) fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "\n--- stdout\n{}\n--- stderr\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    pub(crate) fn says(self, what: &str) -> Self {
        let all = format!("{}{}", self.out, self.err);
        assert!(all.contains(what), "does not say {what:?}:\n{all}");
        self
    }
}

pub(crate) fn manifest(jobs: usize) -> String {
    let line = |n| format!("{{\"id\": \"j{n:02}\", \"prompt\": \"picture number {n}\"}}\n");
    (0..jobs).map(line).collect::<Vec<_>>().concat()
}

#[tokio::test]
async fn without_a_key_nothing_is_written_and_the_code_is_2() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(2));
    let mut command = desk.command(&["run", "m.jsonl"]);
    command.env_remove("NIGHTPRESS_API_KEY");
    desk.finish(command.spawn().expect("starts")).await.ended(2).says("NIGHTPRESS_API_KEY");
    assert!(!desk.path("out").exists());
}

#[tokio::test]
async fn a_wrong_manifest_gets_all_its_errors_and_leaves_no_trace() {
    let desk = Desk::new(vec![]).await;
    desk.write(
        "m.yaml",
        "version: 1\njobs:\n  - promt: a cat\n  - { id: x, prompt: no }\n  - { id: x, prompt: dog }\n",
    );
    desk.run(&["run", "m.yaml"])
        .await
        .ended(2)
        .says("m.yaml:3:5")
        .says("did you mean `prompt`")
        .says("m.yaml:4:")
        .says("m.yaml:5:");
    assert!(!desk.path("out").exists());
    assert_eq!(desk.sent(), 0);
}

#[tokio::test]
async fn a_run_leaves_its_folder_and_the_same_command_again_sends_nothing() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(5));
    desk.run(&["run", "m.jsonl"]).await.ended(0);
    assert_eq!(desk.sent(), 5);
    let usage = desk.read("out/m/usage.csv");
    assert!(usage.starts_with(
        "job,state,model,aspect_ratio,image_size,images,width,height,attempts,throttles,prompt_tokens,\
         candidates_tokens,image_tokens,thoughts_tokens,total_tokens,cost_usd_estimate,first_byte_ms,total_ms,\
         bytes,finish_reason,error,files,caption,prompt,tags,started_at,finished_at"
    ));
    assert_eq!(usage.lines().count(), 6);
    let attempts = desk.read("out/m/attempts.csv");
    assert!(attempts.starts_with(
        "attempt,job,revision,run,lane,model,sent_at,ended_at,outcome,http_status,error,finish_reason,response_id,\
         prompt_tokens,candidates_tokens,image_tokens,thoughts_tokens,total_tokens,bytes,first_byte_ms,total_ms,\
         cost_usd_estimate,cost_usd_at_most"
    ));
    assert_eq!(attempts.lines().count(), 6);
    desk.run(&["run", "m.jsonl"]).await.ended(0).says("5");
    assert_eq!(desk.sent(), 5);
}

#[tokio::test]
async fn deleted_reports_come_back_byte_for_byte() {
    let desk = Desk::new(vec![FaultRule { times: Some(1), ..FaultRule::always(Fault::Http503) }]).await;
    desk.write("m.jsonl", &manifest(3));
    desk.run(&["run", "m.jsonl"]).await.ended(0);
    let names = ["out/m/usage.csv", "out/m/attempts.csv", "out/m/summary.json"];
    let before = names.map(|name| desk.read(name));
    for name in names {
        fs::remove_file(desk.path(name)).expect("removes");
    }
    desk.run(&["report"]).await.ended(0);
    assert_eq!(names.map(|name| desk.read(name)), before);
}

#[tokio::test]
async fn a_run_folder_belongs_to_one_manifest_and_one_provider() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(2));
    desk.write("other.jsonl", &manifest(2));
    desk.run(&["run", "m.jsonl"]).await.ended(0);
    desk.run(&["run", "other.jsonl", "-o", "out/m"]).await.ended(2).says("m.jsonl");
    desk.run(&["run", "m.jsonl", "-o", "out/m", "--provider", "google"]).await.ended(2).says("anyfast");
    assert_eq!(desk.sent(), 2);
}

#[tokio::test]
async fn a_manifest_that_shrank_needs_a_word() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(10));
    desk.run(&["load", "m.jsonl"]).await.ended(0);
    desk.write("m.jsonl", &manifest(7));
    desk.run(&["run", "m.jsonl"]).await.ended(2).says("--prune");
    assert_eq!(desk.sent(), 0);
    desk.run(&["run", "m.jsonl", "--prune"]).await.ended(0);
    assert_eq!(desk.sent(), 7);
    let usage = desk.read("out/m/usage.csv");
    assert_eq!(usage.lines().filter(|line| line.contains(",cancelled,")).count(), 3);
}

#[tokio::test]
async fn failed_and_refused_jobs_give_1_and_a_rejected_key_gives_3() {
    let rules =
        vec![FaultRule { jobs: Some("number 1".to_owned()), ..FaultRule::always(Fault::RefusedSafety) }];
    let desk = Desk::new(rules).await;
    desk.write("m.jsonl", &manifest(3));
    desk.run(&["run", "m.jsonl"]).await.ended(1).says("refused");
    desk.run(&["jobs", "--state", "refused"]).await.ended(0).says("j01");
    desk.run(&["show", "j01"]).await.ended(0).says("IMAGE_SAFETY");
    desk.run(&["show", "nobody"]).await.ended(2).says("nobody");
    desk.run(&["cancel", "j01"]).await.ended(0);
    desk.run(&["run", "m.jsonl"]).await.ended(0);

    let desk = Desk::new(vec![FaultRule::always(Fault::ApiKeyInvalid)]).await;
    desk.write("m.jsonl", &manifest(3));
    let seen = desk.run(&["run", "m.jsonl"]).await.ended(3);
    let last =
        seen.err.lines().chain(seen.out.lines()).any(|line| line.contains("the API does not accept the key"));
    assert!(last, "{}\n{}", seen.out, seen.err);
}

#[tokio::test]
async fn standard_input_is_a_manifest_too() {
    let desk = Desk::new(vec![]).await;
    let mut command = desk.command(&["run", "-", "-o", "tonight"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("starts");
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), manifest(3).as_bytes())
        .expect("writes");
    desk.finish(child).await.ended(0);
    assert_eq!(fs::read_dir(desk.path("tonight/images")).expect("lists").count(), 3);
}

#[tokio::test]
async fn swapped_names_are_swapped_on_the_disk_and_cost_nothing() {
    let desk = Desk::new(vec![]).await;
    let line = |id: &str, output: &str| {
        format!("{{\"id\": \"{id}\", \"output\": \"{output}\", \"prompt\": \"picture of {id}\"}}\n")
    };
    desk.write("m.jsonl", &format!("{}{}", line("a", "a"), line("b", "b")));
    desk.run(&["run", "m.jsonl"]).await.ended(0);
    let image = |stem: &str| {
        let found = fs::read_dir(desk.path("out/m/images")).expect("lists").flatten();
        let named =
            found.map(|entry| entry.path()).find(|path| path.file_stem().is_some_and(|name| name == stem));
        fs::read(named.expect("a file of that name")).expect("reads")
    };
    let (a, b) = (image("a"), image("b"));
    assert_ne!(a, b);
    desk.write("m.jsonl", &format!("{}{}", line("a", "b"), line("b", "a")));
    desk.run(&["run", "m.jsonl"]).await.ended(0);
    assert_eq!((image("b"), image("a")), (a, b));
    assert_eq!(fs::read_dir(desk.path("out/m/images")).expect("lists").count(), 2);
    assert_eq!(desk.sent(), 2);
}

#[tokio::test]
async fn a_pilot_of_no_job_at_all_is_a_mistake() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(2));
    desk.run(&["run", "m.jsonl", "--job", "zzz*"]).await.ended(2).says("zzz*");
    assert_eq!(desk.sent(), 0);
    desk.run(&["run", "m.jsonl", "--job", "j0?"]).await.ended(0);
    assert_eq!(desk.sent(), 2);
}

#[tokio::test]
async fn plan_writes_and_sends_nothing() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(3));
    let mut command = desk.command(&["plan", "m.jsonl"]);
    command.env_remove("NIGHTPRESS_API_KEY");
    desk.finish(command.spawn().expect("starts")).await.ended(0).says("3");
    assert!(!desk.path("out").exists());
    assert_eq!(desk.sent(), 0);
}

#[tokio::test]
async fn wrong_flags_say_what_would_be_right() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(1));
    desk.run(&["run", "m.jsonl", "--concurency", "4"]).await.ended(2).says("--concurrency");
    desk.run(&["run", "m.jsonl", "--concurrency", "0"]).await.ended(2);
    desk.run(&["run", "m.jsonl", "--deadline", "soon"]).await.ended(2).says("deadline");
    desk.run(&["run", "m.jsonl", "--base-url", "http://example.test"])
        .await
        .ended(2)
        .says("--allow-insecure");
    desk.run(&["run", "missing.yaml"]).await.ended(2).says("missing.yaml");
    desk.run(&["run", "m.jsonl", "-o", "s3:/studio/a"]).await.ended(2).says("begins with s3://");
    assert!(!desk.path("s3:").exists());
    desk.run(&["status"]).await.ended(2);
    assert!(!desk.path("out").exists());
}

#[cfg(unix)]
pub(crate) fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().expect("kill runs");
    assert!(status.success());
}

#[cfg(unix)]
#[tokio::test]
async fn ctrl_c_gives_130_twice_cuts_off_and_the_next_run_finishes() {
    let stall = FaultRule { times: Some(1), ..FaultRule::always(Fault::StallBefore) };
    let desk = Desk::new(vec![stall]).await;
    desk.write("m.jsonl", &manifest(4));
    let child = desk.command(&["run", "m.jsonl"]).spawn().expect("starts");
    desk.requests(4).await;
    signal(&child, "-INT");
    // The second one must not be taken for the first: it is sent when the first was heard.
    while !desk.path("out/m/nightpress.log").exists()
        || !desk.read("out/m/nightpress.log").contains("draining")
    {
        tokio::task::yield_now().await;
    }
    signal(&child, "-INT");
    desk.finish(child).await.ended(130);
    let attempts = desk.read("out/m/attempts.csv");
    assert_eq!(attempts.lines().filter(|line| line.contains(",aborted,")).count(), 4, "{attempts}");
    desk.run(&["run", "m.jsonl"]).await.ended(0);
    assert_eq!(desk.sent(), 8);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn under_nohup_a_terminal_that_closes_ends_nothing() {
    let mut slow = scenario(vec![]);
    slow.latency.median_ms = 300;
    let config = SimulatorConfig { scenario: slow, ..SimulatorConfig::default() };
    let simulator = Simulator::start(config).await.expect("starts");
    let desk = Desk { dir: tempfile::tempdir().expect("temp dir"), simulator };
    desk.write("m.jsonl", &manifest(2));
    let program = desk.command(&["run", "m.jsonl", "--concurrency", "1"]);
    let mut nohup = Command::new("sh");
    nohup.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(program.get_program()).args(program.get_args());
    nohup.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    nohup.current_dir(desk.dir.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = nohup.spawn().expect("starts");
    desk.requests(1).await;
    signal(&child, "-HUP");
    desk.finish(child).await.ended(0);
    assert_eq!(desk.sent(), 2);
}

#[cfg(unix)]
#[tokio::test]
async fn after_kill_9_the_same_command_goes_on_and_the_ledger_tells() {
    let stall = FaultRule { times: Some(1), ..FaultRule::always(Fault::StallBefore) };
    let desk = Desk::new(vec![FaultRule { jobs: Some("number 7".to_owned()), ..stall }]).await;
    desk.write("m.jsonl", &manifest(8));
    let child = desk.command(&["run", "m.jsonl"]).spawn().expect("starts");
    desk.requests(8).await;
    signal(&child, "-KILL");
    assert_eq!(desk.finish(child).await.code, None);
    desk.run(&["run", "m.jsonl"]).await.ended(0);
    let attempts = desk.read("out/m/attempts.csv");
    assert_eq!(attempts.lines().count() - 1, desk.sent(), "the ledger and the server differ");
    assert!(attempts.contains(",lost,"), "{attempts}");
    assert_eq!(fs::read_dir(desk.path("out/m/images")).expect("lists").count(), 8);
    assert_eq!(fs::read_dir(desk.path("out/m/spool")).map_or(0, Iterator::count), 0);
}

#[tokio::test]
async fn the_key_is_nowhere() {
    let rules = vec![
        FaultRule { jobs: Some("number 1".to_owned()), ..FaultRule::always(Fault::Http400) },
        FaultRule { jobs: Some("number 2".to_owned()), ..FaultRule::always(Fault::ApiKeyInvalid) },
    ];
    let desk = Desk::new(rules).await;
    desk.write("m.jsonl", &manifest(3));
    let seen = desk.run(&["run", "m.jsonl", "-vv", "--concurrency", "1"]).await;
    let mut texts =
        vec![(PathBuf::from("stdout"), seen.out.into_bytes()), ("stderr".into(), seen.err.into_bytes())];
    let mut folders = vec![desk.path("out")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("lists").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                texts.push((entry.path(), fs::read(entry.path()).expect("reads")));
            }
        }
    }
    assert!(texts.len() > 5);
    for (path, bytes) in texts {
        assert!(!holds(&bytes, b"KEY-0123456789"), "{} holds the key", path.display());
    }
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn spreadsheets_get_no_formulas_and_terminals_no_escapes() {
    let desk = Desk::new(vec![]).await;
    desk.write(
        "m.jsonl",
        "{\"id\": \"=1+1\", \"output\": \"a\", \"prompt\": \"=HYPERLINK(1)\\u001b[31m\"}\n",
    );
    let seen = desk.run(&["run", "m.jsonl"]).await.ended(0);
    assert!(!format!("{}{}", seen.out, seen.err).contains('\u{1b}'), "{}{}", seen.out, seen.err);
    let usage = desk.read("out/m/usage.csv");
    assert!(usage.contains("\n'=1+1,"), "{usage}");
    assert!(usage.contains("'=HYPERLINK(1)"), "{usage}");
    let seen = desk.run(&["jobs"]).await.ended(0);
    assert!(!seen.out.contains('\u{1b}'));
}

#[tokio::test]
async fn scripts_get_one_json_object() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(2));
    for args in [&["run", "m.jsonl", "--json"][..], &["status", "--json"], &["plan", "m.jsonl", "--json"]] {
        let seen = desk.run(args).await.ended(0);
        let value: serde_json::Value =
            serde_json::from_str(&seen.out).unwrap_or_else(|e| panic!("{e}: {}", seen.out));
        assert!(value.is_object());
    }
    assert!(Path::new(&desk.path("out/m")).exists());
}
