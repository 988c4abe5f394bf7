//! Generation step by step gives the logits of the full forward pass, and those of PyTorch, for every family and cut.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod shared;

use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use taper_arch::{SelectedAttention, SelectedBlock, SubBlock};
use taper_model::{Batch, Checkpoint, Decoder, Model, Part, greedy};

use shared::golden_folders;

/// Largest difference from the full forward, relative to the largest logit: two orders of summation in f32.
const CACHED: f64 = 1e-5;
/// Largest difference from PyTorch, as `golden/README.toml` says, and why.
const GOLDEN: f64 = 1e-4;

struct Tiny {
    name: String,
    model: Model,
    ids: Vec<Vec<u32>>,
    logits: Vec<Vec<Vec<f32>>>, // of PyTorch
}

fn all() -> Vec<Tiny> {
    let open = |folder: &PathBuf| {
        let golden = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
        Tiny {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            model: Model::load(&Checkpoint::open(folder).unwrap()).unwrap(),
            ids: golden["input_ids"].to_dtype(DType::U32).unwrap().to_vec2().unwrap(),
            logits: golden["logits"].to_vec3().unwrap(),
        }
    };
    golden_folders().iter().map(open).collect()
}

fn column(ids: &[Vec<u32>], from: usize, to: usize) -> Vec<u32> {
    ids.iter().flat_map(|row| row[from..to].to_vec()).collect()
}

/// Logits of each position from `prompt - 1` on, `[positions][sequences][vocab]`, by a prompt and steps.
fn cached(model: &Model, ids: &[Vec<u32>], prompt: usize) -> Vec<Vec<Vec<f32>>> {
    let length = ids[0].len();
    let mut decoder = Decoder::new(model, &vec![length; ids.len()]).unwrap();
    let mut feed = |from, to| decoder.feed(&column(ids, from, to), &mut |_| ()).unwrap().to_vec2().unwrap();
    let mut rows = vec![feed(0, prompt)];
    rows.extend((prompt..length).map(|t| feed(t, t + 1)));
    rows
}

/// The largest difference of `cached` logits from the full forward pass, relative to the largest of those.
fn off(model: &Model, ids: &[Vec<u32>], prompt: usize) -> f64 {
    let length = ids[0].len();
    let full: Vec<Vec<f32>> = model.logits(Batch::new(&ids.concat(), length).unwrap()).unwrap().to_vec2().unwrap();
    let largest = full.iter().flatten().fold(1.0_f32, |most, x| most.max(x.abs()));
    let mut worst = 0.0_f64;
    for (at, rows) in cached(model, ids, prompt).iter().enumerate() {
        for (sequence, row) in rows.iter().enumerate() {
            worst = worst.max(testkit::max_abs_diff(row, &full[sequence * length + prompt - 1 + at]));
        }
    }
    worst / f64::from(largest)
}

/// Uneven heads, a lone MLP, a lone attention, and nothing at all, by turns.
fn uneven(model: &Model) -> Model {
    let block = |(index, block): (usize, &taper_arch::BlockSpec)| {
        let (attention, mlp) = (block.attention.unwrap(), block.mlp.unwrap());
        let per_group = attention.heads_per_group();
        // all heads of the last group, and the first head of the first one
        let last = (attention.n_heads - per_group..attention.n_heads).collect::<Vec<_>>();
        let heads = if attention.n_kv_heads > 1 { [&last[..], &[0]].concat() } else { last };
        let groups = if attention.n_kv_heads > 1 { vec![0, attention.n_kv_heads - 1] } else { vec![0] };
        let kept = SelectedAttention { heads, groups };
        let channels = (0..mlp.d_ff).filter(|channel| channel % 3 != 1).collect();
        match index % 4 {
            0 => SelectedBlock { attention: Some(kept), mlp: Some(channels) },
            1 => SelectedBlock { attention: None, mlp: Some(channels) },
            2 => SelectedBlock { attention: Some(kept), mlp: None },
            _ => SelectedBlock { attention: None, mlp: None },
        }
    };
    model.cut(&model.spec().blocks.iter().enumerate().map(block).collect::<Vec<_>>()).unwrap()
}

