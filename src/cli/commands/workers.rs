//! `nightpress workers`: who works on a queue, and asking the workers of a machine to end.

use anyhow::{Result, bail};
use serde_json::json;

use crate::cli::args::{WorkersArgs, WorkersCommand};
use crate::cli::crew;
use crate::cli::exit::Exit;
use crate::cli::session::Session;
use crate::cli::text;
use crate::job::printable;
use crate::output::RunFolder;
use crate::queue::{Access, Queue, WorkerRow};

pub(in crate::cli) async fn run(session: Session, args: WorkersArgs) -> Result<Exit> {
    let (of, host) = match args.command {
        None => (args.of, None),
        Some(WorkersCommand::Drain { host, of }) => (of, Some(host)),
    };
    let access = if host.is_some() { Access::Existing } else { Access::Look };
    let (site, queue) = session.existing(&of.folder, &of.queue, access).await?;
    let done = look(&session, (queue.as_ref(), &site.folder), host.as_deref(), of.json).await;
    queue.close().await;
    done.map(|()| Exit::Done)
}

async fn look(
    session: &Session,
    (queue, folder): (&dyn Queue, &RunFolder),
    host: Option<&str>,
    as_json: bool,
) -> Result<()> {
    let living = crew::living(queue, folder).await?;
    match host {
        None => {
            list(session, &living, as_json);
            Ok(())
        }
        Some(host) => drain(session, queue, (host, &living), as_json).await,
    }
}

fn list(session: &Session, living: &[WorkerRow], as_json: bool) {
    if as_json {
        let workers: Vec<_> = living.iter().map(crew::json).collect();
        session.terminal.json(&json!({ "workers": workers }).to_string());
        return;
    }
    let name = crew::HostName::for_who_reads();
    let lines: Vec<String> = living.iter().map(|worker| crew::line(worker, name)).collect();
    session
        .terminal
        .out(if lines.is_empty() { "nobody works on it".to_owned() } else { lines.join("\n") }.as_str());
}

async fn drain(
    session: &Session,
    queue: &dyn Queue,
    (host, living): (&str, &[WorkerRow]),
    as_json: bool,
) -> Result<()> {
    let Some(host) = crew::meant(host, living) else {
        let mut hosts: Vec<&str> = living.iter().map(|worker| worker.host.as_str()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let known = if hosts.is_empty() {
            "nobody works on it".to_owned()
        } else {
            format!("there is {}", hosts.join(", "))
        };
        bail!("no worker runs on `{}`: {}", printable(host), printable(&known));
    };
    let drained = queue.drain(host).await?;
    if as_json {
        session.terminal.json(&json!({ "host": host, "draining": drained }).to_string());
    } else {
        let workers = text::count(drained, "worker");
        session.terminal.out(&format!(
            "{workers} on {} asked to end: what runs is finished, nothing more is claimed",
            printable(host)
        ));
    }
    Ok(())
}
