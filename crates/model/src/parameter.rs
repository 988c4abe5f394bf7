//! The parameters of a model: what they are called in checkpoints, and their stored shapes.

use std::fmt;

use taper_arch::{ModelSpec, SubBlock};

macro_rules! parameters {
    ($($(#[$doc:meta])* $name:ident = $suffix:literal),+ $(,)?) => {
        /// A parameter, without its block.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Parameter { $($(#[$doc])* $name),+ }

        impl Parameter {
            /// Its name in checkpoints, after `model.layers.N.` for those of a block.
            pub fn suffix(self) -> &'static str {
                match self { $(Self::$name => $suffix),+ }
            }
        }
    };
}

parameters! {
    /// Token embedding, `[vocab, d_model]`.
    Embedding = "model.embed_tokens.weight",
    /// Norm before attention.
    AttentionNorm = "input_layernorm.weight",
    /// Queries.
    Q = "self_attn.q_proj.weight",
    /// Keys.
    K = "self_attn.k_proj.weight",
    /// Values.
    V = "self_attn.v_proj.weight",
    /// Attention's output.
    O = "self_attn.o_proj.weight",
    /// Bias of queries.
    QBias = "self_attn.q_proj.bias",
    /// Bias of keys.
    KBias = "self_attn.k_proj.bias",
    /// Bias of values.
    VBias = "self_attn.v_proj.bias",
    /// Bias of attention's output.
    OBias = "self_attn.o_proj.bias",
    /// Norm of each head's query.
    QNorm = "self_attn.q_norm.weight",
    /// Norm of each head's key.
    KNorm = "self_attn.k_norm.weight",
    /// Norm before the MLP.
    MlpNorm = "post_attention_layernorm.weight",
    /// The MLP's gate.
    Gate = "mlp.gate_proj.weight",
    /// The MLP's other half.
    Up = "mlp.up_proj.weight",
    /// The MLP's output.
    Down = "mlp.down_proj.weight",
    /// Bias of the gate.
    GateBias = "mlp.gate_proj.bias",
    /// Bias of the other half.
    UpBias = "mlp.up_proj.bias",
    /// Bias of the MLP's output.
    DownBias = "mlp.down_proj.bias",
    /// Norm before the head.
    FinalNorm = "model.norm.weight",
    /// Output head, `[vocab, d_model]`, if it is not the embedding.
    Head = "lm_head.weight",
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
}

/// The tensor's name in a checkpoint.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.block {
            Some(block) => write!(f, "model.layers.{block}.{}", self.parameter.suffix()),
            None => f.write_str(self.parameter.suffix()),
        }
    }
}

/// Every parameter of `spec` with its stored shape.
pub fn parameters(spec: &ModelSpec) -> Vec<(Place, Vec<usize>)> {
    let mut all = vec![(Place::global(Parameter::Embedding), vec![spec.vocab, spec.d_model])];
    for block in 0..spec.blocks.len() {
        let parts = block_parameters(spec, block).into_iter();
        all.extend(parts.map(|(parameter, shape)| (Place::of(block, parameter), shape)));
    }
    all.push((Place::global(Parameter::FinalNorm), vec![spec.d_model]));
    if !spec.tied_head {
        all.push((Place::global(Parameter::Head), vec![spec.vocab, spec.d_model]));
    }
    all
}

/// Number of weights of `spec`, a tied head counted once.
pub fn parameter_count(spec: &ModelSpec) -> u64 {
    parameters(spec).iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
}

fn block_parameters(spec: &ModelSpec, block: usize) -> Vec<(Parameter, Vec<usize>)> {
    use Parameter as P;
    let (d, block, mut all) = (spec.d_model, spec.blocks[block], Vec::new());
    if let Some(attention) = block.attention {
        let (q, kv) = (attention.n_heads * spec.d_head, attention.n_kv_heads * spec.d_head);
        all.push((P::AttentionNorm, vec![d]));
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
    }
    if let Some(mlp) = block.mlp {
        let d_ff = mlp.d_ff;
        all.extend([(P::MlpNorm, vec![d]), (P::Gate, vec![d_ff, d]), (P::Up, vec![d_ff, d]), (P::Down, vec![d, d_ff])]);
        if spec.mlp_bias {
            all.extend([(P::GateBias, vec![d_ff]), (P::UpBias, vec![d_ff]), (P::DownBias, vec![d])]);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use taper_arch::{Architecture, Workload, cost, spec::example};

    #[test]
    fn shapes_sum_to_the_cost_formula() {
        let full = ModelSpec { qkv_bias: true, o_bias: true, mlp_bias: true, qk_norm: true, ..example() };
        let tied = ModelSpec { tied_head: true, ..full.clone() };
        for spec in [example(), full, tied] {
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
        assert_eq!(Place::of(3, Parameter::Q).to_string(), "model.layers.3.self_attn.q_proj.weight");
        assert_eq!(Place::global(Parameter::Head).to_string(), "lm_head.weight");
    }
}
