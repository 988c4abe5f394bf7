//! `trials.db`: every scored candidate, so that none is ever scored twice.
//!
//! A trial belongs to a *scoring*: the hash of all that a score depends on (model, tokens, proxy and its parameters, code
//! version). Strategy, budget and seed are not part of it, so other searches find the trials again.
//!
//! SQLite in WAL mode with `synchronous = NORMAL`: a committed trial is in the operating system's hands, so it survives
//! `kill -9` of this process; only a power failure can lose the last few, and it cannot damage the file. Each put is one
//! transaction: a trial is there with all its scores or not at all.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, TransactionBehavior, params};
use taper_arch::Trial;
use taper_base::Fingerprint;

/// The version of the tables that this build reads and writes.
const VERSION: i64 = 1;
/// `TAPR`: marks the file as taper's in SQLite's header.
const APPLICATION: i64 = 0x5441_5052;

/// SQLite keeps no NaN (it becomes NULL), so a score's bits are what counts; `value` is for people with a SQL shell.
const TABLES: &str = "
CREATE TABLE trials (
    id           INTEGER PRIMARY KEY,
    scoring      TEXT NOT NULL,
    architecture TEXT NOT NULL,  -- its fingerprint
    genome       TEXT NOT NULL,  -- its text form
    costs        TEXT NOT NULL,  -- JSON
    provenance   TEXT NOT NULL,  -- JSON
    failure      TEXT,           -- why it could not be scored, or NULL
    seconds      REAL,
    UNIQUE (scoring, architecture)
) STRICT;
CREATE TABLE scores (
    trial INTEGER NOT NULL REFERENCES trials (id),
    proxy TEXT NOT NULL,
    bits  INTEGER NOT NULL,      -- IEEE 754 double
    value REAL,
    PRIMARY KEY (trial, proxy)
) STRICT, WITHOUT ROWID;
";

const SELECT: &str =
    "SELECT id, architecture, genome, costs, provenance, failure, seconds FROM trials WHERE scoring = ?1";

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refuses.
    #[error("{}: cannot {what}", path.display())]
    Sql {
        /// The database.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The file is no database, or a damaged one.
    #[error("{}: damaged ({reason}); move it away, and its trials are scored anew", path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The file is a database of some other program.
    #[error("{}: a database that taper did not make; move it away, or use another run folder", path.display())]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// The file was written by a newer taper.
    #[error("{}: written by a newer taper (version {found}, this one reads {VERSION}); update taper", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// The version found.
        found: i64,
    },
    /// The trial is there already.
    #[error("architecture {architecture} has been scored under {scoring} already")]
    AlreadyScored {
        /// First digits of the scoring.
        scoring: String,
        /// The architecture's text form.
        architecture: String,
    },
    /// There is no such trial.
    #[error("architecture {architecture} has not been scored under {scoring}")]
    NotThere {
        /// First digits of the scoring.
        scoring: String,
        /// The architecture's text form.
        architecture: String,
    },
    /// A value without a JSON form.
    #[error("{}: cannot store the {what} of a trial", path.display())]
    Json {
        /// The database.
        path: PathBuf,
        /// Which value.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}

/// A trial as it was stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTrial {
    /// The trial, with the provenance of its first and only scoring.
    pub trial: Trial,
    /// Why it could not be scored; then its scores are of parts of the tokens, if there are any.
    pub failure: Option<String>,
    /// How long scoring took.
    pub seconds: f64,
}

