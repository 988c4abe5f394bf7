//! The model card: what a published checkpoint was made from, how, how good it is, and how to load it.
//!
//! Only names, numbers and Hub ids go into it: no path of this machine, no token.

use std::fmt::Write;

use serde_json::{Value, json};
use taper_arch::{Architecture, ModelSpec};
use taper_base::{Bytes, Parameters};
use taper_export::Target;
use taper_model::parameter_count;

use crate::Loaded;
use crate::stages::evaluate::{Evaluation, SPLIT};

/// All that a card tells.
pub(super) struct Card<'a> {
    /// `owner/name`.
    pub(super) repo: &'a str,
    /// The checkpoint's own.
    pub(super) spec: &'a ModelSpec,
    /// Its `config.json`.
    pub(super) config: &'a Value,
    /// What it was made from; null for a checkpoint of no run.
    pub(super) lock: &'a Value,
    /// What was kept of which architecture.
    pub(super) kept: Option<&'a Architecture>,
    pub(super) whole: Option<&'a Architecture>,
    pub(super) eval: Option<&'a Evaluation>,
    /// What `taper verify` found.
    pub(super) loaders: &'a [Loaded],
    pub(super) licence: Option<&'a str>,
    /// GGUF files beside it, and their sizes.
    pub(super) ggufs: &'a [(String, Bytes)],
    /// Whether it was trained after pruning.
    pub(super) healed: bool,
}

