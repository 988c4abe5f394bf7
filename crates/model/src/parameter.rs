//! The parameters of a model: what they are called in checkpoints, and their stored shapes.

use taper_arch::{Family, ImageSpec, ModelSpec, NormKind, Pool, SubBlock};

macro_rules! parameters {
    ($($(#[$doc:meta])* $name:ident = $decoder:literal, $vit:literal, $dinov2:literal;)+) => {
        /// A parameter, without its block.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Parameter { $($(#[$doc])* $name),+ }

        impl Parameter {
            /// Its names in checkpoints of language models, of ViT and DeiT, and of DINOv2, after what names the block, or the
            /// family; empty if there is none.
            fn suffixes(self) -> [&'static str; 3] {
                match self { $(Self::$name => [$decoder, $vit, $dinov2]),+ }
            }
        }
    };
}

parameters! {
    /// Token embedding, `[vocab, d_model]`.
    Embedding = "model.embed_tokens.weight", "", "";
    /// The patches' projection, `[d_model, channels, patch, patch]`; in memory `[d_model, channels · patch · patch]`.
    Patches = "", "embeddings.patch_embeddings.projection.weight", "embeddings.patch_embeddings.projection.weight";
    /// Its bias.
    PatchBias = "", "embeddings.patch_embeddings.projection.bias", "embeddings.patch_embeddings.projection.bias";
    /// The token before the patches that stands for the class, `[1, 1, d_model]`; in memory `[1, d_model]`.
    ClassToken = "", "embeddings.cls_token", "embeddings.cls_token";
    /// The one after it that the teacher's answer was learnt at.
    DistillationToken = "", "embeddings.distillation_token", "";
    /// What is added to each token of an image, `[1, tokens, d_model]`; in memory `[tokens, d_model]`.
    Positions = "", "embeddings.position_embeddings", "embeddings.position_embeddings";
    /// Norm before attention.
    AttentionNorm = "input_layernorm.weight", "layernorm_before.weight", "norm1.weight";
    /// Bias of the norm before attention.
    AttentionNormBias = "", "layernorm_before.bias", "norm1.bias";
    /// Queries.
    Q = "self_attn.q_proj.weight", "attention.attention.query.weight", "attention.attention.query.weight";
    /// Keys.
    K = "self_attn.k_proj.weight", "attention.attention.key.weight", "attention.attention.key.weight";
    /// Values.
    V = "self_attn.v_proj.weight", "attention.attention.value.weight", "attention.attention.value.weight";
    /// Attention's output.
    O = "self_attn.o_proj.weight", "attention.output.dense.weight", "attention.output.dense.weight";
    /// Bias of queries.
    QBias = "self_attn.q_proj.bias", "attention.attention.query.bias", "attention.attention.query.bias";
    /// Bias of keys.
    KBias = "self_attn.k_proj.bias", "attention.attention.key.bias", "attention.attention.key.bias";
    /// Bias of values.
    VBias = "self_attn.v_proj.bias", "attention.attention.value.bias", "attention.attention.value.bias";
    /// Bias of attention's output.
    OBias = "self_attn.o_proj.bias", "attention.output.dense.bias", "attention.output.dense.bias";
    /// Norm of each head's query.
    QNorm = "self_attn.q_norm.weight", "", "";
    /// Norm of each head's key.
    KNorm = "self_attn.k_norm.weight", "", "";
    /// Factors of attention's result.
    AttentionScale = "", "", "layer_scale1.lambda1";
    /// Norm before the MLP.
    MlpNorm = "post_attention_layernorm.weight", "layernorm_after.weight", "norm2.weight";
    /// Bias of the norm before the MLP.
    MlpNormBias = "", "layernorm_after.bias", "norm2.bias";
    /// The MLP's gate.
    Gate = "mlp.gate_proj.weight", "", "";
    /// The MLP's other half, or all of it.
    Up = "mlp.up_proj.weight", "intermediate.dense.weight", "mlp.fc1.weight";
    /// The MLP's output.
    Down = "mlp.down_proj.weight", "output.dense.weight", "mlp.fc2.weight";
    /// Bias of the gate.
    GateBias = "mlp.gate_proj.bias", "", "";
    /// Bias of the other half.
    UpBias = "mlp.up_proj.bias", "intermediate.dense.bias", "mlp.fc1.bias";
    /// Bias of the MLP's output.
    DownBias = "mlp.down_proj.bias", "output.dense.bias", "mlp.fc2.bias";
    /// Factors of the MLP's result.
    MlpScale = "", "", "layer_scale2.lambda1";
    /// Norm before the head.
    FinalNorm = "model.norm.weight", "layernorm.weight", "layernorm.weight";
    /// Its bias.
    FinalNormBias = "", "layernorm.bias", "layernorm.bias";
    /// Output head, `[vocab, d_model]`, if it is not the embedding; `[classes, pooled · d_model]`.
    Head = "lm_head.weight", "classifier.weight", "classifier.weight";
    /// Its bias.
    HeadBias = "", "classifier.bias", "classifier.bias";
    /// The classifier of the distillation token, `[classes, d_model]`.
    DistillationHead = "", "distillation_classifier.weight", "";
    /// Its bias.
    DistillationHeadBias = "", "distillation_classifier.bias", "";
}

impl Parameter {
    /// Whether the engine keeps it transposed to its stored form, so that units are rows.
    pub fn transposed(self) -> bool {
        matches!(self, Self::O | Self::Down)
    }

    /// Whether it is a matrix of a sub-block: those make up the gradient trace.
    pub fn traced(self) -> Option<SubBlock> {
        match self {
            Self::Q | Self::K | Self::V | Self::O => Some(SubBlock::Attention),
            Self::Gate | Self::Up | Self::Down => Some(SubBlock::Mlp),
            _ => None,
        }
    }
}

/// A parameter in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The block it belongs to, if any.
    pub block: Option<usize>,
    /// Which one.
    pub parameter: Parameter,
}

impl Place {
    /// Outside of all blocks.
    pub fn global(parameter: Parameter) -> Self {
        Self { block: None, parameter }
    }

    /// In block `block`.
    pub fn of(block: usize, parameter: Parameter) -> Self {
        Self { block: Some(block), parameter }
    }

    /// The tensor's name in a checkpoint of `spec`.
    pub fn name(self, spec: &ModelSpec) -> String {
        use Parameter as P;
        let family = spec.family.name();
        let [decoder, vit, dinov2] = self.parameter.suffixes();
        let (suffix, blocks) = match spec.family {
            Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => (decoder, "model.layers".to_owned()),
            Family::Vit | Family::Deit => (vit, format!("{family}.encoder.layer")),
            Family::Dinov2 => (dinov2, format!("{family}.encoder.layer")),
        };
        let head = matches!(self.parameter, P::Head | P::HeadBias | P::DistillationHead | P::DistillationHeadBias);
        match self.block {
            Some(block) => format!("{blocks}.{block}.{suffix}"),
            None if spec.image.is_none() => suffix.to_owned(),
            None if !head => format!("{family}.{suffix}"),
            None => match (self.parameter, spec.image.map(|image| image.pool)) {
                (P::Head | P::HeadBias, Some(Pool::EachPrefix)) => format!("cls_{suffix}"),
                _ => suffix.to_owned(),
            },
        }
    }
}

/// Every parameter of `spec` with its stored shape.
pub fn parameters(spec: &ModelSpec) -> Vec<(Place, Vec<usize>)> {
    use Parameter as P;
    let mut all = match &spec.image {
        Some(image) => image_parameters(spec, image),
        None => vec![(P::Embedding, vec![spec.vocab, spec.d_model])],
    };
    let heads = match &spec.image {
        Some(image) => head_parameters(spec, image),
        None if spec.tied_head => Vec::new(),
        None => vec![(P::Head, vec![spec.vocab, spec.d_model])],
    };
    let mut placed: Vec<_> = all.drain(..).map(|(parameter, shape)| (Place::global(parameter), shape)).collect();
    for block in 0..spec.blocks.len() {
        let parts = block_parameters(spec, block).into_iter();
        placed.extend(parts.map(|(parameter, shape)| (Place::of(block, parameter), shape)));
    }
    let mut last = norm_parameters(spec, [P::FinalNorm, P::FinalNormBias]);
    last.extend(heads);
    placed.extend(last.into_iter().map(|(parameter, shape)| (Place::global(parameter), shape)));
    placed
}

/// Number of weights of `spec`, a tied head counted once.
pub fn parameter_count(spec: &ModelSpec) -> u64 {
    parameters(spec).iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
}

/// A stored shape as it is in memory, before units become rows: learnt tokens and positions are rows, a patch is one.
pub(crate) fn flattened(parameter: Parameter, shape: &[usize]) -> Vec<usize> {
    use Parameter as P;
    match (parameter, shape) {
        (P::ClassToken | P::DistillationToken | P::Positions, [1, rows @ ..]) => rows.to_vec(),
        (P::Patches, [d, patch @ ..]) => vec![*d, patch.iter().product()],
        _ => shape.to_vec(),
    }
}

fn image_parameters(spec: &ModelSpec, image: &ImageSpec) -> Vec<(Parameter, Vec<usize>)> {
    use Parameter as P;
    let d = spec.d_model;
    let mut all = vec![
        (P::Patches, vec![d, image.channels, image.patch, image.patch]),
        (P::PatchBias, vec![d]),
        (P::ClassToken, vec![1, 1, d]),
        (P::Positions, vec![1, image.tokens(), d]),
    ];
    if image.prefix > 1 {
        all.push((P::DistillationToken, vec![1, 1, d]));
    }
    all
}

fn head_parameters(spec: &ModelSpec, image: &ImageSpec) -> Vec<(Parameter, Vec<usize>)> {
    use Parameter as P;
    let (classes, d) = (spec.vocab, spec.d_model);
    let mut all = match image.pool {
        Pool::EachPrefix => vec![(P::Head, vec![classes, d]), (P::HeadBias, vec![classes])],
        _ => vec![(P::Head, vec![classes, image.pooled() * d]), (P::HeadBias, vec![classes])],
    };
    if image.pool == Pool::EachPrefix {
        all.extend([(P::DistillationHead, vec![classes, d]), (P::DistillationHeadBias, vec![classes])]);
    }
    all
}

fn norm_parameters(spec: &ModelSpec, [weight, bias]: [Parameter; 2]) -> Vec<(Parameter, Vec<usize>)> {
    let count = if spec.norm == NormKind::Layer { 2 } else { 1 };
    [weight, bias].into_iter().take(count).map(|parameter| (parameter, vec![spec.d_model])).collect()
}

fn block_parameters(spec: &ModelSpec, block: usize) -> Vec<(Parameter, Vec<usize>)> {
    use Parameter as P;
    let (d, block, mut all) = (spec.d_model, spec.blocks[block], Vec::new());
    if let Some(attention) = block.attention {
        let (q, kv) = (attention.n_heads * spec.d_head, attention.n_kv_heads * spec.d_head);
        all.extend(norm_parameters(spec, [P::AttentionNorm, P::AttentionNormBias]));
        all.extend([(P::Q, vec![q, d]), (P::K, vec![kv, d]), (P::V, vec![kv, d]), (P::O, vec![d, q])]);
        if spec.qkv_bias {
            all.extend([(P::QBias, vec![q]), (P::KBias, vec![kv]), (P::VBias, vec![kv])]);
        }
        if spec.o_bias {
            all.push((P::OBias, vec![d]));
        }
        if spec.qk_norm {
            all.extend([(P::QNorm, vec![spec.d_head]), (P::KNorm, vec![spec.d_head])]);
        }
        if spec.layer_scale {
            all.push((P::AttentionScale, vec![d]));
        }
    }
    if let Some(mlp) = block.mlp {
        let d_ff = mlp.d_ff;
        let gate = spec.activation.gated();
        all.extend(norm_parameters(spec, [P::MlpNorm, P::MlpNormBias]));
        all.extend(gate.then(|| (P::Gate, vec![d_ff, d])));
        all.extend([(P::Up, vec![d_ff, d]), (P::Down, vec![d, d_ff])]);
        if spec.mlp_bias {
            all.extend(gate.then(|| (P::GateBias, vec![d_ff])));
            all.extend([(P::UpBias, vec![d_ff]), (P::DownBias, vec![d])]);
        }
        if spec.layer_scale {
            all.push((P::MlpScale, vec![d]));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use taper_arch::{Architecture, Workload, cost, spec::example};

    fn images(pool: Pool, family: Family) -> ModelSpec {
        let prefix = if family == Family::Deit { 2 } else { 1 };
        ModelSpec {
            family,
            image: Some(ImageSpec { size: [8, 12], channels: 3, patch: 4, prefix, pool }),
            norm: NormKind::Layer,
            activation: taper_arch::Activation::Gelu,
            qkv_bias: true,
            o_bias: true,
            mlp_bias: true,
            ..example()
        }
    }

    #[test]
    fn shapes_sum_to_the_cost_formula() {
        let full = ModelSpec { qkv_bias: true, o_bias: true, mlp_bias: true, qk_norm: true, ..example() };
        let tied = ModelSpec { tied_head: true, ..full.clone() };
        let vit = images(Pool::First, Family::Vit);
        let dinov2 = ModelSpec { layer_scale: true, ..images(Pool::FirstAndMean, Family::Dinov2) };
        for spec in [example(), full, tied, vit, dinov2, images(Pool::EachPrefix, Family::Deit)] {
            for text in ["2x2/64 2x2/64 2x2/64", "1x2/32 -/64 2x1/-"] {
                let arch: Architecture = text.parse().unwrap();
                let count: usize =
                    parameters(&arch.apply(&spec).unwrap()).iter().map(|p| p.1.iter().product::<usize>()).sum();
                assert_eq!(count as u64, cost(&spec, &arch, Workload::default()).unwrap().parameters.0);
            }
        }
    }

    #[test]
    fn names_are_those_of_checkpoints() {
        use Parameter as P;
        let spec = example();
        assert_eq!(Place::of(3, P::Q).name(&spec), "model.layers.3.self_attn.q_proj.weight");
        assert_eq!(Place::global(P::Head).name(&spec), "lm_head.weight");
        let deit = images(Pool::EachPrefix, Family::Deit);
        assert_eq!(Place::of(0, P::Down).name(&deit), "deit.encoder.layer.0.output.dense.weight");
        assert_eq!(Place::global(P::Head).name(&deit), "cls_classifier.weight");
        assert_eq!(Place::global(P::DistillationHeadBias).name(&deit), "distillation_classifier.bias");
        let dinov2 = images(Pool::FirstAndMean, Family::Dinov2);
        assert_eq!(Place::of(1, P::MlpScale).name(&dinov2), "dinov2.encoder.layer.1.layer_scale2.lambda1");
        assert_eq!(Place::global(P::Positions).name(&dinov2), "dinov2.embeddings.position_embeddings");
    }
}