/// All trials of a run folder. One for all threads.
#[derive(Debug)]
pub struct TrialStore {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl TrialStore {
    /// Opens the store at `path`, made if it is not there.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Foreign`] and [`StoreError::Newer`] for files that cannot be used.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |what| move |source| sql(path, what, source);
        let mut connection = Connection::open(path).map_err(failed("open"))?;
        connection.busy_timeout(Duration::from_secs(30)).map_err(failed("open"))?;
        check(path, &connection)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed("switch to WAL"))?;
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(failed("open"))?;
        connection.pragma_update(None, "foreign_keys", true).map_err(failed("open"))?;
        create(&mut connection).map_err(failed("create the tables"))?;
        Ok(Self { path: path.to_owned(), connection: Mutex::new(connection) })
    }

    /// The trial of `architecture` under `scoring`, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] or [`StoreError::Sql`].
    pub fn get(&self, scoring: &Fingerprint, architecture: &Fingerprint) -> Result<Option<StoredTrial>, StoreError> {
        let connection = self.connection();
        let read = || -> rusqlite::Result<_> {
            let mut statement = connection.prepare_cached(&format!("{SELECT} AND architecture = ?2"))?;
            statement.query_row(params![scoring.as_str(), architecture.as_str()], Columns::of).optional()
        };
        let columns = read().map_err(|source| sql(&self.path, "read a trial", source))?;
        columns.map(|columns| self.decode(&connection, columns)).transpose()
    }

    /// Keeps a scored trial that took `seconds`.
    ///
    /// # Errors
    /// [`StoreError::AlreadyScored`] if its architecture is there; [`StoreError::Sql`].
    pub fn put(&self, scoring: &Fingerprint, trial: &Trial, seconds: f64) -> Result<(), StoreError> {
        self.insert(scoring, trial, None, seconds)
    }

    /// Keeps a trial that could not be scored, and why; its scores are those of parts of the tokens, if any.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_failed(
        &self,
        scoring: &Fingerprint,
        trial: &Trial,
        reason: &str,
        seconds: f64,
    ) -> Result<(), StoreError> {
        self.insert(scoring, trial, Some(reason), seconds)
    }

    /// Adds scores to a trial that is there, and why it could not be scored further; what it has stays.
    ///
    /// # Errors
    /// [`StoreError::NotThere`] if it is not; [`StoreError::Sql`].
    pub fn extend(
        &self,
        scoring: &Fingerprint,
        trial: &Trial,
        failure: Option<&str>,
        seconds: f64,
    ) -> Result<(), StoreError> {
        let print = trial.architecture.fingerprint();
        let mut connection = self.connection();
        let mut write = || -> rusqlite::Result<bool> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let query = "UPDATE trials SET failure = ?3, seconds = seconds + ?4
                         WHERE scoring = ?1 AND architecture = ?2 RETURNING id";
            let row = params![scoring.as_str(), print.as_str(), failure, seconds];
            let id = transaction.query_row(query, row, |row| row.get(0)).optional()?;
            if let Some(id) = id {
                put_scores(&transaction, id, trial)?;
            }
            transaction.commit()?;
            Ok(id.is_some())
        };
        match write() {
            Ok(true) => Ok(()),
            Ok(false) => Err(StoreError::NotThere {
                scoring: scoring.short().to_owned(),
                architecture: trial.architecture.to_string(),
            }),
            Err(source) => Err(sql(&self.path, "extend a trial", source)),
        }
    }

    /// All trials under `scoring`, in the order in which they were put.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] or [`StoreError::Sql`].
    pub fn all(&self, scoring: &Fingerprint) -> Result<Vec<StoredTrial>, StoreError> {
        let connection = self.connection();
        let read = || -> rusqlite::Result<Vec<Columns>> {
            let mut statement = connection.prepare_cached(&format!("{SELECT} ORDER BY id"))?;
            statement.query_map(params![scoring.as_str()], Columns::of)?.collect()
        };
        let rows = read().map_err(|source| sql(&self.path, "read the trials", source))?;
        rows.into_iter().map(|columns| self.decode(&connection, columns)).collect()
    }

    /// How many trials there are under `scoring`.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] or [`StoreError::Sql`].
    pub fn count(&self, scoring: &Fingerprint) -> Result<usize, StoreError> {
        let query = "SELECT count(*) FROM trials WHERE scoring = ?1";
        let count = self.connection().query_row(query, params![scoring.as_str()], |row| row.get::<_, u32>(0));
        count.map(|count| count as usize).map_err(|source| sql(&self.path, "count the trials", source))
    }

    /// A thread that panicked with the lock has left no half transaction: SQLite rolls it back when it is dropped.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(
        &self,
        scoring: &Fingerprint,
        trial: &Trial,
        failure: Option<&str>,
        seconds: f64,
    ) -> Result<(), StoreError> {
        let json = |what| move |source| StoreError::Json { path: self.path.clone(), what, source };
        let costs = serde_json::to_string(&trial.costs).map_err(json("costs"))?;
        let provenance = serde_json::to_string(&trial.provenance).map_err(json("provenance"))?;
        let (print, genome) = (trial.architecture.fingerprint(), trial.architecture.to_string());
        let mut connection = self.connection();
        let mut write = || -> rusqlite::Result<bool> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let query = "INSERT INTO trials (scoring, architecture, genome, costs, provenance, failure, seconds)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (scoring, architecture) DO NOTHING";
            let row = params![scoring.as_str(), print.as_str(), genome, costs, provenance, failure, seconds];
            if transaction.prepare_cached(query)?.execute(row)? == 0 {
                return Ok(false);
            }
            put_scores(&transaction, transaction.last_insert_rowid(), trial)?;
            transaction.commit()?;
            Ok(true)
        };
        match write() {
            Ok(true) => Ok(()),
            Ok(false) => Err(StoreError::AlreadyScored { scoring: scoring.short().to_owned(), architecture: genome }),
            Err(source) => Err(sql(&self.path, "store a trial", source)),
        }
    }

    /// The trial in `columns`, with its scores.
    fn decode(&self, connection: &Connection, columns: Columns) -> Result<StoredTrial, StoreError> {
        let damaged = |what: &str, cause: &dyn std::fmt::Display| StoreError::Damaged {
            path: self.path.clone(),
            reason: format!("the {what} of trial {}: {cause}", columns.id),
        };
        let architecture: taper_arch::Architecture = columns.genome.parse().map_err(|e| damaged("genome", &e))?;
        if architecture.fingerprint().as_str() != columns.architecture {
            return Err(damaged("genome", &"does not have the fingerprint beside it"));
        }
        let read = || -> rusqlite::Result<_> {
            let mut statement = connection.prepare_cached("SELECT proxy, bits FROM scores WHERE trial = ?1")?;
            let score = |row: &Row<'_>| Ok((row.get(0)?, f64::from_bits(row.get::<_, i64>(1)?.cast_unsigned())));
            statement.query_map(params![columns.id], score)?.collect()
        };
        let scores = read().map_err(|source| sql(&self.path, "read the scores", source))?;
        let costs = serde_json::from_str(&columns.costs).map_err(|e| damaged("costs", &e))?;
        let provenance = serde_json::from_str(&columns.provenance).map_err(|e| damaged("provenance", &e))?;
        let trial = Trial { architecture, scores, costs, provenance };
        Ok(StoredTrial { trial, failure: columns.failure, seconds: columns.seconds })
    }
}