impl Card<'_> {
    /// The text of `README.md`.
    pub(super) fn text(&self) -> String {
        let name = self.repo.rsplit('/').next().unwrap_or(self.repo);
        let mut text = self.front();
        let _ = write!(text, "\n# {name}\n\n{}\n", self.origin());
        text.push_str(&self.scores());
        text.push_str(&self.blocks());
        text.push_str(&self.loading());
        text.push_str(&self.verified());
        text.push_str(&self.making());
        text
    }

    /// The Hub's keys. Values are JSON strings, which YAML reads the same, whatever is in them.
    fn front(&self) -> String {
        let mut text = "---\n".to_owned();
        let mut key = |key: &str, value: Value| _ = writeln!(text, "{key}: {value}");
        if let Some(licence) = self.licence {
            key("license", json!(licence));
        }
        if let Some(parent) = self.parent().filter(|parent| parent.contains('/')) {
            key("base_model", json!(parent));
        }
        key("library_name", json!("transformers"));
        let task = if self.spec.image.is_some() { "image-classification" } else { "text-generation" };
        key("pipeline_tag", json!(task));
        let mut tags = vec!["taper", "pruned"];
        tags.extend(self.healed.then_some("distilled"));
        tags.extend((!self.ggufs.is_empty()).then_some("gguf"));
        key("tags", json!(tags));
        text + "---\n"
    }

    fn parent(&self) -> Option<&str> {
        self.lock["model"]["source"].as_str()
    }

    fn origin(&self) -> String {
        let count = Parameters(parameter_count(self.spec));
        let blocks = self.spec.blocks.len();
        let Some(parent) = self.parent() else { return format!("A model of {count} parameters in {blocks} blocks.") };
        let parent = match self.lock["model"]["revision"].as_str() {
            Some(revision) => format!("`{parent}` at `{revision}`"),
            None => format!("`{parent}`"),
        };
        let licence = match self.licence {
            Some(licence) => format!("Its licence is that of the model it was made from: `{licence}`."),
            None => {
                "Its licence is that of the model it was made from; it was not stated where taper looked.".to_owned()
            }
        };
        let healed = if self.healed { ", then trained to win back what was lost" } else { "" };
        let recipe = &self.lock["recipe"];
        let budget = recipe["budget"]["params"].as_str().map(str::to_owned);
        let budget =
            budget.or_else(|| recipe["budget"]["latency"].as_str().map(|latency| format!("{latency} of latency")));
        let budget = budget.map(|budget| format!(" The budget was {budget}")).unwrap_or_default();
        let counted = recipe["budget"]["counted"].as_str().map(|counted| format!(" ({counted})")).unwrap_or_default();
        let method = |key: &str| recipe["search"][key].as_object().and_then(|one| one.keys().next().cloned());
        let search = match (method("strategy"), method("proxy")) {
            (Some(strategy), Some(proxy)) => {
                format!("; what to keep was found by `{strategy}` with the proxy `{proxy}`")
            }
            _ => String::new(),
        };
        let end = if budget.is_empty() { "" } else { "." };
        let budget = if budget.is_empty() { String::new() } else { format!("{budget}{counted}{search}{end}") };
        format!("{parent}, pruned to {count} parameters in {blocks} blocks{healed}.{budget} {licence}")
    }

    fn scores(&self) -> String {
        let Some(eval) = self.eval else { return String::new() };
        if self.spec.image.is_some() {
            return classified(eval);
        }
        let mut text = format!("\n## Scores\n\nLoss in nats a token on {}.\n\n", file_name(&eval.text));
        text.push_str("| model | parameters | loss | perplexity |\n| --- | --- | --- | --- |\n");
        for row in &eval.rows {
            let (measured, count) = (&row.measured, row.costs.parameters);
            let error = plus(measured.standard_error, 4);
            let _ =
                writeln!(text, "| {} | {count} | {:.4}{error} | {:.3} |", row.name, measured.loss, measured.perplexity);
        }
        let Some(tasks) = &eval.tasks else { return text };
        text.push_str("\nBenchmarks, as lm-evaluation-harness has them; the difference with its 95% interval, documents resampled:\n\n");
        text.push_str(
            "| task | metric | original | this model | difference | kept |\n| --- | --- | --- | --- | --- | --- |\n",
        );
        for one in &tasks.against {
            let kept = one.recovery.map(|kept| format!("{:.1}%", 100.0 * kept)).unwrap_or_default();
            let ([low, high], metric) = (one.interval, one.metric.name());
            let difference = format!("{:+.4} ({low:+.4} to {high:+.4})", one.difference);
            let _ = writeln!(
                text,
                "| {} | {metric} | {:.4} | {:.4} | {difference} | {kept} |",
                one.task, one.original, one.value
            );
        }
        text
    }

    fn blocks(&self) -> String {
        let Some(kept) = self.kept else { return String::new() };
        let mut text = "\n## What was kept\n\n".to_owned();
        if self.whole.is_some() {
            text.push_str("![Query heads and MLP channels kept, by block](kept.svg)\n\n");
        }
        text.push_str("| block | query heads | KV heads | MLP channels |\n| --- | --- | --- | --- |\n");
        for (index, block) in kept.blocks.iter().enumerate() {
            let whole = self.whole.and_then(|whole| whole.blocks.get(index));
            let of = |kept: Option<usize>, whole: Option<usize>| {
                let kept = kept.map_or("–".to_owned(), |kept| kept.to_string());
                whole.map_or(kept.clone(), |whole| format!("{kept} of {whole}"))
            };
            let heads = |genes: &taper_arch::BlockGenes| genes.attention.as_ref().map(|a| a.heads_per_group * a.groups);
            let groups = |genes: &taper_arch::BlockGenes| genes.attention.as_ref().map(|a| a.groups);
            let channels = |genes: &taper_arch::BlockGenes| genes.mlp.as_ref().map(|m| m.channels);
            let heads = of(heads(block), whole.and_then(heads));
            let groups = of(groups(block), whole.and_then(groups));
            let channels = of(channels(block), whole.and_then(channels));
            let _ = writeln!(text, "| {index} | {heads} | {groups} | {channels} |");
        }
        text + "\n`kept_units.json` names the units by their numbers in the original.\n"
    }

    fn loading(&self) -> String {
        let loader = |target: Target| target.loader(self.spec, self.config);
        let remote = loader(Target::Transformers).is_ok_and(|loader| loader.contains("trust_remote_code"));
        let trust = if remote { ", trust_remote_code=True" } else { "" };
        if self.spec.image.is_some() {
            let own = self.config["architectures"][0].as_str().filter(|_| !remote);
            let class = own.unwrap_or("AutoModelForImageClassification");
            return format!(
                "\n## Loading\n\n```python\nfrom transformers import AutoImageProcessor, {class}\n\n\
                 model = {class}.from_pretrained(\"{0}\"{trust})\n\
                 processor = AutoImageProcessor.from_pretrained(\"{0}\")\n```\n\n\
                 For ONNX runtimes `taper export --to onnx` writes a graph.\n",
                self.repo
            );
        }
        let mut text = format!(
            "\n## Loading\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
             model = AutoModelForCausalLM.from_pretrained(\"{0}\"{trust})\n\
             tokenizer = AutoTokenizer.from_pretrained(\"{0}\")\n```\n",
            self.repo
        );
        match loader(Target::Vllm) {
            Ok(told) if told.contains("DeciLM") && self.spec.blocks.iter().all(|block| block.attention.is_some()) => {
                let told = "--model-impl transformers --trust-remote-code";
                let _ = write!(text, "\n```sh\nvllm serve {} {told}\n```\n", self.repo);
            }
            Ok(told) if told.contains("DeciLM") => text.push_str(
                "\nvLLM: its own folder, with the configuration of `DeciLMForCausalLM`, is what `taper export --to vllm` writes.\n",
            ),
            Ok(told) => {
                let flags = if told.starts_with("--") { format!(" {told}") } else { String::new() };
                let _ = write!(text, "\n```sh\nvllm serve {}{flags}\n```\n", self.repo);
            }
            Err(rule) => _ = write!(text, "\nvLLM: {rule}.\n"),
        }
        for (file, bytes) in self.ggufs {
            let _ = write!(text, "\n```sh\nllama-cli -hf {} -hff {file} # {bytes}\n```\n", self.repo);
        }
        text
    }

    fn verified(&self) -> String {
        if self.loaders.is_empty() {
            return String::new();
        }
        let mut text = "\n## Verified\n\nBy `taper verify`, against taper's own forward pass in f32.\n\n".to_owned();
        text.push_str("| engine | file | result |\n| --- | --- | --- |\n");
        for (index, one) in self.loaders.iter().enumerate() {
            let file = one.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let file = if index == 0 { "this checkpoint".to_owned() } else { format!("`{file}`") };
            let _ = writeln!(text, "| {} | {file} | {} |", one.engine, one.verdict);
        }
        text
    }

    fn making(&self) -> String {
        if self.lock.is_null() {
            return String::new();
        }
        let recipe = serde_json::to_string_pretty(&self.lock["recipe"]).unwrap_or_default();
        let version = self.lock["taper"].as_str().unwrap_or("?");
        format!(
            "\n## Making\n\nBy taper {version}; `taper.lock` names model, text and recipe with \
             their fingerprints.\n\n<details><summary>Recipe</summary>\n\n```json\n{recipe}\n```\n\n</details>\n"
        )
    }
}

