//! Answers on disk: an evaluation that is killed loses the batch it was at, and one done before costs nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, params};

use super::HarnessError;
use super::answer::Answer;

/// The form of the table; another one is another table.
const TABLE: &str = "answers_1";

/// A file of answers, by model, task and request.
#[derive(Debug)]
pub struct AnswerStore {
    path: PathBuf,
    connection: Connection,
}

impl AnswerStore {
    /// The file `path`, made if it is not there.
    ///
    /// # Errors
    /// [`HarnessError::Read`] or [`HarnessError::Store`].
    pub fn open(path: &Path) -> Result<Self, HarnessError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|cause| HarnessError::Read { path: folder.into(), cause })?;
        }
        let at = |cause| HarnessError::Store { path: path.into(), cause };
        let connection = Connection::open(path).map_err(at)?;
        connection.busy_timeout(Duration::from_secs(60)).map_err(at)?;
        let table = format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             CREATE TABLE IF NOT EXISTS {TABLE} (
                 model TEXT NOT NULL, task TEXT NOT NULL, request TEXT NOT NULL,
                 log_likelihood REAL, greedy INTEGER, text TEXT,
                 PRIMARY KEY (model, task, request)) WITHOUT ROWID;"
        );
        connection.execute_batch(&table).map_err(at)?;
        Ok(Self { path: path.into(), connection })
    }

    fn at(&self) -> impl Fn(rusqlite::Error) -> HarnessError {
        |cause| HarnessError::Store { path: self.path.clone(), cause }
    }

    /// All answers of `model` to `task`.
    pub(crate) fn known(&self, model: &str, task: &str) -> Result<BTreeMap<String, Answer>, HarnessError> {
        let query = format!("SELECT request, log_likelihood, greedy, text FROM {TABLE} WHERE model = ? AND task = ?");
        let mut query = self.connection.prepare(&query).map_err(self.at())?;
        let answers = query.query_map(params![model, task], |row| {
            let request: String = row.get(0)?;
            let text: Option<String> = row.get(3)?;
            let answer = match text {
                Some(text) => Answer::Text(text),
                None => Answer::Likelihood { log_likelihood: row.get(1)?, greedy: row.get(2)? },
            };
            Ok((request, answer))
        });
        answers.map_err(self.at())?.collect::<Result<_, _>>().map_err(self.at())
    }

    /// Keeps `answers`, all or none.
    pub(crate) fn keep(&mut self, model: &str, task: &str, answers: &[(String, Answer)]) -> Result<(), HarnessError> {
        let path = self.path.clone();
        let kept = (|| {
            let transaction = self.connection.transaction()?;
            {
                let insert = format!("INSERT OR REPLACE INTO {TABLE} VALUES (?, ?, ?, ?, ?, ?)");
                let mut insert = transaction.prepare(&insert)?;
                for (request, answer) in answers {
                    match answer {
                        Answer::Likelihood { log_likelihood, greedy } => {
                            insert.execute(params![model, task, request, log_likelihood, greedy, None::<String>])?
                        }
                        Answer::Text(text) => {
                            insert.execute(params![model, task, request, None::<f64>, None::<bool>, text])?
                        }
                    };
                }
            }
            transaction.commit()
        })();
        kept.map_err(|cause| HarnessError::Store { path, cause })
    }

    /// Forgets what `model` answered to `task`.
    pub(crate) fn forget(&mut self, model: &str, task: &str) -> Result<(), HarnessError> {
        let delete = format!("DELETE FROM {TABLE} WHERE model = ? AND task = ?");
        self.connection.execute(&delete, params![model, task]).map(|_| ()).map_err(self.at())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_back_bit_for_bit_and_by_model_and_task() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/answers.db");
        let likelihood = Answer::Likelihood { log_likelihood: -0.1 - 0.2, greedy: true };
        let answers = [("a".to_owned(), likelihood.clone()), ("b".to_owned(), Answer::Text("é\0 ".to_owned()))];
        let mut store = AnswerStore::open(&path).unwrap();
        store.keep("m", "t", &answers).unwrap();
        drop(store);
        let mut store = AnswerStore::open(&path).unwrap();
        assert_eq!(store.known("m", "t").unwrap(), BTreeMap::from(answers.clone()));
        assert!(store.known("m", "u").unwrap().is_empty() && store.known("n", "t").unwrap().is_empty());
        store.keep("n", "t", &[("a".to_owned(), likelihood)]).unwrap();
        store.forget("m", "t").unwrap();
        assert!(store.known("m", "t").unwrap().is_empty());
        assert_eq!(store.known("n", "t").unwrap().len(), 1);
    }

    #[test]
    fn a_file_that_is_no_database_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.db");
        taper_base::files::write(&path, b"not a database, but long enough to be taken for one or the other").unwrap();
        let error = AnswerStore::open(&path).unwrap_err().to_string();
        assert!(error.ends_with("answers.db: answers cannot be kept"), "{error}");
    }
}
