//! Commands that came at once, as sets in as few transactions as can be.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::engine::{Command, Reply, Task};
use super::fault::{Nature, nature_of};
use super::link::{Extent, Link};
use super::{claim, publish, settle};
use crate::job::{Epoch, JobId};
use crate::queue::{ClaimRequest, Claimed, Publication, QueueError, Settlement};

/// Claims that others were in the way of come again after this.
const LOCKED_PAUSE: Duration = Duration::from_millis(500);

/// Commands that came at once.
#[derive(Default)]
pub(super) struct Group {
    settle: Vec<(Settlement, Reply<Publication>)>,
    published: Vec<((JobId, Epoch), Reply<()>)>,
    claim: Vec<(ClaimRequest, Reply<Claimed>)>,
    work: VecDeque<Box<dyn Task>>,
    len: usize,
    close: bool,
}

/// What goes into one transaction.
#[derive(Default)]
struct Sets {
    settle: Vec<Settlement>,
    published: Vec<(JobId, Epoch)>,
    claim: Vec<ClaimRequest>,
}

/// The answers to [`Sets`], in order.
#[derive(Default)]
struct Answers {
    settle: Vec<Result<Publication, QueueError>>,
    published: Vec<Result<(), QueueError>>,
    claim: Vec<Result<Claimed, QueueError>>,
}

impl Group {
    /// All commands of a group are concurrent: no caller has had an answer to one before it sent another.
    /// So sets may go first.
    pub(super) fn push(&mut self, command: Command) {
        self.len += 1;
        match command {
            Command::Settle(settlement, reply) => self.settle.push((*settlement, reply)),
            Command::Published(lease, reply) => self.published.push((lease, reply)),
            Command::Claim(request, reply) => self.claim.push((request, reply)),
            Command::Work(work) => self.work.push_back(work),
            Command::Close => self.close = true,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing comes after it.
    pub(super) const fn closes(&self) -> bool {
        self.close
    }

    pub(super) async fn run(self, link: &mut Link) {
        let (settle, settle_replies) = self.settle.into_iter().unzip();
        let (published, published_replies) = self.published.into_iter().unzip();
        let (claim, claim_replies) = self.claim.into_iter().unzip();
        let sets = Sets { settle, published, claim };
        if !sets.is_empty() {
            let answers = answer(link, sets).await;
            give(settle_replies, answers.settle);
            give(published_replies, answers.published);
            give(claim_replies, answers.claim);
        }
        for task in self.work {
            task.run(link).await;
        }
    }
}

fn give<T>(replies: Vec<Reply<T>>, answers: Vec<Result<T, QueueError>>) {
    for (reply, answer) in replies.into_iter().zip(answers) {
        drop(reply.send(answer));
    }
}

impl Sets {
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.settle.len() + self.published.len() + self.claim.len()
    }

    /// Each command as a set of its own.
    fn apart(&self) -> impl Iterator<Item = Self> {
        let settle = self.settle.iter().map(|one| Self { settle: vec![one.clone()], ..Self::default() });
        let published = self.published.iter().map(|one| Self { published: vec![*one], ..Self::default() });
        let claim = self.claim.iter().map(|one| Self { claim: vec![one.clone()], ..Self::default() });
        settle.chain(published).chain(claim)
    }

    /// What ends, and what begins.
    fn split(&self) -> (Self, Self) {
        let claim = Self { claim: self.claim.clone(), ..Self::default() };
        (Self { settle: self.settle.clone(), published: self.published.clone(), ..Self::default() }, claim)
    }

    /// The same answer for all.
    fn refused(&self, error: &QueueError) -> Answers {
        Answers {
            settle: self.settle.iter().map(|_| Err(error.clone())).collect(),
            published: self.published.iter().map(|_| Err(error.clone())).collect(),
            claim: self.claim.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}

/// Runs everything in one transaction. What ends does not wait together with claims for what others hold, since it
/// may hold up others itself.
async fn answer(link: &mut Link, sets: Sets) -> Answers {
    if sets.claim.is_empty() {
        return answer_at_once(link, sets, Extent::Some)
            .await
            .unwrap_or_else(|(sets, error)| sets.refused(&error));
    }
    let (sets, error) = match answer_at_once(link, sets, Extent::Brief).await {
        Ok(answers) => return answers,
        Err(unanswered) => unanswered,
    };
    let (ends, claims) = sets.split();
    if nature_of(&error) != Nature::Locked {
        return sets.refused(&error);
    }
    let mut answers = Answers::default();
    if !ends.is_empty() {
        let ended = answer_at_once(link, ends, Extent::Some).await;
        answers = ended.unwrap_or_else(|(ends, error)| ends.refused(&error));
    }
    answers.claim = match answer_at_once(link, claims, Extent::Brief).await {
        Ok(answers) => answers.claim,
        Err((claims, error)) if nature_of(&error) == Nature::Locked => {
            tracing::warn!(error = error.to_string(), "nothing is claimed for now");
            claims.claim.iter().map(|one| Ok(nothing_for_now(one))).collect()
        }
        Err((claims, error)) => claims.refused(&error).claim,
    };
    answers
}

/// Others hold what a claim must look at: it may come again.
fn nothing_for_now(request: &ClaimRequest) -> Claimed {
    let waits = request.permits.iter().map(|permits| (permits.lane, LOCKED_PAUSE)).collect();
    Claimed { waits, ..Claimed::default() }
}

/// Where one transaction for all fails for good, each is tried alone, so that one poisoned command does not fail
/// its neighbours.
async fn answer_at_once(
    link: &mut Link,
    sets: Sets,
    extent: Extent,
) -> Result<Answers, (Arc<Sets>, QueueError)> {
    let sets = Arc::new(sets);
    let error = match transact(link, &sets, extent).await {
        Ok(answers) => return Ok(answers),
        Err(error) => error,
    };
    if sets.len() == 1
        || nature_of(&error) != Nature::Final
        || matches!(error, QueueError::Unreachable { .. })
    {
        return Err((sets, error));
    }
    let mut all = Answers::default();
    for one in sets.apart() {
        let one = Arc::new(one);
        let answers = transact(link, &one, Extent::Some).await.unwrap_or_else(|error| one.refused(&error));
        all.settle.extend(answers.settle);
        all.published.extend(answers.published);
        all.claim.extend(answers.claim);
    }
    Ok(all)
}

async fn transact(link: &mut Link, sets: &Arc<Sets>, extent: Extent) -> Result<Answers, QueueError> {
    let sets = Arc::clone(sets);
    link.transact(extent, move |session| {
        let sets = Arc::clone(&sets);
        Box::pin(async move {
            let settle = settle::settle(session, &sets.settle).await?;
            let published = publish::published(session, &sets.published).await?;
            let claim = claim::claim(session, &sets.claim).await?;
            Ok(Answers { settle, published, claim })
        })
    })
    .await
}
