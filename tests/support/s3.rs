//! A store that speaks S3, of the tests' own: moto's server, from a Python environment, on loopback. It ends
//! with the process that started it, however that ends: a shell beside it waits for the other end of its
//! pipe to close. Each test sees it through a gate of its own, which can refuse requests.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::TryStreamExt as _;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Key;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutPayload};

/// Set where a missing server is a failure: in `.ci/run`.
const REQUIRED: &str = "NIGHTPRESS_REQUIRE_S3";
const PROGRAM: &str = "moto_server";
/// Where `.ci/run` installs it, below the project.
const INSTALLED: &str = "target/moto/bin";
const REGION: &str = "us-east-1";
pub(crate) const ACCESS_KEY: &str = "AKIATHETESTSOWN";
pub(crate) const SECRET_KEY: &str = "the-tests-own-secret";
const BODY_BYTES_MAX: usize = 64 << 20;
static TOLD: Once = Once::new();

/// The server that all tests of this process share.
#[derive(Debug)]
struct Server {
    url: String,
    /// Closed, it ends the server.
    _pipe: ChildStdin,
    _shell: Child,
}

fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(start).as_ref()
}

fn start() -> Option<Server> {
    let Some(program) = program() else {
        assert!(std::env::var_os(REQUIRED).is_none(), "{REQUIRED} is set, but {PROGRAM} was not found");
        TOLD.call_once(|| {
            // Past the capture of the test runner: whoever runs the tests is to know.
            let line = format!("skipped: the tests of object storage, since {PROGRAM} was not found\n");
            drop(std::io::stderr().lock().write_all(line.as_bytes()));
        });
        return None;
    };
    let script = format!(
        "trap '' INT TERM HUP
        {} -H 127.0.0.1 -p 0 2>&1 </dev/null &
        cat >/dev/null
        kill $!",
        program.display()
    );
    let mut shell = Command::new("sh")
        .args(["-c", &script])
        .env("PYTHONUNBUFFERED", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts a shell");
    let pipe = shell.stdin.take().expect("a pipe");
    let mut said = BufReader::new(shell.stdout.take().expect("a pipe"));
    let mut all = String::new();
    let url = loop {
        let mut line = String::new();
        assert!(said.read_line(&mut line).expect("reads what the server says") > 0, "{PROGRAM} ended: {all}");
        if let Some((_, url)) = line.split_once("Running on ") {
            break url.trim().to_owned();
        }
        all.push_str(&line);
    };
    // What it goes on to say must be taken, or it would wait.
    std::thread::spawn(move || said.read_to_end(&mut Vec::new()));
    Some(Server { url, _pipe: pipe, _shell: shell })
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(INSTALLED);
    let folders = std::env::split_paths(&path).chain([installed]);
    folders.map(|folder| folder.join(PROGRAM)).find(|program| program.is_file())
}

/// How a request is refused.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) method: Method,
    /// What its path contains; with a `$`, what it ends with.
    pub(crate) what: &'static str,
    pub(crate) times: usize,
    pub(crate) status: u16,
    pub(crate) body: &'static str,
}

#[derive(Debug, Default)]
struct Script {
    refusals: Vec<Refusal>,
    /// Conditions are dropped on the way: as a store does that does not know them.
    careless: bool,
}

#[derive(Debug)]
struct Gate {
    to: String,
    http: reqwest::Client,
    script: Mutex<Script>,
}

/// A bucket of one test, and the gate that its programs go through.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) name: String,
    pub(crate) endpoint: String,
    gate: Arc<Gate>,
    store: AmazonS3,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A new bucket; `None` where there is no server, which is told.
pub(crate) async fn bucket() -> Option<Bucket> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let server = tokio::task::spawn_blocking(server).await.expect("joins")?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let name = format!("studio-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let http = reqwest::Client::new();
    let made = http.put(format!("{}/{name}", server.url)).send().await.expect("answers");
    assert!(made.status().is_success(), "{}", made.status());
    let store = AmazonS3Builder::new()
        .with_endpoint(&server.url)
        .with_bucket_name(&name)
        .with_region(REGION)
        .with_access_key_id(ACCESS_KEY)
        .with_secret_access_key(SECRET_KEY)
        .with_allow_http(true)
        .build()
        .expect("builds");
    let gate = Arc::new(Gate { to: server.url.clone(), http, script: Mutex::default() });
    let router = Router::new().fallback(pass).with_state(Arc::clone(&gate));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    #[expect(clippy::disallowed_methods, reason = "aborted when the bucket is dropped")]
    let serving = tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
    Some(Bucket { name, endpoint, gate, store, serving })
}

