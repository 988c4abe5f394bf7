use super::*;

#[test]
fn a_licence_is_read_from_the_front_matter_alone() {
    let place = tempfile::tempdir().unwrap();
    let with = |text: &str| {
        taper_base::files::write(&place.path().join("README.md"), text.as_bytes()).unwrap();
        stated_licence(place.path())
    };
    assert_eq!(with("---\ntags: [a]\nlicense: 'apache-2.0'\n---\n# x\nlicense: mit\n"), Some("apache-2.0".to_owned()));
    assert_eq!(with("---\ntags: [a]\n---\nlicense: mit\n"), None);
    assert_eq!(with("license: mit\n"), None);
    assert_eq!(with("---\nlicense:\n---\n"), None);
}

#[test]
fn only_a_checkpoint_is_published_and_only_files_that_taper_writes_are_stale() {
    for path in ["model.safetensors", "model-00001-of-00002.safetensors", "a-q4_0.gguf", "adapter/adapter_config.json"]
    {
        assert!(is_ours(path), "{path}");
    }
    for path in ["config.json", "tokenizer.json", "taper.lock", "kept_units.json"] {
        assert!(is_of_checkpoint(path), "{path}");
    }
    for path in ["key.json", "notes.txt", "train.jsonl", "heal.work/metrics.jsonl", "adapter/key"] {
        assert!(!is_of_checkpoint(path), "{path}");
    }
    for path in ["README.md", ".gitattributes", "vllm/model.safetensors", "tokenizer.json", "notes/model.md", "x.py"] {
        assert!(!is_ours(path), "{path}");
    }
}
