//! A task as its file says it: the keys are those of lm-evaluation-harness, without the ones that name Python code.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A task: where documents come from, how each becomes a prompt, what is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Its name, also that of its folder.
    pub task: String,
    /// Its name in tables, if another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_alias: Option<String>,
    /// One line for `taper tasks`.
    pub summary: String,
    /// The dataset on the Hub.
    pub dataset_path: String,
    /// Its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_name: Option<String>,
    /// Branch, tag or commit.
    pub dataset_revision: String,
    /// The licence of the data.
    pub licence: String,
    /// Files of each split in the dataset's repository.
    pub dataset_files: BTreeMap<String, Vec<String>>,
    /// Folder of `--data` that holds `<split>.jsonl`; by default the task's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_folder: Option<String>,
    /// Only documents with these values are of the task.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dataset_where: BTreeMap<String, Value>,
    /// What is asked of the model.
    pub output_type: OutputType,
    /// Split to take shots from, before others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_split: Option<String>,
    /// Split that is evaluated if there is no test split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_split: Option<String>,
    /// Split that is evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_split: Option<String>,
    /// Split to take shots from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fewshot_split: Option<String>,
    /// How shots are chosen.
    #[serde(default)]
    pub fewshot_config: FewshotConfig,
    /// Fields to add to each document, in the order of their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub process_docs: BTreeMap<String, String>,
    /// What stands before all shots.
    #[serde(default)]
    pub description: String,
    /// The prompt; a number is the choice that is right where the choices are prompts.
    #[serde(default)]
    pub doc_to_text: String,
    /// The answer: a text, or the number of a choice.
    pub doc_to_target: Target,
    /// What each answer begins with; under a chat template, in the model's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gen_prefix: Option<String>,
    /// The choices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doc_to_choice: Option<Choices>,
    /// The text whose words and bytes a perplexity is per; by default the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doc_to_count: Option<String>,
    /// Between prompt and answer.
    #[serde(default = "space")]
    pub target_delimiter: String,
    /// Between shots.
    #[serde(default = "empty_line")]
    pub fewshot_delimiter: String,
    /// Shots, unless said otherwise; 0 cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_fewshot: Option<usize>,
    /// How text is generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation_kwargs: Option<Generation>,
    /// Ways to find the answer in what was generated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filter_list: Vec<FilterPipeline>,
    /// What is measured.
    pub metric_list: Vec<MetricSpec>,
    /// Version.
    pub metadata: Metadata,
    /// Tasks that differ in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variants: Option<Variants>,
}

fn space() -> String {
    " ".to_owned()
}

fn empty_line() -> String {
    "\n\n".to_owned()
}

/// What is asked of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputType {
    /// The likelihood of each choice.
    MultipleChoice,
    /// The likelihood of the target.
    Loglikelihood,
    /// The likelihood of a whole text.
    LoglikelihoodRolling,
    /// Text.
    GenerateUntil,
}

/// How shots are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FewshotConfig {
    /// By which rule.
    #[serde(default)]
    pub sampler: Sampler,
}

/// Which documents are shots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampler {
    /// Others for each document, drawn by Python's `random.sample`.
    #[default]
    Default,
    /// The first of the split.
    FirstN,
}

/// The answer of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "the number of a choice, or a template")]
pub enum Target {
    /// Always the same choice.
    Choice(usize),
    /// A template, or the name of a field.
    Template(String),
}

/// The choices of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a list of texts, or a template of one")]
pub enum Choices {
    /// Always the same.
    Fixed(Vec<String>),
    /// A template, or the name of a field.
    Template(String),
}

/// How text is generated: greedily.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Texts that end it.
    pub until: Vec<String>,
    /// Tokens at most.
    #[serde(default = "most_tokens")]
    pub max_gen_toks: usize,
    /// Only `false`.
    #[serde(default)]
    pub do_sample: bool,
    /// Only 0.
    #[serde(default)]
    pub temperature: f64,
}

fn most_tokens() -> usize {
    256
}

/// One way to find the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterPipeline {
    /// Its name in results.
    pub name: String,
    /// Steps in order.
    pub filter: Vec<FilterSpec>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "function", rename_all = "snake_case", deny_unknown_fields)]
pub enum FilterSpec {
    /// A match of a regular expression.
    Regex {
        /// The expression.
        regex_pattern: String,
        /// Which match, from the end if negative.
        #[serde(default)]
        group_select: i64,
        /// What stands for no match.
        #[serde(default = "fallback")]
        fallback: String,
    },
    /// The first answer of several.
    TakeFirst {},
}

