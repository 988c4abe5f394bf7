//! The engines' layouts by name, and what each leaves of a search space.
//!
//! [`Target::narrow`] takes away what the engine could not load of anything that a search might find, so that no such candidate
//! is ever scored; [`Target::check`] has the last word on one model. A test draws from narrowed spaces and asks it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use taper_arch::{ModelSpec, SearchSpace};

use crate::gguf::{self, Mix};
use crate::{ExportError, onnx, transformers, vllm};

/// An engine's layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Target {
    /// A file for llama.cpp, of a type.
    Gguf(Mix),
    /// A folder with a graph, for ONNX runtimes.
    Onnx,
    /// A folder for transformers.
    Transformers,
    /// A folder for vLLM and SGLang.
    Vllm,
}

/// A freedom of a search space that an engine takes away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Narrowed {
    /// For which target.
    pub target: String,
    /// The key of `space`, and what it is set to: `drop_attention: false`.
    pub set: &'static str,
    /// The engine's rule.
    pub rule: &'static str,
}

impl fmt::Display for Narrowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, set, rule } = self;
        write!(f, "export.targets: {target} sets `{set}` in `space`: {rule}")
    }
}

impl Target {
    /// Its text form: `gguf:q4_k_m`.
    pub fn name(self) -> String {
        match self {
            Self::Gguf(mix) => format!("gguf:{}", mix.name()),
            Self::Onnx => "onnx".to_owned(),
            Self::Transformers => "transformers".to_owned(),
            Self::Vllm => "vllm".to_owned(),
        }
    }

    /// Whether the engine can hold the model `spec`, made from one whose `config.json` was `config`.
    ///
    /// # Errors
    /// [`ExportError::Rule`] with what forbids it.
    pub fn check(self, spec: &ModelSpec, config: &Value) -> Result<(), ExportError> {
        self.loader(spec, config).map(drop)
    }

    /// What the engine takes the model for, and how it is told if that is not by itself.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn loader(self, spec: &ModelSpec, config: &Value) -> Result<&'static str, ExportError> {
        const OWN: &str = "the family's own class";
        Ok(match self {
            Self::Gguf(_) => gguf::Arch::of(spec).map_err(self.refusal())?.name(),
            Self::Onnx => onnx::check(spec).map(|()| "a graph of opset 17").map_err(self.refusal())?,
            Self::Transformers if transformers::layout(spec, config).remote_code => {
                "modeling_taper.py: trust_remote_code"
            }
            Self::Transformers => OWN,
            Self::Vllm => match vllm::layout(spec, config).map_err(self.refusal())? {
                vllm::Layout::Native => OWN,
                vllm::Layout::Backend => "--model-impl transformers --trust-remote-code",
                vllm::Layout::Deci(_) => "DeciLMForCausalLM: --trust-remote-code",
            },
        })
    }

    /// The configuration of `DeciLMForCausalLM`, if that is how the engine is told.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn deci(self, spec: &ModelSpec, config: &Value) -> Result<Option<Value>, ExportError> {
        match self {
            Self::Vllm => match vllm::layout(spec, config).map_err(self.refusal())? {
                vllm::Layout::Deci(config) => Ok(Some(config)),
                vllm::Layout::Native | vllm::Layout::Backend => Ok(None),
            },
            Self::Gguf(_) | Self::Onnx | Self::Transformers => Ok(None),
        }
    }

    fn refusal(self) -> impl FnOnce(String) -> ExportError {
        let target = match self {
            Self::Gguf(_) => "llama.cpp",
            Self::Onnx => "ONNX",
            Self::Transformers => "transformers",
            Self::Vllm => "vLLM",
        };
        move |rule| ExportError::Rule { target, rule }
    }

    /// Takes from `space` what the engine could not load of the models that a search makes of `spec`, and says what that was.
    ///
    /// # Errors
    /// [`ExportError::Rule`] if the engine cannot hold the whole model either.
    pub fn narrow(self, space: &mut SearchSpace, spec: &ModelSpec) -> Result<Vec<Narrowed>, ExportError> {
        let before = *space;
        let mut set = Setting { target: self, space, before, done: Vec::new() };
        match self {
            Self::Onnx => onnx::check(spec).map_err(self.refusal())?,
            Self::Transformers => {}
            Self::Gguf(_) => {
                gguf::Arch::of(spec).map_err(self.refusal())?;
                set.llama_cpp(spec);
            }
            Self::Vllm => {
                vllm::layout(spec, &Value::Null).map_err(self.refusal())?;
                set.vllm(spec);
            }
        }
        Ok(set.done)
    }
}

