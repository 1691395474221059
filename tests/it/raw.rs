//! Answers that no well-behaved server gives, byte by byte: what a server says before the
//! connection breaks, or goes silent, still counts.

use std::time::Duration;

use nightpress::job::{AttemptOutcome, JobState};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::press::{Press, job, scenario};

/// What a server does after its last word.
#[derive(Clone, Copy)]
enum Then {
    /// Nothing, ever: the connection stays open.
    Silence,
    /// It hangs up, in the middle of the body.
    HangUp,
}

/// Writes `answer` to every request, each time alike, until it is dropped.
async fn serve(listener: TcpListener, answer: Vec<u8>, then: Then) {
    let mut open = Vec::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        read_request(&mut stream).await;
        // Who has seen enough may hang up first.
        let written = stream.write_all(&answer).await;
        match then {
            Then::Silence if written.is_ok() => open.push(stream),
            Then::Silence | Then::HangUp => drop(stream),
        }
    }
}

/// A stream of `events` that is not over.
fn unfinished(events: &str) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    format!("{head}{:x}\r\n{events}\r\n", events.len()).into_bytes()
}

/// A whole answer with these headers.
fn whole(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

async fn read_request(stream: &mut TcpStream) {
    let mut request = Vec::new();
    let mut block = [0; 4096];
    loop {
        let n = stream.read(&mut block).await.expect("reads");
        request.extend_from_slice(&block[..n]);
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return;
        }
    }
}

/// The outcomes and the state of a job whose every request is answered so.
async fn answered(answer: Vec<u8>, then: Then) -> (Press, Vec<AttemptOutcome>, JobState) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let mut press = Press::new(scenario(vec![])).await;
    press.base_url = Some(format!("http://{}", listener.local_addr().expect("an address")));
    press.timeouts.idle = Duration::from_millis(300);
    press.load(vec![job("a", "one")]).await;
    tokio::select! {
        ending = press.run() => { ending.expect("runs"); }
        () = serve(listener, answer, then) => {}
    }
    let (outcomes, state) = (press.outcomes("a").await, press.row("a").await.state);
    (press, outcomes, state)
}

const REFUSAL: &str = "data: {\"candidates\":[{\"content\":{},\"finishReason\":\"IMAGE_SAFETY\"}],\
\"usageMetadata\":{\"promptTokenCount\":8,\"thoughtsTokenCount\":240,\"totalTokenCount\":248}}\n\n";

#[tokio::test]
async fn a_refusal_stands_whatever_becomes_of_the_connection_behind_it() {
    for then in [Then::Silence, Then::HangUp] {
        let (press, outcomes, state) = answered(unfinished(REFUSAL), then).await;
        assert_eq!((outcomes, state), (vec![AttemptOutcome::Refused], JobState::Refused));
        let last = press.row("a").await.last.expect("an attempt");
        assert_eq!(last.cost, last.cost_at_most, "its usage was whole");
        assert!(last.cost.is_some());
    }
}

#[tokio::test]
async fn an_answer_that_was_cut_may_have_cost_what_was_set_aside() {
    let thinking = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"hm\",\"thought\":true}]}}],\
                    \"usageMetadata\":{\"promptTokenCount\":12,\"thoughtsTokenCount\":200}}\n\n";
    let (press, outcomes, state) = answered(unfinished(thinking), Then::HangUp).await;
    assert_eq!((outcomes, state), (vec![AttemptOutcome::Transient; 5], JobState::Failed));
    let last = press.row("a").await.last.expect("an attempt");
    assert_eq!(last.usage.thoughts, Some(200), "what was stated is kept");
    assert_eq!(last.cost, None);
    assert!(last.cost_at_most.expect("a sum").0 > 60_000, "{:?}", last.cost_at_most);
}

#[tokio::test]
async fn absurd_token_counts_spoil_neither_the_sums_nor_the_queue() {
    let absurd = "data: {\"candidates\":[{\"finishReason\":\"IMAGE_SAFETY\"}],\"usageMetadata\":\
                  {\"promptTokenCount\":18446744073709551615,\"totalTokenCount\":9223372036854775807}}\n\n";
    let (press, outcomes, _) = answered(unfinished(absurd), Then::Silence).await;
    assert_eq!(outcomes, [AttemptOutcome::Refused]);
    assert_eq!(press.row("a").await.usage, nightpress::job::Usage::default());
}

/// What a job's last attempt says of an answer that every request gets, and how often it was asked for.
async fn told(answer: Vec<u8>) -> (usize, JobState, String) {
    let (press, outcomes, state) = answered(answer, Then::HangUp).await;
    let last = press.row("a").await.last.expect("an attempt");
    press.check_folder_is_clean();
    (outcomes.len(), state, last.error.unwrap_or_default())
}

#[tokio::test]
async fn a_compressed_answer_is_not_unpacked_and_told_as_what_it_is() {
    // The head of what unpacks to gigabytes of zeros; nobody asked for compression.
    let bomb = [&b"\x1f\x8b\x08\0\0\0\0\0\x02\x03"[..], &vec![0xed; 100_000]].concat();
    let (times, state, error) = told(whole("Content-Encoding: gzip\r\n", &bomb)).await;
    assert_eq!((times, state), (5, JobState::Failed));
    assert!(error.contains("compressed"), "{error}");
}

#[tokio::test]
async fn headers_without_end_are_cut_off() {
    let endless = [&b"HTTP/1.1 200 OK\r\n"[..], &b"X-More: and more\r\n".repeat(400_000)].concat();
    let (times, state, error) = told(endless).await;
    assert_eq!((times, state), (5, JobState::Failed));
    assert!(error.contains("connection broke"), "{error}");
}

#[tokio::test]
async fn thousands_of_parts_fail_the_job_and_fill_nothing() {
    let parts = r#"{"text":"x"},"#.repeat(50_000);
    let body = format!(r#"{{"candidates":[{{"content":{{"parts":[{parts}{{"text":"y"}}]}}}}]}}"#);
    let (times, state, error) = told(whole("Content-Type: application/json\r\n", body.as_bytes())).await;
    assert_eq!((times, state), (1, JobState::Failed));
    assert!(error.contains("number of objects"), "{error}");
}

#[tokio::test]
async fn line_separators_and_marks_of_direction_in_a_servers_words_stay_on_one_line() {
    let words = "no\u{2028}second\u{2029}third \u{202e}txt.exe\u{2066} \u{1b}[31m";
    let body = serde_json::json!({"error": {"code": 400, "message": words, "status": "INVALID_ARGUMENT"}});
    let (times, state, error) = told(whole("", body.to_string().as_bytes())).await;
    assert_eq!((times, state), (1, JobState::Failed));
    assert!(error.contains("no second third"), "{error:?}");
    let hidden = ['\u{2028}', '\u{2029}', '\u{202e}', '\u{2066}', '\u{1b}'];
    assert!(!error.contains(hidden), "{error:?}");
}
