//! A small Hub on the loopback: revisions, listings, files small (straight) and large (redirected, named by SHA-256); creating
//! a repository, sending files, commits. Faults are put in its way by path.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]
#![expect(missing_docs, reason = "names say it")]

mod http;
mod storage;
mod write;

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use storage::Storage;

use http::{Answer, head};

pub use http::Request;
pub use write::WRITER;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const OTHER: &str = "76543210fedcba9876543210fedcba9876543210";

/// What goes wrong with the requests whose path contains a text.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Nothing goes wrong.
    None,
    /// A refusal, as `(status, error code, message)`.
    Refuse(u16, &'static str, &'static str),
    /// The connection closes after this many bytes, of a body whose length was said.
    Cut(usize),
    /// The same, and the length was not said, so that only the listing tells.
    CutSilently(usize),
    /// As many other bytes.
    Garble,
    /// `GET` (not `HEAD`) is answered with a page that is no file.
    Page(u16),
    /// The request is done, and the connection closes without an answer.
    Lost,
    /// The connection closes after this many bytes of the request's body, and nothing is done.
    Unheard(usize),
}

/// A fault, and how often it is still to happen; `None`: always.
type Planned = (String, Fault, Option<usize>);

/// A file, hashed once.
#[derive(Clone)]
struct Stored {
    bytes: Arc<Vec<u8>>,
    sha256: String,
}

impl Stored {
    fn new(bytes: &[u8]) -> Self {
        Self { sha256: sha256(bytes), bytes: Arc::new(bytes.to_vec()) }
    }
}

struct State {
    files: BTreeMap<String, Stored>,
    commit: String,
    /// Whether the one repository is private; `None`: there is none.
    private: Option<bool>,
    storage: Arc<Storage>,
    faults: Vec<Planned>,
    requests: Vec<Request>,
    /// Bytes of blocks that came whole.
    stored: usize,
}

