//! The protocol on a store in memory, and on `file://` where what matters is the disk.

use std::fs;
use std::time::Duration;

use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use object_store::{ObjectStoreExt as _, PutPayload};

use super::*;
use crate::job::{Digest, MediaType};
use crate::output::publish::{PublishError, Published, Record};
use crate::queue::PlannedOutput;

struct Fixture {
    dir: tempfile::TempDir,
    store: Arc<dyn ObjectStore>,
    bucket: Bucket,
}

fn record(content: &[u8]) -> Record {
    (content.len() as u64, Digest::of(content))
}

impl Bucket {
    /// One to which an upload takes longer than any test waits.
    pub(crate) fn that_never_answers(folder: RunFolder) -> Self {
        let slow = ThrottleConfig { wait_put_per_call: Duration::from_secs(1_000_000), ..Default::default() };
        let store: Arc<dyn ObjectStore> = Arc::new(ThrottledStore::new(InMemory::new(), slow));
        Self::on("s3://studio/spring".parse().expect("an address"), folder, (Arc::clone(&store), store))
    }
}

impl Fixture {
    /// A bucket in memory, as the worker `w1` sees it.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let bucket = Self::of_machine(&dir, &store, "one");
        Self { dir, store, bucket }
    }

    fn of_machine(dir: &tempfile::TempDir, store: &Arc<dyn ObjectStore>, machine: &str) -> Bucket {
        let folder = RunFolder::new(dir.path().join(machine));
        let url = "s3://studio/spring".parse().expect("an address");
        Bucket::on(url, folder, (Arc::clone(store), Arc::clone(store)))
    }

    /// The same bucket from a machine that sees no other's disk.
    fn another_machine(&self) -> Bucket {
        Self::of_machine(&self.dir, &self.store, "two")
    }

    /// A picture in the spool of machine `one`.
    fn spooled(&self, name: &str, content: &[u8]) -> PlannedOutput {
        let path = self.bucket.folder().spool().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("creates");
        fs::write(path, content).expect("writes");
        let (bytes, digest) = record(content);
        PlannedOutput { spool: name.to_owned(), media: MediaType::Png, bytes, digest, width: 1, height: 1 }
    }

    async fn staged(&self, name: &str, content: &[u8]) -> PlannedOutput {
        let planned = self.spooled(name, content);
        self.bucket.stage(std::slice::from_ref(&planned)).await.expect("stages");
        planned
    }

    async fn put(&self, key: &str, content: &[u8]) {
        let payload = PutPayload::from(content.to_vec());
        self.store.put(&Path::from(key), payload).await.expect("puts");
    }

    async fn content(&self, key: &str) -> Option<Vec<u8>> {
        let found = self.store.get(&Path::parse(key).expect("a path")).await.ok()?;
        Some(found.bytes().await.expect("reads").to_vec())
    }

    async fn keys(&self) -> Vec<String> {
        use futures_util::TryStreamExt as _;
        let found: Vec<_> = self.store.list(None).try_collect().await.expect("lists");
        let mut keys: Vec<String> = found.into_iter().map(|object| object.location.to_string()).collect();
        keys.sort();
        keys
    }
}

#[tokio::test]
async fn a_picture_is_staged_gets_its_name_and_leaves_nothing_in_either_spool() {
    let at = Fixture::new();
    let planned = at.staged("w1/7-1", b"new").await;
    assert_eq!(at.keys().await, ["spring/.spool/w1/7-1"]);
    assert_eq!(at.bucket.publish(&planned, "de/hero #1%.png", None).await.expect("io"), Published::Done);
    assert_eq!(at.keys().await, ["spring/images/de/hero #1%.png"]);
    assert_eq!(at.content("spring/images/de/hero #1%.png").await.expect("there"), b"new");
    assert!(!at.bucket.folder().spool().join("w1/7-1").exists());
    // A crash came before the record: the same step again finds its work done.
    assert_eq!(at.bucket.publish(&planned, "de/hero #1%.png", None).await.expect("io"), Published::Done);
}