/// A request on its way through the gate.
async fn pass(State(gate): State<Arc<Gate>>, request: Request) -> Response {
    let (mut head, body) = request.into_parts();
    let target = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    {
        let mut script = gate.script.lock().expect("no panic while held");
        let refused = script.refusals.iter_mut().find(|refusal| {
            let is_meant = match refusal.what.strip_suffix('$') {
                Some(end) => head.uri.path().ends_with(end),
                None => head.uri.path().contains(refusal.what),
            };
            refusal.times > 0 && refusal.method == head.method && is_meant
        });
        if let Some(refusal) = refused {
            refusal.times -= 1;
            let status = StatusCode::from_u16(refusal.status).expect("a status");
            return (status, refusal.body).into_response();
        }
        if script.careless {
            head.headers.remove(header::IF_NONE_MATCH);
        }
    }
    head.headers.remove(header::HOST);
    let body = axum::body::to_bytes(body, BODY_BYTES_MAX).await.expect("a body");
    let sent =
        gate.http.request(head.method, format!("{}{target}", gate.to)).headers(head.headers).body(body);
    let answer = sent.send().await.expect("the server answers");
    let status = answer.status();
    let mut headers: HeaderMap = answer.headers().clone();
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::CONNECTION);
    let body: Bytes = answer.bytes().await.expect("a body");
    (status, headers, Body::from(body)).into_response()
}

impl Bucket {
    /// What programs find it by.
    pub(crate) fn dress(&self, command: &mut Command) {
        for name in ["AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_REGION"] {
            command.env_remove(name);
        }
        command
            .env("AWS_ENDPOINT_URL", &self.endpoint)
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", REGION)
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    }

    /// The address of what has this prefix.
    pub(crate) fn url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}", self.name)
    }

    /// From now on these requests are refused, so often.
    pub(crate) fn refuse(&self, refusal: Refusal) {
        self.gate.script.lock().expect("no panic while held").refusals.push(refusal);
    }

    /// From now on nothing is refused.
    pub(crate) fn open(&self) {
        self.gate.script.lock().expect("no panic while held").refusals.clear();
    }

    /// From now on conditions are not kept.
    pub(crate) fn forget_conditions(&self) {
        self.gate.script.lock().expect("no panic while held").careless = true;
    }

    pub(crate) async fn put(&self, key: &str, content: &[u8]) {
        let payload = PutPayload::from(content.to_vec());
        self.store.put(&Key::parse(key).expect("a key"), payload).await.expect("puts");
    }

    pub(crate) async fn delete(&self, key: &str) {
        self.store.delete(&Key::parse(key).expect("a key")).await.expect("deletes");
    }

    pub(crate) async fn content(&self, key: &str) -> Vec<u8> {
        let found = self.store.get(&Key::parse(key).expect("a key")).await;
        let found = found.unwrap_or_else(|error| panic!("{key}: {error}"));
        found.bytes().await.expect("reads").to_vec()
    }

    pub(crate) async fn text(&self, key: &str) -> String {
        String::from_utf8(self.content(key).await).expect("UTF-8")
    }

    /// All keys, sorted.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let found: Vec<_> = self.store.list(None).try_collect().await.expect("lists");
        let mut keys: Vec<String> = found.into_iter().map(|object| object.location.to_string()).collect();
        keys.sort();
        keys
    }

    /// Uploads in parts that were begun and neither finished nor given up.
    pub(crate) async fn unfinished(&self) -> usize {
        let url = format!("{}/{}?uploads", self.gate.to, self.name);
        let listed = self.gate.http.get(url).send().await.expect("answers").text().await.expect("a text");
        listed.matches("<UploadId>").count()
    }
}
