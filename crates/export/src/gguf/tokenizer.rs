//! The tokenizer's keys, made of `tokenizer.json`.
//!
//! Byte-level BPE becomes `gpt2` with the name of its pre-tokenizer, which llama.cpp knows by regular expression; BPE with byte
//! fallback, as SentencePiece's models are stored, becomes `llama`: merges are scores there, the first one the highest, so the
//! same pairs are merged in the same order. Whatever else there is has no counterpart and is refused.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value as Json;
use taper_data::{ChatTemplates, TextTokenizer};

use super::format::Value;
use crate::ExportError;

/// Pre-tokenizers by their expression: llama.cpp's name of it.
const PRE: [(&str, &str); 3] = [
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "llama-bpe",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "qwen2",
    ),
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", "gpt-2"),
];

/// Kinds of tokens.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// The keys of the tokenizer in the folder `dir`, of a model with `vocab` rows of embedding.
///
/// # Errors
/// [`ExportError::Tokenizer`] for one that llama.cpp has no counterpart of.
pub(crate) fn keys(dir: &Path, vocab: usize) -> Result<Vec<(String, Value)>, ExportError> {
    let path = dir.join("tokenizer.json");
    let refuse = |reason: String| ExportError::Tokenizer { path: path.clone(), reason };
    let bytes = std::fs::read(&path).map_err(ExportError::file(&path))?;
    let json: Json = serde_json::from_slice(&bytes).map_err(|cause| refuse(format!("not JSON: {cause}")))?;
    let model = &json["model"];
    if model["type"] != "BPE" {
        return Err(refuse(format!("its model is {}, wanted BPE", model["type"])));
    }
    let tokens = Tokens::read(&json, vocab).map_err(refuse)?;
    let merges = merges(model).map_err(refuse)?;
    let mut keys = Vec::new();
    let mut put = |key: &str, value: Value| keys.push((format!("tokenizer.ggml.{key}"), value));
    if model["byte_fallback"] == true {
        put("model", Value::Text("llama".to_owned()));
        put("pre", Value::Text("default".to_owned()));
        put("scores", Value::F32s(tokens.scores(&merges)));
        put("add_space_prefix", Value::Bool(prepends(&json)));
    } else {
        put("model", Value::Text("gpt2".to_owned()));
        put("pre", Value::Text(pre_tokenizer(&json).map_err(refuse)?.to_owned()));
        put("merges", Value::Texts(merges.iter().map(|[a, b]| format!("{a} {b}")).collect()));
    }
    put("tokens", Value::Texts(tokens.texts));
    put("token_type", Value::I32s(tokens.kinds));
    let tokenizer = TextTokenizer::load(dir)?;
    let special = tokenizer.special();
    let empty = tokenizer.encode("", true)?;
    let unknown = model["unk_token"].as_str().and_then(|text| tokenizer.id(text));
    let ids = [("bos", special.bos), ("eos", special.eos), ("unknown", unknown)];
    for (name, id) in ids {
        id.into_iter().for_each(|id| put(&format!("{name}_token_id"), Value::U32(id)));
    }
    put("add_bos_token", Value::Bool(special.bos.is_some() && empty.first() == special.bos.as_ref()));
    put("add_eos_token", Value::Bool(special.eos.is_some() && empty.last() == special.eos.as_ref()));
    if let Ok(templates) = ChatTemplates::load(dir)
        && let Ok(template) = templates.get(None)
    {
        keys.push(("tokenizer.chat_template".to_owned(), Value::Text(template.to_owned())));
    }
    Ok(keys)
}

/// Texts and kinds of all ids.
struct Tokens {
    texts: Vec<String>,
    kinds: Vec<i32>,
}

