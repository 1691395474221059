//! Reports of a real queue.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::job::{
    AttemptOutcome, Clock, Digest, Job, ManualClock, MediaType, Micros, Modalities, ModelName, Provider,
    Spec, Timestamp, Usage,
};
use crate::output::RunFolder;
use crate::queue::sqlite::SqliteQueue;
use crate::queue::{
    AttemptFacts, Claim, ClaimRequest, Company, LaneKey, LoadPolicy, NewJob, Next, Permits, PlannedOutput,
    RunStart, Scope, Settlement, WorkerStart,
};

/// 2026-11-19T23:04:05.000Z
const START: Timestamp = Timestamp::from_ms(1_795_129_445_000);

struct Fixture {
    queue: SqliteQueue,
    clock: Arc<ManualClock>,
    root: tempfile::TempDir,
}

fn job(ordinal: u64, name: &str, prompt: &str) -> NewJob {
    let spec = Spec {
        prompt: prompt.to_owned(),
        references: vec![],
        model: ModelName::default_model(),
        aspect_ratio: Some("16:9".to_owned()),
        image_size: None,
        modalities: Modalities::Image,
        extra: serde_json::Map::new(),
    };
    let job = Job {
        name: name.parse().expect("an id"),
        ordinal,
        spec,
        fallback_models: vec![],
        stream: true,
        output: name.parse().expect("a name"),
        tags: [("note".to_owned(), "=1+1, \"quoted\"".to_owned())].into(),
        priority: 0,
    };
    NewJob { job, reservation: Some(Micros(80_000)), estimate: Some(Micros(70_000)) }
}

fn image(spool: &str) -> PlannedOutput {
    PlannedOutput {
        spool: spool.to_owned(),
        media: MediaType::Png,
        bytes: 1_000,
        digest: Digest::of(b"png"),
        width: 1376,
        height: 768,
    }
}

impl Fixture {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::new(START));
        let as_clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let queue = SqliteQueue::in_memory(Provider::Anyfast, as_clock).await.expect("opens");
        Self { queue, clock, root: tempfile::tempdir().expect("temp dir") }
    }

    async fn load(&self, jobs: Vec<NewJob>) {
        self.queue.stage(jobs).await.expect("stages");
        self.queue.apply_load(LoadPolicy::default()).await.expect("loads");
    }

    async fn claim(&self, n: u32) -> Vec<Claim> {
        let start = RunStart { command: "run".to_owned(), version: "0.0.0".to_owned() };
        let run = self.queue.start_run(start).await.expect("starts");
        let token = format!("t{}", run.0);
        let start = WorkerStart { run, token, host: "here".to_owned(), pid: 1 };
        let worker = self.queue.register_worker(start).await.expect("registers");
        let model = ModelName::default_model();
        let key = LaneKey { provider: Provider::Anyfast, model, key_id: "0123abcd".to_owned() };
        let lane = self.queue.lane(&key).await.expect("lane").lane;
        let permits = vec![Permits::own(lane, n)];
        let request = ClaimRequest {
            worker,
            run,
            permits,
            scope: Scope::default(),
            cost_max: None,
            company: Company::Shared,
        };
        self.queue.claim(request).await.expect("claims").claims
    }

    async fn settle(&self, claim: &Claim, outcome: AttemptOutcome, facts: AttemptFacts, next: Next) {
        self.clock.advance(Duration::from_millis(12_345));
        let (job, epoch, attempt) = (claim.job, claim.epoch, claim.attempt);
        let publish = matches!(next, Next::Publish(_));
        let settlement = Settlement { job, epoch, attempt, outcome, facts, next };
        self.queue.settle(settlement).await.expect("settles");
        if publish {
            self.queue.published(job, epoch).await.expect("publishes");
        }
    }

    async fn reports(&self) -> [String; 3] {
        let folder = RunFolder::new(self.root.path());
        write_reports(&self.queue, &folder.clone().into()).await.expect("writes");
        [folder.usage_csv(), folder.attempts_csv(), folder.summary_json()]
            .map(|path: PathBuf| std::fs::read_to_string(path).expect("reads"))
    }
}