#[tokio::test]
async fn a_picture_in_parts_comes_out_as_it_went_in() {
    let at = Fixture::new();
    let content: Vec<u8> = (0..writer::PART_BYTES * 2 + 12_345).map(|n| (n % 251) as u8).collect();
    for (name, bytes) in [("w1/1-1", &content[..]), ("w1/2-1", &content[..writer::PART_BYTES])] {
        let planned = at.staged(name, bytes).await;
        let image = name.replace('/', "-");
        at.bucket.publish(&planned, &image, None).await.expect("io");
        assert_eq!(at.content(&format!("spring/images/{image}")).await.expect("there"), bytes);
    }
}

#[tokio::test]
async fn another_machine_publishes_what_a_dead_one_had_staged() {
    let at = Fixture::new();
    let planned = at.staged("w1/7-1", b"paid for").await;
    fs::remove_dir_all(at.bucket.folder().path()).expect("the machine is gone");
    let published = at.another_machine().publish(&planned, "hero.png", None).await;
    assert_eq!(published.expect("io"), Published::Done);
    assert_eq!(at.content("spring/images/hero.png").await.expect("there"), b"paid for");
}

#[tokio::test]
async fn what_could_not_be_staged_is_published_by_its_own_machine_and_given_up_by_no_other() {
    let at = Fixture::new();
    let planned = at.spooled("w1/7-1", b"paid for");
    let elsewhere = at.another_machine().publish(&planned, "hero.png", None).await;
    assert!(matches!(elsewhere, Err(PublishError::Elsewhere { .. })), "{elsewhere:?}");
    assert_eq!(at.bucket.publish(&planned, "hero.png", None).await.expect("io"), Published::Done);
    assert_eq!(at.keys().await, ["spring/images/hero.png"]);
    // A person deleted it from the spool of its own machine: it is nowhere.
    let planned = at.spooled("w1/8-1", b"lost");
    fs::remove_file(at.bucket.folder().spool().join("w1/8-1")).expect("removes");
    let vanished = at.bucket.publish(&planned, "other.png", None).await;
    assert!(matches!(vanished, Err(PublishError::Vanished { .. })), "{vanished:?}");
}

#[tokio::test]
async fn a_foreign_object_is_never_written_over_and_our_own_old_one_is() {
    let at = Fixture::new();
    at.put("spring/images/hero.png", b"old").await;
    let planned = at.staged("w1/7-1", b"new").await;
    let step = async |ours| at.bucket.publish(&planned, "hero.png", ours).await.expect("io");
    assert_eq!(step(None).await, Published::Occupied);
    assert_eq!(step(Some(record(b"edited by a person"))).await, Published::Occupied);
    // As long as the new one, and still not ours.
    assert_eq!(step(Some(record(b"OLD"))).await, Published::Occupied);
    assert_eq!(at.content("spring/images/hero.png").await.expect("there"), b"old");
    assert!(at.content("spring/.spool/w1/7-1").await.is_some(), "it waits for another name");
    assert_eq!(step(Some(record(b"old"))).await, Published::Done);
    assert_eq!(at.content("spring/images/hero.png").await.expect("there"), b"new");
}

#[tokio::test]
async fn a_replaced_object_goes_unless_a_person_changed_it() {
    let at = Fixture::new();
    at.put("spring/images/a.png", b"old").await;
    at.put("spring/images/b.png", b"my").await;
    for name in ["a.png", "b.png", "c.png"] {
        at.bucket.remove_replaced(name, record(b"old")).await.expect("io");
    }
    assert_eq!(at.keys().await, ["spring/images/b.png"]);
}

