//! Products with weights, and their gradients.

use candle_core::DType;
use taper_kernels::cpu::{
    abs_product_sum, add_unit_gradient, column_sums, from_units, into_units, row_abs_sums, token_losses, unit_gradient,
};

use super::*;

/// `a · b`, `[m, k]` by `[k, n]`, with any strides.
fn product(a: &dyn Fn(usize, usize) -> f64, b: &dyn Fn(usize, usize) -> f64, [m, k, n]: [usize; 3]) -> Vec<f64> {
    let entry = |at: usize| (0..k).map(|l| a(at / n, l) * b(l, at % n)).sum();
    (0..m * n).map(entry).collect()
}

fn plus(values: &mut [f64], bias: &[f64]) {
    for row in values.chunks_mut(bias.len().max(1)) {
        row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
    }
}

#[test]
fn products_and_their_gradients() {
    let mut rng = stream(2, "products", 0, 0);
    let sizes = [1, 2, 3, 7, 16, 33, 65];
    let mut shapes: Vec<[usize; 3]> = (0..20).map(|_| [0; 3].map(|_| pick(&mut rng, &sizes))).collect();
    shapes.extend([[1, 1, 1], [3, 4099, 5], [5, 3, 4099], [2053, 3, 5]]);
    for (seed, [tokens, units, d]) in shapes.into_iter().enumerate() {
        let t = |name, shape: &[usize]| random(name, seed as u64, shape);
        let (x, w, h) = (t("x", &[tokens, d]), t("w", &[units, d]), t("h", &[tokens, units]));
        let (into, from) = (t("into", &[units]), t("from", &[d]));
        let (xs, ws, hs) = (wide(&x), wide(&w), wide(&h));
        let (x_at, h_at) = (|i: usize, j: usize| xs[i * d + j], |i: usize, j: usize| hs[i * units + j]);
        let w_at = |i: usize, j: usize| ws[i * d + j];

        let mut wanted = product(&x_at, &|i, j| w_at(j, i), [tokens, d, units]);
        near("into_units", &into_units(&x, &w, None).unwrap(), &wanted);
        plus(&mut wanted, &wide(&into));
        near("into_units, bias", &into_units(&x, &w, Some(&into)).unwrap(), &wanted);

        let mut wanted = product(&h_at, &w_at, [tokens, units, d]);
        near("from_units", &from_units(None, &[(&h, &w)], None).unwrap(), &wanted);
        plus(&mut wanted, &wide(&from));
        near("from_units, bias", &from_units(None, &[(&h, &w)], Some(&from)).unwrap(), &wanted);

        wanted.iter_mut().zip(&xs).for_each(|(sum, base)| *sum += base);
        near("from_units, base", &from_units(Some(&x), &[(&h, &w)], Some(&from)).unwrap(), &wanted);

        let mut wanted = product(&|i, j| h_at(j, i), &x_at, [units, tokens, d]);
        let sum = unit_gradient(&h, &x).unwrap();
        near("unit_gradient", &sum, &wanted);
        add_unit_gradient(&sum, &h, &x).unwrap();
        wanted.iter_mut().for_each(|gradient| *gradient *= 2.0);
        near("add_unit_gradient", &sum, &wanted);
        let wanted: Vec<f64> = (0..d).map(|column| (0..tokens).map(|row| x_at(row, column)).sum()).collect();
        near("column_sums", &column_sums(&x).unwrap(), &wanted);
    }
}

#[test]
fn weights_of_16_bits_are_those_of_their_values_in_32() {
    for dtype in [DType::BF16, DType::F16] {
        for [tokens, units, d] in [[3, 5, 7], [2, 3000, 257], [1, 1, 1]] {
            let w = random("w", 3, &[units, d]).to_dtype(dtype).unwrap();
            let w = w.narrow(0, units / 3, units - units / 3).unwrap(); // a part that does not start at the first entry
            let (units, wide_w) = (w.dims()[0], w.to_dtype(DType::F32).unwrap());
            let (x, h) = (random("x", 3, &[tokens, d]), random("h", 3, &[tokens, units]));
            let term = |w| from_units(None, &[(&h, w), (&h, w)], None).unwrap();
            near("into_units", &into_units(&x, &w, None).unwrap(), &wide(&into_units(&x, &wide_w, None).unwrap()));
            near("from_units", &term(&w), &wide(&term(&wide_w)));
            assert_eq!(row_abs_sums(&w).unwrap(), row_abs_sums(&wide_w).unwrap());
            let gradient = random("gradient", 3, &[units, d]);
            let sums = [&w, &wide_w].map(|w| abs_product_sum(w, &gradient).unwrap());
            assert!((sums[0] - sums[1]).abs() <= 1e-12 * sums[1], "{sums:?}");
            let targets = vec![0; tokens];
            let losses = [&w, &wide_w].map(|head| token_losses(&x, head, &targets).unwrap());
            assert!(testkit::relative_difference(&losses[0], &losses[1]) < 1e-5);
        }
    }
}

#[test]
fn a_prefix_of_units_and_of_columns_is_read_in_place() {
    let (x, w, h) = (random("x", 0, &[5, 7]), random("w", 0, &[9, 7]), random("h", 0, &[5, 4]));
    let prefix = w.narrow(0, 0, 4).unwrap();
    let copy = prefix.copy().unwrap();
    let same = |a: Tensor, b: Tensor| assert_eq!(wide(&a), wide(&b));
    same(into_units(&x, &prefix, None).unwrap(), into_units(&x, &copy, None).unwrap());
    same(from_units(None, &[(&h, &prefix)], None).unwrap(), from_units(None, &[(&h, &copy)], None).unwrap());
}
