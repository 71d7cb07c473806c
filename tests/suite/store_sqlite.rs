//! What only a store in a file can promise: durability, sealed secrets, and refusing a file it must not touch.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};

use lorawan_fuota::record::*;
use lorawan_fuota::store::{Catalog, Entropy, MasterKey, OpenError, SqliteStore, Store};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tempfile::TempDir;

use crate::store_records::*;

/// A directory with one database, gone with the value.
pub(crate) struct Directory(TempDir);

impl Directory {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) async fn store(&self) -> SqliteStore {
        open(&self.database(), 7).await.unwrap()
    }

    fn database(&self) -> PathBuf {
        self.0.path().join("fuota.db")
    }

    /// Every byte of the database: file, write-ahead log and index.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in std::fs::read_dir(self.0.path()).unwrap() {
            bytes.extend(std::fs::read(entry.unwrap().path()).unwrap());
        }
        bytes
    }
}

/// Never the same twice within the test process.
fn counting_entropy() -> Entropy {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    Box::new(|out| {
        let number = NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        out.fill(0);
        out[..8].copy_from_slice(&number);
    })
}

async fn open(path: &Path, key: u8) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(path, &MasterKey::from_bytes([key; 32]), counting_entropy()).await
}

async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(path)
        .connect()
        .await
        .unwrap()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

#[tokio::test]
async fn a_returned_commit_is_in_the_files() {
    let directory = Directory::new();
    let store = directory.store().await;
    store.commit(&network()).await.unwrap();
    let last = Change::PutSession(eui(2), session(4711));
    store.commit(&[last]).await.unwrap();

    // What a crash right now would leave: the files as they are, the store still open.
    let crashed = Directory::new();
    for name in ["fuota.db", "fuota.db-wal"] {
        let from = directory.0.path().join(name);
        std::fs::copy(from, crashed.0.path().join(name)).unwrap();
    }
    let copy = crashed.store().await;
    let mut expected = network_snapshot();
    expected.sessions[1].1 = session(4711);
    assert_eq!(copy.snapshot().await.unwrap(), expected);
    drop(store);
}

#[tokio::test]
async fn a_commit_cut_off_in_the_middle_of_the_log_is_all_or_nothing() {
    let directory = Directory::new();
    let store = directory.store().await;
    store.commit(&network()).await.unwrap();
    let before = std::fs::metadata(directory.0.path().join("fuota.db-wal")).unwrap();
    let changes: Vec<_> = (0..200)
        .map(|n| Change::PutMulticastGroup(group(&tenant(), &format!("h{n}"))))
        .collect();
    store.commit(&changes).await.unwrap();
    let wal = std::fs::read(directory.0.path().join("fuota.db-wal")).unwrap();
    let start = usize::try_from(before.len()).unwrap();
    assert!(wal.len() > start + 8192);

    for cut in [start + 100, start + 8192, wal.len() - 1] {
        let crashed = Directory::new();
        std::fs::copy(directory.database(), crashed.database()).unwrap();
        std::fs::write(crashed.0.path().join("fuota.db-wal"), &wal[..cut]).unwrap();
        let copy = crashed.store().await;
        assert_eq!(copy.snapshot().await.unwrap(), network_snapshot());
        let group = copy.multicast_group(&tenant(), "h0").await.unwrap();
        assert_eq!(group, None, "cut at {cut}");
    }
}

#[tokio::test]
async fn no_secret_is_in_the_files() {
    let directory = Directory::new();
    let store = directory.store().await;
    store.commit(&network()).await.unwrap();
    let open_files = directory.bytes();
    drop(store);
    let closed_files = directory.bytes();
    // What is not sealed is there to be found, so the search works.
    assert!(contains(&open_files, b"Wasserz"));
    for byte in [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88] {
        let secret = key(byte);
        for files in [&open_files, &closed_files] {
            assert!(!contains(files, secret.to_hex().as_bytes()), "{byte:02x}");
            assert!(!contains(files, secret.as_bytes()), "{byte:02x}");
        }
    }
    assert!(!contains(&open_files, &[7; 32]));
}

#[tokio::test]
async fn a_wrong_master_key_is_refused() {
    let directory = Directory::new();
    let store = directory.store().await;
    store.commit(&network()).await.unwrap();
    drop(store);
    let error = open(&directory.database(), 8).await.err().unwrap();
    assert!(matches!(error, OpenError::WrongMasterKey), "{error}");
    let store = directory.store().await;
    assert_eq!(store.snapshot().await.unwrap(), network_snapshot());
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let directory = Directory::new();
    drop(directory.store().await);
    let mut file = raw(&directory.database()).await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'of a later release', 1, x'00', 0)",
    )
    .execute(&mut file)
    .await
    .unwrap();
    file.close().await.unwrap();
    let error = open(&directory.database(), 7).await.err().unwrap();
    assert!(
        matches!(error, OpenError::NewerSchema { found: 9999, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_kept() {
    let directory = Directory::new();
    std::fs::write(directory.database(), [b'x'; 5000]).unwrap();
    let error = open(&directory.database(), 7).await.err().unwrap();
    assert!(matches!(error, OpenError::Unavailable(_)), "{error}");
    assert_eq!(std::fs::read(directory.database()).unwrap(), [b'x'; 5000]);
}

#[tokio::test]
async fn a_database_is_open_once_at_a_time() {
    let directory = Directory::new();
    let store = directory.store().await;
    let error = open(&directory.database(), 7).await.err().unwrap();
    assert!(matches!(error, OpenError::InUse(_)), "{error}");
    drop(store);
    directory.store().await;
}

#[tokio::test]
async fn sealed_rows_cannot_be_swapped() {
    let directory = Directory::new();
    let store = directory.store().await;
    store.commit(&network()).await.unwrap();
    drop(store);
    let mut file = raw(&directory.database()).await;
    sqlx::query(
        "UPDATE session SET sealed = (SELECT o.sealed FROM session o WHERE o.dev_eui <> session.dev_eui)",
    )
    .execute(&mut file)
    .await
    .unwrap();
    file.close().await.unwrap();
    let store = directory.store().await;
    let error = store.activation(eui(1)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "corrupt record: session a0b3d57ed0000001: seal broken"
    );
    assert!(store.snapshot().await.is_err());
}

#[tokio::test]
async fn a_commit_dropped_half_way_is_settled_before_the_snapshot() {
    let directory = Directory::new();
    let store = directory.store().await;
    store.commit(&network()).await.unwrap();
    let changes: Vec<_> = (0..500)
        .map(|n| Change::PutSession(eui(1), session(n)))
        .collect();
    for polls in (0..12).map(|power| 1 << power) {
        // Give the commit up after some steps, as a caller that was cancelled would.
        let mut commit = std::pin::pin!(store.commit(&changes));
        for _ in 0..polls {
            let mut context = Context::from_waker(Waker::noop());
            if commit.as_mut().poll(&mut context).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let snapshot = store.snapshot().await.unwrap();
    let down = snapshot.sessions[0].1.next_f_cnt_down;
    assert!(down == 0x8000_0000 || down == 499, "{down}");
    store.commit(&changes).await.unwrap();
}
