//! Weights of fewer bits, and which tensor gets which: the mixes of `llama-quantize`.
//!
//! Blocks are quantized by candle, whose rules are those of llama.cpp's reference quantizers without an importance matrix.
//! Mixes: llama.cpp, `llama_tensor_get_type`. A row that is no multiple of a block takes the kind that llama.cpp falls back to.

use std::str::FromStr;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use super::format::Kind;

/// What a file as a whole is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mix {
    name: &'static str,
    number: u32,
    most: Kind,
    medium: bool,
}

/// All mixes, by their name: `general.file_type`, the kind of most matrices, and whether some get more bits (`_M`).
const MIXES: [Mix; 10] = [
    Mix { name: "bf16", number: 32, most: Kind::Bf16, medium: false },
    Mix { name: "f16", number: 1, most: Kind::F16, medium: false },
    Mix { name: "f32", number: 0, most: Kind::F32, medium: false },
    Mix { name: "q4_0", number: 2, most: Kind::Q4_0, medium: false },
    Mix { name: "q4_k_m", number: 15, most: Kind::Q4K, medium: true },
    Mix { name: "q4_k_s", number: 14, most: Kind::Q4K, medium: false },
    Mix { name: "q5_k_m", number: 17, most: Kind::Q5K, medium: true },
    Mix { name: "q5_k_s", number: 16, most: Kind::Q5K, medium: false },
    Mix { name: "q6_k", number: 18, most: Kind::Q6K, medium: false },
    Mix { name: "q8_0", number: 7, most: Kind::Q8_0, medium: false },
];

/// Which tensor, as far as mixes care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The head, or the embedding where it is the head.
    Output,
    /// The embedding beside a head.
    Embedding,
    /// Values of a block.
    Values(usize),
    /// Queries, keys and values in one.
    Fused,
    /// The MLP's output of a block.
    Down(usize),
    /// Any other matrix.
    Matrix,
    /// A vector: never quantized.
    Vector,
}

impl Mix {
    /// The names of all.
    pub fn names() -> impl Iterator<Item = &'static str> {
        MIXES.iter().map(|mix| mix.name)
    }

    /// Its name, such as `q4_k_m`.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// `general.file_type`.
    pub(crate) fn number(self) -> u32 {
        self.number
    }

    /// Whether any weight has fewer bits than 16.
    pub fn quantizes(self) -> bool {
        self.most.block() > 1
    }

    /// The kind of a tensor of rows of `columns`, in a model of `blocks`.
    pub(crate) fn kind(self, role: Role, columns: usize, blocks: usize) -> Kind {
        if role == Role::Vector {
            return Kind::F32;
        }
        if !self.quantizes() {
            return self.most;
        }
        fallback(self.wanted(role, blocks), columns)
    }

    fn wanted(self, role: Role, blocks: usize) -> Kind {
        let more = |block: usize| {
            let eighth = blocks / 8;
            block < eighth || block >= 7 * blocks / 8 || (block.wrapping_sub(eighth)) % 3 == 2
        };
        match (role, self.most) {
            (Role::Output, Kind::Q8_0) => Kind::Q8_0,
            (Role::Output, _) => Kind::Q6K,
            (Role::Values(block) | Role::Down(block), Kind::Q4K | Kind::Q5K) if self.medium && more(block) => Kind::Q6K,
            (Role::Values(block), Kind::Q4K) if !self.medium && block < 4 => Kind::Q5K,
            (Role::Down(block), Kind::Q4K) if !self.medium && block < blocks / 8 => Kind::Q5K,
            (Role::Fused, Kind::Q4K) if self.medium => Kind::Q5K,
            (Role::Fused, Kind::Q5K) if self.medium => Kind::Q6K,
            (_, most) => most,
        }
    }
}