/// The server; it ends with the test process.
#[derive(Clone)]
pub struct Server {
    pub address: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// Serves `files` as the only content of every repository. Names that end in `.safetensors` or `.parquet` are large.
    pub fn start(files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), Stored::new(bytes))).collect();
        let state = State {
            files,
            commit: COMMIT.to_owned(),
            private: Some(false),
            storage: Arc::new(Storage::new()),
            faults: Vec::new(),
            requests: Vec::new(),
            stored: 0,
        };
        let server = Self { address, state: Arc::new(Mutex::new(state)) };
        let (serving, mut number) = (server.clone(), 0);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let server = serving.clone();
                number += 1;
                thread::Builder::new()
                    .name(format!("connection {number}"))
                    .spawn(move || server.talk(&stream.unwrap()))
                    .unwrap();
            }
        });
        server
    }

    pub fn set_fault(&self, path_part: &str, fault: Fault) {
        self.state.lock().unwrap().faults.push((path_part.to_owned(), fault, None));
    }

    /// As often as `times`.
    pub fn set_faults(&self, path_part: &str, fault: Fault, times: usize) {
        self.state.lock().unwrap().faults.push((path_part.to_owned(), fault, Some(times)));
    }

    /// From the request after `passing` more of them on.
    pub fn set_fault_after(&self, path_part: &str, fault: Fault, passing: usize) {
        let mut state = self.state.lock().unwrap();
        state.faults.push((path_part.to_owned(), Fault::None, Some(passing)));
        state.faults.push((path_part.to_owned(), fault, None));
    }

    /// No repository, until somebody creates it.
    pub fn remove_repository(&self) {
        let mut state = self.state.lock().unwrap();
        (state.private, state.files) = (None, BTreeMap::new());
    }

    /// Whether the repository is private; `None` if there is none.
    pub fn private(&self) -> Option<bool> {
        self.state.lock().unwrap().private
    }

    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state.lock().unwrap();
        state.files.iter().map(|(name, stored)| (name.clone(), stored.bytes.to_vec())).collect()
    }

    pub fn commit(&self) -> String {
        self.state.lock().unwrap().commit.clone()
    }

    /// Bytes of blocks that came whole, since the last call.
    pub fn take_stored(&self) -> usize {
        std::mem::take(&mut self.state.lock().unwrap().stored)
    }

    pub fn clear_faults(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    /// Moves the branch.
    pub fn set_commit(&self, commit: &str) {
        self.state.lock().unwrap().commit = commit.to_owned();
    }

    pub fn set_file(&self, name: &str, bytes: &[u8]) {
        self.state.lock().unwrap().files.insert(name.to_owned(), Stored::new(bytes));
    }

    /// The requests since the last call.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    /// One request, one answer, the connection closes.
    fn talk(&self, stream: &TcpStream) {
        let Some((request, body)) = self.read(stream) else { return };
        let Some(answer) = self.answer(&request, &body) else { return };
        let mut head = format!("HTTP/1.1 {} Answer\r\nConnection: close\r\n", answer.status);
        if let Some(length) = answer.length {
            head += &format!("Content-Length: {length}\r\n");
        }
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let body = if request.method == "HEAD" { &[] } else { answer.body.as_slice() };
        let mut stream = stream;
        // the client may have gone away, which is its right
        let _ = stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(b"\r\n"))
            .and_then(|()| stream.write_all(body));
    }

    /// The fault for `path`, which then has happened once more; `heard`: it comes after the whole request.
    fn fault(&self, path: &str, heard: bool) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        let of = |(part, fault, left): &&mut Planned| {
            path.contains(part.as_str()) && *left != Some(0) && heard != matches!(fault, Fault::Unheard(_))
        };
        let (_, fault, left) = state.faults.iter_mut().find(|planned| of(planned))?;
        *left = left.map(|left| left - 1);
        Some(fault.clone())
    }

    /// Method, path, token and body of the next request; `None` if the connection is closed.
    fn read(&self, stream: &TcpStream) -> Option<(Request, Vec<u8>)> {
        let mut reader = BufReader::new(stream);
        let (request, length) = head(&mut reader)?;
        if let Some(Fault::Unheard(most)) = self.fault(&request.path, false) {
            reader.read_exact(&mut vec![0; most.min(length)]).ok()?;
            return None;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        Some((request, body))
    }

    fn answer(&self, request: &Request, body: &[u8]) -> Option<Answer> {
        self.state.lock().unwrap().requests.push(request.clone());
        let fault = self.fault(&request.path, true);
        if let Some(Fault::Refuse(status, code, message)) = fault {
            let answer = Answer::new(status, json!({ "error": message }).to_string().into_bytes());
            return Some(if code.is_empty() {
                answer
            } else {
                answer.with("X-Error-Code", code).with("X-Error-Message", message)
            });
        }
        let mut answer = self.route(request, body);
        if let (Some((from, to)), 200) = (request.range, answer.status) {
            answer = Answer::new(206, answer.body[from..=to.min(answer.body.len() - 1)].to_vec());
        }
        match fault {
            Some(Fault::Cut(length)) => answer.body.truncate(length),
            Some(Fault::CutSilently(length)) if request.method == "GET" => {
                answer.body.truncate(length);
                answer.length = None;
            }
            Some(Fault::Garble) => answer.body.fill(b'#'),
            Some(Fault::Lost) => return None,
            Some(Fault::Page(status)) if request.method == "GET" => answer = Answer::new(status, b"<html>".to_vec()),
            _ => {}
        }
        Some(answer)
    }

    fn route(&self, request: &Request, body: &[u8]) -> Answer {
        let path = request.path.as_str();
        if let Some(path) = path.strip_prefix("/storage") {
            let storage = Arc::clone(&self.state.lock().unwrap().storage); // blocks come side by side
            let answer = storage.answer(path, body);
            let stored = if path.starts_with("/v1/xorbs/") && answer.status == 200 { body.len() } else { 0 };
            self.state.lock().unwrap().stored += stored;
            return answer;
        }
        let mut state = self.state.lock().unwrap();
        write::route(&mut state, &self.address, request, body)
            .unwrap_or_else(|| route(&state, &self.address, request, body))
    }
}

