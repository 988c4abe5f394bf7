//! Softmax attention with grouped heads, blockwise; formulas in `kernels/attention.cuh`.

use taper_nvrtc::Storage;

use super::launch::Kernel;
use super::{Array, CudaError, Kind, Result};
use crate::{Heads, Sight};

/// The widest head the kernels hold in registers.
const WIDEST: usize = 256;

/// What the forward computed.
#[derive(Debug, Clone)]
pub struct Attended {
    /// `[sequences · tokens, n_heads · d_head]`.
    pub out: Array,
    /// `log Σ exp` of each query's scores, `[sequences, n_heads, tokens]` in f32.
    log_sums: Array,
}

/// # Shapes
/// `q` `[sequences · tokens, n_heads · d_head]`, `k` and `v` `[sequences · tokens, n_kv_heads · d_head]`.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn attention(q: &Array, k: &Array, v: &Array, heads: Heads<'_>) -> Result<Attended> {
    const OP: &str = "attention";
    let plan = Plan::of(OP, [q, k, v], heads)?;
    let out = q.like()?;
    let sums = [heads.sequences, heads.kv_of.len(), heads.tokens];
    let log_sums = Array::uninitialised(q.machine(), &sums, Kind::F32)?;
    let kernel = plan.kernel("attention", plan.tiles.forward).array(&out).array(&log_sums).array(q).array(k).array(v);
    plan.finish(kernel, heads.kv_of.len())?;
    Ok(Attended { out, log_sums })
}

/// Gradients of q, k and v.
///
/// # Shapes
/// As [`attention`]; `dout` as its output.
///
/// # Errors
/// If shapes or types do not fit, or the machine fails.
pub fn attention_backward(
    [q, k, v]: [&Array; 3],
    heads: Heads<'_>,
    attended: &Attended,
    dout: &Array,
) -> Result<[Array; 3]> {
    const OP: &str = "attention_backward";
    let plan = Plan::of(OP, [q, k, v], heads)?;
    attended.out.expect(OP, "out", q.shape(), q.kind())?;
    dout.expect(OP, "dout", q.shape(), q.kind())?;
    let sums = &attended.log_sums;
    sums.expect(OP, "log_sums", &[heads.sequences, heads.kv_of.len(), heads.tokens], Kind::F32)?;
    let (dq, dk, dv, along) = (q.like()?, k.like()?, v.like()?, sums.like()?);
    let rows = (THREADS / 32) as usize;
    let kernel = Kernel::new(OP, "attention.cu", "attention_along", plan.storage).d_head(heads.d_head).block(THREADS);
    let kernel = kernel.array(&along).array(&attended.out).array(dout).size("tokens", heads.tokens);
    let kernel = kernel.size("heads", heads.kv_of.len());
    kernel.grid([heads.tokens.div_ceil(rows), heads.kv_of.len(), heads.sequences]).run(q.machine())?;
    let kernel = plan.kernel("attention_dq", plan.tiles.dq).array(&dq).array(q).array(k).array(v).array(dout);
    plan.finish(kernel.array(sums).array(&along), heads.kv_of.len())?;
    let kernel = plan.kernel("attention_dkv", plan.tiles.dkv).array(&dk).array(&dv).array(q).array(k).array(v);
    plan.finish(kernel.array(dout).array(sums).array(&along), heads.n_kv_heads)?;
    Ok([dq, dk, dv])
}

/// Threads of a block where the tile does not say: four warps.
const THREADS: u32 = 128;

/// Rows a block owns, its threads, and the bytes of shared memory it takes.
#[derive(Debug, Clone, Copy)]
struct Tile {
    file: &'static str,
    rows: usize,
    threads: u32,
    shared: usize,
}

struct Tiles {
    forward: Tile,
    dq: Tile,
    dkv: Tile,
}

impl Tiles {
    /// By tensor cores where values and heads allow: bf16 in rows of whole 16 × 16 tiles.
    fn of(storage: Storage, d_head: usize) -> Self {
        if storage == Storage::Bf16 && d_head.is_multiple_of(16) {
            return Self::on_tensor_cores(d_head);
        }
        let tile =
            |rows: usize| Tile { file: "attention.cu", rows: 16, threads: THREADS, shared: rows * (d_head + 1) * 4 };
        Self { forward: tile(16 + 64), dq: tile(32 + 64), dkv: tile(32 + 64) }
    }