/// What llama.cpp takes if rows are no multiple of a block.
fn fallback(kind: Kind, columns: usize) -> Kind {
    if columns.is_multiple_of(kind.block()) {
        return kind;
    }
    let next = match kind {
        Kind::Q4K => Kind::Q5_0,
        Kind::Q5K => Kind::Q5_1,
        Kind::Q6K => Kind::Q8_0,
        _ => Kind::F16,
    };
    fallback(next, columns)
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = MIXES.into_iter().find(|mix| mix.name.eq_ignore_ascii_case(text));
        let hint = taper_base::registry::did_you_mean(text, Self::names());
        found.ok_or_else(|| {
            format!("unknown type `{text}`{hint}; known: {}", Self::names().collect::<Vec<_>>().join(", "))
        })
    }
}

/// `values` in rows of `columns`, as they are stored.
///
/// # Errors
/// What candle says.
pub(crate) fn encode(values: &[f32], columns: usize, kind: Kind) -> candle_core::Result<Vec<u8>> {
    let dtype = match kind {
        Kind::Q8_0 => return Ok(q8_0(values)),
        Kind::F32 => return Ok(values.par_iter().flat_map_iter(|x| x.to_le_bytes()).collect()),
        Kind::F16 => return Ok(values.par_iter().flat_map_iter(|x| f16::from_f32(*x).to_le_bytes()).collect()),
        Kind::Bf16 => return Ok(values.par_iter().flat_map_iter(|x| bf16::from_f32(*x).to_le_bytes()).collect()),
        Kind::Q4_0 => GgmlDType::Q4_0,
        Kind::Q5_0 => GgmlDType::Q5_0,
        Kind::Q5_1 => GgmlDType::Q5_1,
        Kind::Q4K => GgmlDType::Q4K,
        Kind::Q5K => GgmlDType::Q5K,
        Kind::Q6K => GgmlDType::Q6K,
    };
    let rows = (1_usize << 16).div_ceil(columns.max(1));
    let pieces = values.par_chunks(rows * columns).map(|piece| {
        let tensor = Tensor::from_slice(piece, (piece.len() / columns, columns), &Device::Cpu)?;
        Ok(QTensor::quantize(&tensor, dtype)?.data()?.into_owned())
    });
    Ok(pieces.collect::<candle_core::Result<Vec<_>>>()?.concat())
}

/// Values of a block, and the bytes it takes: a scale in 16 bits, and a byte a value.
const BLOCK: usize = 32;
const BLOCK_BYTES: usize = 2 + BLOCK;
/// Blocks handled as one task.
const TASK: usize = 512;