struct Setting<'a> {
    target: Target,
    space: &'a mut SearchSpace,
    before: SearchSpace,
    done: Vec<Narrowed>,
}

impl Setting<'_> {
    /// Notes what was set, if it was not so before.
    fn note(&mut self, changed: bool, set: &'static str, rule: &'static str) {
        if changed {
            self.done.push(Narrowed { target: self.target.name(), set, rule });
        }
    }

    /// Whether an attention may go without its block.
    fn attention_goes_alone(&self) -> bool {
        self.space.drop_attention && !self.space.tied_depth
    }

    fn keep_attentions(&mut self, rule: &'static str) {
        let goes = self.attention_goes_alone();
        self.space.drop_attention &= !goes;
        self.note(goes, "drop_attention: false", rule);
    }

    fn keep_first_attention(&mut self, rule: &'static str) {
        let goes = self.attention_goes_alone() && self.space.drop_first_attention;
        self.space.drop_first_attention &= !goes;
        self.note(goes, "drop_first_attention: false", rule);
    }

    fn llama_cpp(&mut self, spec: &ModelSpec) {
        if !spec.qk_norm {
            return self.keep_first_attention("`deci` takes sizes from the first block's attention");
        }
        if spec.tied_head {
            return self
                .keep_attentions("`openelm`, for q/k-norms and blocks that differ, has an attention in every block");
        }
        const RULE: &str =
            "with q/k-norms and a head that is not tied all blocks are alike, so only whole blocks may go";
        let before = self.before;
        let tied = before.drop_attention && before.drop_mlp;
        *self.space = SearchSpace {
            drop_attention: tied,
            drop_mlp: tied,
            tied_depth: tied,
            heads: false,
            groups: Some(false),
            width: false,
            ..before
        };
        self.note(before.heads, "heads: false", RULE);
        self.note(before.groups == Some(true), "groups: false", RULE);
        self.note(before.width, "width: false", RULE);
        self.note(tied && !before.tied_depth, "tied_depth: true", RULE);
        self.note(before.drop_attention && !tied, "drop_attention: false", RULE);
        self.note(before.drop_mlp && !tied, "drop_mlp: false", RULE);
    }

    fn vllm(&mut self, spec: &ModelSpec) {
        if spec.blocks.iter().any(|block| block.attention.is_none()) {
            const RULE: &str =
                "only `DeciLMForCausalLM` has blocks without attention, and its query heads are the same in all";
            self.note(self.before.heads, "heads: false", RULE);
            self.note(self.before.groups == Some(true), "groups: false", RULE);
            (self.space.heads, self.space.groups) = (false, Some(false));
        }
        let whole = spec.blocks.iter().filter_map(|block| block.attention);
        let windows = whole.clone().any(|a| a.window.is_some_and(|window| window < spec.max_tokens));
        let divides = whole.clone().all(|a| spec.d_model.is_multiple_of(a.n_heads));
        let one = |(index, block): (usize, &taper_arch::BlockSpec)| {
            block.attention.is_none()
                || (self.space.head_choices(spec, index).len() == 1 && self.space.group_choices(spec, index).len() == 1)
        };
        let heads_stay = spec.blocks.iter().enumerate().all(one);
        if heads_stay && divides && !windows && !spec.qk_norm {
            return self.keep_first_attention("`DeciLMForCausalLM` has an attention in the first block");
        }
        self.keep_attentions(
            "its Transformers backend, for query heads, q/k-norms or windows by block, has an attention in every block",
        );
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.name()
    }
}

impl TryFrom<String> for Target {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("gguf" | "llama.cpp", mix)) => mix.parse().map(Self::Gguf),
            None if matches!(text, "gguf" | "llama.cpp") => "f16".parse().map(Self::Gguf),
            None if text == "onnx" => Ok(Self::Onnx),
            None if text == "transformers" => Ok(Self::Transformers),
            None if text == "vllm" => Ok(Self::Vllm),
            _ => {
                let types: Vec<&str> = Mix::names().collect();
                Err(format!("unknown target `{text}`; known: onnx, transformers, vllm, gguf:{}", types.join(", gguf:")))
            }
        }
    }
}

#[cfg(test)]
mod tests;
