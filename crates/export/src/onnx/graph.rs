//! The graph of a classifier of images, operator by operator.

use std::f32::consts::{FRAC_2_SQRT_PI, SQRT_2};

use taper_arch::{Activation, ImageSpec, ModelSpec, Pool};
use taper_model::{Checkpoint, Parameter, Place, parameters};

use super::proto::{
    AttributeProto, AttributeType, DataType, Dimension, GraphProto, IR_VERSION, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TensorShapeProto, TensorType, TypeProto, ValueInfoProto,
};
use super::weights::Weights;
use crate::ExportError;

/// The first with LayerNormalization.
const OPSET: i64 = 17;
/// Weight of the cube in GELU's tanh form.
const CUBE: f32 = 0.044_715;

/// Name of a value.
type Name = String;

/// The file's content but for weights that lie beside.
pub(super) fn model(checkpoint: &Checkpoint, weights: Weights) -> Result<ModelProto, ExportError> {
    let spec = checkpoint.spec();
    let mut builder = Builder { checkpoint, spec, weights, graph: GraphProto::default() };
    if let Some(image) = spec.image {
        builder.classifier(&image)?;
    }
    builder.weights.finish()?;
    Ok(ModelProto {
        ir_version: IR_VERSION,
        producer_name: "taper".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(builder.graph),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
    })
}

struct Builder<'a> {
    checkpoint: &'a Checkpoint,
    spec: &'a ModelSpec,
    weights: Weights,
    graph: GraphProto,
}

