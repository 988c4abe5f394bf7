//! Graphs read back and computed by the operators' definitions, against the engine.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{D, DType, Device, Result, Tensor};
use taper_arch::{SelectedBlock, Selection};
use taper_model::{Batch, Model, StoredType, save};

use super::proto::{AttributeProto, DataLocation, DataType, GraphProto, ModelProto, NodeProto, TensorProto};
use super::*;

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/golden-vit");
    let mut folders: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    assert_eq!(folders.len(), 7);
    folders
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

fn stored(tensor: &TensorProto, dir: &Path) -> Tensor {
    let shape: Vec<usize> = tensor.dims.iter().map(|size| *size as usize).collect();
    let entry = |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).unwrap().value.clone();
    let bytes = if tensor.data_location == DataLocation::External as i32 {
        let (offset, length): (usize, usize) = (entry("offset").parse().unwrap(), entry("length").parse().unwrap());
        assert_eq!(offset % 4096, 0);
        fs::read(dir.join(entry("location"))).unwrap()[offset..offset + length].to_vec()
    } else {
        tensor.raw_data.clone()
    };
    let kind = if tensor.data_type == DataType::Float as i32 { DType::F32 } else { DType::I64 };
    Tensor::from_raw_buffer(&bytes, kind, &shape, &Device::Cpu).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<i64> {
    tensor.to_vec1().unwrap()
}

/// One operator, as ONNX defines it.
fn compute(node: &NodeProto, x: &[&Tensor]) -> Result<Tensor> {
    let int = |name: &str| attribute(node, name).map(|attribute| attribute.i);
    let axis = || int("axis").map(|axis| if axis < 0 { x[0].rank() as i64 + axis } else { axis } as usize).unwrap();
    match node.op_type.as_str() {
        "Add" => x[0].broadcast_add(x[1]),
        "Mul" => x[0].broadcast_mul(x[1]),
        "Div" => x[0].broadcast_div(x[1]),
        "MatMul" => x[0].contiguous()?.broadcast_matmul(&x[1].contiguous()?),
        "Erf" => x[0].erf(),
        "Tanh" => x[0].tanh(),
        "Identity" => Ok(x[0].clone()),
        "Softmax" => {
            let exp = x[0].broadcast_sub(&x[0].max_keepdim(axis())?)?.exp()?;
            exp.broadcast_div(&exp.sum_keepdim(axis())?)
        }
        "LayerNormalization" => {
            let centred = x[0].broadcast_sub(&x[0].mean_keepdim(D::Minus1)?)?;
            let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
            let epsilon = f64::from(attribute(node, "epsilon").unwrap().f);
            centred.broadcast_div(&(variance + epsilon)?.sqrt()?)?.broadcast_mul(x[1])?.broadcast_add(x[2])
        }
        "Transpose" => {
            let perm: Vec<usize> = attribute(node, "perm").unwrap().ints.iter().map(|at| *at as usize).collect();
            x[0].permute(perm)?.contiguous()
        }
        "Reshape" => {
            let wanted = numbers(x[1]);
            let kept = |(at, size): (usize, &i64)| if *size == 0 { x[0].dims()[at] } else { (*size).max(1) as usize };
            let mut shape: Vec<usize> = wanted.iter().enumerate().map(kept).collect();
            if let Some(at) = wanted.iter().position(|size| *size == -1) {
                shape[at] = x[0].elem_count() / shape.iter().product::<usize>();
            }
            x[0].reshape(shape)
        }
        "Concat" => Tensor::cat(x, axis()),
        "Gather" => x[0].index_select(&x[1].to_dtype(DType::U32)?, axis()),
        "Shape" => {
            let (start, end) = (int("start").unwrap() as usize, int("end").unwrap() as usize);
            let sizes: Vec<i64> = x[0].dims()[start..end].iter().map(|size| *size as i64).collect();
            Tensor::from_vec(sizes, end - start, &Device::Cpu)
        }
        "Expand" => {
            let shape: Vec<usize> = numbers(x[1]).iter().map(|size| *size as usize).collect();
            x[0].broadcast_as([shape, vec![1; 3 - x[1].dims()[0]]].concat())
        }
        "Slice" => {
            let [from, to, axis] = [1, 2, 3].map(|at| numbers(x[at])[0] as usize);
            x[0].narrow(axis, from, to - from)
        }
        "ReduceMean" => x[0].mean(attribute(node, "axes").unwrap().ints[0] as usize),
        "Conv" => {
            let strides = &attribute(node, "strides").unwrap().ints;
            let y = x[0].conv2d(x[1], 0, strides[0] as usize, 1, 1)?;
            y.broadcast_add(&x[2].reshape((1, (), 1, 1))?)
        }
        other => panic!("{other}"),
    }
}

