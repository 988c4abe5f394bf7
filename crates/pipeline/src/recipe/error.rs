//! What is wrong with a recipe, and where.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a recipe cannot be used. [`RecipeError::Invalid`] shows as `path:line:column`, its source says what is wrong there.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The recipe.
        path: PathBuf,
        /// What the file system says.
        source: io::Error,
    },
    /// The file is far larger than any recipe.
    #[error("{}: larger than 1 MiB, so not a recipe", path.display())]
    TooLarge {
        /// The recipe.
        path: PathBuf,
    },
    /// The file is not UTF-8 text.
    #[error("{}:{line}: not UTF-8 text", path.display())]
    NotText {
        /// The recipe.
        path: PathBuf,
        /// The line of the first byte that is none.
        line: usize,
        /// Where exactly.
        source: std::str::Utf8Error,
    },
    /// The text is not a valid recipe.
    #[error("{}{}: not a valid recipe", path.display(), Suffix(*place))]
    Invalid {
        /// The recipe.
        path: PathBuf,
        /// Where in it; `None` if the file as a whole is meant.
        place: Option<Place>,
        /// What is wrong there.
        #[source]
        fault: Fault,
    },
}

impl RecipeError {
    /// Where in the file, if known.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::Invalid { place, .. } => *place,
            Self::NotText { line, .. } => Some(Place { line: *line, column: 1 }),
            Self::Read { .. } | Self::TooLarge { .. } => None,
        }
    }
}

/// A place in a text, counted from 1; columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Character in the line.
    pub column: usize,
}

/// `:line:column`, or nothing.
struct Suffix(Option<Place>);

impl fmt::Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |place| write!(f, ":{}:{}", place.line, place.column))
    }
}

/// What is wrong, with the line in question and a caret below it.
#[derive(Debug, thiserror::Error)]
#[error("{reason}{snippet}")]
pub struct Fault {
    /// What is wrong, without the place.
    pub reason: String,
    /// The line in question on lines of its own; empty if there is none to show.
    snippet: String,
}

/// The text being parsed.
pub(super) struct Source<'a> {
    pub path: &'a Path,
    pub text: &'a str,
}

impl Source<'_> {
    /// The error for `reason` at `place`.
    pub fn fault(&self, place: Option<Place>, reason: String) -> RecipeError {
        let snippet = place.and_then(|place| snippet(self.text, place)).unwrap_or_default();
        RecipeError::Invalid { path: self.path.to_owned(), place, fault: Fault { reason, snippet } }
    }
}

/// Characters shown of a line.
const SHOWN: usize = 96;

/// The line at `place` and a caret below the column; long lines are cropped around it.
fn snippet(text: &str, place: Place) -> Option<String> {
    let line = text.lines().nth(place.line.checked_sub(1)?)?;
    let at = place.column.saturating_sub(1);
    let first = if at < SHOWN { 0 } else { at - SHOWN / 2 };
    let shown = line.chars().skip(first).take(SHOWN).map(|c| if c.is_control() { ' ' } else { c });
    let shown: String = shown.collect();
    let (number, gap) = (place.line.to_string(), " ".repeat(place.line.to_string().len()));
    let caret = format!("{}^", " ".repeat(at - first));
    Some(format!("\n{gap} |\n{number} | {}\n{gap} | {caret}", shown.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snippet_points_at_its_column() {
        let show = |text: &str, line, column| snippet(text, Place { line, column });
        assert_eq!(show("a\nbc: d\n", 2, 5).unwrap(), "\n  |\n2 | bc: d\n  |     ^");
        assert_eq!(show("a", 2, 1), None);
        assert_eq!(show("\té", 1, 2).unwrap(), "\n  |\n1 |  é\n  |  ^");
        let long = format!("{}x{}", "é".repeat(500), "y".repeat(500));
        let cropped = show(&long, 1, 501).unwrap();
        let lines: Vec<Vec<char>> = cropped.lines().map(|line| line.chars().collect()).collect();
        let caret = lines[3].iter().position(|c| *c == '^').unwrap();
        assert_eq!((lines[2][caret], lines[2].len()), ('x', SHOWN + 4));
        assert!(show("short", 1, usize::MAX).is_some());
    }
}
