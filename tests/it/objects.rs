//! Manifests and references in object storage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nightpress::job::{AttemptOutcome, Digest, MediaType, Micros, ObjectUrl, Reference};
use nightpress::manifest::{ObjectBytes, ObjectError, ObjectStamp, Objects};
use nightpress::output::Buckets;
use nightpress::worker::{Ending, Stop};

use crate::bucket::Studio;
use crate::press::{Press, job, scenario};

/// A picture of one colour.
fn picture(shade: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_pixel(64, 48, image::Rgb([shade, 180, 9]));
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("encodes");
    bytes.into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_and_its_references_may_be_in_a_bucket() {
    let Some(at) = Studio::new(0).await else { return };
    let (one, two) = (picture(1), picture(2));
    at.bucket.put("jobs/refs/a b#1.png", &one).await;
    at.bucket.put("brand/b.png", &two).await;
    let far = at.bucket.url("jobs/refs/a b#1.png");
    let jobs = |prompt: &str| {
        format!(
            "{{\"id\":\"x\",\"prompt\":\"x\",\"references\":[\"refs/a b#1.png\"]}}\n\
             {{\"id\":\"y\",\"prompt\":\"{prompt}\",\"references\":[\"../brand/b.png\",\"{far}\"]}}\n"
        )
    };
    let (manifest, results) = (at.bucket.url("jobs/catalog.jsonl"), at.bucket.url("spring"));
    at.bucket.put("jobs/catalog.jsonl", jobs("y").as_bytes()).await;
    at.run(&["plan", &manifest]).await.ended(0).says("2 new");
    at.run(&["run", &manifest, "-o", &results]).await.ended(0);
    let mut sent: Vec<_> =
        at.desk.simulator.log().entries.into_iter().map(|entry| (entry.prompt, entry.references)).collect();
    sent.sort_by(|a, b| a.0.cmp(&b.0));
    let (one, two) = (Digest::of(&one), Digest::of(&two));
    assert_eq!(sent, [("x".to_owned(), vec![one]), ("y".to_owned(), vec![two, one])]);
    at.check(2).await;
    at.run(&["run", &manifest, "-o", &results]).await.ended(0).says("2 unchanged");
    assert_eq!(at.desk.sent(), 2);

    // A reference that changes after the load is not sent as it is now, unless that is asked for.
    at.bucket.put("jobs/catalog.jsonl", jobs("y, changed").as_bytes()).await;
    at.run(&["load", &manifest, "-o", &results]).await.ended(0);
    at.bucket.put("brand/b.png", &picture(3)).await;
    at.run(&["work", "-o", &results]).await.ended(1).says("reference_changed");
    assert_eq!(at.desk.sent(), 2);
    at.run(&["run", &manifest, "-o", &results]).await.ended(0);
    assert_eq!(at.desk.sent(), 3);

    // From a file here, too; and what is wrong is told with its place.
    at.desk.write("here.jsonl", &jobs("z").replace("refs/a", "s3://nowhere/a"));
    let wrong = at.run(&["plan", "here.jsonl"]).await.ended(2);
    let wrong = wrong.says("here.jsonl:1:").says("s3://nowhere/a b#1.png").says("here.jsonl:2:");
    assert!(wrong.err.contains("../brand/b.png"), "{}", wrong.err);
    at.bucket.put("jobs/catalog.jsonl", b"{\"id\":\"x\"}\n").await;
    at.run(&["plan", &manifest]).await.ended(2).says(&format!("{manifest}:1:"));
    at.run(&["plan", &at.bucket.url("jobs/none.csv")]).await.ended(2).says("jobs/none.csv");
    at.run(&["plan", "gopher://jobs/none.csv"]).await.ended(2).says("s3://");
}

/// Objects of a store that cannot be reached for a while.
#[derive(Debug)]
struct Away {
    is_away: AtomicBool,
    there: Buckets,
}

#[async_trait::async_trait]
impl Objects for Away {
    async fn stamp(&self, url: &ObjectUrl) -> Result<ObjectStamp, ObjectError> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(ObjectError::Away("the store is on holiday".to_owned()));
        }
        self.there.stamp(url).await
    }

    async fn read(&self, url: &ObjectUrl, stamp: &ObjectStamp) -> Result<ObjectBytes, ObjectError> {
        self.there.read(url, stamp).await
    }
}

#[tokio::test]
async fn a_store_of_references_that_is_away_stops_the_run_and_fails_no_job() {
    let mut press = Press::new(scenario(vec![])).await;
    let content = picture(1);
    std::fs::write(press.dir.path().join("a.png"), &content).expect("writes");
    let mut edit = job("edit", "make it blue");
    edit.spec.references = vec![Reference {
        path: format!("file://{}/a.png", press.dir.path().display()).into(),
        digest: Digest::of(&content),
        bytes: content.len() as u64,
        media: MediaType::Png,
    }];
    let away = Arc::new(Away { is_away: AtomicBool::new(true), there: Buckets::brief() });
    press.objects = Arc::clone(&away) as Arc<dyn Objects>;
    press.load(vec![edit]).await;
    let ending = press.run().await.expect("ends in order");
    assert!(matches!(&ending, Ending::Stopped(Stop::Bucket(why)) if why.contains("holiday")), "{ending:?}");
    let attempt = &press.attempts().await[0];
    assert_eq!((attempt.outcome, attempt.cost_at_most), (AttemptOutcome::Aborted, Some(Micros(0))));
    away.is_away.store(false, Ordering::Relaxed);
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    assert_eq!(press.log().entries[0].references, [Digest::of(&content)]);
}
