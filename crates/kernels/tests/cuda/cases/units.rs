use super::{BOTH, Given, Gpu, close, given};
use taper_kernels::cuda::{Storage, add_unit_gradient, from_units, into_units, unit_gradient};

/// Tokens, d_model, units.
const SIZES: [[usize; 3]; 3] = [[1, 1, 1], [3, 5, 2], [17, 8, 33]];

/// `a · b` of row-major matrices by their entries.
fn product([m, k, n]: [usize; 3], a: impl Fn(usize, usize) -> f64, b: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    (0..m * n).map(|at| (0..k).map(|i| a(at / n, i) * b(i, at % n)).sum()).collect()
}

fn entry(x: &Given, columns: usize) -> impl Fn(usize, usize) -> f64 + '_ {
    move |row, column| x.values[row * columns + column]
}

pub fn products(machine: &Gpu) {
    for ([tokens, d, units], storage) in SIZES.into_iter().flat_map(|size| BOTH.map(|storage| (size, storage))) {
        let x = given(machine, "x", &[tokens, d], storage);
        let (w, h) = (given(machine, "w", &[units, d], storage), given(machine, "h", &[tokens, units], storage));
        let want = product([tokens, d, units], entry(&x, d), |i, j| w.values[j * d + i]);
        close("into_units", &into_units(&x.array, &w.array, None).unwrap(), &want, storage);
        let bias = given(machine, "bias", &[units], storage);
        let biased: Vec<f64> = want.iter().enumerate().map(|(i, y)| y + bias.values[i % units]).collect();
        close("into_units, bias", &into_units(&x.array, &w.array, Some(&bias.array)).unwrap(), &biased, storage);
        let want = product([tokens, units, d], entry(&h, units), entry(&w, d));
        let terms = [(&h.array, &w.array); 2];
        close("from_units", &from_units(None, &terms[..1], None).unwrap(), &want, storage);
        let all: Vec<f64> = want.iter().zip(&x.values).map(|(y, base)| base + 2.0 * y).collect();
        close("from_units, all", &from_units(Some(&x.array), &terms, None).unwrap(), &all, storage);
    }
}

pub fn gradients(machine: &Gpu) {
    for ([tokens, d, units], storage) in SIZES.into_iter().flat_map(|size| BOTH.map(|storage| (size, storage))) {
        let (u, other) = (given(machine, "u", &[tokens, units], storage), given(machine, "o", &[tokens, d], storage));
        let want = product([units, tokens, d], |i, j| u.values[j * units + i], entry(&other, d));
        let sum = unit_gradient(&u.array, &other.array).unwrap();
        close("unit_gradient", &sum, &want, Storage::F32);
        add_unit_gradient(&sum, &u.array, &other.array).unwrap();
        close("add_unit_gradient", &sum, &want.iter().map(|x| 2.0 * x).collect::<Vec<_>>(), Storage::F32);
    }
}

pub fn a_prefix_is_a_view(machine: &Gpu) {
    let (x, w) = (given(machine, "x", &[3, 4], BOTH[0]), given(machine, "w", &[5, 4], BOTH[0]));
    let want = product([3, 4, 2], entry(&x, 4), |i, j| w.values[(j + 1) * 4 + i]);
    let part = w.array.rows(1, 2).unwrap();
    close("a view", &into_units(&x.array, &part, None).unwrap(), &want, BOTH[0]);
    assert!(w.array.rows(4, 2).is_err());
    let refusal = from_units(None, &[(&x.array, &w.array)], None).unwrap_err().to_string();
    assert_eq!(refusal, "from_units: w has shape [5, 4], wanted 4 along the side it shares with h, in f32");
}
