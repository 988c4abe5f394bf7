//! The length of source files: what no longer fits one reading is cut at its joints.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// The most lines a source file may have.
const LIMIT: usize = 400;

/// What counts as a source file, by extension.
const SOURCES: [&str; 3] = ["cu", "py", "rs"];

/// One line for each source file under `root` that is longer than the limit, sorted by path.
///
/// Folders of build and run output, hidden ones and Python environments are passed over; links are not followed.
///
/// # Errors
/// A file or folder that cannot be read, by its path.
pub(crate) fn too_long(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let mut found = Vec::new();
    for path in files {
        let lines = lines(&fs::read(&path).with_context(|| path.display().to_string())?);
        if lines > LIMIT {
            let shown = path.strip_prefix(root).unwrap_or(&path).display();
            found.push(format!("{shown}: {lines} lines, {LIMIT} are the most"));
        }
    }
    Ok(found)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let at = || folder.display().to_string();
    for entry in fs::read_dir(folder).with_context(at)? {
        let entry = entry.with_context(at)?;
        let (path, kind) = (entry.path(), entry.file_type().with_context(at)?);
        if kind.is_dir() && !is_passed_over(&path) {
            collect(&path, files)?;
        } else if kind.is_file() && path.extension().is_some_and(|found| SOURCES.iter().any(|source| found == *source))
        {
            files.push(path);
        }
    }
    Ok(())
}

fn is_passed_over(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    matches!(&*name, "target" | "runs") || name.starts_with('.') || folder.join("pyvenv.cfg").is_file()
}

/// Lines of a file, the last one with or without its line end.
fn lines(bytes: &[u8]) -> usize {
    bytes.split_inclusive(|&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use taper_base::files;

    fn tree(sources: &[(&str, usize)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, lines) in sources {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            files::write(&path, "x\n".repeat(*lines).as_bytes()).unwrap();
        }
        root
    }

    #[test]
    fn only_files_over_the_limit_are_named_sorted_and_with_their_length() {
        let root =
            tree(&[("scripts/b.py", 402), ("crates/a/src/long.rs", 401), ("kernels/fits.cu", 400), ("notes.md", 900)]);
        let expected =
            ["crates/a/src/long.rs: 401 lines, 400 are the most", "scripts/b.py: 402 lines, 400 are the most"];
        assert_eq!(too_long(root.path()).unwrap(), expected);
    }

    #[test]
    fn output_hidden_folders_and_python_environments_are_passed_over() {
        let root = tree(&[
            ("target/a.rs", 401),
            ("runs/a.rs", 401),
            (".git/a.rs", 401),
            ("venv/a.py", 401),
            ("venv/pyvenv.cfg", 1),
        ]);
        assert_eq!(too_long(root.path()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_last_line_without_its_end_counts() {
        assert_eq!([lines(b""), lines(b"a"), lines(b"a\n"), lines(b"a\n\nb")], [0, 1, 1, 3]);
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_an_error_that_names_it() {
        let missing = tempfile::tempdir().unwrap().path().join("missing");
        assert!(format!("{:#}", too_long(&missing).unwrap_err()).starts_with(&missing.display().to_string()));
    }
}
