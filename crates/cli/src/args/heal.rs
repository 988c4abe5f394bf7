//! `taper heal`.

use std::path::PathBuf;

use taper_pipeline::recipe::Device;

#[derive(Debug, clap::Args)]
pub(crate) struct HealArgs {
    /// The pruned model: Hub id, id@revision or folder.
    pub(crate) model: String,
    /// The model it was cut from: Hub id, id@revision or folder.
    #[arg(long, value_name = "MODEL")]
    pub(crate) teacher: Option<String>,
    /// Text to train on: .txt (documents between empty lines), .jsonl or .parquet (field `text`), or a folder. Repeatable.
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Vec<PathBuf>,
    /// Images to train a classifier on: a folder (one a class, or labels.csv), .parquet, .safetensors or .csv. Repeatable.
    #[arg(long, value_name = "PATH", conflicts_with = "data")]
    pub(crate) images: Vec<PathBuf>,
    /// The .jsonl field or .parquet column that holds the text.
    #[arg(long, default_value = "text")]
    pub(crate) field: String,
    /// What stands between two documents of a .txt file; by default an empty line.
    #[arg(long, value_name = "TEXT")]
    pub(crate) separator: Option<String>,
    /// Text, or images, to look at on the way, instead of 5% of the documents or images. Documents that it holds are not trained
    /// on.
    #[arg(long, value_name = "PATH")]
    pub(crate) validation: Option<PathBuf>,
    /// Folder for the result (in heal/) and for progress (heal.work/); by default the model's name and `-healed`.
    #[arg(long, short, value_name = "FOLDER")]
    pub(crate) out: Option<PathBuf>,
    /// Steps.
    #[arg(long)]
    pub(crate) steps: Option<u64>,
    /// Learning rate at its peak.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Sequences, or images, a step.
    #[arg(long)]
    pub(crate) sequences: Option<usize>,
    /// Tokens a sequence; by default 512, or the model's context if that is shorter.
    #[arg(long)]
    pub(crate) length: Option<usize>,
    /// YAML file with the keys of a recipe's `heal` section.
    #[arg(long, value_name = "FILE")]
    pub(crate) settings: Option<PathBuf>,
    /// One key of a recipe's `heal` section, over what --settings says. Repeatable.
    ///
    /// E.g. --set 'objectives=[{logit-kl: {temperature: 2}}, cross-entropy]' --set 'lora={rank: 16}'
    #[arg(long, value_name = "KEY=YAML")]
    pub(crate) set: Vec<String>,
    /// Which of the teacher's blocks each of the model's was, if blocks are missing and no kept_units.json says so.
    #[arg(long, value_name = "BLOCKS", value_delimiter = ',')]
    pub(crate) origin: Option<Vec<usize>>,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Go on with a training that was begun; without one that is an error. (A begun one goes on in any case.)
    #[arg(long, conflicts_with = "fresh")]
    pub(crate) resume: bool,
    /// Throw away what an earlier training left in the folder.
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Worker threads; by default `RAYON_NUM_THREADS`, or one a core. The result does not depend on it.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Where passes run: auto takes the first GPU if there is one that this build can use, and says so.
    #[arg(long, value_enum, default_value_t = On::Auto)]
    pub(crate) device: On,
}

/// Where to compute.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum On {
    Auto,
    Cpu,
    Cuda,
}

impl From<On> for Device {
    fn from(on: On) -> Self {
        match on {
            On::Auto => Self::Auto,
            On::Cpu => Self::Cpu,
            On::Cuda => Self::Cuda,
        }
    }
}
