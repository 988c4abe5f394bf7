//! Checkpoints and tokenizers.

use std::fs;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use taper_base::rng::{RngExt, stream};

use crate::support::{Place, Verdict, verdict};

const WEIGHTS: &str = "model/model.safetensors";

/// A copy of the demo model, damaged one file at a time.
struct Damage {
    place: Place,
    file: &'static str,
    good: Vec<u8>,
}

impl Damage {
    fn new(file: &'static str) -> Self {
        let place = Place::with_own_model();
        let good = fs::read(place.path(file)).unwrap();
        Self { place, file, good }
    }

    /// Where the header of a safetensors file ends.
    fn first_weight(&self) -> usize {
        let tensors = SafeTensors::deserialize(&self.good).unwrap();
        self.good.len() - tensors.iter().map(|(_, tensor)| tensor.data().len()).sum::<usize>()
    }

    /// What `taper` says of the file with content `bad`.
    #[track_caller]
    fn verdict(&self, bad: &[u8], args: &[&str]) -> Verdict {
        self.place.write(self.file, bad);
        verdict(self.place.taper(args), &[self.file])
    }

    fn flipped(&self, from: usize, to: usize, index: u64) -> Vec<u8> {
        let mut rng = stream(0, self.file, index, 0);
        let mut bad = self.good.clone();
        bad[rng.random_range(from..to)] ^= 1 << rng.random_range(0..8);
        bad
    }

    fn replaced(&self, from: &str, to: &str) -> Vec<u8> {
        let text = std::str::from_utf8(&self.good).unwrap();
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1).into_bytes()
    }
}

const INSPECT: [&str; 2] = ["inspect", "./model"];
const RUN: [&str; 4] = ["run", "tiny.yaml", "--progress", "silent"];
/// Reads everything of a model, in no time.
const EVAL: [&str; 8] = ["eval", "./model", "--text", "text.txt", "--window", "32", "--tokens", "64"];

#[test]
fn flipped_bits_in_the_header_are_refused_or_harmless() {
    let damage = Damage::new(WEIGHTS);
    let header = damage.first_weight();
    let mut refused = 0;
    for index in 0..60 {
        let (from, to) = if index < 16 { (0, 8) } else { (8, header) };
        let found = damage.verdict(&damage.flipped(from, to, index), &INSPECT);
        refused += usize::from(found == Verdict::Refused);
    }
    assert!(refused >= 50, "only {refused} of 60 refused");
}

#[test]
fn weights_that_are_cut_off_or_grown_are_refused() {
    let damage = Damage::new(WEIGHTS);
    let all = damage.good.len();
    for length in [0, 1, 7, 8, 9, 100, 5000, all / 2, all - 4096, all - 2, all - 1] {
        for args in [&INSPECT[..], &RUN] {
            assert_eq!(damage.verdict(&damage.good[..length], args), Verdict::Refused, "{length} {args:?}");
        }
    }
    for more in [1, 2, 4096] {
        let bad = [&damage.good[..], &vec![0; more]].concat();
        assert_eq!(damage.verdict(&bad, &INSPECT), Verdict::Refused, "{more} more");
    }
}

#[test]
fn a_weight_that_is_no_number_ends_the_run() {
    let damage = Damage::new(WEIGHTS);
    let start = damage.good.len()
        - SafeTensors::deserialize(&damage.good).unwrap().iter().map(|(_, v)| v.data().len()).sum::<usize>();
    // infinities and NaNs of f16
    for (index, bits) in [0x7c00_u16, 0xfc00, 0x7e00, 0x7c01, 0xffff].into_iter().enumerate() {
        let mut rng = stream(0, "not finite", index as u64, 0);
        let at = start + rng.random_range(0..(damage.good.len() - start) / 2) * 2;
        let mut bad = damage.good.clone();
        bad[at..at + 2].copy_from_slice(&bits.to_le_bytes());
        assert_eq!(damage.verdict(&bad, &RUN), Verdict::Refused, "{bits:x}");
    }
}

