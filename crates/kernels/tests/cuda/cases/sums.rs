use super::{BOTH, Gpu, close, given};
use taper_kernels::Moments;
use taper_kernels::cuda::{Storage, Sums, column_square_sums, column_sums, moments, row_abs_sums};

/// f64 throughout: only the order of the terms differs.
const EXACT: f64 = 1e-12;

pub fn columns_and_rows(machine: &Gpu) {
    for (shape, storage) in
        [[1, 1], [65, 3], [130, 300]].into_iter().flat_map(|shape| BOTH.map(|storage| (shape, storage)))
    {
        let x = given(machine, "x", &shape, storage);
        let d = shape[1];
        let column = |power: i32| -> Vec<f64> {
            (0..d).map(|c| x.values.iter().skip(c).step_by(d).map(|x| x.powi(power)).sum()).collect()
        };
        let away = testkit::relative_difference(&column_square_sums(&x.array).unwrap(), &column(2));
        assert!(away < EXACT, "{shape:?} {storage}: {away:e}");
        close("column_sums", &column_sums(&x.array).unwrap(), &column(1), Storage::F32);
        let rows: Vec<f64> = x.values.chunks(d).map(|row| row.iter().map(|x| x.abs()).sum()).collect();
        let away = testkit::relative_difference(&row_abs_sums(&x.array).unwrap(), &rows);
        assert!(away < EXACT, "{shape:?} {storage}: {away:e}");
    }
}

fn list(sums: &Sums) -> Vec<f64> {
    let Moments { n, x, xx, y, yy, xy } = sums.moments;
    vec![n, x, xx, y, yy, xy, sums.abs_product]
}

fn reference(pairs: impl Iterator<Item = (f64, f64)>) -> Vec<f64> {
    pairs.fold(vec![0.0; 7], |sums, (x, y)| {
        let terms = [1.0, x, x * x, y, y * y, x * y, (x * y).abs()];
        sums.into_iter().zip(terms).map(|(sum, term)| sum + term).collect()
    })
}

pub fn moments_of_pairs(machine: &Gpu) {
    for (shape, storage) in [[1, 1], [3, 77], [2, 16_400]].into_iter().flat_map(|shape| BOTH.map(|s| (shape, s))) {
        let (x, y) = (given(machine, "x", &shape, Storage::F32), given(machine, "y", &shape, storage));
        let got = list(&moments(&x.array, &y.array, None).unwrap().wait().unwrap());
        let want = reference(x.values.iter().copied().zip(y.values.iter().copied()));
        let away = testkit::relative_difference(&got, &want);
        assert!(away < EXACT, "{shape:?} {storage}: {got:?} {want:?}");
    }
}

pub fn moments_of_rows(machine: &Gpu) {
    let (rows, d) = ([4, 0, 2], 37);
    for storage in BOTH {
        let (x, y) = (given(machine, "x", &[3, d], Storage::F32), given(machine, "y", &[5, d], storage));
        let got = list(&moments(&x.array, &y.array, Some(&rows)).unwrap().wait().unwrap());
        let pair = |i: usize| (x.values[i], y.values[rows[i / d] * d + i % d]);
        let want = reference((0..3 * d).map(pair));
        assert!(testkit::relative_difference(&got, &want) < EXACT, "{storage}: {got:?} {want:?}");
        let refusal = |rows: &[usize]| moments(&x.array, &y.array, Some(rows)).unwrap_err().to_string();
        assert_eq!(refusal(&[0, 1, 5]), "moments: rows has shape [5], wanted rows below 5");
        assert!(refusal(&[0]).starts_with("moments: x has shape [3, 37], wanted [1, 37]"));
    }
}
