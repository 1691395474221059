//! One attempt from top to bottom: references checked, request sent, answer decoded into the
//! spool, its end judged. Touches neither queue nor lane: what it found out is its return value.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::account::Account;
use super::download::download;
use super::progress::{Phase, Progress};
use super::references::{ReferenceFault, References};
use super::spooler::{PIECE_BYTES, Spooler, Trouble};
use super::{WorkError, is_out_of_files};
use crate::gemini::answer::{Answer, AnswerReader, BodyEnd};
use crate::gemini::decode::{DecodeError, Limits};
use crate::gemini::fault::{self, ErrorResponse, Fault, FaultClass, Request};
use crate::gemini::{Client, ImageFetcher, Reply, TransportError};
use crate::gemini::{of_damaged_image, of_fetch, of_lost_connection};
use crate::job::{CrashPoint, PriceTable, Provider, Spec, Usage, crash_point};
use crate::output::{SpoolDir, SpooledPicture};
use crate::queue::{AttemptFacts, Claim};

/// As much of an error's body as is read for its text.
const ERROR_BODY_BYTES_MAX: usize = 64 * 1024;

/// A server that has said its last word and keeps the connection open is waited for no longer.
/// Usage and a second image come at once after the first, if they come.
const SILENCE_AFTER_THE_END: Duration = Duration::from_secs(20);

/// What every executor of a run shares.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) fetcher: ImageFetcher,
    pub(super) spool: Arc<SpoolDir>,
    pub(super) prices: PriceTable,
    pub(super) references: References,
}

/// One attempt: what is asked, and of whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order<'a> {
    pub(super) claim: &'a Claim,
    /// Of the lane that the claim was made for.
    pub(super) client: &'a Client,
}

/// How an attempt ended, before anything is recorded.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) result: Result<Vec<SpooledPicture>, Cause>,
    pub(super) facts: AttemptFacts,
}

/// Why an attempt brought no images.
#[derive(Debug)]
pub(super) enum Cause {
    /// The provider, or the way to it.
    Fault(Fault),
    /// We cut it off.
    Aborted,
    /// It cannot be sent at all, through the job's own fault.
    Unsendable(ReferenceFault),
    /// The machine: the disk, or its files.
    Machine(WorkError),
}

/// What is found out about an attempt while it runs; what there is when it is cut off is kept.
#[derive(Debug, Default)]
struct Draft {
    facts: AttemptFacts,
    usage_is_final: bool,
}

/// Runs one attempt. `cancel` cuts it off; the connection is closed then.
pub(super) async fn execute(
    tools: &Tools,
    order: Order<'_>,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Ended {
    let started = Instant::now();
    let mut draft = Draft::default();
    let result = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Cause::Aborted),
        result = exchange(tools, order, progress, &mut draft) => result,
    };
    draft.facts.total = started.elapsed();
    let facts = record(draft, &result, order.claim, &tools.prices);
    Ended { result, facts }
}

