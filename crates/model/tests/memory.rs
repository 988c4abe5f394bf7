//! What a pass takes is what [`PassMemory`] says: measured by an allocator that keeps its peak.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use peak_alloc::PeakAlloc;
use serde_json::json;
use taper_kernels::Result;
use taper_model::{Batch, Checkpoint, Gradient, Model, PassMemory, Place, Recompute, Sink};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Peaks as shares of what was said: tables and threads take a little; moments said to coincide may not.
const SHARES: std::ops::RangeInclusive<f64> = 0.9..=1.02;

struct Nothing;

impl Sink for Nothing {
    fn take(&mut self, _: Place, _: Gradient<'_>) -> Result<()> {
        Ok(())
    }
}

struct Shape {
    d: usize,
    heads: [usize; 2],
    d_ff: usize,
    blocks: usize,
    vocab: usize,
}

fn model(folder: &Path, shape: &Shape, dtype: DType) -> Model {
    let Shape { d, heads: [q, kv], d_ff, blocks, vocab } = *shape;
    let (d_head, mut tensors) = (d / q, HashMap::new());
    let mut put = |name: String, shape: &[usize]| {
        let tensor = Tensor::full(0.01_f32, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        tensors.insert(format!("{name}.weight"), tensor);
    };
    put("model.embed_tokens".to_owned(), &[vocab, d]);
    put("lm_head".to_owned(), &[vocab, d]);
    put("model.norm".to_owned(), &[d]);
    for block in 0..blocks {
        let matrices = [
            ("self_attn.q_proj", vec![d, d]),
            ("self_attn.k_proj", vec![kv * d_head, d]),
            ("self_attn.v_proj", vec![kv * d_head, d]),
            ("self_attn.o_proj", vec![d, d]),
            ("mlp.gate_proj", vec![d_ff, d]),
            ("mlp.up_proj", vec![d_ff, d]),
            ("mlp.down_proj", vec![d, d_ff]),
            ("input_layernorm", vec![d]),
            ("post_attention_layernorm", vec![d]),
        ];
        for (name, shape) in matrices {
            put(format!("model.layers.{block}.{name}"), &shape);
        }
    }
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "hidden_size": d, "num_hidden_layers": blocks, "num_attention_heads": q, "num_key_value_heads": kv,
        "intermediate_size": d_ff, "vocab_size": vocab, "max_position_embeddings": 4096, "tie_word_embeddings": false
    });
    taper_base::files::write_json(&folder.join("config.json"), &config).unwrap();
    Model::load(&Checkpoint::open(folder).unwrap()).unwrap()
}

/// Bytes that `f` holds at most beyond what there was.
fn peak(f: impl FnOnce()) -> f64 {
    let before = MEMORY.current_usage() as f64;
    MEMORY.reset_peak_usage();
    f();
    MEMORY.peak_usage() as f64 - before
}

#[test] // one test: the allocator counts for the whole program
fn peaks_are_what_was_said() {
    let shapes = [
        Shape { d: 128, heads: [8, 8], d_ff: 344, blocks: 4, vocab: 512 },
        Shape { d: 128, heads: [8, 2], d_ff: 1024, blocks: 2, vocab: 512 },
        Shape { d: 64, heads: [4, 1], d_ff: 64, blocks: 6, vocab: 512 },
        Shape { d: 64, heads: [4, 4], d_ff: 64, blocks: 1, vocab: 8192 },
    ];
    let (length, sequences) = (256, 16);
    let ids: Vec<u32> = (0..length * sequences).map(|i| (i % 500) as u32).collect();
    let batch = Batch::new(&ids, length as usize).unwrap();
    for (number, shape) in shapes.iter().enumerate() {
        for dtype in [DType::F32, DType::BF16] {
            let folder = tempfile::tempdir().unwrap();
            let model = model(folder.path(), shape, dtype);
            let memory = PassMemory::of(model.spec(), ids.len());
            model.token_losses(batch).unwrap(); // the threads' own buffers are there from now on
            let check = |what: &str, measured: f64, said: u64| {
                let share = measured / said as f64;
                assert!(SHARES.contains(&share), "shape {number}, {dtype:?}, {what}: {measured} of {said}");
            };
            let whole = || drop(model.observe(batch, &mut |_, _, _| Ok(())).unwrap());
            check("forward as a whole", peak(whole), memory.forward() - (memory.pieces - 1) * memory.tile);
            let pieces = peak(|| drop(model.token_losses(batch).unwrap()));
            assert!(pieces <= 1.02 * memory.forward() as f64, "shape {number}, {dtype:?}: {pieces} of {memory:?}");
            for recompute in [Recompute::Nothing, Recompute::Cheap, Recompute::Insides] {
                let pass = || drop(model.backward(batch, 1.0, recompute, &mut Nothing).unwrap());
                check(&format!("{recompute:?}"), peak(pass), memory.backward(recompute));
            }
        }
    }
}
