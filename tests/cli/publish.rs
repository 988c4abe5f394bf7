//! Publishing, to a Hub on the loopback that loses, refuses and garbles.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use testkit::hub::{Fault, Server, WRITER};

use crate::support::{Place, text};

/// `taper` that may write to `server`, with short waits between the client's tries.
fn taper(place: &Place, server: &Server, args: &[&str]) -> Command {
    let mut command = place.taper(args);
    command
        .env_remove("HF_HUB_OFFLINE")
        .env("HF_ENDPOINT", &server.address)
        .env("HF_TOKEN", WRITER)
        .env("HF_XET_CLIENT_RETRY_BASE_DELAY", "10ms");
    command
}

fn done(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    output
}

/// A pruned run, and an empty Hub.
fn pruned() -> (Place, Server) {
    let place = Place::new();
    place.done(&["run", "tiny.yaml"]);
    let server = Server::start(&[]);
    server.remove_repository();
    (place, server)
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

#[test]
fn a_result_arrives_whole_and_a_second_time_sends_nothing() {
    let (place, server) = pruned();
    place.done(&["export", "runs/tiny", "--to", "gguf:q8_0"]);
    let publish =
        |more: &[&str]| taper(&place, &server, &[&["publish", "runs/tiny", "--repo", "me/tiny"], more].concat());
    let shown = done(publish(&["--private", "--dry-run"]));
    assert!(text(&shown.stdout).contains("Nothing was sent") && server.private().is_none());

    let said = text(&done(publish(&["--private"])).stdout);
    assert!(said.contains("/me/tiny: 12 files sent, 0 were there; commit "), "{said}");
    assert_eq!(server.private(), Some(true));
    let mut wanted = files(&place.path("runs/tiny/materialise"));
    wanted.remove("key.json");
    let sent = server.files();
    wanted.insert("tiny-q8_0.gguf".to_owned(), fs::read(place.path("runs/tiny/export/tiny-q8_0.gguf")).unwrap());
    for made in ["README.md", "kept.svg"] {
        wanted.insert(made.to_owned(), sent[made].clone());
    }
    assert!(sent == wanted, "{:?} and {:?}", sent.keys(), wanted.keys());

    server.take_stored();
    let commit = server.commit();
    let said = text(&done(publish(&["--private"])).stdout);
    assert!(said.contains("nothing to do, all 12 files are there"), "{said}");
    assert_eq!((server.commit(), server.take_stored()), (commit, 0));

    // what an earlier publishing left of another shape goes, what others put there stays
    server.set_file("model-00001-of-00002.safetensors", b"old");
    server.set_file("notes.md", b"mine");
    let report: Value = serde_json::from_slice(&done(publish(&["--json"])).stdout).unwrap();
    assert_eq!(report["published"]["removed"], serde_json::json!(["model-00001-of-00002.safetensors"]));
    assert_eq!(report["published"]["sent"], serde_json::json!([]));
    wanted.insert("notes.md".to_owned(), b"mine".to_vec());
    assert!(server.files() == wanted);

    // an export from before the checkpoint may be of another one
    let old = fs::File::options().append(true).open(place.path("runs/tiny/export/tiny-q8_0.gguf")).unwrap();
    old.set_modified(std::time::UNIX_EPOCH).unwrap();
    let output = publish(&[]).output().unwrap();
    let said = text(&output.stderr);
    assert!(
        output.status.code() == Some(2) && said.contains("it is older than the checkpoint: export it again"),
        "{said}"
    );

    let inspected = text(&done(taper(&place, &server, &["inspect", "me/tiny", "--json"])).stdout);
    let local = text(&place.done(&["inspect", "runs/tiny/materialise", "--json"]).stdout);
    let blocks = |text: &str| serde_json::from_str::<Value>(text).unwrap()["blocks"].clone();
    assert_eq!(blocks(&inspected), blocks(&local));
}

#[test]
fn neither_token_nor_path_is_in_what_is_published_or_logged() {
    let (place, server) = pruned();
    let mut command = taper(&place, &server, &["publish", "runs/tiny", "--repo", "me/tiny", "--license", "mit"]);
    let logged = done({
        command.env("TAPER_LOG", "trace");
        command
    });
    let private = place.dir().to_string_lossy().into_owned();
    for (name, bytes) in server.files() {
        let shown = String::from_utf8_lossy(&bytes);
        assert!(!shown.contains(WRITER) && !shown.contains(&private), "{name}");
    }
    let logs = text(&logged.stderr);
    assert!(!logs.contains(WRITER), "{logs}");
    let card = text(&server.files()["README.md"]);
    for part in [
        "license: \"mit\"\n",
        "tags: [\"taper\",\"pruned\"]\n",
        "# tiny\n\n`model`, pruned to ",
        "on the test split of `text.txt`.",
        "| original | 713.95k | ",
        "![Query heads and MLP channels kept, by block](kept.svg)",
        " of 256 |",
        "AutoModelForCausalLM.from_pretrained(\"me/tiny\"",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
}

#[test]
fn what_cannot_be_published_is_told_and_nothing_changes() {
    let (place, server) = pruned();
    let refusal = |change: &dyn Fn(&mut Command), args: &[&str]| {
        let mut command = taper(&place, &server, &[&["publish"], args].concat());
        change(&mut command);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        text(&output.stderr)
    };
    let run = ["runs/tiny", "--repo", "me/tiny"];
    let same = |_: &mut Command| ();
    for (said, part) in [
        (
            refusal(&|c| _ = c.env_remove("HF_TOKEN"), &run),
            "publishing needs a token: set HF_TOKEN to one that may write",
        ),
        (refusal(&|c| _ = c.env("HF_TOKEN", "hf_other"), &run), "the Hub refused with status 401"),
        (
            refusal(&|c| _ = c.env("HF_HUB_OFFLINE", "1"), &run),
            "HF_HUB_OFFLINE forbids to ask the Hub, and publishing must",
        ),
        (refusal(&same, &["runs/tiny", "--repo", "tiny"]), "`tiny`: wanted `owner/name`"),
        (refusal(&same, &["runs/none", "--repo", "me/tiny"]), "runs/none"),
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!((server.private(), server.files().len()), (None, 0));
    done(taper(&place, &server, &[&["publish"], &run[..]].concat()));
    let commit = server.commit();
    let said = refusal(&same, &[&run[..], &["--private"]].concat());
    assert!(said.contains("the repository is there and public, wanted a private one"), "{said}");
    assert_eq!(server.commit(), commit);
}

#[test]
fn thirty_uploads_under_faults_end_whole_or_with_a_clear_error() {
    let (place, server) = pruned();
    let weights = place.path("runs/tiny/materialise/model.safetensors");
    fs::create_dir(place.path("model-of-mine")).unwrap();
    for (name, bytes) in files(&place.path("runs/tiny/materialise")) {
        place.write(&format!("model-of-mine/{name}"), &bytes);
    }
    let places =
        ["/create", "/preupload/", "/objects/batch", "/xet-write-token/", "/v1/xorbs/", "/v1/shards", "/commit/"];
    let kinds = |index: usize| match index % 5 {
        0 => (Fault::Refuse(500, "", "out of order"), 1),
        1 => (Fault::Refuse(429, "", "slow down"), 2),
        2 => (Fault::Unheard(64), 1),
        3 => (Fault::Lost, 1),
        _ => (Fault::Refuse(403, "", "not you"), usize::MAX),
    };
    let (mut whole, mut failed) = (0, 0);
    for index in 0..30 {
        let (fault, times) = kinds(index);
        // another model each time: the last weight is another
        let mut bytes = fs::read(&weights).unwrap();
        *bytes.last_mut().unwrap() = index as u8;
        place.write("model-of-mine/model.safetensors", &bytes);
        let before = server.files();
        let place_of_fault = places[index % places.len()];
        server.clear_faults();
        server.set_faults(place_of_fault, fault.clone(), times);
        let publish = || taper(&place, &server, &["publish", "model-of-mine", "--repo", "me/mine"]);
        let output = publish().output().unwrap();
        let (said, what) = (text(&output.stderr), format!("{index}: {fault:?} at {place_of_fault}"));
        let there = |files: &BTreeMap<String, Vec<u8>>| files.get("model.safetensors") == Some(&bytes);
        if output.status.success() {
            whole += 1;
            assert!(there(&server.files()), "{what}: {said}");
        } else {
            failed += 1;
            assert_eq!(output.status.code(), Some(2), "{what}: {said}");
            assert!(said.contains("model me/mine at revision main"), "{what}: {said}");
            assert!(server.files() == before || there(&server.files()), "{what}: half of it");
        }
        server.clear_faults();
        done(publish());
        assert!(there(&server.files()), "{what}: not after a second try");
    }
    assert!(whole >= 15 && failed >= 5, "{whole} whole, {failed} failed");
}

/// Bytes that no chunk repeats, by xorshift.
fn noise(megabytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..megabytes << 17).flat_map(|_| next()).collect()
}

#[test]
fn an_upload_that_breaks_costs_the_piece_under_way() {
    let place = Place::with_own_model();
    let big = noise(200);
    place.write("model/big.gguf", &big);
    let server = Server::start(&[]);
    server.remove_repository();
    let publish = || taper(&place, &server, &["publish", "model", "--repo", "me/mine"]);
    server.set_fault_after("/v1/shards", Fault::Refuse(403, "", "no"), 1); // the first piece has its index
    let output = publish().output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("model me/mine at revision main"), "{}", text(&output.stderr));
    let first = server.take_stored();
    assert!(first > big.len() && server.files().is_empty(), "{first}");
    server.clear_faults();
    done(publish());
    let (rest, second) = (big.len() - (128 << 20), server.take_stored());
    assert!(second < rest / 100 * 103, "{second} of {} once more, {rest} were not there", big.len()); // blocks have heads
    assert!(server.files()["big.gguf"] == big);
}

#[test]
fn what_the_storage_has_is_not_sent_again() {
    let place = Place::with_own_model();
    let big = noise(80);
    place.write("model/big.gguf", &big);
    let server = Server::start(&[]);
    server.remove_repository();
    let publish = || taper(&place, &server, &["publish", "model", "--repo", "me/mine"]);
    server.set_fault("/commit/", Fault::Refuse(403, "", "no"));
    let output = publish().output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(server.take_stored() > big.len() && server.files().is_empty());
    server.clear_faults();
    done(publish());
    assert_eq!(server.take_stored(), 0, "all of it was there");
    assert!(server.files()["big.gguf"] == big);
}
