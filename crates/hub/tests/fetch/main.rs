//! Fetching, against a Hub on the loopback.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod faults;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use taper_base::progress::{Progress, Silent};
use taper_hub::{HubError, HubSettings, LocalModel, ModelSource};
use testkit::hub::{COMMIT, Fault, OTHER, Request, Server};

const TOKEN: &str = "hf_secretsecret";
const CONFIG: (&str, &[u8]) = ("config.json", b"{\"model_type\": \"llama\"}");
const TOKENIZER: (&str, &[u8]) = ("tokenizer.json", b"{\"version\": \"1.0\"}");
const WEIGHTS: (&str, &[u8]) = ("model.safetensors", b"as if these were the weights of a model");
const README: (&str, &[u8]) = ("README.md", b"not needed");

const SHARDED: [(&str, &[u8]); 5] = [
    CONFIG,
    TOKENIZER,
    (
        "model.safetensors.index.json",
        b"{\"weight_map\": {\"a\": \"model-1.safetensors\", \"b\": \"model-2.safetensors\", \"c\": \"model-1.safetensors\"}}",
    ),
    ("model-1.safetensors", b"first"),
    ("model-2.safetensors", b"second shard"),
];

/// A server and an empty cache of its own.
struct Hub {
    server: Server,
    home: tempfile::TempDir,
    settings: HubSettings,
}

impl Hub {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let server = Server::start(files);
        let home = tempfile::tempdir().unwrap();
        let cache = home.path().join("hub");
        let settings = HubSettings { endpoint: Some(server.address.clone()), cache, token: None, offline: false };
        Self { server, home, settings }
    }

    fn model(&self, source: &str) -> Result<LocalModel, HubError> {
        self.settings.fetch_model(&source.parse().unwrap(), &Silent)
    }

    fn message(&self, source: &str) -> String {
        self.model(source).unwrap_err().to_string()
    }

    fn repository(&self) -> PathBuf {
        self.settings.cache.join("models--o--m")
    }

    fn offline(&self) -> HubSettings {
        HubSettings { offline: true, ..self.settings.clone() }
    }

    fn blobs(&self) -> usize {
        fs::read_dir(self.repository().join("blobs")).map_or(0, Iterator::count)
    }
}

