//! What tests share: real data if there is any, and never a silent pass.
//!
//! Tests with real models live in a target with `harness = false` whose `main` is [`real_data_tests!`]. Without the
//! folder of `TAPER_TEST_DATA` they are reported as ignored; asked for all the same (`--ignored`,
//! `--include-ignored`), they fail.

#[cfg(feature = "hub")]
pub mod hub;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// The environment variable that names the folder of real models, text and reference values.
pub const DATA_VARIABLE: &str = "TAPER_TEST_DATA";

/// A test that needs real data: panics if it fails, and is given the data folder.
pub type RealDataTest = fn(&Path);

/// The folder of real data, `None` if `TAPER_TEST_DATA` is unset or empty. A relative path starts at the workspace root.
///
/// # Panics
/// If the variable names something that is not a folder: a typing error must not turn tests into ignored ones.
#[must_use]
pub fn data_dir() -> Option<PathBuf> {
    resolve(std::env::var_os(DATA_VARIABLE).map(PathBuf::from))
}

fn resolve(variable: Option<PathBuf>) -> Option<PathBuf> {
    let given = variable.filter(|path| !path.as_os_str().is_empty())?;
    let folder = workspace_root().join(&given);
    assert!(folder.is_dir(), "{DATA_VARIABLE} is `{}`, but {} is not a folder", given.display(), folder.display());
    Some(folder)
}

/// The folder that holds the workspace's `Cargo.toml`.
///
/// # Panics
/// If the workspace has moved since this crate was compiled.
#[must_use]
pub fn workspace_root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap_or_else(|cause| panic!("workspace root {}: {cause}", root.display()))
}

/// The folder of small models with PyTorch's values, one folder each: `crates/model/golden`, or what `TAPER_GOLDEN` names where
/// the tests run without the workspace.
///
/// # Panics
/// If the workspace has moved since this crate was compiled.
#[must_use]
pub fn golden() -> PathBuf {
    std::env::var_os("TAPER_GOLDEN").map_or_else(|| workspace_root().join("crates/model/golden"), PathBuf::from)
}

/// The language models in the data folder, each in `models/<name>`: two Llamas, a Qwen2 and a Qwen3.
#[must_use]
pub const fn models() -> [&'static str; 4] {
    ["stories260k", "llama-ts-wiki-7.9m", "qwen2-ts-5.6m", "qwen3-ts-3.2m"]
}

/// `fn main` of a test target with `harness = false`; each name is a [`RealDataTest`].
///
/// ```no_run
/// fn logits_agree(data: &std::path::Path) {
///     assert!(data.join("models").is_dir());
/// }
/// testkit::real_data_tests!(logits_agree);
/// ```
#[macro_export]
macro_rules! real_data_tests {
    ($($test:path),+ $(,)?) => {
        fn main() -> ::std::process::ExitCode {
            $crate::run_real_data_tests(&[$((stringify!($test), $test)),+])
        }
    };
}

/// Runs `tests` as the command line says; what [`real_data_tests!`] expands to.
///
/// # Panics
/// If `TAPER_TEST_DATA` names no folder.
#[must_use]
pub fn run_real_data_tests(tests: &[(&str, RealDataTest)]) -> ExitCode {
    libtest_mimic::run(&Arguments::from_args(), trials(data_dir().as_deref(), tests)).exit_code()
}

fn trials(data: Option<&Path>, tests: &[(&str, RealDataTest)]) -> Vec<Trial> {
    let trial = |&(name, test): &(&str, RealDataTest)| {
        let folder = data.map(Path::to_path_buf);
        let run = move || match &folder {
            Some(folder) => {
                test(folder);
                Ok(())
            }
            None => Err(format!("{DATA_VARIABLE} is not set, so there is no data to test with").into()),
        };
        Trial::test(name, run).with_ignored_flag(data.is_none())
    };
    tests.iter().map(trial).collect()
}