    /// As the sources choose by the width of a head. The other side lies in a ring of two tiles of two arrays. At most
    /// 99 KiB a block: no architecture from sm_80 on has less.
    fn on_tensor_cores(d_head: usize) -> Self {
        let bytes = |rows: usize| rows * (d_head + 8) * 2;
        let (rows, keys, warps, other) = if d_head <= 128 { (128, 48, 8, 64) } else { (64, 32, 4, 32) };
        let shared = bytes(rows + 4 * keys);
        let forward = Tile { file: "attention_mma.cu", rows, threads: THREADS, shared };
        let (threads, shared) = (32 * warps, bytes(4 * other));
        let dq = Tile { file: "attention_backward_mma.cu", rows, threads, shared };
        // And of each row of two tiles its log-sum and what lies along, in f32.
        Self { forward, dq, dkv: Tile { shared: shared + 4 * other * 4, ..dq } }
    }
}

/// A call that has been checked.
struct Plan<'a> {
    op: &'static str,
    heads: Heads<'a>,
    window: usize,
    storage: Storage,
    tiles: Tiles,
    kv_of: Array,
    first: Option<Array>,
}

impl<'a> Plan<'a> {
    fn of(op: &'static str, inputs: [&Array; 3], heads: Heads<'a>) -> Result<Self> {
        let (rows, d, kind) = (heads.sequences * heads.tokens, heads.d_head, inputs[0].kind());
        let widths = [heads.kv_of.len(), heads.n_kv_heads, heads.n_kv_heads];
        for ((what, array), width) in ["q", "k", "v"].into_iter().zip(inputs).zip(widths) {
            array.expect(op, what, &[rows, width * d], kind)?;
        }
        if let Some(kv) = heads.kv_of.iter().find(|kv| **kv >= heads.n_kv_heads) {
            let want = format!("KV heads below {}", heads.n_kv_heads);
            return Err(CudaError::Shape { op, what: "kv_of", got: vec![*kv], want });
        }
        if let Some((got, want)) = heads.fault_of_first() {
            return Err(CudaError::Shape { op, what: "first", got: vec![got], want });
        }
        if d == 0 || d > WIDEST {
            return Err(CudaError::Size { op, what: "d_head", got: d, most: WIDEST });
        }
        if heads.queries() != heads.tokens {
            let want = format!("all {} tokens of a sequence", heads.tokens);
            return Err(CudaError::Shape { op, what: "queries", got: vec![heads.queries()], want });
        }
        let window = match heads.sight {
            Sight::Causal => heads.window.unwrap_or(heads.tokens).clamp(1, heads.tokens.max(1)),
            Sight::Full { .. } => 0,
        };
        let storage = inputs[0].storage(op, "q")?;
        let table: Vec<i32> = heads.kv_of.iter().map(|kv| *kv as i32).collect();
        let kv_of = Array::of_numbers(inputs[0].machine(), &table)?;
        let first = heads.first.filter(|_| heads.sight == Sight::Causal);
        let first = first.map(|first| first.iter().map(|first| *first as i32).collect::<Vec<_>>());
        let first = first.map(|first| Array::of_numbers(inputs[0].machine(), &first)).transpose()?;
        Ok(Self { op, heads, window, storage, tiles: Tiles::of(storage, d), kv_of, first })
    }

    fn kernel(&self, name: &'static str, tile: Tile) -> Kernel {
        let kernel = Kernel::new(self.op, tile.file, name, self.storage).d_head(self.heads.d_head);
        let tiles = self.heads.tokens.div_ceil(tile.rows);
        kernel.block(tile.threads).shared(tile.shared).grid([tiles, 1, self.heads.sequences])
    }

    /// What all three kernels end with; `across` heads along the grid's y.
    fn finish(&self, kernel: Kernel, across: usize) -> Result<()> {
        let heads = &self.heads;
        let kernel = kernel
            .array(&self.kv_of)
            .maybe(self.first.as_ref())
            .size("tokens", heads.tokens)
            .size("heads", heads.kv_of.len());
        let kernel = kernel.size("kv_heads", heads.n_kv_heads).size("window", self.window);
        kernel.float(1.0 / (heads.d_head as f64).sqrt()).along_y(across).run(self.kv_of.machine())
    }
}
