//! The server, as one process sees it: it checks that a request may come, draws what becomes of
//! it and answers in virtual time.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::http;
use bytes::Bytes;
use futures_util::stream;
use rand::RngExt as _;
use tokio::time::{Instant, sleep};

use super::fate::{Fate, Script};
use super::life::Anchor;
use super::world::World;
use crate::gemini::TransportError;
use crate::gemini::double::Double;
use crate::job::{AttemptOutcome, JobId, Spec};

/// What a process sends its requests to.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) anchor: Arc<Anchor>,
}

/// A request under way; over when it is dropped.
#[derive(Debug)]
struct Open {
    world: Arc<World>,
    life: usize,
    attempt: i64,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.world.with(|state| {
            state.books.lives[self.life].open -= 1;
            let attempt = state.books.attempts.get_mut(&self.attempt);
            if let Some(request) = attempt.and_then(|one| one.request.as_mut()) {
                request.over = Some(Instant::now());
            }
        });
    }
}

impl Server {
    /// Draws the answer to a request, and writes the request down.
    fn admit(&self, attempt: i64, spec: &Spec, stream: bool) -> (Fate, Script, Duration) {
        let (world, life) = (&self.anchor.world, self.anchor.life);
        let (plan, now) = (&world.plan, Instant::now());
        world.with(|state| {
            let model = spec.model.to_string();
            let recent = state.admitted.entry(model).or_default();
            let mut fate = state.weather.unwrap_or_else(|| plan.fate(&mut state.rng, state.calm));
            if let Some((most, window)) = plan.limit
                && recent.iter().filter(|at| now - **at < window).count() >= most
            {
                fate = Fate::Limit;
            }
            if fate != Fate::Limit {
                recent.push(now);
            }
            // These last until somebody does something about them.
            if matches!(fate, Fate::MoneyOut | Fate::KeyRejected) {
                state.weather = Some(fate);
            }
            let script = Script::of(fate, attempt.unsigned_abs(), (spec, stream), &mut state.rng);
            let head = match fate {
                Fate::SilentHead => Duration::from_secs(3_600),
                _ if script.status != 200 => Duration::from_millis(state.rng.random_range(1..400)),
                _ => Duration::from_millis(state.rng.random_range(1..6_000)),
            };
            let it = &mut state.books.lives[life];
            it.open += 1;
            let sent = it.sent.entry(spec.model.to_string()).or_default();
            sent.push(now);
            let minute = sent.iter().filter(|at| now - **at < Duration::from_mins(1)).count();
            let (open, most) = (it.open, plan.concurrency.max());
            let request = super::books::Request {
                fate,
                billed: script.billed,
                hint: script.hint,
                pictures: script.pictures.clone(),
                at: now,
                over: None,
            };
            let entry = state.books.attempts.get_mut(&attempt).expect("it was found");
            entry.request = Some(request);
            let name = entry.name.clone();
            state.note(life, &format!("request for {name}, attempt {attempt}: {fate:?}"));
            if open > most {
                state.violation(life, &format!("{open} requests at once, at most {most} are allowed"));
            }
            if plan.per_minute.is_some_and(|most| minute > most as usize) {
                state.violation(life, &format!("{minute} requests in a minute"));
            }
            (fate, script, head)
        })
    }

    /// The intent of this request, which must be on disk.
    async fn intent(&self, spec: &Spec) -> Option<i64> {
        let (world, life) = (&self.anchor.world, self.anchor.life);
        let found = world.with(|state| match state.books.sent(life, &spec.prompt) {
            Ok(attempt) => Some(attempt),
            Err(violation) => {
                state.violation(life, &violation);
                None
            }
        })?;
        let (job, buried) =
            world.with(|state| (state.books.attempts[&found].job, state.books.lives[life].buried));
        let rows = world.reads(world.queue.attempts(Some(JobId(job)), None, 1_000)).await;
        let row = rows.iter().flatten().find(|row| row.attempt.0 == found);
        let on_disk = row.is_some_and(|row| row.outcome == AttemptOutcome::Sent || buried);
        if !on_disk {
            world.with(|state| {
                state.violation(life, &format!("attempt {found} is sent before it is written"));
            });
        }
        Some(found)
    }
}

#[async_trait]
impl Double for Server {
    async fn answer(&self, spec: &Spec, stream: bool) -> Result<reqwest::Response, TransportError> {
        if self.anchor.is_gone() {
            return pending().await;
        }
        let Some(attempt) = self.intent(spec).await else { return pending().await };
        let (fate, script, head) = self.admit(attempt, spec, stream);
        let open = Open { world: Arc::clone(&self.anchor.world), life: self.anchor.life, attempt };
        sleep(head).await;
        match fate {
            Fate::NoConnection => return Err(TransportError::Connect("refused".to_owned())),
            Fate::Reset => return Err(TransportError::Broken("reset by peer".to_owned())),
            _ => {}
        }
        let mut response = http::Response::builder().status(script.status);
        for (name, value) in &script.headers {
            response = response.header(*name, value);
        }
        let blocks: VecDeque<(Duration, Result<Bytes, std::io::ErrorKind>)> = script.blocks.into();
        let body = stream::unfold((blocks, open), |(mut blocks, open)| async move {
            let (pause, block) = blocks.pop_front()?;
            sleep(pause).await;
            Some((block.map_err(std::io::Error::from), (blocks, open)))
        });
        let response = response.body(reqwest::Body::wrap_stream(body)).expect("legal headers");
        Ok(response.into())
    }
}
