use super::{BOTH, Gpu, close, given};
use taper_kernels::cuda::{Storage, gather_rows, scatter_rows};

pub fn rows_by_token(machine: &Gpu) {
    for (storage, d) in BOTH.into_iter().flat_map(|storage| [1, 300].map(|d| (storage, d))) {
        let table = given(machine, "table", &[5, d], storage);
        let tokens = [4, 0, 4, 2];
        let want: Vec<f64> = tokens.iter().flat_map(|t| table.values[t * d..(t + 1) * d].to_vec()).collect();
        let got = gather_rows(&table.array, &tokens.map(|t| t as u32)).unwrap();
        let got: Vec<f64> = got.to_host().unwrap().into_iter().map(f64::from).collect();
        assert_eq!(got, want);
        let refusal = gather_rows(&table.array, &[5]).unwrap_err().to_string();
        assert_eq!(refusal, "gather_rows: token has shape [5], wanted below the vocabulary's size, 5");
    }
}

pub fn gradients_by_token(machine: &Gpu) {
    let (tokens, vocab) = ([3_u32, 0, 3, 3, 1], 5);
    for (storage, d) in BOTH.into_iter().flat_map(|storage| [1, 300].map(|d| (storage, d))) {
        let dy = given(machine, "dy", &[tokens.len(), d], storage);
        let mut want = vec![0.0; vocab * d];
        for (row, token) in tokens.iter().enumerate() {
            (0..d).for_each(|i| want[*token as usize * d + i] += dy.values[row * d + i]);
        }
        let got = scatter_rows(&tokens, &dy.array, vocab).unwrap();
        close("scatter_rows", &got, &want, Storage::F32);
        assert!(scatter_rows(&tokens[1..], &dy.array, vocab).is_err());
    }
}
