//! Records in one SQLite file: WAL, `synchronous=FULL`, one connection that writes and a few that read.
//!
//! A commit is one transaction on the writing connection; when it returns, the write-ahead log is on disk.
//! [`Store::snapshot`] reads on the same connection, so that it sees the end of a commit whose outcome was unknown. A
//! file beside the database is locked while the store is open: two servers on one database would use counters twice.

mod catalog;
mod restore;
mod rows;
mod write;

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::Mutex;

use super::seal::{Entropy, MasterKey, Seal};
use super::{Result, Store};
use crate::record::{Change, Snapshot};
use rows::unavailable;

static MIGRATIONS: Migrator = sqlx::migrate!("src/store/migrations");

/// Connections that read at the same time.
const READERS: u32 = 4;

/// How long a statement waits for a lock another program holds on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What the sealed check value says.
const CHECK: (&str, &str, &[u8]) = ("store_check", "master_key", b"lorawan-fuota");

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another store of this process, has the database open.
    #[error("database in use by another process: {0}")]
    InUse(String),
    /// The secrets in the database are sealed with another master key.
    #[error("wrong master key: the secrets in this database are sealed with another one")]
    WrongMasterKey,
    /// A newer release of this program wrote the database.
    #[error("database schema version {found} is newer than {known}, the newest this release knows")]
    NewerSchema {
        /// Version in the file.
        found: i64,
        /// Newest version of this release.
        known: i64,
    },
    /// The file cannot be read or written, or is no database.
    #[error("database cannot be opened: {0}")]
    Unavailable(String),
}

/// A store in one SQLite file. A clone shares it.
#[derive(Clone)]
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    writer: Mutex<SqliteConnection>,
    readers: SqlitePool,
    seal: Seal,
    /// Held while the store is open.
    _lock: File,
}

impl SqliteStore {
    /// Opens the database at `path`, makes it if it is not there, and brings its schema up to date.
    ///
    /// `entropy` fills nonces. On any error the records in the file are as they were.
    pub async fn open(
        path: &Path,
        master_key: &MasterKey,
        entropy: Entropy,
    ) -> std::result::Result<Self, OpenError> {
        let lock = lock_beside(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let mut writer = options.connect().await.map_err(cannot_open)?;
        migrate(&mut writer).await?;
        let seal = Seal::new(master_key, entropy);
        check_master_key(&mut writer, &seal).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_lazy_with(options.create_if_missing(false).pragma("query_only", "on"));
        Ok(Self(Arc::new(Inner {
            writer: Mutex::new(writer),
            readers,
            seal,
            _lock: lock,
        })))
    }
}

impl Store for SqliteStore {
    async fn commit(&self, changes: &[Change]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut writer = self.0.writer.lock().await;
        let mut transaction = writer
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(unavailable)?;
        for change in changes {
            if let Err(error) = write::apply(&mut transaction, &self.0.seal, change).await {
                transaction.rollback().await.map_err(unavailable)?;
                return Err(error);
            }
        }
        transaction.commit().await.map_err(unavailable)
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        let mut writer = self.0.writer.lock().await;
        let mut transaction = writer.begin().await.map_err(unavailable)?;
        let snapshot = restore::snapshot(&mut transaction, &self.0.seal).await?;
        transaction.rollback().await.map_err(unavailable)?;
        Ok(snapshot)
    }
}

/// The operating system frees the lock when the process ends, however it ends.
fn lock_beside(path: &Path) -> std::result::Result<File, OpenError> {
    let mut name = OsString::from(path);
    name.push(".lock");
    let file = File::create(&name).map_err(|e| OpenError::Unavailable(e.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.display().to_string())),
        Err(TryLockError::Error(error)) => Err(OpenError::Unavailable(error.to_string())),
    }
}

async fn migrate(writer: &mut SqliteConnection) -> std::result::Result<(), OpenError> {
    let known = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0);
    match MIGRATIONS.run(writer).await {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(found)) if found > known => {
            Err(OpenError::NewerSchema { found, known })
        }
        Err(error) => Err(OpenError::Unavailable(error.to_string())),
    }
}

/// A new database gets a sealed check value; it opens under the same master key only.
async fn check_master_key(
    writer: &mut SqliteConnection,
    seal: &Seal,
) -> std::result::Result<(), OpenError> {
    let (table, name, plain) = CHECK;
    let known: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT sealed FROM store_check WHERE name = ?1")
            .bind(name)
            .fetch_optional(&mut *writer)
            .await
            .map_err(cannot_open)?;
    if let Some(sealed) = known {
        return match seal.open(table, name, &sealed) {
            Ok(_) => Ok(()),
            Err(_) => Err(OpenError::WrongMasterKey),
        };
    }
    sqlx::query("INSERT INTO store_check (name, sealed) VALUES (?1, ?2)")
        .bind(name)
        .bind(seal.seal(table, name, plain))
        .execute(writer)
        .await
        .map_err(cannot_open)?;
    Ok(())
}

fn cannot_open(error: sqlx::Error) -> OpenError {
    OpenError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_writing_connection_flushes_each_commit_and_holds_references() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fuota.db");
        let key = MasterKey::from_bytes([1; 32]);
        let store = SqliteStore::open(&path, &key, Box::new(|out| out.fill(1)))
            .await
            .unwrap();
        let mut writer = store.0.writer.lock().await;
        for (pragma, full_or_on) in [("PRAGMA synchronous", 2), ("PRAGMA foreign_keys", 1)] {
            let value: i64 = sqlx::query_scalar(pragma)
                .fetch_one(&mut *writer)
                .await
                .unwrap();
            assert_eq!(value, full_or_on, "{pragma}");
        }
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode")
            .fetch_one(&mut *writer)
            .await
            .unwrap();
        assert_eq!(mode, "wal");
    }
}
