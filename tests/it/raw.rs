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

/// Serves `events` to every request, each time alike, until it is dropped.
async fn serve(listener: TcpListener, events: &'static str, then: Then) {
    let mut open = Vec::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        read_request(&mut stream).await;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunk = format!("{head}{:x}\r\n{events}\r\n", events.len());
        stream.write_all(chunk.as_bytes()).await.expect("writes");
        match then {
            Then::Silence => open.push(stream),
            Then::HangUp => drop(stream),
        }
    }
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
async fn answered(events: &'static str, then: Then) -> (Press, Vec<AttemptOutcome>, JobState) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let mut press = Press::new(scenario(vec![])).await;
    press.base_url = Some(format!("http://{}", listener.local_addr().expect("an address")));
    press.timeouts.idle = Duration::from_millis(300);
    press.load(vec![job("a", "one")]).await;
    tokio::select! {
        ending = press.run() => { ending.expect("runs"); }
        () = serve(listener, events, then) => {}
    }
    let (outcomes, state) = (press.outcomes("a").await, press.row("a").await.state);
    (press, outcomes, state)
}

const REFUSAL: &str = "data: {\"candidates\":[{\"content\":{},\"finishReason\":\"IMAGE_SAFETY\"}],\
\"usageMetadata\":{\"promptTokenCount\":8,\"thoughtsTokenCount\":240,\"totalTokenCount\":248}}\n\n";

#[tokio::test]
async fn a_refusal_stands_whatever_becomes_of_the_connection_behind_it() {
    for then in [Then::Silence, Then::HangUp] {
        let (press, outcomes, state) = answered(REFUSAL, then).await;
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
    let (press, outcomes, state) = answered(thinking, Then::HangUp).await;
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
    let (press, outcomes, _) = answered(absurd, Then::Silence).await;
    assert_eq!(outcomes, [AttemptOutcome::Refused]);
    assert_eq!(press.row("a").await.usage, nightpress::job::Usage::default());
}