fn is_large(name: &str) -> bool {
    [".gguf", ".parquet", ".safetensors"].iter().any(|end| name.ends_with(end))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha1(bytes: &[u8]) -> String {
    hex(&Sha1::digest(bytes))
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A file's name in git: of itself, or of what stands for it there if it is large.
pub fn blob(name: &str, bytes: &[u8]) -> String {
    oid(name, &Stored::new(bytes))
}

fn oid(name: &str, Stored { bytes, sha256 }: &Stored) -> String {
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {}\n", bytes.len());
    let bytes = if is_large(name) { pointer.as_bytes() } else { bytes };
    sha1(&[format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat())
}

/// A listing's entry; large files have the digest under `lfs.oid`, as the Hub has it.
fn entry(name: &str, stored: &Stored) -> Value {
    let Stored { bytes, sha256 } = stored;
    let mut entry = json!({ "type": "file", "path": name, "size": bytes.len(), "oid": oid(name, stored) });
    if is_large(name) {
        entry["lfs"] = json!({ "oid": sha256, "size": bytes.len(), "pointerSize": 134 });
    }
    entry
}

fn route(state: &State, address: &str, request: &Request, body: &[u8]) -> Answer {
    let path = request.path.as_str();
    if let Some((_, revision)) = path.split_once("/revision/") {
        let known = ["main", "v1", &state.commit].contains(&revision);
        let unknown = || Answer::new(404, Vec::new()).with("X-Error-Code", "RevisionNotFound");
        return if known {
            Answer::json(&json!({ "id": "o/m", "sha": state.commit, "private": state.private }))
        } else {
            unknown()
        };
    }
    if path.contains("/tree/") {
        let top = state.files.iter().filter(|(name, _)| !name.contains('/'));
        let mut listed: Vec<Value> = top.map(|(name, stored)| entry(name, stored)).collect();
        listed.push(json!({ "type": "directory", "path": "onnx", "oid": COMMIT }));
        return Answer::json(&json!(listed));
    }
    if path.contains("/paths-info/") {
        let asked: Value = serde_json::from_slice(body).unwrap();
        let names = asked["paths"].as_array().unwrap().iter().filter_map(Value::as_str);
        let found = names.filter_map(|name| state.files.get(name).map(|stored| entry(name, stored)));
        return Answer::json(&found.collect());
    }
    if let Some(digest) = path.strip_prefix("/cdn/") {
        let found = state.files.values().find(|stored| stored.sha256 == digest);
        return found.map_or_else(|| Answer::new(404, Vec::new()), |stored| Answer::new(200, stored.bytes.to_vec()));
    }
    let named = path.split_once("/resolve/").and_then(|(_, rest)| rest.split_once('/'));
    match named.and_then(|(_, name)| state.files.get_key_value(name)) {
        Some((name, stored)) => file(name, stored, &state.commit, address),
        None => Answer::new(404, Vec::new()).with("X-Error-Code", "EntryNotFound"),
    }
}

fn file(name: &str, stored: &Stored, commit: &str, address: &str) -> Answer {
    let Stored { bytes, sha256: digest } = stored;
    if is_large(name) {
        return Answer::new(302, Vec::new())
            .with("X-Repo-Commit", commit)
            .with("X-Linked-Etag", format!("\"{digest}\""))
            .with("X-Linked-Size", bytes.len().to_string())
            .with("Location", format!("{address}/cdn/{digest}"));
    }
    Answer::new(200, bytes.to_vec()).with("X-Repo-Commit", commit).with("ETag", format!("\"{}\"", oid(name, stored)))
}
