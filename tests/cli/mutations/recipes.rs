//! Recipes.

use taper_base::rng::{RngExt, seq::IndexedRandom, stream};

use crate::support::{Place, RECIPE, Verdict, text, verdict};

/// Something replaced by something else; all of these are wrong, most of them already for `check`.
const WRONG: [(&str, &str); 66] = [
    ("version: 1", ""),
    ("version: 1", "version: 2"),
    ("version: 1", "version: one"),
    ("version: 1", "version: -1"),
    ("version: 1", "version: 1\nversion: 1"),
    ("version: 1", "version: 1\nname: ../up"),
    ("version: 1", "version: 1\nname: .hidden"),
    ("version: 1", "version: 1\nname: [a, b]"),
    ("version: 1", "version: 1\nseed: -1"),
    ("version: 1", "version: 1\nseed: 1.5"),
    ("version: 1", "version: 1\nseed: 18446744073709551616"),
    ("version: 1", "version: 1\ndevice: cuda"),
    ("version: 1", "version: 1\ndevice: tpu"),
    ("version: 1", "version: 1\nruns: [a]"),
    ("version: 1", "version: 1\nextra: true"),
    ("version: 1", "version: 1\nmaterialise: { dtype: f8 }"),
    ("version: 1", "version: 1\nmaterialise: { shard_size: 0 }"),
    ("version: 1", "version: 1\nmaterialise: { shard_size: big }"),
    ("version: 1", "version: 1\n---\nversion: 1"),
    ("version: 1", "version: 1\n\tseed: 0"),
    ("version: 1", "version: !!python/object 1"),
    ("version: 1", "version: 1\n<<: { seed: 1 }"),
    ("model: ./model", ""),
    ("model: ./model", "model:"),
    ("model: ./model", "model: 5"),
    ("model: ./model", "model: [./model]"),
    ("model: ./model", "model: ./no-model"),
    ("model: ./model", "model: ./text.txt"),
    ("model: ./model", "model: a/b/c"),
    ("model: ./model", "model: \"a b\""),
    ("model: ./model", "model: { id: owner/name, path: ./model }"),
    ("model: ./model", "model: { path: ./model, revision: main }"),
    ("model: ./model", "model: &a [*a]"),
    ("text: ./text.txt", "text: ./tiny.yaml"),
    ("text: ./text.txt", "text: []"),
    ("text: ./text.txt", "text: { path: ./text.txt, filed: text }"),
    ("text: ./text.txt", "text: { path: ./text.txt, separator: \"\" }"),
    ("calibration: 0.6", "calibration: 0.0"),
    ("calibration: 0.6", "calibration: -0.6"),
    ("calibration: 0.6", "calibration: .nan"),
    ("calibration: 0.6", "calibration: 6"),
    ("test: 0.3", "test: 0.4"),
    ("test: 0.3", "tset: 0.3"),
    ("sequences: 2", "sequences: 0"),
    ("sequences: 2", "sequences: 2.5"),
    ("sequences: 2", "sequences: 99999999999999999999"),
    ("sequences: 2", "sequences: 100000"),
    ("length: 32", "length: 1"),
    ("length: 32", "length: long"),
    ("length: 32", "length: 513"),
    ("params: 70%", "params: 0%"),
    ("params: 70%", "params: 170%"),
    ("params: 70%", "params: -5M"),
    ("params: 70%", "params: seventy"),
    ("params: 70%", "params: 1%"),
    ("params: 70%", "params: { most: 70% }"),
    ("tolerance: 2%", "tolerance: 200%"),
    ("tolerance: 2%", "tolerance: -2%"),
    ("channels_multiple: 16", "channels_multiple: 0"),
    ("channels_multiple: 16", "channels_multiples: 16"),
    ("evolution: {", "evolutoin: {"),
    ("population: 6", "population: 0"),
    ("elites: 2", "elites: 7"),
    ("sketch_rank: 8", "sketch_rank: none"),
    ("window: 64", "window: 1"),
    ("window: 64", "window: 513"),
];

/// What stands at fault in the message: the recipe, or what the recipe names.
const AT: [&str; 3] = ["tiny.yaml", "./model", "./text.txt"];

#[test]
fn what_is_wrong_in_a_recipe_ends_the_run() {
    let place = Place::new();
    for (from, to) in WRONG {
        place.change(from, to);
        let found = verdict(place.taper(&["run", "tiny.yaml", "--progress", "silent"]), &AT);
        assert_eq!(found, Verdict::Refused, "{to}");
    }
}

#[test]
fn a_recipe_that_is_cut_off_anywhere_is_refused_or_whole() {
    let place = Place::new();
    for length in (0..RECIPE.len()).step_by(7) {
        place.write("tiny.yaml", &RECIPE.as_bytes()[..length]);
        let found = verdict(place.taper(&["check", "tiny.yaml"]), &AT);
        assert!(length > 180 || found == Verdict::Refused, "{length}: no budget yet, and sound");
    }
}

/// One random change of a text.
fn mutate(text: &[u8], index: u64) -> Vec<u8> {
    let mut rng = stream(0, "recipe", index, 0);
    let mut bytes = text.to_vec();
    let at = rng.random_range(0..bytes.len());
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let line = rng.random_range(0..lines.len());
    match index % 6 {
        0 => bytes[at] ^= 1 << rng.random_range(0..8),
        1 => bytes[at] = *b"\0\t:{}[]#&*!|>'\"%@`,-\xff".choose(&mut rng).unwrap(),
        2 => drop(bytes.remove(at)),
        3 => bytes.insert(at, *b":{}[]\n -\"'0".choose(&mut rng).unwrap()),
        4 => bytes = [&lines[..line], &lines[line + 1..]].concat().concat(),
        _ => bytes = [&lines[..=line], &lines[line..]].concat().concat(),
    }
    bytes
}

#[test]
fn random_changes_of_a_recipe_are_refused_or_harmless() {
    let place = Place::new();
    let mut refused = 0;
    for index in 0..180 {
        place.write("tiny.yaml", &mutate(RECIPE.as_bytes(), index));
        refused += usize::from(verdict(place.taper(&["check", "tiny.yaml"]), &AT) == Verdict::Refused);
    }
    assert!(refused > 90, "only {refused} of 180 refused: the mutations are too tame");
}

#[test]
fn a_file_that_is_no_recipe_is_refused() {
    let place = Place::new();
    let model = std::fs::read(place.path("model/model.safetensors")).unwrap();
    let deep = "[".repeat(100_000);
    let laughs = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
        d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n";
    for content in [&model[..], b"", b"\n", b"null", b"[]", b"3", b"\xef\xbb\xbf", deep.as_bytes(), laughs.as_bytes()] {
        place.write("tiny.yaml", content);
        let found = verdict(place.taper(&["check", "tiny.yaml"]), &["tiny.yaml"]);
        assert_eq!(found, Verdict::Refused, "{}", text(&content[..content.len().min(40)]));
    }
}
