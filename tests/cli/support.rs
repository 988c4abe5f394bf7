//! A folder with a tiny recipe to play in, and what a run left behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

/// Every stage in well under a second.
pub const RECIPE: &str = "\
version: 1
model: ./model
data:
  text: ./text.txt
  shares: { calibration: 0.6, validation: 0.1, test: 0.3 }
  sequences: 2
  length: 32
budget: { params: 70%, tolerance: 2% }
space: { channels_multiple: 16 }
search:
  strategy: { evolution: { population: 6, elites: 2, generations: 3 } }
  proxy: { gradient-trace: { sketch_rank: 8 } }
eval: { window: 64, random: 1 }
";

/// How much of the demo's text: enough documents for every split.
const TEXT: usize = 6000;

/// `taper` in `dir`, with nothing of the caller's environment that could change what it says.
pub fn taper(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taper"));
    command.current_dir(dir).args(args);
    for variable in ["RAYON_NUM_THREADS", "TAPER_LOG", "HF_TOKEN", "HF_ENDPOINT", "CLICOLOR_FORCE", "RUST_BACKTRACE"] {
        command.env_remove(variable);
    }
    command
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", "hf-home")
        .env("TAPER_EVAL_STORE", "answers.db")
        .env("COLUMNS", "100")
        .env("NO_COLOR", "1");
    command
}

pub fn demo_model() -> PathBuf {
    testkit::workspace_root().join("recipes/demo/model")
}

/// A temporary folder with `tiny.yaml`, `text.txt` and the demo model as `model`.
pub struct Place {
    dir: TempDir,
}

impl Place {
    /// The model is a link: for tests that only read it.
    pub fn new() -> Self {
        let place = Self::without_model();
        std::os::unix::fs::symlink(demo_model(), place.path("model")).unwrap();
        place
    }

    /// The model is a copy that may be damaged.
    pub fn with_own_model() -> Self {
        let place = Self::without_model();
        fs::create_dir(place.path("model")).unwrap();
        for entry in fs::read_dir(demo_model()).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, place.path("model").join(path.file_name().unwrap())).unwrap();
        }
        place
    }

    fn without_model() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        let text = fs::read(testkit::workspace_root().join("recipes/demo/text.txt")).unwrap();
        place.write("text.txt", &text[..TEXT]);
        place.write("tiny.yaml", RECIPE.as_bytes());
        place
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        #[expect(clippy::disallowed_methods, reason = "hundreds of files that nobody else reads need no sync")]
        fs::write(self.path(name), bytes).unwrap();
    }

    /// The recipe with `from` replaced by `to`, as `tiny.yaml`.
    pub fn change(&self, from: &str, to: &str) {
        assert!(RECIPE.contains(from), "{from}");
        self.write("tiny.yaml", RECIPE.replacen(from, to, 1).as_bytes());
    }

    pub fn taper(&self, args: &[&str]) -> Command {
        taper(self.dir(), args)
    }

    pub fn output(&self, args: &[&str]) -> Output {
        self.taper(args).output().unwrap()
    }

    /// Runs and wants exit code 0.
    #[track_caller]
    pub fn done(&self, args: &[&str]) -> Output {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        output
    }
}

/// Output for messages.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A row of `trials.db`: everything but the row number and the seconds.
pub type Row = (String, String, String, String, String, Option<String>, Vec<(String, i64)>);

/// What a run left: every result file, and every trial with the seconds that its scoring took.
#[derive(Debug, PartialEq)]
pub struct Results {
    pub files: BTreeMap<String, Vec<u8>>,
    pub trials: BTreeMap<Row, f64>,
}

impl Results {
    pub fn of(run: &Path) -> Self {
        let mut files = BTreeMap::new();
        collect(run, run, &mut files);
        files.retain(|name, _| name != ".lock" && name != "load.json" && !name.starts_with("trials.db"));
        Self { files, trials: trials(&run.join("trials.db")) }
    }

    /// The trials without their times.
    pub fn rows(&self) -> Vec<&Row> {
        self.trials.keys().collect()
    }

    /// Fails unless files and trials are those of `other`.
    #[track_caller]
    pub fn assert_same(&self, other: &Self, what: &str) {
        assert_eq!(self.files.keys().collect::<Vec<_>>(), other.files.keys().collect::<Vec<_>>(), "{what}");
        for (name, bytes) in &self.files {
            assert!(*bytes == other.files[name], "{what}: {name} differs");
        }
        assert_eq!(self.rows(), other.rows(), "{what}");
    }
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            files.insert(path.strip_prefix(root).unwrap().display().to_string(), fs::read(&path).unwrap());
        }
    }
}

/// All trials; none if there is no database yet. Fails if an architecture stands there twice.
pub fn trials(path: &Path) -> BTreeMap<Row, f64> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE; // a reader has to recover what a kill left in the log
    let Ok(db) = Connection::open_with_flags(path, flags) else { return BTreeMap::new() };
    let query = "SELECT scoring, architecture, genome, costs, provenance, failure, id, seconds FROM trials";
    let Ok(mut statement) = db.prepare(query) else { return BTreeMap::new() }; // killed before the tables were made
    let mut scores = db.prepare("SELECT proxy, bits FROM scores WHERE trial = ?1 ORDER BY proxy").unwrap();
    let mut found = BTreeMap::new();
    let mut rows = statement.query(()).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let get = |column| row.get::<_, String>(column).unwrap();
        let scores = scores.query_map([row.get::<_, i64>(6).unwrap()], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let scores = scores.map(Result::unwrap).collect();
        let key = (get(0), get(1), get(2), get(3), get(4), row.get(5).unwrap(), scores);
        found.insert(key, row.get(7).unwrap());
    }
    let mut names: Vec<_> = found.keys().map(|row: &Row| (&row.0, &row.1)).collect();
    names.sort();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "an architecture was scored twice");
    found
}

/// What a run of the tiny recipe leaves if nobody disturbs it.
pub fn undisturbed() -> &'static Results {
    static RESULTS: OnceLock<Results> = OnceLock::new();
    RESULTS.get_or_init(|| {
        let place = Place::new();
        place.done(&["run", "tiny.yaml"]);
        let results = Results::of(&place.path("runs/tiny"));
        assert_eq!(results.trials.len(), 18);
        results
    })
}

/// How a command took damaged input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Exit code 2 and a message.
    Refused,
    /// Exit code 0.
    Harmless,
}

/// Runs `command`; fails if it ends in any other way than it may, or if a refusal names none of the files `at`.
#[track_caller]
pub fn verdict(mut command: Command, at: &[&str]) -> Verdict {
    let output = command.env("TAPER_LOG", "off").output().unwrap();
    let stderr = text(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    match output.status.code() {
        Some(0) => Verdict::Harmless,
        Some(2) => {
            assert!(stderr.starts_with("error: "), "{stderr}");
            assert!(at.iter().any(|name| stderr.contains(name)), "wanted one of {at:?} in: {stderr}");
            assert_eq!(text(&output.stdout), "", "a failure prints nothing on stdout");
            Verdict::Refused
        }
        _ => panic!("{}: {stderr}", output.status),
    }
}
