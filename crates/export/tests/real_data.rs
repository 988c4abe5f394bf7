//! Files read back by another reader, candle's: keys, shapes and every value, of real models whole and cut.

#![expect(clippy::unwrap_used, reason = "a failing test panics")]

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use taper_arch::{Architecture, ModelSpec, UnitOrder};
use taper_base::progress::Silent;
use taper_export::gguf::{self, Mix};
use taper_model::{Batch, Checkpoint, Model, Parameter, Place, StoredType, save};

fn read(checkpoint: &Checkpoint, mix: &str, dir: &Path) -> (PathBuf, Content, gguf::Arch) {
    let path = dir.join(format!("{mix}.gguf"));
    let mix: Mix = mix.parse().unwrap();
    let arch = gguf::write(checkpoint, mix, &path, &Silent).unwrap();
    let content = Content::read(&mut File::open(&path).unwrap()).unwrap();
    (path, content, arch)
}

fn values(path: &Path, content: &Content, name: &str) -> Vec<f32> {
    let tensor = content.tensor(&mut File::open(path).unwrap(), name, &Device::Cpu).unwrap();
    tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Pairs of rotary values back to halves.
fn halves(values: &[f32], rows: usize, d_head: usize) -> Vec<f32> {
    let row = values.len() / rows;
    let from = |at: usize| {
        let (head, within) = (at / d_head, at % d_head);
        head * d_head + 2 * (within % (d_head / 2)) + within / (d_head / 2)
    };
    (0..rows).flat_map(|at| values[from(at) * row..(from(at) + 1) * row].to_vec()).collect()
}

fn every_value_is_there(checkpoint: &Checkpoint, dir: &Path) {
    let (path, content, arch) = read(checkpoint, "f32", dir);
    let spec = checkpoint.spec();
    let name = |block: usize, name: &str| format!("blk.{block}.{name}");
    let of = |tensor: &str| values(&path, &content, tensor);
    let stored = |place| checkpoint.values(place).unwrap();
    assert_eq!(of("token_embd.weight"), stored(Place::global(Parameter::Embedding)));
    assert_eq!(content.tensor_infos.contains_key("output.weight"), !spec.tied_head);
    for (index, block) in spec.blocks.iter().enumerate() {
        let place = |parameter| stored(Place::of(index, parameter));
        if let Some(a) = block.attention {
            if arch == gguf::Arch::OpenElm {
                let fused = [place(Parameter::Q), place(Parameter::K), place(Parameter::V)].concat();
                assert_eq!(of(&name(index, "attn_qkv.weight")), fused);
            } else {
                for (tensor, parameter, heads) in
                    [("attn_q", Parameter::Q, a.n_heads), ("attn_k", Parameter::K, a.n_kv_heads)]
                {
                    let found = of(&name(index, &format!("{tensor}.weight")));
                    let paired = matches!(arch, gguf::Arch::Llama | gguf::Arch::Deci);
                    let found = if paired { halves(&found, heads * spec.d_head, spec.d_head) } else { found };
                    assert_eq!(found, place(parameter), "{tensor} {index}");
                }
                assert_eq!(of(&name(index, "attn_v.weight")), place(Parameter::V));
            }
            assert_eq!(of(&name(index, "attn_output.weight")), place(Parameter::O));
        } else {
            assert!(!content.tensor_infos.contains_key(&name(index, "attn_norm.weight")));
        }
        let down = of(&name(index, "ffn_down.weight"));
        match block.mlp {
            Some(_) => assert_eq!(down, place(Parameter::Down)),
            None => assert!(down.len() == 256 * spec.d_model && down.iter().all(|x| *x == 0.0)),
        }
    }
}

/// What keys say of sizes, block by block.
fn sizes(content: &Content, arch: gguf::Arch, key: &str, blocks: usize) -> Vec<u32> {
    match &content.metadata[&format!("{}.{key}", arch.name())] {
        Value::Array(all) => all.iter().map(|x| x.to_u32().unwrap()).collect(),
        one => vec![one.to_u32().unwrap(); blocks],
    }
}

/// The model with other heads and channels in each block, an attention and an MLP less.
fn cut(folder: &Path, to: &Path) -> Checkpoint {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let model = Model::load(&checkpoint).unwrap();
    let mut architecture = Architecture::whole(model.spec());
    for (index, block) in architecture.blocks.iter_mut().enumerate() {
        let mlp = block.mlp.as_mut().unwrap();
        mlp.channels -= 32 * (index % 3);
        let attention = block.attention.as_mut().unwrap();
        attention.heads_per_group -= usize::from(index % 2 == 1 && attention.heads_per_group > 1);
        attention.groups -= usize::from(index == 1 && attention.groups > 1);
        if index == 2 {
            block.mlp = None;
        }
        if index == 3 && !model.spec().qk_norm {
            block.attention = None;
        }
    }
    let kept = UnitOrder::stored(model.spec()).select(&architecture).unwrap();
    let student = model.cut(&kept.blocks).unwrap();
    save(&student, to, StoredType::F32, u64::MAX).unwrap();
    let source = checkpoint.config().clone();
    taper_export::transformers::write(to, student.spec(), folder, &source).unwrap();
    Checkpoint::open(to).unwrap()
}

fn files_hold_what_checkpoints_hold(data: &Path) {
    for name in testkit::models() {
        let folder = data.join("models").join(name);
        let place = tempfile::tempdir().unwrap();
        let whole = Checkpoint::open(&folder).unwrap();
        every_value_is_there(&whole, place.path());
        let dir = place.path().join("cut");
        std::fs::create_dir(&dir).unwrap();
        let student = cut(&folder, &dir);
        every_value_is_there(&student, &dir);
        let (_, content, arch) = read(&student, "q8_0", &dir);
        let spec: &ModelSpec = student.spec();
        let wanted = |size: fn(&taper_arch::BlockSpec) -> usize| -> Vec<u32> {
            spec.blocks.iter().map(|block| size(block) as u32).collect()
        };
        assert!(matches!(arch, gguf::Arch::Deci | gguf::Arch::OpenElm), "{name} {arch:?}");
        let blocks = spec.blocks.len();
        let heads = wanted(|block| block.attention.map_or(0, |a| a.n_heads));
        assert_eq!(sizes(&content, arch, "attention.head_count", blocks), heads);
        let channels = wanted(|block| block.mlp.map_or(256, |m| m.d_ff));
        assert_eq!(sizes(&content, arch, "feed_forward_length", blocks), channels);
    }
}

/// A model cut in every way, filled up again, gives the same logits, and its blocks are alike.
fn padded_models_compute_the_same(data: &Path) {
    for name in testkit::models() {
        let place = tempfile::tempdir().unwrap();
        let student = cut(&data.join("models").join(name), place.path());
        let dir = place.path().join("padded");
        taper_export::pad::write(&student, &dir).unwrap();
        let padded = Checkpoint::open(&dir).unwrap();
        assert!(padded.spec().uniform_block().is_some() && student.spec().uniform_block().is_none(), "{name}");
        let ids: Vec<u32> = (0..64).map(|index| index * 37 % padded.spec().vocab as u32).collect();
        let logits = |checkpoint: &Checkpoint| -> Vec<f32> {
            let model = Model::load(checkpoint).unwrap();
            model.logits(Batch::new(&ids, 64).unwrap()).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let (own, other) = (logits(&student), logits(&padded));
        let most = own.iter().zip(&other).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(most < 5e-5 && own.iter().any(|x| x.abs() > 1.0), "{name}: {most}");
    }
}

/// Tokens are those of `tokenizer.json`, and merges or scores are in its order.
fn tokenizers_are_carried_over(data: &Path) {
    for name in testkit::models() {
        let folder = data.join("models").join(name);
        let place = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let (_, content, _) = read(&checkpoint, "f16", place.path());
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("tokenizer.json")).unwrap()).unwrap();
        let text = |key: &str| content.metadata[key].to_string().unwrap().clone();
        let list = |key: &str| content.metadata[key].to_vec().unwrap().clone();
        let tokens: Vec<String> =
            list("tokenizer.ggml.tokens").iter().map(|token| token.to_string().unwrap().clone()).collect();
        let known: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
        assert_eq!(tokens.len(), checkpoint.spec().vocab);
        for (token, id) in json["model"]["vocab"].as_object().unwrap() {
            assert_eq!(known[token.as_str()] as u64, id.as_u64().unwrap(), "{name} {token}");
        }
        let byte_fallback = json["model"]["byte_fallback"] == true;
        assert_eq!(text("tokenizer.ggml.model"), if byte_fallback { "llama" } else { "gpt2" });
        let merges = json["model"]["merges"].as_array().unwrap().len();
        if byte_fallback {
            let scores: Vec<f32> = list("tokenizer.ggml.scores").iter().map(|score| score.to_f32().unwrap()).collect();
            let merged = |index: usize| {
                let merge = &json["model"]["merges"][index];
                let parts = merge.as_str().map_or_else(
                    || format!("{}{}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()),
                    |text| text.replacen(' ', "", 1),
                );
                scores[known[parts.as_str()]]
            };
            assert!(merged(0) > merged(1) && merged(1) > merged(merges - 1));
        } else {
            assert_eq!(list("tokenizer.ggml.merges").len(), merges);
            let wanted = if name.starts_with("llama") { "llama-bpe" } else { "qwen2" };
            assert_eq!(text("tokenizer.ggml.pre"), wanted);
        }
    }
}

testkit::real_data_tests!(
    files_hold_what_checkpoints_hold,
    padded_models_compute_the_same,
    tokenizers_are_carried_over,
);