async fn exchange(
    tools: &Tools,
    Order { claim, client }: Order<'_>,
    progress: &Progress,
    draft: &mut Draft,
) -> Result<Vec<SpooledPicture>, Cause> {
    let Draft { facts, usage_is_final: is_final } = draft;
    tools.references.unchanged(&claim.spec).await.map_err(|fault| match fault {
        fault if is_out_of_files(&fault) => out_of_files(&fault),
        fault @ ReferenceFault::Away(_) => Cause::Machine(WorkError::StoreAway(fault.to_string())),
        fault => Cause::Unsendable(fault),
    })?;
    let redact = |text: &str| client.endpoint().key.redact(text);
    let request = Request {
        model: &claim.spec.model,
        streamed: claim.stream && client.endpoint().provider != Provider::Google,
        redact: &redact,
    };
    let lost = |error: &TransportError| match error {
        TransportError::OutOfFiles(_) => out_of_files(error),
        error => Cause::Fault(of_lost_connection(error, &request)),
    };
    let started = Instant::now();
    crash_point(CrashPoint::BeforeSend);
    let mut reply = client.send(&claim.spec, claim.stream).await.map_err(|error| lost(&error))?;
    crash_point(CrashPoint::HeadReceived);
    facts.http_status = Some(reply.status);
    if reply.status != 200 {
        let body = reply.body.prefix(ERROR_BODY_BYTES_MAX).await;
        facts.bytes = body.len() as u64;
        let response = ErrorResponse { status: reply.status, headers: &reply.headers, body: &body };
        return Err(Cause::Fault(fault::of_response(&response, &request)));
    }
    let mut spooler = Spooler::new(Arc::clone(&tools.spool), claim.attempt);
    let (answer, broken) = read_answer(&mut reply, &mut spooler, progress, (facts, started)).await?;
    note_answer(facts, &answer, &redact);
    *is_final = usage_is_final(&answer);
    if let Some(fault) = fault::of_answer(&answer, &request) {
        spooler.finish(vec![]).await.map_err(disk)?.ok();
        // A silence or a broken connection is told as such, unless the server gave a reason: a
        // refusal stands, whatever became of the bytes behind it.
        let has_reason = answer.error.is_some() || usage_is_final(&answer);
        return Err(broken.filter(|_| !has_reason).map_or(Cause::Fault(fault), |error| lost(&error)));
    }
    let mut wanted: Vec<usize> = answer.images.iter().map(|image| image.number).collect();
    for url in &answer.urls {
        match download(&tools.fetcher, url, &mut spooler).await.map_err(disk)? {
            Ok(number) => wanted.push(number),
            Err(error) => {
                spooler.finish(vec![]).await.map_err(disk)?.ok();
                return Err(Cause::Fault(of_fetch(&error, &request)));
            }
        }
    }
    let pictures = match spooler.finish(wanted).await.map_err(disk)? {
        Ok(pictures) => pictures,
        Err(damage) => return Err(Cause::Fault(of_damaged_image(&damage))),
    };
    facts.note = notes(&claim.spec, &answer, &pictures);
    Ok(pictures)
}

/// Reads an answer to its end, and what broke it off if anything did.
async fn read_answer(
    reply: &mut Reply,
    spooler: &mut Spooler,
    progress: &Progress,
    (facts, started): (&mut AttemptFacts, Instant),
) -> Result<(Answer, Option<TransportError>), Cause> {
    let mut reader = AnswerReader::new(Limits::default());
    let mut broken = None;
    let end = loop {
        let patience = if is_over(reader.so_far()) { SILENCE_AFTER_THE_END } else { Duration::MAX };
        match reply.body.next_within(patience).await {
            Ok(Some(block)) => {
                facts.first_byte.get_or_insert_with(|| started.elapsed());
                progress.enter(Phase::Thinking);
                // What is wrong with the answer is in it, when it is finished.
                if read_block(&mut reader, block, (spooler, progress)).await?.is_err() {
                    break BodyEnd::Clean;
                }
            }
            Ok(None) => break BodyEnd::Clean,
            Err(error) => {
                broken = Some(error);
                break BodyEnd::Cut;
            }
        }
    };
    facts.bytes = reader.received_bytes();
    Ok((reader.finish(end), broken))
}

/// Takes one block of the body; the inner error is the decoder's.
async fn read_block(
    reader: &mut AnswerReader,
    mut block: Bytes,
    (spooler, progress): (&mut Spooler, &Progress),
) -> Result<Result<(), DecodeError>, Cause> {
    while !block.is_empty() {
        let piece = block.split_to(block.len().min(PIECE_BYTES));
        if let Err(error) = reader.push(&piece, spooler) {
            return Ok(Err(error));
        }
        // Given back before the disk is waited for: the connection reads into its memory again.
        drop(piece);
        if spooler.images() > 0 {
            progress.enter(Phase::Receiving);
            progress.received(spooler.image_bytes());
            crash_point(CrashPoint::MidStream);
        }
        spooler.flush_if_full().await.map_err(disk)?;
    }
    Ok(Ok(()))
}

/// Whether the server has said its last word, though the body may go on. `STOP` can stand on
/// every chunk, so that it means something beside images only.
fn is_over(answer: &Answer) -> bool {
    let refused = answer.finish_reason.as_deref().is_some_and(|reason| reason != "STOP");
    refused || answer.block_reason.is_some() || (answer.has_terminal_signal && answer.has_results())
}

/// Nothing was sent: this process has no file descriptor left.
fn out_of_files(error: &dyn std::error::Error) -> Cause {
    Cause::Machine(WorkError::OutOfFiles(error.to_string()))
}

fn disk(trouble: Trouble) -> Cause {
    Cause::Machine(trouble.into())
}