fn downloads(requests: &[Request]) -> Vec<&str> {
    let gets = requests.iter().filter(|request| request.method == "GET");
    gets.map(|request| request.path.as_str())
        .filter(|path| path.contains("/cdn/") || path.contains("/resolve/"))
        .collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_model_is_fetched_once_into_the_cache_of_huggingface_hub() {
    let hub = Hub::new(&[CONFIG, TOKENIZER, WEIGHTS, README]);
    let local = hub.model("o/m").unwrap();
    assert_eq!((local.id.as_deref(), local.revision.as_deref()), (Some("o/m"), Some(COMMIT)));
    assert_eq!(local.dir, hub.repository().join("snapshots").join(COMMIT));
    assert_eq!(names(&local.dir), ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(fs::read(local.dir.join("model.safetensors")).unwrap(), WEIGHTS.1);
    assert_eq!(fs::read_to_string(hub.repository().join("refs/main")).unwrap(), COMMIT);
    assert_eq!(names(&hub.repository()), [".no_exist", "blobs", "refs", "snapshots"]);
    assert!(fs::read_link(local.dir.join("config.json")).unwrap().starts_with("../../blobs"));
    assert!(!downloads(&hub.server.take_requests()).is_empty());

    assert_eq!(hub.model("o/m").unwrap(), local);
    assert_eq!(downloads(&hub.server.take_requests()), [""; 0]);
}

#[test]
fn a_whole_commit_in_the_cache_is_used_without_a_request() {
    let hub = Hub::new(&[CONFIG, WEIGHTS]);
    let pinned = format!("o/m@{COMMIT}");
    let local = hub.model(&pinned).unwrap();
    assert!(!hub.repository().join("refs").exists(), "a commit is no branch");
    hub.server.take_requests();
    assert_eq!(hub.model(&pinned).unwrap(), local);
    assert_eq!(hub.server.take_requests(), []);
    fs::remove_file(local.dir.join("model.safetensors")).unwrap();
    assert_eq!(hub.model(&pinned).unwrap(), local);
    assert!(local.dir.join("model.safetensors").exists());
    assert_eq!(downloads(&hub.server.take_requests()), [""; 0], "the content was still there");
}

#[test]
fn shards_are_those_that_the_index_names() {
    let hub = Hub::new(&[SHARDED.as_slice(), &[("model-3.safetensors", b"of another index")]].concat());
    let local = hub.model("o/m@v1").unwrap();
    let wanted =
        ["config.json", "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json", "tokenizer.json"];
    assert_eq!(names(&local.dir), wanted);
    assert_eq!(fs::read(local.dir.join("model-2.safetensors")).unwrap(), b"second shard");
}

#[test]
fn another_commit_fetches_only_what_changed() {
    let hub = Hub::new(&[CONFIG, WEIGHTS]);
    let first = hub.model("o/m").unwrap();
    hub.server.take_requests();
    hub.server.set_commit(OTHER);
    hub.server.set_file("config.json", b"{}");
    let second = hub.model("o/m").unwrap();
    assert_eq!(second.revision.as_deref(), Some(OTHER));
    assert_eq!(downloads(&hub.server.take_requests()), [format!("/o/m/resolve/{OTHER}/config.json")]);
    assert_eq!(fs::read(second.dir.join("model.safetensors")).unwrap(), WEIGHTS.1);
    assert_eq!(fs::read(first.dir.join("config.json")).unwrap(), CONFIG.1);
    assert_eq!(fs::read_to_string(hub.repository().join("refs/main")).unwrap(), OTHER);
}

#[test]
fn offline_takes_a_branch_or_commit_from_the_cache_and_asks_nothing() {
    let hub = Hub::new(&SHARDED);
    let offline = hub.offline();
    let fetch = |source: &str| offline.fetch_model(&source.parse().unwrap(), &Silent);
    let message = fetch("o/m").unwrap_err().to_string();
    assert!(message.starts_with("model o/m at revision main: not in the cache at "), "{message}");
    assert!(message.contains(offline.cache.to_str().unwrap()) && message.contains("HF_HUB_OFFLINE"), "{message}");
    assert_eq!(hub.server.take_requests(), []);

    let local = hub.model("o/m").unwrap();
    hub.server.take_requests();
    assert_eq!(fetch("o/m").unwrap(), local);
    assert_eq!(fetch(&format!("o/m@{COMMIT}")).unwrap(), local);
    assert!(matches!(fetch("o/m@v1"), Err(HubError::NotCached { .. })));
    fs::remove_file(local.dir.join("model-2.safetensors")).unwrap();
    let message = fetch("o/m").unwrap_err().to_string();
    assert!(message.starts_with("model o/m at revision main, file model-2.safetensors: not in the cache"), "{message}");
    assert_eq!(hub.server.take_requests(), []);
}

#[test]
fn pickles_are_named_and_refused() {
    let hub = Hub::new(&[CONFIG, ("pytorch_model.bin", b"\x80"), ("extra.pt", b"\x80")]);
    let message = hub.message("o/m");
    assert!(message.contains("only there as pickles (extra.pt, pytorch_model.bin), and reading a pickle"), "{message}");
    assert_eq!(downloads(&hub.server.take_requests()), [""; 0]);
}

#[test]
fn a_repository_that_is_no_checkpoint_is_refused_before_a_download() {
    let hub = Hub::new(&[CONFIG, ("adapter_model.safetensors", b"x")]);
    assert!(hub.message("o/m").ends_with("index.json, found adapter_model.safetensors, config.json"));
    let hub = Hub::new(&[WEIGHTS]);
    assert!(
        hub.message("o/m").contains("file config.json: the repository has no such file; a transformers checkpoint")
    );
    let hub = Hub::new(&SHARDED[..4]);
    assert!(
        hub.message("o/m").contains("file model-2.safetensors: the repository has no such file; the index names it")
    );
}

#[test]
fn an_index_that_leads_out_of_the_folder_is_refused() {
    for name in ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", "", "a\\\\b.safetensors", "x.bin"] {
        let index = format!("{{\"weight_map\": {{\"w\": \"{name}\"}}}}");
        let hub = Hub::new(&[CONFIG, ("model.safetensors.index.json", index.as_bytes())]);
        let message = hub.message("o/m");
        assert!(message.contains("tensor `w` is said to be in"), "{name}: {message}");
        assert_eq!(names(hub.home.path()), ["hub"]);
    }
    let hub = Hub::new(&[CONFIG, ("model.safetensors.index.json", b"[]")]);
    assert!(hub.message("o/m").contains("no object `weight_map` in it"));
}

#[test]
fn refusals_say_what_to_do() {
    let cases = [
        ("/resolve/", 401, "GatedRepo", false, "it is gated: accept its licence on its page, then set HF_TOKEN"),
        ("/resolve/", 403, "GatedRepo", true, "it is gated: accept its licence on its page, with the account"),
        ("/revision/", 401, "", false, "the name is misspelt, or it is private or gated"),
        ("/revision/", 401, "", true, "the token in HF_TOKEN or the token file is expired"),
        ("/revision/", 403, "", true, "the token in HF_TOKEN or the token file is expired"),
        (
            "/revision/",
            401,
            "RepoNotFound",
            false,
            "no such repository or revision (words of the Hub); check the spelling",
        ),
        (
            "/revision/",
            404,
            "RepoNotFound",
            true,
            "no such repository or revision (words of the Hub); check the spelling",
        ),
        ("/tree/", 404, "", false, "no such repository or revision (words of the Hub); check the spelling"),
    ];
    for (part, status, code, with_token, wanted) in cases {
        let mut hub = Hub::new(&[CONFIG, WEIGHTS]);
        hub.settings.token = with_token.then(|| TOKEN.to_owned());
        hub.server.set_fault(part, Fault::Refuse(status, code, "words of the Hub"));
        let message = hub.message("o/m");
        assert!(message.starts_with("model o/m at revision main") && message.contains(wanted), "{message}");
        assert_eq!(hub.blobs(), 0);
    }
    let hub = Hub::new(&[CONFIG, WEIGHTS]);
    let message = hub.message("o/m@nowhere");
    assert!(message.starts_with("model o/m at revision nowhere: the repository has no such revision"), "{message}");
}

#[test]
fn what_a_killed_run_left_is_cleared() {
    let hub = Hub::new(&[CONFIG, WEIGHTS]);
    let left = hub.repository().join(".taper-partial/models--o--m/blobs");
    fs::create_dir_all(&left).unwrap();
    let digest = taper_base::Fingerprint::of_bytes(WEIGHTS.1);
    taper_base::files::write(&left.join(digest.as_str()), b"half").unwrap();
    let local = hub.model("o/m").unwrap();
    assert_eq!(fs::read(local.dir.join("model.safetensors")).unwrap(), WEIGHTS.1);
    assert!(!hub.repository().join(".taper-partial").exists());
}

#[test]
fn a_content_of_the_wrong_size_in_the_cache_is_replaced() {
    let hub = Hub::new(&[CONFIG, WEIGHTS]);
    let blobs = hub.repository().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let digest = taper_base::Fingerprint::of_bytes(WEIGHTS.1);
    taper_base::files::write(&blobs.join(digest.as_str()), b"half").unwrap();
    let local = hub.model("o/m").unwrap();
    assert_eq!(fs::read(local.dir.join("model.safetensors")).unwrap(), WEIGHTS.1);
}

#[test]
fn the_token_is_sent_as_bearer_and_shown_nowhere() {
    let mut hub = Hub::new(&[CONFIG, WEIGHTS]);
    hub.model("o/m").unwrap();
    assert!(hub.server.take_requests().iter().all(|request| request.authorization.is_none()));
    hub.settings.token = Some(TOKEN.to_owned());
    hub.model("o/m").unwrap();
    let bearer = format!("Bearer {TOKEN}");
    let requests = hub.server.take_requests();
    assert!(!requests.is_empty());
    assert!(requests.iter().all(|request| request.authorization.as_deref() == Some(bearer.as_str())), "{requests:?}");

    for fault in [Fault::Refuse(403, "", "no"), Fault::Refuse(400, "", "no"), Fault::Cut(3), Fault::Page(404)] {
        hub.server.clear_faults();
        hub.server.set_fault("/tree/", fault);
        let error = hub.model("o/m").unwrap_err();
        let shown = format!("{error} {error:?} {:?}", hub.settings);
        assert!(!shown.contains(TOKEN), "{shown}");
    }
    hub.settings.token = Some("two\nlines".to_owned());
    let message = hub.message("o/m");
    assert!(message.contains("holds characters that no token has") && !message.contains("lines"), "{message}");
}

#[test]
fn a_hub_that_is_not_there_is_an_error_with_its_cause() {
    let mut hub = Hub::new(&[]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    hub.settings.endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
    drop(listener);
    let error = hub.model("o/m").unwrap_err();
    assert!(error.to_string().contains("the request failed; HF_HUB_OFFLINE=1 uses what is cached"), "{error}");
    assert!(std::error::Error::source(&error).is_some());
    hub.settings.endpoint = Some("no address".to_owned());
    assert!(matches!(hub.model("o/m"), Err(HubError::Request { .. })));
}

#[test]
fn an_answer_without_a_commit_is_refused() {
    let hub = Hub::new(&[CONFIG, WEIGHTS]);
    hub.server.set_commit("../../../x");
    assert!(hub.message("o/m").contains("it names no full commit"));
}

#[test]
fn a_folder_is_used_as_it_is() {
    let hub = Hub::new(&[]);
    let source = ModelSource { name: hub.home.path().to_str().unwrap().to_owned(), revision: None };
    let local = hub.settings.fetch_model(&source, &Silent).unwrap();
    assert_eq!(local, LocalModel { dir: hub.home.path().to_owned(), id: None, revision: None });
    let none = ModelSource { name: hub.home.path().join("none").to_str().unwrap().to_owned(), revision: None };
    assert!(matches!(hub.settings.fetch_model(&none, &Silent), Err(HubError::NoFolder { .. })));
    assert_eq!(hub.server.take_requests(), []);
}

#[test]
fn a_dataset_file_is_fetched_alone_wherever_it_lies() {
    let hub = Hub::new(&[README, ("data/en/train.parquet", b"rows"), ("data/test.parquet", b"others")]);
    let fetch = |settings: &HubSettings, revision, file| settings.fetch_dataset_file("o/d", revision, file, &Silent);
    let path = fetch(&hub.settings, None, "data/en/train.parquet").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"rows");
    let repository = hub.settings.cache.join("datasets--o--d");
    assert_eq!(path, repository.join("snapshots").join(COMMIT).join("data/en/train.parquet"));
    assert!(fs::read_link(&path).unwrap().starts_with("../../../../blobs"));
    assert!(hub.server.take_requests().iter().any(|request| request.path.starts_with("/datasets/o/d/resolve/")));

    assert_eq!(fetch(&hub.settings, Some(COMMIT), "data/en/train.parquet").unwrap(), path);
    assert_eq!(fetch(&hub.offline(), None, "data/en/train.parquet").unwrap(), path);
    assert!(matches!(fetch(&hub.offline(), None, "data/test.parquet"), Err(HubError::NotCached { .. })));
    assert_eq!(hub.server.take_requests(), []);
    let message = fetch(&hub.settings, None, "data/none.parquet").unwrap_err().to_string();
    assert_eq!(message, "dataset o/d at revision main, file data/none.parquet: the repository has no such file");
    for bad in ["../x", "/etc/passwd", "a/../../x", ""] {
        assert!(matches!(fetch(&hub.settings, None, bad), Err(HubError::Source { .. })), "{bad}");
    }
}

#[derive(Default)]
struct Recorded(Mutex<Vec<(String, u64)>>);

impl Progress for Recorded {
    fn begin(&self, what: &str, total: u64) {
        self.0.lock().unwrap().push((format!("begin {what}"), total));
    }
    fn advance(&self, steps: u64, note: &str) {
        self.0.lock().unwrap().push((note.to_owned(), steps));
    }
    fn end(&self) {
        self.0.lock().unwrap().push(("end".to_owned(), 0));
    }
}

#[test]
fn progress_is_in_bytes_and_adds_up() {
    let hub = Hub::new(&[CONFIG, WEIGHTS]);
    let recorded = Recorded::default();
    hub.settings.fetch_model(&"o/m".parse().unwrap(), &recorded).unwrap();
    let events = recorded.0.into_inner().unwrap();
    let sum = |starts: &str| events.iter().filter(|(what, _)| what.starts_with(starts)).map(|(_, n)| n).sum::<u64>();
    assert_eq!(sum("begin download"), (CONFIG.1.len() + WEIGHTS.1.len()) as u64);
    assert_eq!(sum("model.safetensors"), WEIGHTS.1.len() as u64);
    assert_eq!(sum("config.json"), CONFIG.1.len() as u64);
    let count = |what: &str| events.iter().filter(|(name, _)| name == what).count();
    assert_eq!(count("end"), count("begin download"));
}

#[test]
fn two_runs_at_once_fetch_a_model_once() {
    let hub = Hub::new(&SHARDED);
    let fetched: Vec<LocalModel> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..3).map(|_| scope.spawn(|| hub.model("o/m").unwrap())).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert!(fetched.iter().all(|local| *local == fetched[0]));
    let requests = hub.server.take_requests();
    assert_eq!(downloads(&requests).iter().filter(|path| path.contains("/cdn/")).count(), 2, "{requests:?}");
}