/// The methods that the files of `folder` (relative to the crate's `manifest_dir`) stand for, sorted.
///
/// `gradient_trace.rs` is `gradient-trace`, and so is `gradient_trace/mod.rs`; the folder's own `mod.rs`, `tests.rs` and
/// `*_tests.rs` are no methods.
///
/// # Panics
/// If the folder cannot be read, or holds no method.
#[must_use]
pub fn method_files(manifest_dir: &str, folder: &str) -> Vec<String> {
    let folder = Path::new(manifest_dir).join(folder);
    let fail = |cause: std::io::Error| -> ! { panic!("methods in {}: {cause}", folder.display()) };
    let entries = fs::read_dir(&folder).unwrap_or_else(|cause| fail(cause));
    let paths = entries.map(|entry| entry.map(|entry| entry.path()).unwrap_or_else(|cause| fail(cause)));
    let mut names: Vec<String> = paths.filter_map(|path| method_name(&path, path.join("mod.rs").is_file())).collect();
    names.sort();
    assert!(!names.is_empty(), "no method in {}", folder.display());
    names
}

fn method_name(path: &Path, is_module_folder: bool) -> Option<String> {
    let is_source = path.extension().is_some_and(|extension| extension == "rs");
    let stem = path.file_stem()?.to_str()?;
    let is_test = stem == "tests" || stem.ends_with("_tests");
    ((is_source || is_module_folder) && stem != "mod" && !is_test).then(|| stem.replace('_', "-"))
}

/// `max_i |a_i - b_i|`, infinite where a value that is not a number meets another.
///
/// # Panics
/// If the lengths differ or there is nothing to compare.
#[must_use]
#[track_caller]
pub fn max_abs_diff<A: Copy + Into<f64>, B: Copy + Into<f64>>(a: &[A], b: &[B]) -> f64 {
    differences(a, b).into_iter().fold(0.0, f64::max)
}

/// `‖a - reference‖₂ / ‖reference‖₂`; 0 if both are zero, infinite if only the reference is or if a difference is not a number.
///
/// # Panics
/// If the lengths differ or there is nothing to compare.
#[must_use]
#[track_caller]
pub fn relative_difference<A: Copy + Into<f64>, B: Copy + Into<f64>>(a: &[A], reference: &[B]) -> f64 {
    let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let difference = norm(&differences(a, reference));
    let scale = norm(&reference.iter().map(|&value| value.into()).collect::<Vec<f64>>());
    match difference {
        0.0 => 0.0,
        _ if difference.is_infinite() => f64::INFINITY,
        _ => difference / scale,
    }
}

