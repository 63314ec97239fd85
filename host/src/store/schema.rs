//! Opening the database: settings, versions, and what to do with a damaged one.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::StoreError;

/// The database's file in the state directory.
pub(super) const FILE: &str = "jobs.db";

/// Each entry brings the database from the version of its index to the next. Entries are only ever added.
const MIGRATIONS: [&str; 2] = [
    "
    CREATE TABLE jobs (
        seq         INTEGER PRIMARY KEY AUTOINCREMENT,
        id          TEXT NOT NULL UNIQUE,
        state       TEXT NOT NULL,
        owner       TEXT NOT NULL,
        priority    INTEGER NOT NULL,
        idempotency TEXT,
        request     TEXT NOT NULL,
        result      TEXT,
        attempts    INTEGER NOT NULL DEFAULT 0,
        restores    INTEGER NOT NULL DEFAULT 0,
        webhook     TEXT,
        notify      INTEGER NOT NULL DEFAULT 0,
        created_ms  INTEGER NOT NULL,
        started_ms  INTEGER,
        finished_ms INTEGER,
        expires_ms  INTEGER
    ) STRICT;
    CREATE UNIQUE INDEX jobs_idempotency ON jobs (owner, idempotency) WHERE idempotency IS NOT NULL;
    CREATE INDEX jobs_state ON jobs (state, seq);
    CREATE INDEX jobs_notify ON jobs (seq) WHERE notify = 1;
    CREATE INDEX jobs_expiry ON jobs (expires_ms) WHERE expires_ms IS NOT NULL;
    CREATE TABLE images (
        job        INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,
        number     INTEGER NOT NULL,
        file       TEXT NOT NULL UNIQUE,
        media_type TEXT NOT NULL,
        bytes      INTEGER NOT NULL,
        PRIMARY KEY (job, number)
    ) STRICT, WITHOUT ROWID;
",
    "ALTER TABLE jobs ADD COLUMN fingerprint BLOB",
];

/// Opens the database of `folder`, creating or updating it. The second value says that a damaged one was set aside.
pub(super) fn open(folder: &Path, max_bytes: u64) -> Result<(Connection, bool), StoreError> {
    match connect(folder, max_bytes) {
        Err(StoreError::Damaged) => {
            // A worker that does not start helps nobody. Kept for the operator, one of them at most.
            std::fs::rename(folder.join(FILE), folder.join("jobs.db.damaged"))?;
            for side in ["jobs.db-wal", "jobs.db-shm"] {
                match std::fs::remove_file(folder.join(side)) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
                    _ => {}
                }
            }
            Ok((connect(folder, max_bytes)?, true))
        }
        other => Ok((other?, false)),
    }
}

fn connect(folder: &Path, max_bytes: u64) -> Result<Connection, StoreError> {
    let mut db = Connection::open(folder.join(FILE))?;
    // A worker that is restarted may meet its dying predecessor.
    db.busy_timeout(Duration::from_secs(2))?;
    // Before anything is read: keeps the lock as long as we live, so that a second worker on the same folder is refused.
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    db.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.pragma_update(None, "foreign_keys", "ON")?;
    // Prompts that expired are gone from the file too.
    db.pragma_update_and_check(None, "secure_delete", "ON", |_| Ok(()))?;
    let page: u64 = db.pragma_query_value(None, "page_size", |r| r.get::<_, i64>(0))?.max(512) as u64;
    let pages = i64::try_from(max_bytes / page).unwrap_or(i64::MAX).clamp(1, 4_294_967_294);
    db.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
    let health: String = db.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
    if health != "ok" {
        return Err(StoreError::Damaged);
    }
    migrate(&mut db)?;
    Ok(db)
}

fn migrate(db: &mut Connection) -> Result<(), StoreError> {
    let known = MIGRATIONS.len() as i64;
    let found: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0))?;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    let done = usize::try_from(found).map_err(|_| StoreError::Damaged)?;
    let change = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for sql in &MIGRATIONS[done..] {
        change.execute_batch(sql)?;
    }
    change.pragma_update(None, "user_version", known)?;
    Ok(change.commit()?)
}
