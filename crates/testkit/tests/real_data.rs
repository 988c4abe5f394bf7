//! The data folder holds what the tests of the other crates look for.

use std::path::Path;

fn every_listed_model_has_its_config_tokenizer_and_reference(data: &Path) {
    for model in testkit::models() {
        for file in ["config.json", "tokenizer.json", "reference_trace.json"] {
            let path = data.join("models").join(model).join(file);
            assert!(path.is_file(), "{} is missing", path.display());
        }
    }
}

testkit::real_data_tests!(every_listed_model_has_its_config_tokenizer_and_reference);