fn run(graph: &GraphProto, dir: &Path, pixels: &Tensor) -> Vec<f32> {
    let mut values: HashMap<&str, Tensor> =
        graph.initializer.iter().map(|tensor| (tensor.name.as_str(), stored(tensor, dir))).collect();
    assert_eq!(values.len(), graph.initializer.len(), "names are unlike");
    values.insert(&graph.input[0].name, pixels.clone());
    for node in &graph.node {
        let inputs: Vec<&Tensor> = node.input.iter().map(|name| &values[name.as_str()]).collect();
        let output = compute(node, &inputs).unwrap_or_else(|fault| panic!("{}: {fault}", node.name));
        assert!(values.insert(&node.output[0], output).is_none(), "{} is computed once", node.output[0]);
    }
    values[graph.output[0].name.as_str()].flatten_all().unwrap().to_vec1().unwrap()
}

/// The whole model, one head less in one block, channels of their own, halves and a block removed.
fn cuts(model: &Model) -> Vec<Vec<SelectedBlock>> {
    let whole = Selection::whole(model.spec()).blocks;
    let change = |f: &dyn Fn(&mut Vec<SelectedBlock>)| {
        let mut blocks = whole.clone();
        f(&mut blocks);
        blocks
    };
    vec![
        whole.clone(),
        change(&|blocks| {
            let attention = blocks[0].attention.as_mut().unwrap();
            (attention.heads, attention.groups) = (vec![1], vec![1]);
            blocks[1].mlp = Some((3..17).collect());
        }),
        change(&|blocks| (blocks[0].mlp, blocks[1].attention) = (None, None)),
        change(&|blocks| (blocks[0].attention, blocks[0].mlp) = (None, None)),
    ]
}

#[test]
fn the_graph_computes_what_the_engine_does() {
    for folder in folders() {
        let source = Checkpoint::open(&folder).unwrap();
        let whole = Model::load(&source).unwrap();
        for (number, kept) in cuts(&whole).into_iter().enumerate() {
            let (cut, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            save(&whole.cut(&kept).unwrap(), cut.path(), StoredType::F32, u64::MAX).unwrap();
            let spec = whole.cut(&kept).unwrap().spec().clone();
            transformers::write(cut.path(), &saved(&spec), source.dir(), source.config()).unwrap();
            let checkpoint = Checkpoint::open(cut.path()).unwrap();
            let model = Model::load(&checkpoint).unwrap();
            let beside = number % 2 == 1;
            write_with(&checkpoint, out.path(), beside).unwrap();
            assert_eq!(out.path().join("model.onnx.data").is_file(), beside);
            let graph = ModelProto::decode(&fs::read(out.path().join(FILE)).unwrap()[..]).unwrap().graph.unwrap();
            let image = spec.image.unwrap();
            for images in [1, 3] {
                let pixels: Vec<f32> =
                    (0..images * image.pixels()).map(|i| ((i * 37 % 101) as f32 / 50.0) - 1.0).collect();
                let shape = (images, image.channels, image.size[0], image.size[1]);
                let given = Tensor::from_vec(pixels.clone(), shape, &Device::Cpu).unwrap();
                let found = run(&graph, out.path(), &given);
                let wanted = model.logits(Batch::images(&pixels, &vec![0; images], image).unwrap()).unwrap();
                let wanted: Vec<f32> = wanted.flatten_all().unwrap().to_vec1().unwrap();
                let worst = testkit::max_abs_diff(&found, &wanted);
                assert!(worst <= 1e-5, "{}, cut {number}: {worst}", folder.display());
            }
        }
    }
}

/// As files have it: blocks without halves are left out.
fn saved(spec: &ModelSpec) -> ModelSpec {
    let mut spec = spec.clone();
    spec.blocks.retain(|block| block.attention.is_some() || block.mlp.is_some());
    spec
}

#[test]
fn the_folder_speaks_of_no_code() {
    let source = Checkpoint::open(&folders()[4]).unwrap();
    let (cut, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = Model::load(&source).unwrap();
    let model = model.cut(&cuts(&model)[2]).unwrap();
    save(&model, cut.path(), StoredType::F32, u64::MAX).unwrap();
    transformers::write(cut.path(), model.spec(), source.dir(), source.config()).unwrap();
    files::write_json(&cut.path().join("preprocessor_config.json"), &serde_json::json!({"do_resize": true})).unwrap();
    write(&Checkpoint::open(cut.path()).unwrap(), out.path()).unwrap();
    let mut names: Vec<String> =
        fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.onnx", "preprocessor_config.json"]);
    let config: Value = serde_json::from_slice(&fs::read(out.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"], serde_json::json!(["ViTForImageClassification"]));
    assert_eq!(config.get("auto_map"), None);
}

#[test]
fn what_is_no_classifier_of_images_is_refused() {
    let spec = taper_arch::spec::example();
    assert!(check(&spec).unwrap_err().starts_with("only classifiers of images"));
}
