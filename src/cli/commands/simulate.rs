//! `nightpress simulate`: the image API on loopback, until Ctrl-C.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};

use crate::cli::args::SimulateArgs;
use crate::cli::exit::Exit;
use crate::cli::session::Session;
use crate::cli::signals::Signals;
use crate::cli::text;
use crate::simulator::{Scenario, Simulator, SimulatorConfig, curl_line};

pub(in crate::cli) async fn run(session: Session, args: SimulateArgs) -> Result<Exit> {
    let scenario = match &args.scenario {
        Some(path) => Scenario::from_file(path)?,
        None => Scenario::default(),
    };
    let config = SimulatorConfig {
        bind: SocketAddr::from((Ipv4Addr::LOCALHOST, args.port)),
        seed: args.seed,
        scenario,
        ..SimulatorConfig::default()
    };
    let mut signals = Signals::listen().context("cannot listen to signals")?;
    let simulator = Simulator::start(config).await?;
    let url = simulator.base_url();
    let lines = [
        format!("The image API is at {url} until Ctrl-C. Any key will do."),
        String::new(),
        "Try it:".to_owned(),
        format!("  {}", curl_line(&url)),
        "Point nightpress at it:".to_owned(),
        format!("  nightpress run jobs/demo.yaml --provider simulator --base-url {url}"),
        "Point Google's SDK for Python at it:".to_owned(),
        format!("  genai.Client(api_key=\"any-key\", http_options={{\"base_url\": \"{url}\"}})"),
    ];
    session.terminal.out(&lines.join("\n"));
    // Whoever waits for the address must see it now.
    session.terminal.show();
    signals.next().await;
    let log = simulator.stop().await;
    let served = log.entries.len() as u64 + log.forgotten;
    session.terminal.note(&format!(
        "{} answered, of them {} throttled",
        text::count(served, "request"),
        log.throttled()
    ));
    Ok(Exit::Done)
}
