//! Real tokenizers and real text against the reference implementation's ids.

#![expect(clippy::unwrap_used, reason = "a failing test panics")]

use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use taper_data::{Documents, Pack, Shares, Split, TextSource, TextTokenizer, ids_fingerprint, pack, read_ids, windows};

testkit::real_data_tests!(
    awkward_strings_give_the_reference_ids,
    perplexity_text_gives_the_reference_ids,
    explicit_ids_are_those_of_the_text,
    special_tokens_are_those_of_the_model,
    a_batch_encodes_as_its_texts_do_alone,
    all_text_files_can_be_read,
    a_small_batch_costs_a_fraction_of_the_whole_file,
);

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

/// Each model's name, tokenizer and reference values.
fn each_model(data: &Path, mut check: impl FnMut(&str, &TextTokenizer, &Value)) {
    for name in testkit::models() {
        let dir = data.join("models").join(name);
        check(name, &TextTokenizer::load(&dir).unwrap(), &json(&dir.join("reference.json")));
    }
}

fn documents(path: &Path, separator: Option<&str>) -> Documents {
    Documents::read(&TextSource { separator: separator.map(str::to_owned), ..TextSource::new(path) }).unwrap()
}

fn awkward_strings_give_the_reference_ids(data: &Path) {
    each_model(data, |name, tokenizer, reference| {
        let checks = reference["tokenizer_checks"].as_array().unwrap();
        assert!(checks.len() >= 5, "{name}");
        for check in checks {
            let text = check["text"].as_str().unwrap();
            let special = ids(&check["ids"]);
            assert_eq!(tokenizer.encode(text, true).unwrap(), special, "{name}: {text:?}");
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&check["ids_no_special"]), "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&special, true).unwrap(), check["decoded"].as_str().unwrap(), "{name}");
        }
    });
}

fn perplexity_text_gives_the_reference_ids(data: &Path) {
    each_model(data, |name, tokenizer, reference| {
        for (key, file) in [("perplexity", "tinystories_valid.txt"), ("perplexity_wikitext2", "wikitext2_test.raw.txt")]
        {
            let wanted = &reference[key];
            assert_eq!(wanted["n_tokens"], 20_480, "{name}");
            let text = documents(&data.join("text").join(file), None);
            let mut found = tokenizer.encode(&text.all()[0], false).unwrap();
            found.truncate(20_480);
            assert_eq!(ids_fingerprint(&found).as_str(), wanted["token_ids_sha256_u32le"], "{name}: {file}");
            let windows = windows::strided(found.len(), 256, 256).unwrap();
            assert_eq!(windows.len(), wanted["window_nll_sums"].as_array().unwrap().len());
            assert_eq!(windows.iter().map(|window| window.scored().len()).sum::<usize>(), wanted["n_predicted"]);
        }
    });
}

fn explicit_ids_are_those_of_the_text(data: &Path) {
    each_model(data, |name, tokenizer, reference| {
        let file = data.join("models").join(name).join("reference_tokens.json");
        let found = read_ids(&file, tokenizer.vocabulary()).unwrap();
        assert_eq!(ids_fingerprint(&found).as_str(), reference["perplexity"]["token_ids_sha256_u32le"], "{name}");
        let largest = *found.iter().max().unwrap() as usize;
        assert!(read_ids(&file, largest).unwrap_err().to_string().contains("is outside the vocabulary"), "{name}");
    });
}

fn special_tokens_are_those_of_the_model(data: &Path) {
    let found = testkit::models().map(|name| {
        let tokenizer = TextTokenizer::load(&data.join("models").join(name)).unwrap();
        let special = tokenizer.special();
        (tokenizer.vocabulary(), special.bos, special.eos, special.stop.clone())
    });
    assert_eq!(found[0], (512, Some(1), Some(2), vec![2]));
    assert_eq!(found[1], (4096, Some(4094), Some(4095), vec![4095]));
    assert_eq!(found[2], (4096, None, Some(4093), vec![4093]));
    assert_eq!(found[3], found[2]);
}

fn a_batch_encodes_as_its_texts_do_alone(data: &Path) {
    let text = documents(&data.join("text/c4_sample.jsonl"), None);
    let texts: Vec<&str> = text.all().iter().map(String::as_str).collect();
    each_model(data, |name, tokenizer, _| {
        let alone: Vec<_> = texts.iter().map(|text| tokenizer.encode(text, true).unwrap()).collect();
        assert_eq!(tokenizer.encode_batch(&texts, true).unwrap(), alone, "{name}");
    });
}

fn all_text_files_can_be_read(data: &Path) {
    let counts = [
        ("tinystories_valid.jsonl", Some("\n\n"), 700),
        ("c4_sample.jsonl", Some("\n\n"), 1280),
        ("commoncrawl_dclm_sample.jsonl", Some("\n\n"), 499),
        ("wikitext2_test.raw.txt", None, 1),
    ];
    for (file, separator, count) in counts {
        assert_eq!(documents(&data.join("text").join(file), separator).all().len(), count, "{file}");
    }
    let stories = documents(&data.join("text/tinystories_valid.jsonl"), None).all().join("\n\n");
    let text = documents(&data.join("text/tinystories_valid.txt"), None);
    assert_eq!(text.all()[0].trim_end(), stories.trim_end());
    assert!(documents(&data.join("text"), Some("\n\n")).all().len() > 10_000, "the whole folder");
}

fn a_small_batch_costs_a_fraction_of_the_whole_file(data: &Path) {
    let text = documents(&data.join("text/tinystories_train.txt"), Some("<|endoftext|>"));
    let tokenizer = TextTokenizer::load(&data.join("models/stories260k")).unwrap();
    let batch = |split, seed| pack(&text, &tokenizer, &Pack::new(split, 16, 256, seed)).unwrap();
    let start = Instant::now();
    let tokens = batch(Split::Calibration, 0);
    let took = start.elapsed();
    assert_eq!((tokens.sequences(), tokens.length()), (16, 256));
    assert_eq!(tokens.ids()[0], 1, "the first document begins with BOS");
    assert_eq!(tokens.fingerprint(), batch(Split::Calibration, 0).fingerprint());
    assert_ne!(tokens.fingerprint(), batch(Split::Calibration, 1).fingerprint());
    assert_ne!(tokens.fingerprint(), batch(Split::Test, 0).fingerprint());
    let start = Instant::now();
    let texts = text.of_split(&Shares::default(), Split::Calibration);
    assert!(tokenizer.encode_batch(&texts, true).unwrap().len() > 4000);
    let all = start.elapsed();
    assert!(3 * took < all, "{took:?}, and {all:?} for the whole split");
}