#[tokio::test]
async fn renaming_does_not_write_over_and_goes_on_after_a_crash_between_its_steps() {
    let at = Fixture::new();
    at.put("spring/images/a.png", b"x").await;
    at.put("spring/images/taken.png", b"y").await;
    let step = async |to| at.bucket.rename(("a.png", to), record(b"x")).await;
    assert_eq!(step("taken.png").await.expect("io"), Published::Occupied);
    // Copied, not deleted: as a crash leaves it.
    at.put("spring/images/b/c.png", b"x").await;
    assert!(!at.bucket.is_renamed(("a.png", "b/c.png"), record(b"x")).await.expect("io"));
    assert_eq!(step("b/c.png").await.expect("io"), Published::Done);
    assert!(at.bucket.is_renamed(("a.png", "b/c.png"), record(b"x")).await.expect("io"));
    assert_eq!(step("b/c.png").await.expect("io"), Published::Done);
    assert_eq!(at.keys().await, ["spring/images/b/c.png", "spring/images/taken.png"]);
    let gone = step("d.png").await;
    assert!(matches!(gone, Err(PublishError::NoSuchResult { .. })), "{gone:?}");
}

#[tokio::test]
async fn a_worker_s_leavings_are_swept_and_no_other_s() {
    let at = Fixture::new();
    for name in ["w1/1-1", "w1/2-1", "w10/1-1", "w2/1-1"] {
        at.staged(name, b"x").await;
    }
    assert_eq!(at.bucket.tokens().await.expect("lists"), ["w1", "w10", "w2"]);
    at.bucket.discard("w1").await.expect("removes");
    assert_eq!(at.keys().await, ["spring/.spool/w10/1-1", "spring/.spool/w2/1-1"]);
}

#[tokio::test]
async fn what_is_gone_is_told_in_the_order_of_the_question() {
    let at = Fixture::new();
    assert!(!at.bucket.holds_images().await.expect("looks"));
    at.put("spring/images/b.png", b"x").await;
    assert!(at.bucket.holds_images().await.expect("looks"));
    let names = ["a.png", "b.png", "c.png"].map(str::to_owned);
    assert_eq!(at.bucket.are_gone(&names).await.expect("looks"), [true, false, true]);
}

#[tokio::test]
async fn a_report_replaces_the_old_one_when_it_is_whole_and_its_end_can_be_read() {
    let at = Fixture::new();
    assert_eq!(at.bucket.tail("usage.csv", 4).await.expect("looks"), None);
    for content in [&b"one"[..], b"two, longer"] {
        let mut report = at.bucket.report("usage.csv").expect("begins");
        for bytes in content.chunks(2) {
            report.write(bytes).await.expect("writes");
        }
        report.finish().await.expect("finishes");
        assert_eq!(at.content("spring/usage.csv").await.expect("there"), content);
    }
    let mut broken = at.bucket.report("usage.csv").expect("begins");
    broken.write(&vec![0; writer::PART_BYTES + 1]).await.expect("writes");
    broken.discard().await;
    assert_eq!(at.content("spring/usage.csv").await.expect("there"), b"two, longer");
    assert_eq!(at.bucket.tail("usage.csv", 4).await.expect("looks").expect("there"), b"nger");
    assert_eq!(at.bucket.tail("usage.csv", 400).await.expect("looks").expect("there"), b"two, longer");
}

#[tokio::test]
async fn a_probe_leaves_nothing_and_refuses_a_store_that_keeps_nobody_apart() {
    let at = Fixture::new();
    at.bucket.check().await.expect("it can");
    assert_eq!(at.keys().await, Vec::<String>::new());
    let dir = tempfile::tempdir().expect("temp dir");
    let careless: Arc<dyn ObjectStore> = Arc::new(Careless(InMemory::new()));
    let error = Fixture::of_machine(&dir, &careless, "one").check().await.expect_err("it cannot");
    assert!(matches!(error, StoreError::NoConditions { .. }), "{error}");
}

