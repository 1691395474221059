//! The work of `run` and `work`, once the queue is loaded: signals, progress, reports, and the
//! last words.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::RngExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::api::LiveApi;
use super::at_once::{Means, at_once};
use super::board::{Board, Start};
use super::closing::{self, Closing};
use super::exit::{Exit, ScopeEnd, UNSUCCESSFUL};
use super::metrics::{Sources, Watched};
use super::progress::{self, Style};
use super::session::Session;
use super::settings::{SendSettings, Settings};
use super::signals::{FirstSignal, Signals};
use super::text;
use crate::job::{JobState, printable};
use crate::output::{Buckets, LocalDisk, Results};
use crate::queue::{JobFilter, Queue, QueueError, Scope, Selection};
use crate::report::{ReportError, write_last_reports, write_reports};
use crate::worker::{Concurrency, Ending, Shutdown, Work, WorkConfig, WorkError, work};

/// How often the reports are brought up to date while a run goes on.
const REPORTS_EVERY: Duration = Duration::from_secs(30);
/// The same in a bucket, where every worker sends all of them.
const REPORTS_EVERY_SHARED: Duration = Duration::from_secs(300);
/// They are written from the beginning each time: of a million jobs that takes seconds, and the pause
/// after it is so many times as long.
const REPORTS_PAUSE_FACTOR: u32 = 20;
const PAGE_ROWS: u32 = 1_000;

/// A loaded queue, and how it is to be worked on.
pub(super) struct Press {
    pub(super) session: Session,
    pub(super) results: Results,
    pub(super) queue: Arc<dyn Queue>,
    /// The batch's name.
    pub(super) batch: String,
    pub(super) settings: Settings,
    /// `run` or `work`.
    pub(super) command: &'static str,
    pub(super) forever: bool,
}

impl Press {
    /// Works until nothing is left, or a reason to stop, and tells how it went.
    pub(super) async fn run(self, api: LiveApi) -> Result<Exit> {
        self.check_scope().await?;
        self.look_for_results().await?;
        let (shutdown, signalled) = watch::channel(Shutdown::No);
        let first_signal = FirstSignal::default();
        let signals = Signals::listen().context("cannot listen to signals")?;
        let board = Arc::new(self.board().await?);
        self.tell_start().await?;
        let watched = self.watched(&board).await?;

        let end = CancellationToken::new();
        let mut beside = JoinSet::new();
        let raise = signals.raise(shutdown, Arc::clone(&first_signal));
        let until = end.clone();
        beside.spawn(async move { until.run_until_cancelled_owned(raise).await.unwrap_or_default() });
        let style = Style::of_stderr(self.settings.voice.quiet);
        beside.spawn(progress::show(Arc::clone(&board), style, self.session.terminal.clone(), end.clone()));
        beside.spawn(refresh_reports(Arc::clone(&self.queue), self.results.clone(), end.clone()));

        if let Some(watched) = watched {
            let until = end.clone();
            beside.spawn(async move {
                until.run_until_cancelled_owned(watched.serve()).await.unwrap_or_default();
            });
        }

        let worked = work(self.work(&api, board, signalled)).await;
        end.cancel();
        let mut joined = Ok(());
        while let Some(task) = beside.join_next().await {
            joined = joined.and(task.context("a task beside the work failed; this is a bug in nightpress"));
        }
        api.stop().await;
        let concluded = self.conclude(worked, first_signal.get().copied()).await;
        // Requests were sent: whatever goes wrong from here on is not wrong usage.
        Ok(joined.and(concluded).unwrap_or_else(|error| {
            self.session.terminal.note(&super::error_text(&error));
            Exit::Stopped
        }))
    }

    /// Takes the port for health and metrics, where one is asked for.
    async fn watched(&self, board: &Arc<Board>) -> Result<Option<Watched>> {
        let Some(addr) = self.settings.send.listen else { return Ok(None) };
        let (queue, batch) = (Arc::clone(&self.queue), self.batch.clone());
        let sources = Sources { queue, board: Arc::clone(board), batch };
        let watched = Watched::bind(addr, sources).await?;
        if let Some(addr) = watched.addr().filter(|_| !self.settings.voice.quiet) {
            self.session.terminal.note(&format!("health and metrics at http://{addr}/healthz and /metrics"));
        }
        Ok(Some(watched))
    }

    fn work(&self, api: &LiveApi, board: Arc<Board>, shutdown: watch::Receiver<Shutdown>) -> Work {
        Work {
            queue: Arc::clone(&self.queue),
            clients: api.clients.clone(),
            fetcher: api.fetcher.clone(),
            results: self.results.clone(),
            objects: Arc::new(Buckets::patient()),
            disk: Arc::new(LocalDisk),
            clock: Arc::clone(&self.session.clock),
            observer: board,
            shutdown,
            config: self.work_config(),
        }
    }