/// The demo model in f32, with its last norm so large that logits overflow.
fn overflowing(good: &[u8]) -> Vec<u8> {
    let tensors = SafeTensors::deserialize(good).unwrap();
    let large = |name: &str| if name == "model.norm.weight" { 1e38 } else { 1.0 };
    let widened = tensors.iter().map(|(name, tensor)| {
        let halves = tensor.data().chunks_exact(2).map(|pair| half::f16::from_le_bytes([pair[0], pair[1]]).to_f32());
        let bytes: Vec<u8> = halves.flat_map(|x| (x * large(name)).clamp(-3e38, 3e38).to_le_bytes()).collect();
        (name.to_owned(), tensor.shape().to_vec(), bytes)
    });
    let widened: Vec<_> = widened.collect();
    let views = widened.iter().map(|(name, shape, bytes)| {
        (name.clone(), TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn a_model_that_overflows_ends_the_run_the_second_one_too() {
    let damage = Damage::new(WEIGHTS);
    damage.place.write(WEIGHTS, &overflowing(&damage.good));
    for _ in 0..2 {
        let output = damage.place.output(&RUN);
        let stderr = crate::support::text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.starts_with("error: tiny.yaml\n") && stderr.contains("overflow"), "{stderr}");
    }
    assert_eq!(verdict(damage.place.taper(&EVAL), &["./model"]), Verdict::Refused);
}

#[test]
fn flipped_bits_in_weights_are_refused_or_another_model() {
    let damage = Damage::new(WEIGHTS);
    let start = damage.first_weight();
    for index in 0..24 {
        damage.verdict(&damage.flipped(start, damage.good.len(), index), &EVAL);
    }
    for index in 100..104 {
        damage.verdict(&damage.flipped(start, damage.good.len(), index), &RUN);
    }
}

#[test]
fn a_wrong_configuration_is_refused() {
    let damage = Damage::new("model/config.json");
    let changes = [
        ("\"model_type\": \"llama\"", "\"model_type\": \"gpt2\""),
        ("\"model_type\": \"llama\"", "\"model_type\": 3"),
        ("\"hidden_size\": 96", "\"hidden_size\": 95"),
        ("\"hidden_size\": 96", "\"hidden_size\": 0"),
        ("\"hidden_size\": 96", "\"hidden_size\": -96"),
        ("\"hidden_size\": 96", "\"hidden_size\": 18446744073709551615"),
        ("\"hidden_size\": 96", "\"hidden_size\": \"96\""),
        ("\"hidden_size\": 96", "\"hidden_sizes\": 96"),
        ("\"num_attention_heads\": 8", "\"num_attention_heads\": 7"),
        ("\"num_attention_heads\": 8", "\"num_attention_heads\": 0"),
        ("\"num_key_value_heads\": 4", "\"num_key_value_heads\": 3"),
        ("\"num_key_value_heads\": 4", "\"num_key_value_heads\": 8"),
        ("\"num_hidden_layers\": 6", "\"num_hidden_layers\": 5"),
        ("\"num_hidden_layers\": 6", "\"num_hidden_layers\": 4294967296"),
        ("\"num_hidden_layers\": 6", "\"num_hidden_layers\": null"),
        ("\"intermediate_size\": 256", "\"intermediate_size\": 255"),
        ("\"vocab_size\": 512", "\"vocab_size\": 511"),
        ("\"vocab_size\": 512", "\"vocab_size\": 0"),
        ("\"hidden_act\": \"silu\"", "\"hidden_act\": \"relu\""),
        ("\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": -1"),
        ("{", ""),
        ("}", ""),
        (",", ""),
        ("\"", "\u{0}"),
    ];
    for (from, to) in changes {
        // a wrong size may be found in the configuration or at the tensor that contradicts it
        damage.place.write(damage.file, &damage.replaced(from, to));
        let found = verdict(damage.place.taper(&INSPECT), &[damage.file, WEIGHTS]);
        assert_eq!(found, Verdict::Refused, "{from} -> {to}");
    }
    for index in 0..40 {
        damage.place.write(damage.file, &damage.flipped(0, damage.good.len(), index));
        verdict(damage.place.taper(&EVAL), &[damage.file, WEIGHTS]);
    }
}

#[test]
fn files_that_are_not_there_are_named() {
    let place = Place::with_own_model();
    let copy = |name: &str| fs::copy(crate::support::demo_model().join(name), place.path("model").join(name)).unwrap();
    for (name, at) in
        [("config.json", "config.json"), ("model.safetensors", "./model"), ("tokenizer.json", "tokenizer.json")]
    {
        fs::remove_file(place.path("model").join(name)).unwrap();
        assert_eq!(verdict(place.taper(&RUN), &[at]), Verdict::Refused, "{name}");
        copy(name);
    }
    fs::remove_file(place.path(WEIGHTS)).unwrap();
    place.write("model/pytorch_model.bin", b"PK");
    assert_eq!(verdict(place.taper(&RUN), &["pytorch_model.bin"]), Verdict::Refused);
}

#[test]
fn a_damaged_tokenizer_is_refused_or_another_tokenizer() {
    let damage = Damage::new("model/tokenizer.json");
    for length in [0, 1, 50, damage.good.len() / 3, damage.good.len() - 3] {
        assert_eq!(damage.verdict(&damage.good[..length], &RUN), Verdict::Refused, "{length}");
    }
    for bad in
        ["null", "[]", "{}", "{\"model\": 3}", "{\"version\": \"1.0\", \"model\": {\"type\": \"BPE\"}}", "\u{feff}"]
    {
        assert_eq!(damage.verdict(bad.as_bytes(), &RUN), Verdict::Refused, "{bad}");
    }
    for index in 0..40 {
        // ids out of the vocabulary are found where tokenizer and model meet
        damage.place.write(damage.file, &damage.flipped(0, damage.good.len(), index));
        verdict(damage.place.taper(&EVAL), &[damage.file, "./model", "text.txt"]);
    }
}