#[tokio::test]
async fn a_shared_disk_by_its_address_is_a_bucket_too() {
    let dir = tempfile::tempdir().expect("temp dir");
    let url = format!("file://{}/nas/spring", dir.path().display()).parse().expect("an address");
    let bucket = Bucket::open(&url, RunFolder::new(dir.path().join("run"))).expect("opens");
    bucket.check().await.expect("it can");
    let at = Fixture { bucket, ..Fixture::new() };
    let planned = at.staged("w1/7-1", b"new").await;
    assert_eq!(at.bucket.publish(&planned, "de/hero.png", None).await.expect("io"), Published::Done);
    let images = dir.path().join("nas/spring/images");
    assert_eq!(fs::read(images.join("de/hero.png")).expect("there"), b"new");
    let other = at.staged("w1/8-1", b"other").await;
    assert_eq!(at.bucket.publish(&other, "de/hero.png", None).await.expect("io"), Published::Occupied);
    at.bucket.discard("w1").await.expect("removes");
    assert_eq!(at.bucket.tokens().await.expect("lists"), Vec::<String>::new());
}

/// A folder that went away when it was empty would go from under the next upload into it.
#[tokio::test]
async fn on_a_shared_disk_a_workers_folder_stays_until_it_is_swept() {
    let dir = tempfile::tempdir().expect("temp dir");
    let url = format!("file://{}/nas", dir.path().display()).parse().expect("an address");
    let bucket = Bucket::open(&url, RunFolder::new(dir.path().join("run"))).expect("opens");
    let at = Fixture { bucket, ..Fixture::new() };
    let planned = at.staged("w1/7-1", b"new").await;
    assert_eq!(at.bucket.publish(&planned, "hero.png", None).await.expect("io"), Published::Done);
    let folder = dir.path().join("nas/.spool/w1");
    assert_eq!(fs::read_dir(&folder).expect("it stays").count(), 0);
    at.bucket.discard("w1").await.expect("removes");
    assert!(!folder.exists());
}

#[tokio::test]
async fn what_a_dead_probe_left_is_swept_and_that_of_a_living_one_stays() {
    let at = Fixture::new();
    at.put("spring/.spool/probe-1/a", b"a process died over it").await;
    assert_eq!(at.bucket.tokens().await.expect("lists"), Vec::<String>::new());
    at.bucket.check().await.expect("it can");
    assert_eq!(at.keys().await, ["spring/.spool/probe-1/a"], "it may be another's");
    at.bucket.discard_older("probe-1", std::time::Duration::from_secs(3_600)).await.expect("looks");
    assert_eq!(at.keys().await.len(), 1);
    at.bucket.discard_older("probe-1", std::time::Duration::ZERO).await.expect("removes");
    assert_eq!(at.keys().await, Vec::<String>::new());
}

/// A store that writes over what it was asked to leave alone.
#[derive(Debug)]
struct Careless(InMemory);

impl std::fmt::Display for Careless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("careless")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Careless {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: object_store::PutOptions,
    ) -> object_store::Result<object_store::PutResult> {
        self.0.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: object_store::PutMultipartOptions,
    ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
        self.0.put_multipart_opts(path, options).await
    }

    async fn get_opts(
        &self,
        path: &Path,
        options: object_store::GetOptions,
    ) -> object_store::Result<object_store::GetResult> {
        self.0.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: futures_util::stream::BoxStream<'static, object_store::Result<Path>>,
    ) -> futures_util::stream::BoxStream<'static, object_store::Result<Path>> {
        self.0.delete_stream(paths)
    }

    fn list(
        &self,
        prefix: Option<&Path>,
    ) -> futures_util::stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(
        &self,
        prefix: Option<&Path>,
    ) -> object_store::Result<object_store::ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        _: object_store::CopyOptions,
    ) -> object_store::Result<()> {
        self.0.copy_opts(from, to, object_store::CopyOptions::new()).await
    }
}