    /// How many requests may be in flight; that this is possible was found out with the API.
    fn concurrency(&self) -> Concurrency {
        let wanted = self.settings.send.concurrency;
        at_once(wanted, Means::of_this_process()).unwrap_or(wanted)
    }

    fn work_config(&self) -> WorkConfig {
        let send: &SendSettings = &self.settings.send;
        WorkConfig {
            command: self.command.to_owned(),
            provider: self.settings.load.provider,
            concurrency: self.concurrency(),
            requests_per_minute: send.rpm.clone(),
            images_per_minute: send.ipm.clone(),
            retry: send.retry,
            scope: send.scope.clone(),
            lost: send.lost,
            give_up: send.repair,
            cost_max: send.cost_max,
            failures_max: send.failures_max,
            deadline: send.deadline,
            wait: send.wait,
            forever: self.forever,
            grace: send.grace,
            prices: self.settings.load.prices.clone(),
            seed: send.seed.unwrap_or_else(|| rand::rng().random()),
        }
    }

    /// A pattern that no job's id matches is a slip, not a pilot of nothing.
    async fn check_scope(&self) -> Result<()> {
        let scope = &self.settings.send.scope;
        let Some(glob) = scope.glob.as_deref().filter(|_| !self.forever) else { return Ok(()) };
        let filter = JobFilter { states: vec![], scope: scope.clone() };
        let is_empty = self.queue.jobs(&filter, None, 1).await?.is_empty();
        anyhow::ensure!(
            !is_empty,
            "no job's id matches `{}` (--job); `nightpress jobs` lists them",
            printable(glob)
        );
        Ok(())
    }

