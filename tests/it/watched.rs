//! What a run shows to those who watch it from outside: `--listen`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use nightpress::simulator::{Fault, FaultRule};

use crate::program::{Desk, manifest};

/// One answer, after which the program closes the connection.
fn get(addr: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).expect("listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    assert!(answer.to_ascii_lowercase().contains("connection: close\r\n"), "{answer}");
    answer
}

#[tokio::test]
async fn health_and_metrics_are_served_while_it_works() {
    let desk = Desk::new(vec![FaultRule::always(Fault::StallBefore)]).await;
    desk.write("m.jsonl", &manifest(3));
    let mut command = desk.command(&["run", "m.jsonl", "--listen", "127.0.0.1:0"]);
    let mut child = command.spawn().expect("starts");
    let mut told = BufReader::new(child.stderr.take().expect("piped"));
    let addr = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        while !line.starts_with("health and metrics at ") {
            line.clear();
            assert!(told.read_line(&mut line).expect("reads") > 0, "it ended without a word");
        }
        (line.split('/').nth(2).expect("a URL").to_owned(), told)
    });
    let (addr, told) = addr.await.expect("joins");
    desk.requests(3).await;
    let (health, metrics) = tokio::task::spawn_blocking(move || {
        let pages = (get(&addr, "/healthz"), get(&addr, "/metrics"));
        assert!(get(&addr, "/other").starts_with("HTTP/1.1 404"));
        pages
    })
    .await
    .expect("joins");
    child.kill().expect("ends");
    child.wait().expect("ended");
    drop(told);
    assert!(health.starts_with("HTTP/1.1 200 OK") && health.ends_with("ok\n"), "{health}");
    assert!(metrics.contains("text/plain; version=0.0.4"), "{metrics}");
    for line in ["nightpress_jobs{batch=\"m\",state=\"running\"} 3", "nightpress_requests_in_flight 3"] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test]
async fn a_taken_port_is_told_and_nothing_is_sent() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(1));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("an address").to_string();
    let seen = desk.run(&["run", "m.jsonl", "--listen", &addr]).await;
    seen.ended(2).says("cannot listen on").says("choose another port");
    assert_eq!(desk.sent(), 0);
    desk.run(&["run", "m.jsonl", "--listen", "here"]).await.ended(2).says("such as 127.0.0.1:9464");
}

#[tokio::test]
async fn a_machine_that_is_drained_finishes_what_runs_and_claims_nothing_more() {
    let desk = Desk::new(vec![FaultRule::always(Fault::StallBefore)]).await;
    desk.write("m.jsonl", &manifest(9));
    let args = ["run", "m.jsonl", "--concurrency", "1", "--idle-timeout", "4s"];
    let child = desk.command(&args).spawn().expect("starts");
    desk.requests(1).await;
    let listed = desk.run(&["workers", "--json"]).await.ended(0);
    let listed: serde_json::Value = serde_json::from_str(&listed.out).expect("JSON");
    let worker = &listed["workers"][0];
    assert_eq!(
        (worker["running"].as_u64(), worker["draining"].as_bool()),
        (Some(1), Some(false)),
        "{listed}"
    );
    let host = worker["host"].as_str().expect("a name");
    let other = format!("not-{host}");
    desk.run(&["workers", "drain", &other]).await.ended(2).says("no worker runs on").says(host);
    desk.run(&["workers", "drain", host, "-o", "out/m"]).await.ended(0).says("1 worker on");
    desk.run(&["status"]).await.ended(0).says("1 running, draining");
    desk.finish(child).await.ended(3).says("asked to end (`nightpress workers drain`)");
    assert_eq!(desk.sent(), 1, "it claimed nothing after its next heartbeat");
    desk.run(&["workers"]).await.ended(0).says("nobody works on it");
    desk.run(&["workers", "drain", host]).await.ended(2).says("nobody works on it");
}