/// `d = max |x| / 127`, `q = round(x / d)`, halves away from 0: llama.cpp's reference, to the bit. candle's own goes through `roundf` value
/// by value.
fn q8_0(values: &[f32]) -> Vec<u8> {
    let mut out = vec![0; values.len() / BLOCK * BLOCK_BYTES];
    let tasks = out.par_chunks_mut(TASK * BLOCK_BYTES).zip(values.par_chunks(TASK * BLOCK));
    tasks.for_each(|(out, values)| {
        for (out, values) in out.chunks_exact_mut(BLOCK_BYTES).zip(values.chunks_exact(BLOCK)) {
            let most = values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            let scale = most / 127.0;
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
            for (out, x) in out[2..].iter_mut().zip(values) {
                let x = x * inverse; // at most a little above 127
                let whole = x as i32;
                let rest = x - whole as f32; // exact
                *out = (whole + i32::from(rest >= 0.5) - i32::from(rest <= -0.5)) as i8 as u8;
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_are_sorted_and_read_by_name() {
        let names: Vec<_> = Mix::names().collect();
        assert!(names.is_sorted());
        assert_eq!("Q4_K_M".parse::<Mix>().unwrap().number(), 15);
        let refusal = "q4_k".parse::<Mix>().unwrap_err();
        assert!(refusal.starts_with("unknown type `q4_k`, did you mean `q4_"), "{refusal}");
    }

    #[test]
    fn q8_0_is_candles_to_the_bit() {
        let mut rng = taper_base::rng::stream(3, "q8_0", 0, 0);
        let mut values: Vec<f32> = (0..96 * BLOCK).map(|_| taper_base::rng::normal(&mut rng) as f32).collect();
        values[..BLOCK].fill(0.0);
        // halves and what lies beside them, at a scale of 1
        let halves = [127.0, 0.5, -0.5, 1.5, -2.5, 0.499_999_97, -0.499_999_97, 63.5];
        values[BLOCK..BLOCK + halves.len()].copy_from_slice(&halves);
        values[BLOCK + halves.len()..2 * BLOCK].fill(0.0);
        let tensor = Tensor::from_slice(&values, values.len(), &Device::Cpu).unwrap();
        let wanted = QTensor::quantize(&tensor, GgmlDType::Q8_0).unwrap().data().unwrap().into_owned();
        assert!(q8_0(&values) == wanted);
    }

    #[test]
    fn tensors_get_the_kinds_of_llama_quantize() {
        let kinds = |mix: &str, role| mix.parse::<Mix>().unwrap().kind(role, 512, 16);
        let of = |mix, role: fn(usize) -> Role| -> String {
            (0..16).map(|block| if kinds(mix, role(block)) == Kind::Q6K { '6' } else { '.' }).collect()
        };
        // i < n/8, i ≥ 7n/8, or (i − n/8) % 3 == 2
        assert_eq!(of("q4_k_m", Role::Down), "66..6..6..6..666");
        assert_eq!(of("q5_k_m", Role::Values), "66..6..6..6..666");
        assert_eq!(of("q4_k_s", Role::Values), "................");
        assert_eq!(kinds("q4_k_s", Role::Values(3)), Kind::Q5K);
        assert_eq!(kinds("q4_k_s", Role::Values(4)), Kind::Q4K);
        assert_eq!(kinds("q4_0", Role::Output), Kind::Q6K);
        assert_eq!(kinds("q8_0", Role::Output), Kind::Q8_0);
        assert_eq!(kinds("f16", Role::Matrix), Kind::F16);
        assert_eq!(kinds("q4_k_m", Role::Vector), Kind::F32);
    }

    #[test]
    fn rows_that_fill_no_block_fall_back() {
        let kind = |mix: &str, columns| mix.parse::<Mix>().unwrap().kind(Role::Matrix, columns, 4);
        assert_eq!([kind("q4_k_s", 96), kind("q5_k_s", 96), kind("q6_k", 96)], [Kind::Q5_0, Kind::Q5_1, Kind::Q8_0]);
        assert_eq!([kind("q4_k_s", 40), kind("q8_0", 40)], [Kind::F16; 2]);
    }

    #[test]
    fn what_is_stored_is_near_what_it_was() {
        let values: Vec<f32> = (0..2048).map(|i| (f64::from(i) * 0.7).sin() as f32).collect();
        for (kind, most) in
            [(Kind::Q8_0, 0.005), (Kind::Q6K, 0.04), (Kind::Q5K, 0.06), (Kind::Q4K, 0.12), (Kind::Q4_0, 0.16)]
        {
            let bytes = encode(&values, 512, kind).unwrap();
            assert_eq!(bytes.len(), kind.bytes(2048));
            let dtype = [GgmlDType::Q8_0, GgmlDType::Q6K, GgmlDType::Q5K, GgmlDType::Q4K, GgmlDType::Q4_0]
                .into_iter()
                .find(|dtype| dtype.block_size() == kind.block() && dtype.type_size() == kind.bytes(kind.block()))
                .unwrap();
            let storage = candle_core::quantized::QStorage::from_data(bytes.into(), &Device::Cpu, dtype).unwrap();
            let back = QTensor::new(storage, 2048).unwrap().dequantize(&Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
            let away = values.iter().zip(&back).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(away < most, "{kind:?}: {away}");
        }
    }
}
