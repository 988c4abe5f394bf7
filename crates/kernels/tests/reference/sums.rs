//! Sums and moments, kept in f64: exact but for the order.

use taper_kernels::Moments;
use taper_kernels::cpu::{abs_product_sum, column_square_sums, row_abs_sums, square_sum};

use super::*;

const EXACT: f64 = 1e-12;
const SHAPES: [[usize; 2]; 8] = [[1, 1], [1, 9], [3, 1], [7, 5], [65, 33], [3, 4099], [4099, 3], [131, 257]];

fn near_exactly(found: &[f64], wanted: &[f64]) {
    assert!(error(found, wanted) <= EXACT);
}

#[test]
fn sums_over_rows_columns_and_all() {
    for (seed, [rows, d]) in SHAPES.into_iter().enumerate() {
        let (x, y) = (random("x", seed as u64, &[rows, d]), random("y", seed as u64, &[rows, d]));
        let (xs, ys) = (wide(&x), wide(&y));
        let columns: Vec<f64> = (0..d).map(|j| (0..rows).map(|i| xs[i * d + j].powi(2)).sum()).collect();
        near_exactly(&column_square_sums(&x).unwrap(), &columns);
        let by_row: Vec<f64> = xs.chunks(d).map(|row| row.iter().map(|x| x.abs()).sum()).collect();
        near_exactly(&row_abs_sums(&x).unwrap(), &by_row);
        near_exactly(&[square_sum(&x).unwrap()], &[xs.iter().map(|x| x * x).sum()]);
        let products = xs.iter().zip(&ys).map(|(x, y)| (x * y).abs()).sum();
        near_exactly(&[abs_product_sum(&x, &y).unwrap()], &[products]);
    }
}

#[test]
fn sums_of_nothing() {
    let (none, narrow) = (random("x", 0, &[0, 3]), random("x", 0, &[3, 0]));
    assert_eq!(column_square_sums(&none).unwrap(), [0.0; 3]);
    assert!(row_abs_sums(&none).unwrap().is_empty());
    assert!(column_square_sums(&narrow).unwrap().is_empty());
    assert_eq!(square_sum(&none).unwrap() + abs_product_sum(&none, &none).unwrap(), 0.0);
}

/// Deviations from the means and their products: another formula than that of the moments.
fn correlation(x: &[f64], y: &[f64], center: bool) -> f64 {
    let mean = |v: &[f64]| if center { v.iter().sum::<f64>() / v.len() as f64 } else { 0.0 };
    let (mean_x, mean_y) = (mean(x), mean(y));
    let sum = |f: &dyn Fn(f64, f64) -> f64| x.iter().zip(y).map(|(x, y)| f(x - mean_x, y - mean_y)).sum::<f64>();
    sum(&|x, y| x * y) / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt()
}

#[test]
fn moments_of_kept_rows_give_correlations_and_products() {
    let mut rng = stream(7, "moments", 0, 0);
    for (seed, [all, d]) in SHAPES.into_iter().enumerate().skip(1) {
        let kept: Vec<usize> = (0..all).filter(|row| *row == 0 || rng.random_bool(0.5)).collect();
        let whole = random("y", seed as u64, &[all, d]);
        let noise = random("x", seed as u64, &[kept.len(), d]);
        let rows: Vec<u32> = kept.iter().map(|row| *row as u32).collect();
        let rows = whole.index_select(&Tensor::new(rows, &Device::Cpu).unwrap(), 0).unwrap();
        let part = (noise + &rows).unwrap();
        let m = Moments::of_rows(&part, &whole, &kept).unwrap();
        let (x, y) = (wide(&part), wide(&rows));
        near_exactly(&[m.xy], &[x.iter().zip(&y).map(|(x, y)| x * y).sum()]);
        assert!((m.cosine() - correlation(&x, &y, false)).abs() < EXACT);
        if x.len() > 1 {
            assert!((m.pearson() - correlation(&x, &y, true)).abs() < 1e-9);
        }
        let every: Vec<usize> = (0..all).collect();
        let mut beside = vec![0.0; all * d];
        kept.iter().zip(x.chunks(d)).for_each(|(row, x)| beside[row * d..(row + 1) * d].copy_from_slice(x));
        let zeros = m.zeros_beside(Moments::of_rows(&whole, &whole, &every).unwrap());
        assert!((zeros.pearson() - correlation(&beside, &wide(&whole), true)).abs() < 1e-9);
    }
    let none = Moments::of_rows(&random("x", 0, &[0, 3]), &random("y", 0, &[2, 3]), &[]).unwrap();
    assert_eq!(none, Moments::default());
}
