//! Against PyTorch: operations that no tiny model has yet (`scripts/reference_ops.py`).

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use taper_kernels::Gelu;
use taper_kernels::cpu::{
    gather_rows, geglu, geglu_backward, gelu, gelu_backward, layer_norm, layer_norm_backward,
    layer_norm_parameter_gradients, scatter_rows,
};

const RELATIVE: f64 = 1e-5; // as golden/ops.toml says, and why
const EPS: f64 = 1e-5;
const FORMS: [(&str, Gelu); 2] = [("none", Gelu::Exact), ("tanh", Gelu::Tanh)];

struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn open() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/ops.safetensors");
        Self(candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    }

    fn near(&self, name: &str, found: &Tensor) {
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (found, wanted) = (flat(found), flat(&self.0[name]));
        let largest = wanted.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let worst = testkit::max_abs_diff(&found, &wanted) / f64::from(largest);
        assert!(worst <= RELATIVE, "{name}: {worst:.1e}");
    }
}

#[test]
fn layer_norm_is_that_of_pytorch() {
    let golden = Golden::open();
    let [x, weight, bias, dy] = ["x", "weight", "bias", "dy"].map(|name| &golden.0[&format!("layer_norm.{name}")]);
    golden.near("layer_norm.y", &layer_norm(x, weight, bias, EPS).unwrap());
    golden.near("layer_norm.dx", &layer_norm_backward(x, weight, EPS, dy).unwrap());
    let (dweight, dbias) = layer_norm_parameter_gradients(x, EPS, dy).unwrap();
    golden.near("layer_norm.dweight", &dweight);
    golden.near("layer_norm.dbias", &dbias);
}

#[test]
fn gelu_and_its_gate_are_those_of_pytorch() {
    let golden = Golden::open();
    let [x, dy] = ["x", "dy"].map(|name| &golden.0[&format!("gelu.{name}")]);
    let [gate, up, dh] = ["gate", "up", "dh"].map(|name| &golden.0[&format!("geglu.{name}")]);
    for (name, form) in FORMS {
        golden.near(&format!("gelu.{name}.y"), &gelu(x, form).unwrap());
        golden.near(&format!("gelu.{name}.dx"), &gelu_backward(x, dy, form).unwrap());
        golden.near(&format!("geglu.{name}.h"), &geglu(gate, up, form).unwrap());
        let (dgate, dup) = geglu_backward(gate, up, dh, form).unwrap();
        golden.near(&format!("geglu.{name}.dgate"), &dgate);
        golden.near(&format!("geglu.{name}.dup"), &dup);
    }
}

#[test]
fn rows_of_a_table_are_those_of_pytorch() {
    let golden = Golden::open();
    let ids = golden.0["embedding.ids"].to_dtype(DType::U32).unwrap().to_vec1::<u32>().unwrap();
    golden.near("embedding.y", &gather_rows(&golden.0["embedding.table"], &ids).unwrap());
    golden.near("embedding.dtable", &scatter_rows(&ids, &golden.0["embedding.dy"], 13).unwrap());
}
