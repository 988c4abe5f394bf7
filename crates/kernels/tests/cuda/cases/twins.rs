//! Against the functions of the same name on the CPU, in f32: both sides mean the same, layouts and arguments included.

use super::{Gpu, close, given};
use candle_core::{Device, Tensor};
use taper_kernels::cuda::{self, Activation, Array, CudaError, Norm, Storage};
use taper_kernels::{Gelu, Heads, Moments, Sight, Turn, cpu};

const EPS: f64 = 1e-6;

/// Values on both sides.
fn pair(machine: &Gpu, name: &str, shape: &[usize]) -> (Array, Tensor) {
    let given = given(machine, name, shape, Storage::F32);
    let values: Vec<f32> = given.array.to_host().unwrap();
    (given.array, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
}

fn same(what: &str, got: &Array, want: &Tensor) {
    assert_eq!(got.shape(), want.dims(), "{what}");
    let want: Vec<f32> = want.flatten_all().unwrap().to_vec1().unwrap();
    close(what, got, &want.into_iter().map(f64::from).collect::<Vec<_>>(), Storage::F32);
}

pub fn norms_and_gates(machine: &Gpu) {
    let [(x, x_cpu), (dy, dy_cpu), (up, up_cpu)] = ["x", "dy", "up"].map(|name| pair(machine, name, &[6, 40]));
    let (w, w_cpu) = pair(machine, "w", &[40]);
    same("rms_norm", &cuda::rms_norm(&x, &w, EPS).unwrap(), &cpu::rms_norm(&x_cpu, &w_cpu, EPS).unwrap());
    let got = cuda::rms_norm_backward(Some(&up), &x, &w, EPS, &dy).unwrap();
    same("rms_norm_backward", &got, &cpu::rms_norm_backward(Some(&up_cpu), &x_cpu, &w_cpu, EPS, &dy_cpu).unwrap());
    let got = cuda::norm_weight_gradient(Norm::Rms, &x, EPS, &dy).unwrap();
    same("rms_norm_weight_gradient", &got, &cpu::rms_norm_weight_gradient(&x_cpu, EPS, &dy_cpu).unwrap());
    let got = cuda::gate(Activation::Silu, &x, Some(&up)).unwrap();
    same("swiglu", &got, &cpu::swiglu(&x_cpu, &up_cpu).unwrap());
    let (dgate, dup) = cuda::gate_backward(Activation::Silu, &x, &up, &dy).unwrap();
    let (dgate_cpu, dup_cpu) = cpu::swiglu_backward(&x_cpu, &up_cpu, &dy_cpu).unwrap();
    same("dgate", &dgate, &dgate_cpu);
    same("dup", &dup, &dup_cpu);
    let frequencies = [1.0, 0.5, 0.1, 0.01];
    let (rope, rope_cpu) = (cuda::Rope::new(machine, &frequencies, 3).unwrap(), cpu::Rope::new(&frequencies, 3));
    for turn in [Turn::Forward, Turn::Back] {
        let turned = x_cpu.copy().unwrap(); // turned in place
        rope_cpu.turn(&turned, turn).unwrap();
        let x = pair(machine, "x", &[6, 40]).0;
        rope.turn(&x, turn).unwrap();
        same("rope", &x, &turned);
    }
    let (units, units_cpu) = pair(machine, "units", &[9, 40]);
    let h = cuda::into_units(&x, &units, None).unwrap();
    let h_cpu = cpu::into_units(&x_cpu, &units_cpu, None).unwrap();
    same("into_units", &h, &h_cpu);
    let got = cuda::from_units(Some(&dy), &[(&h, &units), (&h, &units)], Some(&w)).unwrap();
    let terms = [(&h_cpu, &units_cpu); 2];
    same("from_units", &got, &cpu::from_units(Some(&dy_cpu), &terms, Some(&w_cpu)).unwrap());
    same("unit_gradient", &cuda::unit_gradient(&h, &x).unwrap(), &cpu::unit_gradient(&h_cpu, &x_cpu).unwrap());
}

pub fn what_vision_adds(machine: &Gpu) {
    let [(x, x_cpu), (dy, dy_cpu), (up, up_cpu)] = ["x", "dy", "up"].map(|name| pair(machine, name, &[6, 40]));
    let [(w, w_cpu), (b, b_cpu)] = ["w", "b"].map(|name| pair(machine, name, &[40]));
    let got = cuda::layer_norm(&x, &w, &b, EPS).unwrap();
    same("layer_norm", &got, &cpu::layer_norm(&x_cpu, &w_cpu, &b_cpu, EPS).unwrap());
    let got = cuda::layer_norm_backward(&x, &w, EPS, &dy).unwrap();
    same("layer_norm_backward", &got, &cpu::layer_norm_backward(&x_cpu, &w_cpu, EPS, &dy_cpu).unwrap());
    let (dw, db) = cpu::layer_norm_parameter_gradients(&x_cpu, EPS, &dy_cpu).unwrap();
    same("layer_norm weight", &cuda::norm_weight_gradient(Norm::Layer, &x, EPS, &dy).unwrap(), &dw);
    same("layer_norm bias", &cuda::column_sums(&dy).unwrap(), &db);
    for (kind, form) in [(Activation::Gelu, Gelu::Exact), (Activation::GeluTanh, Gelu::Tanh)] {
        same("gelu", &cuda::gate(kind, &x, None).unwrap(), &cpu::gelu(&x_cpu, form).unwrap());
        let got = cuda::activation_backward(kind, &x, &dy).unwrap();
        same("gelu_backward", &got, &cpu::gelu_backward(&x_cpu, &dy_cpu, form).unwrap());
        same("geglu", &cuda::gate(kind, &x, Some(&up)).unwrap(), &cpu::geglu(&x_cpu, &up_cpu, form).unwrap());
        let (dgate, dup) = cuda::gate_backward(kind, &x, &up, &dy).unwrap();
        let (dgate_cpu, dup_cpu) = cpu::geglu_backward(&x_cpu, &up_cpu, &dy_cpu, form).unwrap();
        same("geglu dgate", &dgate, &dgate_cpu);
        same("geglu dup", &dup, &dup_cpu);
    }
    let ids = [3, 0, 3, 5, 1, 3];
    same("gather_rows", &cuda::gather_rows(&x, &ids).unwrap(), &cpu::gather_rows(&x_cpu, &ids).unwrap());
    same("scatter_rows", &cuda::scatter_rows(&ids, &dy, 7).unwrap(), &cpu::scatter_rows(&ids, &dy_cpu, 7).unwrap());
}

pub fn attentions_and_losses(machine: &Gpu) {
    let kv_of = [0, 1, 1];
    let first: Vec<u32> = (0..70).map(|row| if row % 35 < 11 { 0 } else { 11 }).collect();
    let heads = Heads {
        sequences: 2,
        tokens: 35,
        d_head: 8,
        kv_of: &kv_of,
        n_kv_heads: 2,
        window: Some(20),
        first: Some(&first),
        sight: Sight::Causal,
    };
    let [(q, q_cpu), (dout, dout_cpu)] = ["q", "dout"].map(|name| pair(machine, name, &[70, 24]));
    let [(k, k_cpu), (v, v_cpu)] = ["k", "v"].map(|name| pair(machine, name, &[70, 16]));
    let got = cuda::attention(&q, &k, &v, heads).unwrap();
    let want = cpu::attention(&q_cpu, &k_cpu, &v_cpu, heads).unwrap();
    same("attention", &got.out, &want.out);
    let got = cuda::attention_backward([&q, &k, &v], heads, &got, &dout).unwrap();
    let want = cpu::attention_backward([&q_cpu, &k_cpu, &v_cpu], heads, &want, &dout_cpu).unwrap();
    got.iter().zip(&want).for_each(|(got, want)| same("attention_backward", got, want));
    let ((hidden, hidden_cpu), (head, head_cpu)) = (pair(machine, "h", &[4, 16]), pair(machine, "head", &[50, 16]));
    let (targets, weights) = ([3, 49, 0, 7], [0.5, 1.0, 0.0, 2.0]);
    let (losses, gradient) = cuda::cross_entropy::<CudaError>(&hidden, &head, &targets, &weights, None).unwrap();
    let (losses_cpu, gradient_cpu) = cpu::cross_entropy(&hidden_cpu, &head_cpu, &targets, &weights, None).unwrap();
    assert!(testkit::max_abs_diff(&losses.to_host().unwrap(), &losses_cpu) < 1e-5);
    same("cross_entropy", &gradient, &gradient_cpu);
}

pub fn statistics(machine: &Gpu) {
    let ((x, x_cpu), (y, y_cpu)) = (pair(machine, "x", &[3, 50]), pair(machine, "y", &[5, 50]));
    let near = |got: &[f64], want: &[f64]| assert!(testkit::relative_difference(got, want) < 1e-12);
    near(&cuda::column_square_sums(&x).unwrap(), &cpu::column_square_sums(&x_cpu).unwrap());
    near(&cuda::row_abs_sums(&x).unwrap(), &cpu::row_abs_sums(&x_cpu).unwrap());
    let (got, want) =
        (cuda::moments(&x, &y, Some(&[4, 1, 0])).unwrap().wait(), Moments::of_rows(&x_cpu, &y_cpu, &[4, 1, 0]));
    let (got, want) = (got.unwrap().moments, want.unwrap());
    near(&[got.n, got.x, got.xx, got.y, got.yy, got.xy], &[want.n, want.x, want.xx, want.y, want.yy, want.xy]);
    let pairs = cuda::moments(&x, &y.rows(1, 3).unwrap(), None).unwrap().wait().unwrap();
    let want = cpu::abs_product_sum(&x_cpu, &y_cpu.narrow(0, 1, 3).unwrap()).unwrap();
    near(&[pairs.abs_product], &[want]);
}

pub fn scales(machine: &Gpu) {
    let [(x, x_cpu), (y, y_cpu)] = ["x", "y"].map(|name| pair(machine, name, &[150, 21]));
    let factors = [0.0, 2.0, -0.5];
    let want = cpu::scale_sequences(&x_cpu, &factors).unwrap();
    same("scale_sequences", &cuda::scale_sequences(&x, &factors).unwrap(), &want);
    same("column_dots", &cuda::column_dots(&x, &y).unwrap(), &cpu::column_dots(&x_cpu, &y_cpu).unwrap());
    let refusal = cuda::scale_sequences(&x, &[1.0; 4]).unwrap_err().to_string();
    assert_eq!(refusal, "scale_sequences: x has shape [150, 21], wanted as many rows for each of 4 sequences");
    let (sum, sum_cpu) = pair(machine, "sum", &[21, 21]); // what it was is gone
    cuda::set_unit_gradient(&sum, &x, &y).unwrap();
    cpu::set_unit_gradient(&sum_cpu, &x_cpu, &y_cpu).unwrap();
    same("set_unit_gradient", &sum, &sum_cpu);
    let (hidden, head) = (pair(machine, "h", &[4, 16]), pair(machine, "head", &[50, 16]));
    let turn = |start: usize, logits: &mut [f32]| logits.iter_mut().for_each(|x| *x = *x * *x + start as f32);
    let got = cuda::through_head::<CudaError>(&hidden.0, &head.0, None, |start, logits| {
        turn(start, logits);
        Ok(())
    });
    let want = cpu::through_head(&hidden.1, &head.1, None, |start, logits| {
        turn(start, logits);
        Ok(())
    });
    same("through_head", &got.unwrap(), &want.unwrap());
    let mut all = Vec::new();
    let kept = cuda::logits_in_pieces::<CudaError>(&hidden.0, &head.0, |_, logits| {
        all.extend_from_slice(logits);
        Ok(())
    });
    kept.unwrap();
    let want = cpu::into_units(&hidden.1, &head.1, None).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(testkit::max_abs_diff(&all, &want) < 1e-5);
}
