//! Against the perplexities that transformers gives four real models.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a failing test panics, and says what it measured")]

use std::path::Path;

use serde_json::Value;
use taper_base::progress::Silent;
use taper_eval::{Settings, documents_to_ids, perplexity};
use taper_model::{Checkpoint, Model};

/// `reference.json`: the first 20480 tokens of a file, disjoint windows of 256.
fn perplexities_are_those_of_transformers(data: &Path) {
    for name in testkit::models() {
        let folder = data.join("models").join(name);
        let reference: Value = serde_json::from_slice(&std::fs::read(folder.join("reference.json")).unwrap()).unwrap();
        let model = Model::load(&Checkpoint::open(&folder).unwrap()).unwrap();
        let tokenizer = taper_data::TextTokenizer::load(&folder).unwrap();
        for key in ["perplexity", "perplexity_wikitext2"] {
            let Some(wanted) = reference.get(key) else { continue };
            let text = std::fs::read_to_string(data.join(wanted["file"].as_str().unwrap())).unwrap();
            let ids = documents_to_ids(&[&text], &tokenizer, false, 20_480).unwrap();
            let settings = Settings { window: 256, stride: 256, by_document: false };
            let found = perplexity(&model, &ids, settings, 2, &Silent).unwrap();
            let loss = wanted["nll_per_token"].as_f64().unwrap();
            assert_eq!(found.tokens, 20_400);
            let off = (found.loss / loss - 1.0).abs();
            assert!(off <= 1e-5, "{name} {key}: {} against {loss}", found.loss);
            println!("{name} {key}: {:.6} nats, relative difference {off:.1e}", found.loss);
        }
    }
}

testkit::real_data_tests!(perplexities_are_those_of_transformers);