fn fallback() -> String {
    "[invalid]".to_owned()
}

/// A metric, and how it counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricSpec {
    /// Which.
    pub metric: Metric,
    /// As the metric says; written for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregation: Option<Aggregation>,
    /// As the metric says; written for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub higher_is_better: Option<bool>,
    /// `exact_match`: upper and lower case are the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore_case: bool,
    /// `exact_match`: ASCII punctuation is left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore_punctuation: bool,
    /// `exact_match`: what is left out before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regexes_to_ignore: Vec<String>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Whether the likeliest choice is right, or the target the likeliest text.
    Acc,
    /// As `acc`, likelihoods per character.
    AccNorm,
    /// As `acc`, likelihoods per byte.
    AccBytes,
    /// Of targets.
    Perplexity,
    /// Of texts, per word.
    WordPerplexity,
    /// Of texts, per byte.
    BytePerplexity,
    /// Of texts.
    BitsPerByte,
    /// Whether the answer found is the target.
    ExactMatch,
}

/// How documents' values become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// `Σ x / n`.
    Mean,
    /// `exp(−Σ x / n)`.
    Perplexity,
    /// `exp(−Σ x / Σ w)`.
    WeightedPerplexity,
    /// `−Σ x / Σ w / ln 2`.
    BitsPerByte,
}

/// What identifies a task's results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Raised whenever a prompt or a metric changes.
    pub version: f64,
}

/// Tasks that differ in one word: each is named `<task>_<word>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variants {
    /// The field that holds the word in each document.
    pub field: String,
    /// The words of each group.
    pub groups: BTreeMap<String, Vec<String>>,
}

/// Several tasks under one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its name.
    pub group: String,
    /// One line for `taper tasks`.
    #[serde(default)]
    pub summary: String,
    /// Tasks and groups.
    pub task: Vec<String>,
    /// Metrics to give for all together, each task by its number of documents.
    #[serde(default)]
    pub aggregate_metric_list: Vec<Metric>,
    /// Version.
    pub metadata: Metadata,
}

impl Metric {
    /// As results call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::AccBytes => "acc_bytes",
            Self::Perplexity => "perplexity",
            Self::WordPerplexity => "word_perplexity",
            Self::BytePerplexity => "byte_perplexity",
            Self::BitsPerByte => "bits_per_byte",
            Self::ExactMatch => "exact_match",
        }
    }

    /// How documents' values become one.
    pub fn aggregation(self) -> Aggregation {
        match self {
            Self::Acc | Self::AccNorm | Self::AccBytes | Self::ExactMatch => Aggregation::Mean,
            Self::Perplexity => Aggregation::Perplexity,
            Self::WordPerplexity | Self::BytePerplexity => Aggregation::WeightedPerplexity,
            Self::BitsPerByte => Aggregation::BitsPerByte,
        }
    }

    /// Whether more is better.
    pub fn higher_is_better(self) -> bool {
        self.aggregation() == Aggregation::Mean
    }

    /// What must be asked of the model for it.
    pub fn is_of(self, output: OutputType) -> bool {
        match self {
            Self::Acc => matches!(output, OutputType::MultipleChoice | OutputType::Loglikelihood),
            Self::AccNorm | Self::AccBytes => output == OutputType::MultipleChoice,
            Self::Perplexity => output == OutputType::Loglikelihood,
            Self::WordPerplexity | Self::BytePerplexity | Self::BitsPerByte => {
                output == OutputType::LoglikelihoodRolling
            }
            Self::ExactMatch => output == OutputType::GenerateUntil,
        }
    }
}

impl Task {
    /// The split that is evaluated.
    pub fn evaluated_split(&self) -> Option<&str> {
        self.test_split.as_deref().or(self.validation_split.as_deref())
    }

    /// The split that shots are from.
    pub fn shots_split(&self) -> Option<&str> {
        let splits = [&self.fewshot_split, &self.training_split, &self.validation_split, &self.test_split];
        splits.into_iter().find_map(|split| split.as_deref())
    }

    /// Whether a document may be among those its own shots are drawn from, as lm-evaluation-harness decides it.
    pub fn shots_leave_out_the_document(&self) -> bool {
        self.fewshot_split == self.test_split
    }

    /// Shots, if `asked` for: a task that says 0 has none.
    pub fn shots(&self, asked: Option<usize>) -> usize {
        match (self.num_fewshot, asked) {
            (Some(0), _) => 0,
            (own, asked) => asked.or(own).unwrap_or(0),
        }
    }
}