/// `|a_i - b_i|`, infinite instead of NaN so that no maximum or sum drops it.
#[track_caller]
fn differences<A: Copy + Into<f64>, B: Copy + Into<f64>>(a: &[A], b: &[B]) -> Vec<f64> {
    assert_eq!(a.len(), b.len(), "the two sides differ in length");
    assert!(!a.is_empty(), "there is nothing to compare");
    let pairs = a.iter().zip(b).map(|(&a, &b)| (a.into(), b.into()));
    let difference = |(a, b): (f64, f64)| if a == b { 0.0 } else { (a - b).abs() };
    pairs.map(difference).map(|value| if value.is_nan() { f64::INFINITY } else { value }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use libtest_mimic::Conclusion;

    fn passes(_: &Path) {}
    fn panics(_: &Path) {
        std::panic::resume_unwind(Box::new("on purpose, and without the hook's message"));
    }

    /// What a target of two tests, one of them failing, comes to; its output is kept out of this one's.
    fn conclude(data: Option<&Path>, flag: Option<&str>) -> Conclusion {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut arguments = Arguments::from_iter(["test"].into_iter().chain(flag));
        arguments.logfile = Some(log.path().to_str().unwrap().to_owned());
        libtest_mimic::run(&arguments, trials(data, &[("passes", passes), ("panics", panics)]))
    }

    #[test]
    fn without_data_a_test_is_ignored_and_never_passed() {
        let conclusion = conclude(None, None);
        assert_eq!((conclusion.num_ignored, conclusion.num_passed, conclusion.num_failed), (2, 0, 0));
    }

    #[test]
    fn without_data_a_test_asked_for_fails() {
        for flag in ["--ignored", "--include-ignored"] {
            let conclusion = conclude(None, Some(flag));
            assert_eq!((conclusion.num_ignored, conclusion.num_passed, conclusion.num_failed), (0, 0, 2), "{flag}");
        }
    }

    #[test]
    fn with_data_a_test_passes_or_panics_by_what_it_does() {
        let conclusion = conclude(Some(Path::new("/")), None);
        assert_eq!((conclusion.num_ignored, conclusion.num_passed, conclusion.num_failed), (0, 1, 1));
    }

    #[test]
    fn the_data_folder_is_relative_to_the_workspace_and_none_if_unset_or_empty() {
        assert_eq!(resolve(Some("crates/testkit".into())), Some(workspace_root().join("crates/testkit")));
        assert_eq!(resolve(None), None);
        assert_eq!(resolve(Some(PathBuf::new())), None);
    }

    #[test]
    #[should_panic(expected = "TAPER_TEST_DATA is `no/such`, but ")]
    fn a_data_folder_that_is_missing_is_an_error() {
        resolve(Some("no/such".into()));
    }

    #[test]
    fn a_method_is_named_by_its_file_or_folder_in_kebab_case() {
        let name = |file: &str, is_module_folder| method_name(Path::new(file), is_module_folder);
        assert_eq!(name("a/gradient_trace.rs", false), Some("gradient-trace".to_owned()));
        assert_eq!(name("a/gradient_trace", true), Some("gradient-trace".to_owned()));
        for other in ["a/mod.rs", "a/tests.rs", "a/loss_tests.rs", "a/notes.md", "a/golden"] {
            assert_eq!(name(other, false), None, "{other}");
        }
        assert_eq!(method_files(env!("CARGO_MANIFEST_DIR"), "src"), ["hub", "lib"]);
    }

    #[test]
    #[should_panic(expected = "no method in ")]
    fn a_folder_without_methods_is_an_error() {
        let _ = method_files(env!("CARGO_MANIFEST_DIR"), ".");
    }

    #[test]
    fn differences_match_hand_computed_values() {
        assert_eq!(max_abs_diff(&[1.0_f32, -2.0, 3.0], &[1.0_f64, 2.0, 2.5]), 4.0);
        assert_eq!(max_abs_diff(&[f64::NEG_INFINITY], &[f64::NEG_INFINITY]), 0.0);
        assert_eq!(relative_difference(&[3.0, 8.0], &[3.0, 4.0]), 0.8); // ‖[0, 4]‖ / ‖[3, 4]‖
        assert_eq!(relative_difference(&[0.0], &[0.0]), 0.0);
    }

    #[test]
    fn a_value_that_is_not_a_number_is_infinitely_far() {
        assert_eq!(max_abs_diff(&[f32::NAN, 0.0], &[f32::NAN, 0.0]), f64::INFINITY);
        assert_eq!(relative_difference(&[1.0], &[f64::NAN]), f64::INFINITY);
        assert_eq!(relative_difference(&[1.0], &[f64::INFINITY]), f64::INFINITY);
        assert_eq!(relative_difference(&[1.0], &[0.0]), f64::INFINITY);
    }

    #[test]
    #[should_panic(expected = "the two sides differ in length")]
    fn sides_of_different_length_are_not_compared() {
        let _ = max_abs_diff(&[1.0, 2.0], &[1.0]);
    }

    #[test]
    #[should_panic(expected = "there is nothing to compare")]
    fn empty_sides_prove_nothing() {
        let _ = relative_difference::<f32, f32>(&[], &[]);
    }
}
