//! What the Hub lets a token do that may write: create a repository, ask how files are to be sent, commit.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Answer, Request, State, Stored, is_large, sha1};

/// The token that may write.
pub const WRITER: &str = "hf_maywrite";

/// The answer to a request that only a writer may make; `None` if it is another.
pub(super) fn route(state: &mut State, address: &str, request: &Request, body: &[u8]) -> Option<Answer> {
    let path = request.path.as_str();
    let json = || serde_json::from_slice::<Value>(body).unwrap();
    let write = path == "/api/repos/create"
        || ["/preupload/", "/info/lfs/objects/batch", "/xet-write-token/", "/commit/"]
            .iter()
            .any(|part| path.contains(part));
    if !write {
        return None;
    }
    if request.authorization.as_deref() != Some(&format!("Bearer {WRITER}")) {
        return Some(Answer::new(401, json!({"error": "Invalid username or password."}).to_string().into_bytes()));
    }
    Some(if path == "/api/repos/create" {
        let asked = json();
        if state.private.is_some() {
            Answer::new(409, br#"{"error": "You already created this model repo"}"#.to_vec())
        } else {
            state.private = asked["private"].as_bool();
            let id = format!("{}/{}", asked["organization"].as_str().unwrap(), asked["name"].as_str().unwrap());
            Answer::json(&json!({"url": format!("{address}/{id}")}))
        }
    } else if path.contains("/preupload/") {
        let asked = json();
        let mode = |file: &Value| {
            let name = file["path"].as_str().unwrap();
            json!({"path": name, "uploadMode": if is_large(name) { "lfs" } else { "regular" }})
        };
        Answer::json(&json!({"files": asked["files"].as_array().unwrap().iter().map(mode).collect::<Vec<_>>()}))
    } else if path.contains("/info/lfs/objects/batch") {
        Answer::json(&json!({"transfer": "xet", "objects": []}))
    } else if path.contains("/xet-write-token/") {
        Answer::json(
            &json!({"accessToken": "for-storage", "exp": 9_999_999_999_u64, "casUrl": format!("{address}/storage")}),
        )
    } else {
        commit(state, body)
    })
}

/// Lines of JSON, a header and then files: all of it is done, or nothing.
fn commit(state: &mut State, body: &[u8]) -> Answer {
    let lines: Vec<Value> = body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    let parent = lines[0]["value"]["parentCommit"].as_str();
    if parent.is_some_and(|parent| parent != state.commit) {
        return Answer::new(409, br#"{"error": "A commit has happened since"}"#.to_vec());
    }
    let (mut files, stored) = (state.files.clone(), state.storage.files());
    for line in &lines[1..] {
        let value = &line["value"];
        let name = value["path"].as_str().unwrap().to_owned();
        match line["key"].as_str() {
            Some("file") => {
                assert_eq!(value["encoding"], "base64");
                files.insert(name, Stored::new(&STANDARD.decode(value["content"].as_str().unwrap()).unwrap()));
            }
            Some("lfsFile") => match stored.get(value["oid"].as_str().unwrap()) {
                Some(bytes) if Some(bytes.len() as u64) == value["size"].as_u64() => {
                    files.insert(name, Stored::new(bytes));
                }
                _ => {
                    return Answer::new(
                        400,
                        br#"{"error": "LFS pointer pointed to a file that does not exist"}"#.to_vec(),
                    );
                }
            },
            Some("deletedFile") => {
                files.remove(&name).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    state.files = files;
    state.commit = sha1(&[body, state.commit.as_bytes()].concat());
    Answer::json(&json!({"success": true, "commitOid": state.commit, "commitUrl": "a page"}))
}