fn plus(error: Option<f64>, digits: usize) -> String {
    error.map(|e| format!(" ± {e:.digits$}")).unwrap_or_default()
}

/// Scores of classifiers of images.
fn classified(eval: &Evaluation) -> String {
    let mut text = format!("\n## Scores\n\nOn {}; loss in nats an image.\n\n", file_name(&eval.text));
    text.push_str("| model | parameters | top-1 | top-5 | loss |\n| --- | --- | --- | --- | --- |\n");
    for row in &eval.rows {
        let Some(found) = &row.classified else { continue };
        let first = format!("{:.2}%{}", 100.0 * found.top1, plus(found.top1_error.map(|e| 100.0 * e), 2));
        let (name, count, fifth) = (&row.name, row.costs.parameters, 100.0 * found.top5);
        let loss = format!("{:.4}{}", found.loss, plus(found.loss_error, 4));
        let _ = writeln!(text, "| {name} | {count} | {first} | {fifth:.2}% | {loss} |");
    }
    text
}

/// What a text is called without the folders it lies in: `test split of /a/b.txt` is the test split of `b.txt`.
fn file_name(text: &str) -> String {
    let (before, path) = text.strip_prefix(SPLIT).map_or(("", text), |path| ("the test split of ", path));
    format!("{before}`{}`", path.rsplit(['/', '\\']).next().unwrap_or(path))
}
