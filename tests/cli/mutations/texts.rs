//! Texts, candidates and token ids.

use std::fs;

use crate::support::{Place, Verdict, verdict};

#[test]
fn text_that_cannot_be_read_ends_the_run() {
    let place = Place::new();
    let cases: [(&str, &[u8]); 16] = [
        ("empty.txt", b""),
        ("blank.txt", b"\n\n \n\n"),
        ("latin1.txt", b"caf\xe9\n\nna\xefve"),
        ("utf16.txt", b"\xff\xfea\x00b\x00"),
        ("short.txt", b"one document of few words"),
        ("empty.jsonl", b""),
        ("broken.jsonl", b"{\"text\": \"a\"}\n{\"text\": "),
        ("array.jsonl", b"[\"a\", \"b\"]\n"),
        ("field.jsonl", b"{\"txet\": \"a\"}\n"),
        ("number.jsonl", b"{\"text\": 5}\n"),
        ("null.jsonl", b"{\"text\": null}\n"),
        ("utf8.jsonl", b"{\"text\": \"\xff\"}\n"),
        ("empty.parquet", b""),
        ("magic.parquet", b"PAR1PAR1"),
        ("footer.parquet", b"PAR1\x00\x00\x00\x00\xff\xff\xff\x7fPAR1"),
        ("text.csv", b"text\na\n"),
    ];
    for (name, content) in cases {
        place.write(name, content);
        place.change("./text.txt", &format!("./{name}"));
        for args in [&["run", "tiny.yaml", "--progress", "silent"][..], &["eval", "./model", "--text", name]] {
            if (name, args[0]) != ("short.txt", "eval") {
                assert_eq!(verdict(place.taper(args), &[name]), Verdict::Refused, "{name} {args:?}");
            }
        }
    }
    fs::create_dir(place.path("nothing")).unwrap();
    place.change("./text.txt", "./nothing");
    assert_eq!(verdict(place.taper(&["run", "tiny.yaml", "--progress", "silent"]), &["./nothing"]), Verdict::Refused);
}

#[test]
fn candidates_and_ids_that_do_not_fit_are_refused() {
    let place = Place::new();
    let score = || {
        let args = ["score", "./model", "--candidates", "candidates.json", "--tokens", "tokens.json"];
        place.taper(&[&args[..], &["--sequences", "1", "--length", "8"]].concat())
    };
    let removed = r#"{"attention": null, "mlp": null}"#;
    let good = format!("[[{}]]", [removed; 6].join(","));
    let ids = "[1,2,3,4,5,6,7,8]";
    place.write("candidates.json", good.as_bytes());
    let no_ids = [
        "",
        "{",
        "3",
        "{\"idz\": []}",
        "[1,2]",
        "[1,2,3,4,5,6,7,512]",
        "[1,2,3,4,5,6,7,-8]",
        "[1,2,3,4,5,6,7,8.5]",
        "[\"a\"]",
    ];
    for bad in no_ids {
        place.write("tokens.json", bad.as_bytes());
        assert_eq!(verdict(score(), &["tokens.json"]), Verdict::Refused, "{bad}");
    }
    place.write("tokens.json", ids.as_bytes());
    assert_eq!(verdict(score(), &[]), Verdict::Harmless);
    let block = |block: &str| format!("[[{block},{}]]", [removed; 5].join(","));
    let no_candidates = [
        "".to_owned(),
        "{}".to_owned(),
        "[3]".to_owned(),
        format!("[[{removed}]]"),
        good.replace("mlp", "mpl"),
        block(r#"{"attention": [8], "mlp": null}"#),
        block(r#"{"attention": [0, 0], "mlp": null}"#),
        block(r#"{"attention": null, "mlp": [256]}"#),
        block(r#"{"attention": null, "mlp": [-1]}"#),
        block(r#"{"attention": null, "mlp": "all"}"#),
    ];
    for bad in no_candidates {
        place.write("candidates.json", bad.as_bytes());
        assert_eq!(verdict(score(), &["candidates.json"]), Verdict::Refused, "{bad}");
    }
}
