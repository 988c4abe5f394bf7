//! What each operation must give; each case takes the machine to run on.

pub mod attention;
pub mod elementwise;
pub mod empty;
pub mod loss;
pub mod norm;
pub mod sums;
pub mod table;
pub mod twins;
pub mod units;

use std::sync::Arc;

use half::bf16;
use taper_base::rng::{normal, stream};
use taper_kernels::cuda::{Array, Machine, Storage};

pub type Gpu = Arc<dyn Machine>;

/// Relative to the norm of the reference: f32 sums of some hundred terms.
const F32: f64 = 1e-5;
/// As above; bf16 has 8 bits, and results are rounded once or twice.
const BF16: f64 = 1e-2;

pub const BOTH: [Storage; 2] = [Storage::F32, Storage::Bf16];

/// Values as the machine has them, and the same in f64.
pub struct Given {
    pub array: Array,
    pub values: Vec<f64>,
}

/// Normal values, rounded to `storage` on both sides.
pub fn given(machine: &Gpu, name: &str, shape: &[usize], storage: Storage) -> Given {
    let mut rng = stream(11, name, shape.iter().product::<usize>() as u64, 0);
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| rounded(normal(&mut rng) as f32, storage)).collect();
    let array = Array::of(machine, &values, shape, storage).unwrap();
    Given { array, values: values.into_iter().map(f64::from).collect() }
}

pub fn rounded(x: f32, storage: Storage) -> f32 {
    match storage {
        Storage::F32 => x,
        Storage::Bf16 => bf16::from_f32(x).to_f32(),
    }
}

/// Asserts that `got` is the reference, within what its storage can hold.
pub fn close(what: &str, got: &Array, want: &[f64], storage: Storage) {
    let got: Vec<f64> = got.to_host().unwrap().into_iter().map(f64::from).collect();
    let most = if storage == Storage::F32 { F32 } else { BF16 };
    let away = testkit::relative_difference(&got, want);
    assert!(away <= most, "{what}, {storage}: {away:e}");
}