impl Builder<'_> {
    fn classifier(&mut self, image: &ImageSpec) -> Result<(), ExportError> {
        let batch = || Dimension { dim_value: None, dim_param: Some("batch".to_owned()) };
        let size = |size: usize| Dimension { dim_value: Some(size as i64), dim_param: None };
        let [height, width] = image.size;
        self.graph.name = self.spec.family.name().to_owned();
        self.graph.input = vec![value("pixel_values", vec![batch(), size(image.channels), size(height), size(width)])];
        self.graph.output = vec![value("logits", vec![batch(), size(self.spec.vocab)])];
        let mut x = self.embedding(image)?;
        for block in 0..self.spec.blocks.len() {
            x = self.attention(block, x)?;
            x = self.mlp(block, x)?;
        }
        let places = [Parameter::FinalNorm, Parameter::FinalNormBias].map(Place::global);
        let x = self.norm(&x, places)?;
        let logits = self.head(image, &x)?;
        let named = NodeProto { output: vec!["logits".to_owned()], ..node("Identity", &[&logits], Vec::new()) };
        self.graph.node.push(named);
        Ok(())
    }

    /// Patches and learnt tokens with their positions: `[batch, tokens, d_model]`.
    fn embedding(&mut self, image: &ImageSpec) -> Result<Name, ExportError> {
        let (d, patch) = (self.spec.d_model, image.patch);
        let weight = self.weight(Place::global(Parameter::Patches), &[d, image.channels, patch, patch])?;
        let bias = self.weight(Place::global(Parameter::PatchBias), &[d])?;
        let patches = self.put("Conv", &["pixel_values", &weight, &bias], vec![ints("strides", &[patch, patch])]);
        let patches = self.reshape(&patches, &[0, d as i64, -1]); // [batch, d_model, patches]
        let patches = self.put("Transpose", &[&patches], vec![ints("perm", &[0, 2, 1])]);
        let start_to_end = vec![int("start", 0), int("end", 1)];
        let batch = self.put("Shape", &["pixel_values"], start_to_end);
        let one = self.numbers(&[1, d as i64]);
        let each = self.put("Concat", &[&batch, &one], vec![int("axis", 0)]);
        let mut parts = Vec::new();
        for parameter in [Parameter::ClassToken, Parameter::DistillationToken].into_iter().take(image.prefix) {
            let token = self.weight(Place::global(parameter), &[1, 1, d])?;
            parts.push(self.put("Expand", &[&token, &each], Vec::new()));
        }
        parts.push(patches);
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let x = self.put("Concat", &parts, vec![int("axis", 1)]);
        let positions = self.weight(Place::global(Parameter::Positions), &[1, image.tokens(), d])?;
        Ok(self.put("Add", &[&x, &positions], Vec::new()))
    }

    fn attention(&mut self, block: usize, x: Name) -> Result<Name, ExportError> {
        use Parameter as P;
        let Some(spec) = self.spec.blocks[block].attention else { return Ok(x) };
        let (d, d_head) = (self.spec.d_model, self.spec.d_head);
        let normed = self.norm(&x, [P::AttentionNorm, P::AttentionNormBias].map(|p| Place::of(block, p)))?;
        let mut heads = Vec::new();
        let turns = [("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])];
        let weights = [(P::Q, P::QBias), (P::K, P::KBias), (P::V, P::VBias)];
        for ((which, turn), (weight, bias)) in turns.into_iter().zip(weights) {
            let count = if which == "q" { spec.n_heads } else { spec.n_kv_heads };
            let units = self.linear(&normed, [weight, bias].map(|p| Place::of(block, p)), [d, count * d_head])?;
            let split = self.reshape(&units, &[0, 0, count as i64, d_head as i64]);
            let turned = self.put("Transpose", &[&split], vec![ints("perm", &turn)]); // [batch, heads, …]
            let groups = which != "q" && spec.n_kv_heads != spec.n_heads;
            heads.push(if groups { self.shared(&turned, [spec.n_heads, spec.n_kv_heads]) } else { turned });
        }
        let scale = self.scalar(1.0 / (d_head as f32).sqrt());
        let queries = self.put("Mul", &[&heads[0], &scale], Vec::new());
        let scores = self.put("MatMul", &[&queries, &heads[1]], Vec::new());
        let shares = self.put("Softmax", &[&scores], vec![int("axis", -1)]);
        let seen = self.put("MatMul", &[&shares, &heads[2]], Vec::new());
        let seen = self.put("Transpose", &[&seen], vec![ints("perm", &[0, 2, 1, 3])]);
        let width = spec.n_heads * d_head;
        let seen = self.reshape(&seen, &[0, 0, width as i64]);
        let y = self.linear(&seen, [P::O, P::OBias].map(|p| Place::of(block, p)), [width, d])?;
        self.join(x, y, Place::of(block, P::AttentionScale))
    }

    /// KV heads, each as often as query heads read it.
    fn shared(&mut self, kv: &str, [heads, groups]: [usize; 2]) -> Name {
        let reads: Vec<i64> = (0..heads).map(|head| (head * groups / heads) as i64).collect();
        let reads = self.numbers(&reads);
        self.put("Gather", &[kv, &reads], vec![int("axis", 1)])
    }

    fn mlp(&mut self, block: usize, x: Name) -> Result<Name, ExportError> {
        use Parameter as P;
        let Some(spec) = self.spec.blocks[block].mlp else { return Ok(x) };
        let d = self.spec.d_model;
        let normed = self.norm(&x, [P::MlpNorm, P::MlpNormBias].map(|p| Place::of(block, p)))?;
        let up = self.linear(&normed, [P::Up, P::UpBias].map(|p| Place::of(block, p)), [d, spec.d_ff])?;
        let h = match self.spec.activation {
            Activation::GeluTanh => self.gelu_tanh(&up),
            _ => self.gelu(&up),
        };
        let y = self.linear(&h, [P::Down, P::DownBias].map(|p| Place::of(block, p)), [spec.d_ff, d])?;
        self.join(x, y, Place::of(block, P::MlpScale))
    }

    /// `x · (1 + erf(x / √2)) / 2`, in the steps that runtimes know and put together.
    fn gelu(&mut self, x: &str) -> Name {
        let [root, one, half] = [SQRT_2, 1.0, 0.5].map(|number| self.scalar(number));
        let scaled = self.put("Div", &[x, &root], Vec::new());
        let erf = self.put("Erf", &[&scaled], Vec::new());
        let sum = self.put("Add", &[&erf, &one], Vec::new());
        let twice = self.put("Mul", &[x, &sum], Vec::new());
        self.put("Mul", &[&twice, &half], Vec::new())
    }

    /// `x · (1 + tanh(√(2/π) · (x + 0.044715 x³))) / 2`.
    fn gelu_tanh(&mut self, x: &str) -> Name {
        let scale = FRAC_2_SQRT_PI / SQRT_2;
        let [cube, scale, one, half] = [CUBE, scale, 1.0, 0.5].map(|number| self.scalar(number));
        let square = self.put("Mul", &[x, x], Vec::new());
        let cubed = self.put("Mul", &[&square, x], Vec::new());
        let cubed = self.put("Mul", &[&cubed, &cube], Vec::new());
        let inner = self.put("Add", &[x, &cubed], Vec::new());
        let inner = self.put("Mul", &[&inner, &scale], Vec::new());
        let tanh = self.put("Tanh", &[&inner], Vec::new());
        let sum = self.put("Add", &[&tanh, &one], Vec::new());
        let twice = self.put("Mul", &[x, &sum], Vec::new());
        self.put("Mul", &[&twice, &half], Vec::new())
    }

    /// What the classifiers say: the mean of their logits, if there are several.
    fn head(&mut self, image: &ImageSpec, x: &str) -> Result<Name, ExportError> {
        let (d, classes) = (self.spec.d_model, self.spec.vocab);
        let token = |builder: &mut Self, index: i64| {
            let index = builder.numbers(&[index]);
            let taken = builder.put("Gather", &[x, &index], vec![int("axis", 1)]); // [batch, 1, d_model]
            builder.reshape(&taken, &[0, d as i64])
        };
        let places = [Parameter::Head, Parameter::HeadBias].map(Place::global);
        let first = token(self, 0);
        Ok(match image.pool {
            Pool::First => self.linear(&first, places, [d, classes])?,
            Pool::FirstAndMean => {
                let [from, to, axis] = [image.prefix as i64, image.tokens() as i64, 1].map(|at| self.numbers(&[at]));
                let patches = self.put("Slice", &[x, &from, &to, &axis], Vec::new());
                let mean = self.put("ReduceMean", &[&patches], vec![ints("axes", &[1]), int("keepdims", 0)]);
                let both = self.put("Concat", &[&first, &mean], vec![int("axis", 1)]);
                self.linear(&both, places, [2 * d, classes])?
            }
            Pool::EachPrefix => {
                let second = token(self, 1);
                let one = self.linear(&first, places, [d, classes])?;
                let places = [Parameter::DistillationHead, Parameter::DistillationHeadBias].map(Place::global);
                let other = self.linear(&second, places, [d, classes])?;
                let (sum, half) = (self.put("Add", &[&one, &other], Vec::new()), self.scalar(0.5));
                self.put("Mul", &[&sum, &half], Vec::new())
            }
        })
    }

    /// `x + scale ∘ y`, with factors if there are any.
    fn join(&mut self, x: Name, y: Name, scale: Place) -> Result<Name, ExportError> {
        let y = match self.has(scale) {
            true => {
                let scale = self.weight(scale, &[self.spec.d_model])?;
                self.put("Mul", &[&y, &scale], Vec::new())
            }
            false => y,
        };
        Ok(self.put("Add", &[&x, &y], Vec::new()))
    }

    fn norm(&mut self, x: &str, places: [Place; 2]) -> Result<Name, ExportError> {
        let d = self.spec.d_model;
        let [weight, bias] = places;
        let (weight, bias) = (self.weight(weight, &[d])?, self.weight(bias, &[d])?);
        let epsilon = AttributeProto {
            name: "epsilon".to_owned(),
            f: self.spec.norm_eps as f32,
            r#type: AttributeType::Float as i32,
            ..AttributeProto::default()
        };
        Ok(self.put("LayerNormalization", &[x, &weight, &bias], vec![int("axis", -1), epsilon]))
    }

    /// `x · wᵀ + b`; files hold `w` `[out, in]`.
    fn linear(&mut self, x: &str, [weight, bias]: [Place; 2], [d_in, d_out]: [usize; 2]) -> Result<Name, ExportError> {
        let stored = self.checkpoint.values(weight)?;
        let turned: Vec<f32> =
            (0..d_in).flat_map(|from| stored.iter().skip(from).step_by(d_in.max(1)).copied()).collect();
        let name = weight.name(self.spec);
        let tensor = self.weights.put(&name, &[d_in, d_out], &turned)?;
        self.graph.initializer.push(tensor);
        let y = self.put("MatMul", &[x, &name], Vec::new());
        if !self.has(bias) {
            return Ok(y);
        }
        let bias = self.weight(bias, &[d_out])?;
        Ok(self.put("Add", &[&y, &bias], Vec::new()))
    }

    fn has(&self, place: Place) -> bool {
        parameters(self.spec).iter().any(|(there, _)| *there == place)
    }

    /// A weight as it is stored.
    fn weight(&mut self, place: Place, shape: &[usize]) -> Result<Name, ExportError> {
        let name = place.name(self.spec);
        let tensor = self.weights.put(&name, shape, &self.checkpoint.values(place)?)?;
        self.graph.initializer.push(tensor);
        Ok(name)
    }

    fn scalar(&mut self, number: f32) -> Name {
        self.constant(&[], DataType::Float, number.to_le_bytes().to_vec())
    }

    fn numbers(&mut self, numbers: &[i64]) -> Name {
        self.constant(&[numbers.len()], DataType::Int64, numbers.iter().flat_map(|n| n.to_le_bytes()).collect())
    }

    fn constant(&mut self, shape: &[usize], kind: DataType, raw_data: Vec<u8>) -> Name {
        let name = format!("constant_{}", self.graph.initializer.len());
        let dims = shape.iter().map(|size| *size as i64).collect();
        let tensor =
            TensorProto { dims, data_type: kind as i32, name: name.clone(), raw_data, ..TensorProto::default() };
        self.graph.initializer.push(tensor);
        name
    }

    /// 0 is the size that is there, -1 what is left.
    fn reshape(&mut self, x: &str, shape: &[i64]) -> Name {
        let shape = self.numbers(shape);
        self.put("Reshape", &[x, &shape], Vec::new())
    }

    fn put(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> Name {
        let name = format!("{}_{}", op.to_lowercase(), self.graph.node.len());
        let output = vec![name.clone()];
        self.graph.node.push(NodeProto { output, name: name.clone(), ..node(op, inputs, attributes) });
        name
    }
}

fn node(op: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    let input = inputs.iter().map(|name| (*name).to_owned()).collect();
    NodeProto { input, op_type: op.to_owned(), attribute, ..NodeProto::default() }
}

fn int(name: &str, i: i64) -> AttributeProto {
    let r#type = AttributeType::Int as i32;
    AttributeProto { name: name.to_owned(), i, r#type, ..AttributeProto::default() }
}

fn ints(name: &str, numbers: &[usize]) -> AttributeProto {
    let (ints, r#type) = (numbers.iter().map(|n| *n as i64).collect(), AttributeType::Ints as i32);
    AttributeProto { name: name.to_owned(), ints, r#type, ..AttributeProto::default() }
}

fn value(name: &str, dim: Vec<Dimension>) -> ValueInfoProto {
    let tensor_type = TensorType { elem_type: DataType::Float as i32, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}