#[test]
fn every_family_gives_the_full_pass_from_any_prompt() {
    for tiny in all() {
        for prompt in [1, 2, tiny.ids[0].len() / 2, tiny.ids[0].len()] {
            let off = off(&tiny.model, &tiny.ids, prompt);
            assert!(off <= CACHED, "{}, prompt {prompt}: {off}", tiny.name);
        }
    }
}

#[test]
fn every_family_gives_the_logits_of_pytorch() {
    for tiny in all() {
        let rows = cached(&tiny.model, &tiny.ids, 3);
        for (at, rows) in rows.iter().enumerate() {
            for (row, golden) in rows.iter().zip(&tiny.logits) {
                let worst = testkit::max_abs_diff(row, &golden[2 + at]);
                assert!(worst <= GOLDEN, "{}, position {}: {worst}", tiny.name, 2 + at);
            }
        }
    }
}

#[test]
fn cut_models_give_their_full_pass() {
    for tiny in all() {
        for model in [uneven(&tiny.model), uneven(&tiny.model).without_empty_blocks()] {
            let off = off(&model, &tiny.ids, 4);
            assert!(off <= CACHED, "{}: {off}", tiny.name);
        }
    }
}

/// Prompts of different lengths that share beginnings, read in two passes; each ends at its own length, and the others go on.
fn ragged_off(model: &Model, ids: &[Vec<u32>]) -> f64 {
    let (a, b, length) = (&ids[0], &ids[1], ids[0].len());
    let shared = [&a[..4], &b[4..]].concat();
    let texts: [(&[u32], usize, usize); 5] =
        [(&shared, 6, length), (a, 9, length - 2), (b, 1, 4), (a, 3, length), (b, length, length)]; // text, prompt, end
    let capacities = texts.map(|(_, _, end)| end);
    let mut decoder = Decoder::new(model, &capacities).unwrap();
    let prompts = texts.map(|(text, prompt, _)| &text[..prompt]);
    let mut rows: Vec<Vec<Vec<f32>>> = vec![Vec::new(); texts.len()];
    for (first, prompts) in [(0, &prompts[..4]), (4, &prompts[4..])] {
        let read: Vec<Vec<f32>> = decoder.read(first, prompts).unwrap().to_vec2().unwrap();
        read.into_iter().enumerate().for_each(|(index, row)| rows[first + index].push(row));
    }
    let mut live: Vec<usize> = (0..texts.len()).collect();
    loop {
        let at = |text: usize| texts[text].1 + rows[text].len() - 1; // tokens fed
        let more: Vec<bool> = live.iter().map(|text| at(*text) < texts[*text].2).collect();
        decoder.keep(&more);
        live = live.into_iter().zip(more).filter_map(|(text, more)| more.then_some(text)).collect();
        if live.is_empty() {
            break;
        }
        let next: Vec<u32> = live.iter().map(|text| texts[*text].0[at(*text)]).collect();
        let fed: Vec<Vec<f32>> = decoder.feed(&next, &mut |_| ()).unwrap().to_vec2().unwrap();
        live.iter().zip(fed).for_each(|(text, row)| rows[*text].push(row));
    }
    let mut worst = 0.0_f64;
    for ((text, prompt, end), rows) in texts.iter().zip(&rows) {
        let full = model.logits(Batch::new(&text[..*end], *end).unwrap()).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(rows.len(), end - prompt + 1);
        let largest = full.iter().flatten().fold(1.0_f32, |most, x| most.max(x.abs()));
        for (row, full) in rows.iter().zip(&full[prompt - 1..]) {
            worst = worst.max(testkit::max_abs_diff(row, full) / f64::from(largest));
        }
    }
    worst
}

#[test]
fn sequences_of_different_lengths_give_each_its_full_pass() {
    for tiny in all() {
        for model in [&tiny.model, &uneven(&tiny.model)] {
            let off = ragged_off(model, &tiny.ids);
            assert!(off <= CACHED, "{}: {off}", tiny.name);
        }
    }
}