fn put_scores(connection: &Connection, id: i64, trial: &Trial) -> rusqlite::Result<()> {
    for (proxy, score) in &trial.scores {
        let query = "INSERT INTO scores (trial, proxy, bits, value) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
        let row = params![id, proxy, score.to_bits().cast_signed(), score];
        connection.prepare_cached(query)?.execute(row)?;
    }
    Ok(())
}

/// A row of `trials` as it stands there.
struct Columns {
    id: i64,
    architecture: String,
    genome: String,
    costs: String,
    provenance: String,
    failure: Option<String>,
    seconds: f64,
}

impl Columns {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            architecture: row.get(1)?,
            genome: row.get(2)?,
            costs: row.get(3)?,
            provenance: row.get(4)?,
            failure: row.get(5)?,
            seconds: row.get::<_, Option<f64>>(6)?.unwrap_or(f64::NAN), // SQLite keeps NaN as NULL
        })
    }
}

/// Refuses databases that are damaged, newer, or not taper's.
fn check(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    let failed = |source| sql(path, "read", source);
    let number = |query: &str| connection.query_row(query, [], |row| row.get::<_, i64>(0)).map_err(failed);
    let (version, application) = (number("PRAGMA user_version")?, number("PRAGMA application_id")?);
    let empty = number("SELECT count(*) FROM sqlite_master")? == 0;
    if application != APPLICATION && !(empty && version == 0 && application == 0) {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    if version > VERSION {
        return Err(StoreError::Newer { path: path.to_owned(), found: version });
    }
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if found != "ok" {
        return Err(StoreError::Damaged { path: path.to_owned(), reason: found });
    }
    Ok(())
}

/// Makes the tables, if another process has not just done so.
fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version == 0 {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()
}

/// The error for what SQLite says: damage is told from the rest, because the cure differs.
fn sql(path: &Path, what: &'static str, source: rusqlite::Error) -> StoreError {
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::Damaged { path: path.to_owned(), reason: source.to_string() }
        }
        _ => StoreError::Sql { path: path.to_owned(), what, source },
    }
}

#[cfg(test)]
mod tests;