impl Tokens {
    fn read(json: &Json, vocab: usize) -> Result<Self, String> {
        let mut texts: Vec<String> = (0..vocab).map(|id| format!("[PAD{id}]")).collect();
        let mut kinds = vec![UNUSED; vocab];
        let entries = json["model"]["vocab"].as_object().ok_or("it has no vocabulary")?;
        let unknown = json["model"]["unk_token"].as_str();
        let mut put = |id: u64, text: &str, kind: i32| {
            let at = usize::try_from(id).ok().filter(|id| *id < vocab);
            let at = at.ok_or_else(|| format!("token `{text}` is number {id}, the model has {vocab}"))?;
            text.clone_into(&mut texts[at]);
            kinds[at] = kind;
            Ok::<(), String>(())
        };
        for (text, id) in entries {
            let byte = text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
            let kind = if Some(text.as_str()) == unknown {
                UNKNOWN
            } else if byte {
                BYTE
            } else {
                NORMAL
            };
            put(id.as_u64().ok_or_else(|| format!("token `{text}` has no number"))?, text, kind)?;
        }
        for added in json["added_tokens"].as_array().into_iter().flatten() {
            let (Some(text), Some(id)) = (added["content"].as_str(), added["id"].as_u64()) else { continue };
            let special = added["special"] == true;
            let kind = if Some(text) == unknown {
                UNKNOWN
            } else if special {
                CONTROL
            } else {
                USER_DEFINED
            };
            put(id, text, kind)?;
        }
        Ok(Self { texts, kinds })
    }

    /// The order of merges as scores: what comes of the first one has the highest.
    fn scores(&self, merges: &[[String; 2]]) -> Vec<f32> {
        let mut rank = BTreeMap::new();
        for (index, [a, b]) in merges.iter().enumerate() {
            rank.entry(format!("{a}{b}")).or_insert(index);
        }
        let least = merges.len() as f32;
        let score = |(text, kind): (&String, &i32)| match rank.get(text) {
            Some(rank) if *kind == NORMAL => -(*rank as f32),
            _ if *kind == NORMAL => -least,
            _ => 0.0,
        };
        self.texts.iter().zip(&self.kinds).map(score).collect()
    }
}

fn merges(model: &Json) -> Result<Vec<[String; 2]>, String> {
    let all = model["merges"].as_array().ok_or("it has no merges")?;
    let pair = |merge: &Json| -> Option<[String; 2]> {
        if let Some(text) = merge.as_str() {
            let (a, b) = text.split_once(' ')?;
            return Some([a.to_owned(), b.to_owned()]);
        }
        match merge.as_array()?.as_slice() {
            [a, b] => Some([a.as_str()?.to_owned(), b.as_str()?.to_owned()]),
            _ => None,
        }
    };
    all.iter().map(|merge| pair(merge).ok_or_else(|| format!("{merge} is no merge"))).collect()
}

/// Whether a space is put in front of a text.
fn prepends(json: &Json) -> bool {
    let normalizer = &json["normalizer"];
    let all = normalizer["normalizers"].as_array().into_iter().flatten().chain([normalizer]);
    all.into_iter().any(|one| one["type"] == "Prepend")
        || json["pre_tokenizer"]["type"] == "Metaspace" && json["pre_tokenizer"]["prepend_scheme"] != "never"
}

/// llama.cpp's name of the pre-tokenizer.
fn pre_tokenizer(json: &Json) -> Result<&'static str, String> {
    let own = &json["pre_tokenizer"];
    let all: Vec<&Json> = own["pretokenizers"].as_array().into_iter().flatten().chain([own]).collect();
    if !all.iter().any(|one| one["type"] == "ByteLevel") {
        return Err("BPE neither of bytes nor with byte fallback".to_owned());
    }
    let split = all.iter().find(|one| one["type"] == "Split");
    let Some(expression) = split.map(|split| split["pattern"]["Regex"].as_str().unwrap_or_default()) else {
        return Ok("gpt-2"); // the expression of ByteLevel itself
    };
    let known = PRE.into_iter().find(|(own, _)| *own == expression);
    known.map(|(_, name)| name).ok_or_else(|| format!("its pre-tokenizer is none that llama.cpp knows: {expression}"))
}