/// What the answer said besides its images. Its words are the server's: the key is taken out.
fn note_answer(facts: &mut AttemptFacts, answer: &Answer, redact: &dyn Fn(&str) -> String) {
    let clean = |text: &String| redact(text);
    facts.usage = answer.usage;
    facts.finish_reason = answer.block_reason.as_ref().or(answer.finish_reason.as_ref()).map(clean);
    facts.response_id = answer.response_id.as_ref().map(clean);
    facts.caption = Some(clean(&answer.caption)).filter(|caption| !caption.is_empty());
}

/// Whether the usage that an answer stated is all of it.
fn usage_is_final(answer: &Answer) -> bool {
    answer.has_terminal_signal || answer.block_reason.is_some()
}

/// What the end of the attempt says about money and errors.
fn record(
    draft: Draft,
    result: &Result<Vec<SpooledPicture>, Cause>,
    claim: &Claim,
    prices: &PriceTable,
) -> AttemptFacts {
    let Draft { mut facts, usage_is_final } = draft;
    if let Err(Cause::Fault(Fault {
        class: FaultClass::Throttled { .. } | FaultClass::Parked { .. }, ..
    })) = result
    {
        // A refusal by a rate limit is not an answer: nothing of it is counted.
        facts.usage = Usage::default();
    }
    let account = Account {
        usage: facts.usage,
        usage_is_final,
        succeeded: result.is_ok(),
        may_be_billed: match result {
            // It never left.
            Err(
                Cause::Unsendable(_) | Cause::Machine(WorkError::OutOfFiles(_) | WorkError::StoreAway(_)),
            ) => false,
            Ok(_) | Err(Cause::Aborted | Cause::Machine(_)) => true,
            Err(Cause::Fault(fault)) => fault.may_be_billed,
        },
        reservation: claim.reservation,
    };
    (facts.cost, facts.cost_at_most) = account.cost(&claim.spec.model, prices);
    match result {
        Ok(_) => {}
        Err(Cause::Fault(fault)) => set_error(&mut facts, &fault.code, &fault.message),
        Err(Cause::Aborted) => set_error(&mut facts, "aborted", "cut off by us; it may have been billed"),
        Err(Cause::Unsendable(fault)) => set_error(&mut facts, fault.code(), &fault.to_string()),
        Err(Cause::Machine(error)) => set_error(&mut facts, "machine", &error.to_string()),
    }
    facts
}

fn set_error(facts: &mut AttemptFacts, code: &str, message: &str) {
    facts.error_code = Some(code.to_owned());
    facts.error = Some(message.to_owned());
}

/// What is worth saying about a success.
fn notes(spec: &Spec, answer: &Answer, pictures: &[SpooledPicture]) -> Option<String> {
    let mut notes = Vec::new();
    if !answer.is_complete() {
        notes.push("the answer had an image but no proper end: its usage may be incomplete".to_owned());
    } else if answer.usage.is_empty() {
        notes.push("the answer did not state its usage".to_owned());
    }
    if let (Some(asked), Some(first)) = (spec.aspect_ratio.as_deref(), pictures.first())
        && !ratio_is_kept(asked, first.width, first.height)
    {
        notes.push(format!("asked for {asked}, got {}x{}", first.width, first.height));
    }
    notes.extend(fault::note_of(answer).map(str::to_owned));
    (!notes.is_empty()).then(|| notes.join("; "))
}

/// Models round sides to multiples of 16 and more: 16:9 comes as 1376x768, 0.8 % off.
fn ratio_is_kept(asked: &str, width: u32, height: u32) -> bool {
    const TOLERANCE: f64 = 0.03;
    let Some((across, down)) = asked.split_once(':') else { return true };
    let (Ok(across), Ok(down)) = (across.parse::<f64>(), down.parse::<f64>()) else { return true };
    let ratio = (f64::from(width) / f64::from(height)) / (across / down);
    !ratio.is_finite() || (ratio - 1.0).abs() <= TOLERANCE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rounded_ratio_is_kept_and_another_one_is_not() {
        assert!(ratio_is_kept("16:9", 1376, 768));
        assert!(ratio_is_kept("1:1", 1024, 1024));
        assert!(!ratio_is_kept("16:9", 1024, 1024));
        assert!(!ratio_is_kept("9:16", 1376, 768));
        assert!(ratio_is_kept("odd", 10, 10));
    }
}