#[test]
fn parts_are_told_in_order_and_a_window_bounds_the_cache() {
    let tiny = all().into_iter().find(|tiny| tiny.name == "mistral-window").unwrap();
    let spec = tiny.model.spec();
    let window = spec.blocks[0].attention.unwrap().window.unwrap();
    let length = tiny.ids[0].len();
    assert!(window < length, "{window} {length}");
    let mut decoder = Decoder::new(&tiny.model, &vec![length; tiny.ids.len()]).unwrap();
    let kv = |block: &taper_arch::BlockSpec| 2 * 4 * block.attention.unwrap().n_kv_heads * spec.d_head;
    let bytes: usize = spec.blocks.iter().map(|block| kv(block) * window * tiny.ids.len()).sum();
    assert_eq!(decoder.cache_bytes(), bytes as u64);
    let mut parts = Vec::new();
    decoder.feed(&column(&tiny.ids, 0, 1), &mut |part| parts.push(part)).unwrap();
    let half = |block, half| Part::Half { block, half };
    let halves = (0..spec.blocks.len()).flat_map(|block| SubBlock::BOTH.map(|which| half(block, which)));
    let want: Vec<Part> = [Part::Embedding].into_iter().chain(halves).chain([Part::Head]).collect();
    assert_eq!(parts, want);
}

#[test]
fn what_cannot_be_fed_is_refused() {
    let tiny = &all()[0];
    let vocab = tiny.model.spec().vocab as u32;
    let refusal = |feeds: &[&[u32]]| {
        let mut decoder = Decoder::new(&tiny.model, &[3; 2]).unwrap();
        let mut last = Ok(Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
        feeds.iter().for_each(|ids| last = decoder.feed(ids, &mut |_| ()));
        last.unwrap_err().to_string()
    };
    assert_eq!(refusal(&[&[1, 2, 3]]), "token ids: 3 are no rows of 2 sequences");
    assert_eq!(refusal(&[&[]]), "token ids: 0 are no rows of 2 sequences");
    assert_eq!(refusal(&[&[1; 8]]), "token ids: 4 of a sequence, wanted at most 3");
    assert_eq!(refusal(&[&[1; 2], &[1; 4]]), "token ids: 2 of each sequence after 1, wanted one");
    assert_eq!(refusal(&[&[vocab, 1]]), format!("token ids: {vocab} is outside the vocabulary of {vocab}"));
    let none = |capacities: &[usize]| Decoder::new(&tiny.model, capacities).unwrap_err().to_string();
    assert_eq!(none(&[]), "token ids: sequences of [] tokens are none");
    assert_eq!(none(&[3, 0]), "token ids: sequences of [3, 0] tokens are none");
    let mut decoder = Decoder::new(&tiny.model, &[3, 2]).unwrap();
    let mut read = |first, prompts: &[&[u32]]| decoder.read(first, prompts).map(|_| ()).map_err(|e| e.to_string());
    let refused = |reason: &str| Err(format!("token ids: {reason}"));
    assert_eq!(read(1, &[&[1], &[2]]), refused("2 prompts from 1 on of 2 sequences"));
    assert_eq!(read(0, &[&[1, 1], &[1, 2, 3]]), refused("a prompt of 3 after 0, wanted 1 to 2 after none"));
    assert_eq!(read(0, &[&[]]), refused("a prompt of 0 after 0, wanted 1 to 3 after none"));
    assert_eq!(read(0, &[&[1, 1]]), Ok(()));
    assert_eq!(read(0, &[&[1]]), refused("a prompt of 1 after 2, wanted 1 to 3 after none"));
}

#[test]
fn the_likeliest_token_is_taken_and_the_smaller_of_two() {
    let logits = Tensor::from_slice(&[0.0_f32, 2.0, 2.0, -1.0, -3.0, -0.5], (2, 3), &Device::Cpu).unwrap();
    assert_eq!(greedy(&logits).unwrap(), [1, 2]);
}