/// A batch with a success, a failure and a job that nobody touched.
async fn batch() -> Fixture {
    let fixture = Fixture::new().await;
    let jobs = vec![job(0, "hero", "=cmd|'/c calc'!A1"), job(1, "cover", "two\nlines"), job(2, "later", "x")];
    fixture.load(jobs).await;
    let claims = fixture.claim(2).await;
    let usage = Usage {
        prompt: Some(8),
        candidates: Some(1_120),
        image: Some(1_120),
        thoughts: None,
        total: Some(1_128),
    };
    let facts = AttemptFacts {
        http_status: Some(200),
        finish_reason: Some("STOP".to_owned()),
        response_id: Some("r-1".to_owned()),
        caption: Some("@you".to_owned()),
        note: Some("asked for 16:9, got 1:1".to_owned()),
        usage,
        bytes: 4_321,
        first_byte: Some(Duration::from_millis(900)),
        total: Duration::from_millis(12_345),
        cost: Some(Micros(67_204)),
        cost_at_most: Micros(67_204),
        ..AttemptFacts::default()
    };
    let next = Next::Publish(vec![image("w/1-1"), image("w/1-2")]);
    fixture.settle(&claims[0], AttemptOutcome::Succeeded, facts, next).await;
    let facts = AttemptFacts {
        http_status: Some(400),
        error_code: Some("bad_request".to_owned()),
        error: Some("no".to_owned()),
        total: Duration::from_millis(50),
        ..AttemptFacts::default()
    };
    fixture.settle(&claims[1], AttemptOutcome::Failed, facts, Next::Fail).await;
    fixture
}

#[tokio::test]
async fn a_job_is_a_row_with_all_that_became_of_it() {
    let [usage, ..] = batch().await.reports().await;
    let expect = "\
job,state,model,aspect_ratio,image_size,images,width,height,attempts,throttles,prompt_tokens,candidates_tokens,image_tokens,thoughts_tokens,total_tokens,cost_usd_estimate,first_byte_ms,total_ms,bytes,finish_reason,error,files,caption,prompt,tags,started_at,finished_at,note
hero,succeeded,gemini-3.1-flash-image,16:9,,2,1376,768,1,0,8,1120,1120,,1128,0.067204,900,12345,2000,STOP,,images/hero.png;images/hero-2.png,'@you,'=cmd|'/c calc'!A1,\"{\"\"note\"\":\"\"=1+1, \\\"\"quoted\\\"\"\"\"}\",2026-11-19T23:04:05.000Z,2026-11-19T23:04:17.345Z,\"asked for 16:9, got 1:1\"
cover,failed,gemini-3.1-flash-image,16:9,,0,,,1,0,,,,,,,,50,,,bad_request: no,,,\"two
lines\",\"{\"\"note\"\":\"\"=1+1, \\\"\"quoted\\\"\"\"\"}\",2026-11-19T23:04:05.000Z,2026-11-19T23:04:29.690Z,
later,pending,gemini-3.1-flash-image,16:9,,0,,,0,0,,,,,,,,,,,,,,x,\"{\"\"note\"\":\"\"=1+1, \\\"\"quoted\\\"\"\"\"}\",,,
";
    assert_eq!(usage, expect);
}