    /// Notices results that a person deleted; with `--repair` their jobs are made again.
    async fn look_for_results(&self) -> Result<()> {
        if self.results.are_shared() {
            // One request for each result: only where that is asked for.
            if !self.settings.send.repair {
                return Ok(());
            }
        } else if self.queue.spans_machines() {
            // What other machines made is where they put it.
            return Ok(());
        }
        // Only what this run is about: a job that left the manifest is not made, or paid, again.
        let filter = JobFilter { states: vec![JobState::Succeeded], scope: self.settings.send.scope.clone() };
        let (mut all, mut gone) = (0, 0);
        let mut after = None;
        loop {
            let page = self.queue.jobs(&filter, after, PAGE_ROWS).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.cursor);
            let page: Vec<_> = page.into_iter().filter(|job| !job.cursor.left).collect();
            let outputs = page.iter().flat_map(|job| job.outputs.iter().map(|output| output.name.clone()));
            let mut are_gone = self.results.are_gone(outputs.collect()).await?.into_iter();
            let mut names = Vec::new();
            for job in page {
                let missing = are_gone.by_ref().take(job.outputs.len()).filter(|is_gone| *is_gone).count();
                all += job.outputs.len() as u64;
                gone += missing as u64;
                if missing > 0 {
                    names.push(job.name);
                }
            }
            if self.settings.send.repair && !names.is_empty() {
                self.queue.retry(&Selection { names, states: vec![] }).await?;
            }
        }
        if gone > 0 {
            let is = if gone == 1 { "is" } else { "are" };
            let what = if self.settings.send.repair { "made again" } else { "`--repair` makes it again" };
            let results = text::count(all, "result");
            self.session.terminal.note(&format!("{} of {results} {is} gone: {what}", text::grouped(gone)));
        }
        Ok(())
    }

    /// The figures that progress begins with.
    async fn board(&self) -> Result<Board> {
        let tally = self.queue.tally().await?;
        let scope = &self.settings.send.scope;
        let mut start = Start { cost: tally.cost, ..Start::default() };
        if *scope == Scope::default() {
            start.total = tally.jobs_total();
            let ended =
                tally.jobs.iter().filter(|(state, _)| state.is_final() && **state != JobState::Cancelled);
            start.done = ended.map(|(_, n)| n).sum();
        } else {
            let left = self.queue.left(scope).await?;
            start.total = left.ready + left.snoozed + left.waiting + left.running;
        }
        Ok(Board::new(start, self.session.terminal.clone(), self.settings.voice.quiet))
    }

    async fn tell_start(&self) -> Result<()> {
        if self.settings.voice.quiet {
            return Ok(());
        }
        let send = &self.settings.send;
        let left = self.queue.left(&send.scope).await?;
        let jobs = text::count(left.ready + left.snoozed + left.waiting + left.running, "job");
        let at = self.results.to_string();
        let provider = self.settings.load.provider;
        let line = format!(
            "{jobs} to do for {provider}, {}, into {}",
            text::at_once(self.concurrency()),
            printable(&at)
        );
        self.session.terminal.note(&line);
        Ok(())
    }

    /// Reports, summary and exit code. Where even these cannot be had, the reason why the work
    /// stopped is told all the same.
    async fn conclude(
        &self,
        worked: Result<Ending, WorkError>,
        signal: Option<super::signals::Signal>,
    ) -> Result<Exit> {
        let stopped = match &worked {
            Ok(Ending::Stopped(stop)) => Some(stop.to_string()),
            Ok(Ending::Done | Ending::Interrupted) => None,
            Err(error) => Some(error.to_string()),
        };
        // A queue that was away until the time was over is no other end than the one that was asked for.
        let is_away = matches!(&worked, Err(WorkError::Queue(QueueError::Unreachable { .. })));
        let exit = signal.filter(|_| is_away).map_or(Exit::Stopped, Exit::Interrupted);
        match (self.tell_end(worked, signal).await, stopped) {
            (Err(error), Some(reason)) => {
                self.session.terminal.note(&format!("error: {}", printable(&error.to_string())));
                self.session.terminal.note(&format!("stopped: {}", printable(&reason)));
                Ok(exit)
            }
            (told, _) => told,
        }
    }

    async fn tell_end(
        &self,
        worked: Result<Ending, WorkError>,
        signal: Option<super::signals::Signal>,
    ) -> Result<Exit> {
        let terminal = &self.session.terminal;
        let reported = write_last_reports(self.queue.as_ref(), &self.results).await;
        let (mut exit, mut reason) = match worked {
            Ok(ending) => self.verdict(&ending, signal).await?,
            Err(error) => (Exit::Stopped, Some(error.to_string())),
        };
        if let Err(error) = reported {
            terminal.note(&format!("error: {}", printable(&error.to_string())));
            exit = if matches!(exit, Exit::Interrupted(_)) { exit } else { Exit::Stopped };
            reason = reason.or(Some(error.to_string()));
        }
        let voice = self.settings.voice;
        let groups = closing::failures(self.queue.as_ref(), &self.settings.send.scope).await?;
        if voice.json {
            let closing =
                Closing::read(self.queue.as_ref(), &self.results, (exit, reason.clone()), groups).await?;
            terminal.json(&serde_json::to_string(&closing)?);
        } else if !voice.quiet {
            let tally = self.queue.tally().await?;
            for line in closing::lines(&tally, &self.results, &groups, reason.as_deref()) {
                terminal.out(&line);
            }
        }
        if (voice.json || voice.quiet)
            && let Some(reason) = reason
        {
            terminal.note(&format!("stopped: {}", printable(&reason)));
        }
        Ok(exit)
    }

    /// The exit code, and the reason where jobs are left.
    async fn verdict(
        &self,
        ending: &Ending,
        signal: Option<super::signals::Signal>,
    ) -> Result<(Exit, Option<String>), QueueError> {
        let scope = &self.settings.send.scope;
        let left = self.queue.left(scope).await?;
        let filter = JobFilter { states: UNSUCCESSFUL.to_vec(), scope: scope.clone() };
        let unsuccessful = !self.queue.jobs(&filter, None, 1).await?.is_empty();
        let end = ScopeEnd::new(&left, unsuccessful);
        let reason = match ending {
            Ending::Stopped(stop) => Some(stop.to_string()),
            Ending::Interrupted if end.left > 0 => Some(format!(
                "interrupted with {} left; run the same command again to go on",
                text::count(end.left, "job")
            )),
            Ending::Done if end.left > 0 => Some(format!(
                "{} left, which another process is working on or a person must decide on; see `nightpress status`",
                text::count(end.left, "job")
            )),
            Ending::Done | Ending::Interrupted => None,
        };
        Ok((Exit::of_run(ending, signal, end), reason))
    }
}

/// Keeps the reports fresh while a run goes on. What cannot be written now is tried again; the
/// last try, after the work, is the one whose failure counts.
async fn refresh_reports(queue: Arc<dyn Queue>, results: Results, end: CancellationToken) {
    let every = if results.are_shared() { REPORTS_EVERY_SHARED } else { REPORTS_EVERY };
    let mut pause = every;
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let start = Instant::now();
        match write_reports(queue.as_ref(), &results).await {
            Ok(()) | Err(ReportError::Queue(QueueError::Closed)) => {}
            Err(error) => tracing::warn!("the reports could not be refreshed: {error}"),
        }
        pause = every.max(start.elapsed() * REPORTS_PAUSE_FACTOR);
    }
}