#[tokio::test]
async fn a_request_is_a_row_of_the_ledger() {
    let [_, attempts, _] = batch().await.reports().await;
    let expect = "\
attempt,job,revision,run,lane,model,sent_at,ended_at,outcome,http_status,error,finish_reason,response_id,prompt_tokens,candidates_tokens,image_tokens,thoughts_tokens,total_tokens,bytes,first_byte_ms,total_ms,cost_usd_estimate,cost_usd_at_most
1,hero,1,1,anyfast/gemini-3.1-flash-image/0123abcd,gemini-3.1-flash-image,2026-11-19T23:04:05.000Z,2026-11-19T23:04:17.345Z,succeeded,200,,STOP,r-1,8,1120,1120,,1128,4321,900,12345,0.067204,0.067204
2,cover,1,1,anyfast/gemini-3.1-flash-image/0123abcd,gemini-3.1-flash-image,2026-11-19T23:04:05.000Z,2026-11-19T23:04:29.690Z,failed,400,bad_request: no,,,,,,,,0,,50,,0.000000
";
    assert_eq!(attempts, expect);
}

#[tokio::test]
async fn no_control_character_of_a_server_gets_into_a_report_and_prompts_stay_as_they_are() {
    let fixture = Fixture::new().await;
    fixture.load(vec![job(0, "hero", "a\u{1b}[1m\u{9b}b")]).await;
    let claims = fixture.claim(1).await;
    let bad = || Some("x\u{1b}]0;y\u{7}\u{7f}\u{9b}31m\r\n".to_owned());
    let facts = AttemptFacts {
        finish_reason: bad(),
        response_id: bad(),
        caption: bad(),
        note: bad(),
        error_code: bad(),
        error: bad(),
        ..AttemptFacts::default()
    };
    fixture.settle(&claims[0], AttemptOutcome::Failed, facts, Next::Fail).await;
    let [usage, attempts, summary] = fixture.reports().await;
    let control = |text: &str| text.replace('\n', "").chars().any(char::is_control);
    assert!(usage.contains("a\u{1b}[1m\u{9b}b"), "{usage}");
    assert!(!control(&usage.replace("a\u{1b}[1m\u{9b}b", "")), "{usage:?}");
    assert!(!control(&attempts) && !control(&summary), "{attempts:?}");
    assert_eq!(attempts.lines().count(), 2, "{attempts}");
}

#[tokio::test]
async fn the_summary_has_every_state_and_the_money() {
    let [_, _, summary] = batch().await.reports().await;
    let summary: serde_json::Value = serde_json::from_str(&summary).expect("is JSON");
    assert_eq!(summary["version"], 1);
    assert_eq!(summary["jobs"]["succeeded"], 1);
    assert_eq!(summary["jobs"]["failed"], 1);
    assert_eq!(summary["jobs"]["held"], 0);
    assert_eq!(summary["attempts"]["succeeded"], 1);
    assert_eq!(summary["images"], 2);
    assert_eq!(summary["tokens"]["total"], 1_128);
    assert_eq!(summary["tokens"]["thoughts"], serde_json::Value::Null);
    assert_eq!(summary["cost_usd_estimate"].to_string(), "0.067204");
    assert_eq!(summary["runs"][0]["started_at"], "2026-11-19T23:04:05.000Z");
}

#[tokio::test]
async fn the_same_queue_gives_the_same_bytes_and_leaves_nothing_beside_them() {
    let fixture = batch().await;
    let first = fixture.reports().await;
    for entry in std::fs::read_dir(fixture.root.path()).expect("lists") {
        std::fs::remove_file(entry.expect("lists").path()).expect("removes");
    }
    fixture.clock.advance(Duration::from_secs(3_600));
    assert_eq!(fixture.reports().await, first);
    let files = std::fs::read_dir(fixture.root.path()).expect("lists").count();
    assert_eq!(files, 3, "a temporary file was left");
}

#[tokio::test]
async fn more_jobs_than_a_page_are_all_there_in_order() {
    let fixture = Fixture::new().await;
    let n = u64::from(PAGE_ROWS) * 2 + 1;
    fixture.load((0..n).map(|ordinal| job(ordinal, &format!("j{ordinal}"), "x")).collect()).await;
    let [usage, ..] = fixture.reports().await;
    let ids: Vec<&str> = usage.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
    let expect: Vec<String> = (0..n).map(|ordinal| format!("j{ordinal}")).collect();
    assert_eq!(ids, expect);
}
