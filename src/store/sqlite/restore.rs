//! Everything at once: the snapshot of the network and of one task.

use std::str::FromStr;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use sqlx::SqliteConnection;

use super::rows::{identifier, parse, unavailable, unsealed};
use crate::lorawan::identifiers::DevEui;
use crate::record::{
    Device, DistributionSession, Gateway, Image, Sha256, Snapshot, Task, TaskDevice, TaskId,
    TaskSnapshot, Wave,
};
use crate::store::refusal::without_image;
use crate::store::seal::Seal;
use crate::store::{Result, StoreError};

/// Reads the snapshot within the transaction of `db`.
pub(super) async fn snapshot(db: &mut SqliteConnection, seal: &Seal) -> Result<Snapshot> {
    let devices = sqlx::query_as::<_, (String, String, Option<String>)>(
        "SELECT d.dev_eui, d.body, s.body FROM device d \
         LEFT JOIN device_status s ON s.dev_eui = d.dev_eui ORDER BY d.dev_eui",
    );
    let gateways = sqlx::query_as::<_, (String, String, Option<String>)>(
        "SELECT g.eui, g.body, s.body FROM gateway g \
         LEFT JOIN gateway_status s ON s.eui = g.eui ORDER BY g.eui",
    );
    let devices = devices.fetch_all(&mut *db).await.map_err(unavailable)?;
    let gateways = gateways.fetch_all(&mut *db).await.map_err(unavailable)?;
    let keys = secrets(
        db,
        "SELECT dev_eui, sealed FROM device_keys ORDER BY dev_eui",
    )
    .await?;
    let joins = secrets(
        db,
        "SELECT dev_eui, sealed FROM join_state ORDER BY dev_eui",
    )
    .await?;
    let sessions = secrets(db, "SELECT dev_eui, sealed FROM session ORDER BY dev_eui").await?;
    let groups = secrets(
        db,
        "SELECT task || '/' || number, sealed FROM mc_group ORDER BY task, number",
    )
    .await?;
    Ok(Snapshot {
        profiles: bodies(
            db,
            "device_profile",
            "SELECT id, body FROM device_profile ORDER BY tenant, id",
        )
        .await?,
        devices: devices.into_iter().map(device).collect::<Result<_>>()?,
        keys: open_all(seal, "device_keys", &keys, |_: String, keys| keys)?,
        joins: open_all(seal, "join_state", &joins, |eui: DevEui, join| (eui, join))?,
        sessions: open_all(seal, "session", &sessions, |eui: DevEui, s| (eui, s))?,
        gateways: gateways.into_iter().map(gateway).collect::<Result<_>>()?,
        ledgers: bodies(
            db,
            "air_ledger",
            "SELECT gateway, body FROM air_ledger ORDER BY gateway, sub_band",
        )
        .await?,
        mc_groups: open_all(seal, "mc_group", &groups, |_: String, group| group)?,
        tasks: active_tasks(db, seal).await?,
    })
}

/// A device from its key, its settings and its status.
pub(super) fn device((key, settings, status): (String, String, Option<String>)) -> Result<Device> {
    Ok(Device {
        settings: parse("device", &key, &settings)?,
        status: match status {
            Some(status) => parse("device_status", &key, &status)?,
            None => Default::default(),
        },
    })
}

/// A gateway from its key, its settings and its status.
pub(super) fn gateway(
    (key, settings, status): (String, String, Option<String>),
) -> Result<Gateway> {
    Ok(Gateway {
        settings: parse("gateway", &key, &settings)?,
        status: match status {
            Some(status) => parse("gateway_status", &key, &status)?,
            None => Default::default(),
        },
    })
}

/// A task from its key, its body and its sealed seed.
pub(super) fn task(
    seal: &Seal,
    (key, body, seed): (String, String, Option<Vec<u8>>),
) -> Result<Task> {
    let mut task: Task = parse("task", &key, &body)?;
    if let Some(sealed) = seed {
        let broken = || StoreError::Corrupt(format!("task {key}: seal broken"));
        let seed = seal.open("task", &key, &sealed).map_err(|_| broken())?;
        let seed = <[u8; 16]>::try_from(seed.as_slice()).map_err(|_| broken())?;
        task.seed = Some(crate::lorawan::keys::Key128::from_bytes(seed));
    }
    Ok(task)
}

/// All that belongs to `task`.
pub(super) async fn task_snapshot(db: &mut SqliteConnection, task: Task) -> Result<TaskSnapshot> {
    if task.images.is_empty() {
        return Err(without_image(&task.id));
    }
    let mut images = Vec::with_capacity(task.images.len());
    for sha256 in &task.images {
        images.push(image_of(db, &task, sha256).await?);
    }
    let mut deltas = Vec::with_capacity(task.deltas.len());
    for sha256 in &task.deltas {
        deltas.push(image_of(db, &task, sha256).await?);
    }
    Ok(TaskSnapshot {
        devices: task_devices(db, &task.id).await?,
        waves: waves(db, &task.id).await?,
        sessions: distribution_sessions(db, &task.id).await?,
        images,
        deltas,
        task,
    })
}

async fn task_devices(db: &mut SqliteConnection, id: &TaskId) -> Result<Vec<TaskDevice>> {
    let sql = "SELECT dev_eui, body FROM task_device WHERE task = ?1 ORDER BY dev_eui";
    of_task(db, "task_device", sql, id).await
}

/// Waves of a task by number.
pub(super) async fn waves(db: &mut SqliteConnection, id: &TaskId) -> Result<Vec<Wave>> {
    let sql = "SELECT task, body FROM wave WHERE task = ?1 ORDER BY number";
    of_task(db, "wave", sql, id).await
}

/// Distribution sessions of a task by number.
pub(super) async fn distribution_sessions(
    db: &mut SqliteConnection,
    id: &TaskId,
) -> Result<Vec<DistributionSession>> {
    let sql = "SELECT task, body FROM distribution_session WHERE task = ?1 ORDER BY number";
    of_task(db, "distribution_session", sql, id).await
}

async fn active_tasks(db: &mut SqliteConnection, seal: &Seal) -> Result<Vec<TaskSnapshot>> {
    let sql = "SELECT id, body, sealed FROM task WHERE active = 1 ORDER BY id";
    let rows = sqlx::query_as(sql)
        .fetch_all(&mut *db)
        .await
        .map_err(unavailable)?;
    let mut tasks = Vec::with_capacity(rows.len());
    for row in rows {
        tasks.push(task_snapshot(db, task(seal, row)?).await?);
    }
    Ok(tasks)
}

async fn image_of(
    db: &mut SqliteConnection,
    task: &Task,
    sha256: &Sha256,
) -> Result<(Image, Arc<[u8]>)> {
    let (body, bytes): (String, Vec<u8>) = sqlx::query_as(
        "SELECT i.body, b.bytes FROM image i \
         JOIN image_bytes b ON b.tenant = i.tenant AND b.sha256 = i.sha256 \
         WHERE i.tenant = ?1 AND i.sha256 = ?2",
    )
    .bind(task.tenant.0.clone())
    .bind(sha256.to_string())
    .fetch_optional(db)
    .await
    .map_err(unavailable)?
    .ok_or_else(|| without_image(&task.id))?;
    Ok((parse("image", &sha256.to_string(), &body)?, bytes.into()))
}

async fn secrets(db: &mut SqliteConnection, sql: &'static str) -> Result<Vec<(String, Vec<u8>)>> {
    sqlx::query_as(sql).fetch_all(db).await.map_err(unavailable)
}

fn open_all<K: FromStr, T: DeserializeOwned, R>(
    seal: &Seal,
    table: &str,
    rows: &[(String, Vec<u8>)],
    pair: impl Fn(K, T) -> R,
) -> Result<Vec<R>> {
    rows.iter()
        .map(|(key, sealed)| {
            let record = unsealed(seal, table, key, sealed)?;
            Ok(pair(identifier(table, key)?, record))
        })
        .collect()
}

async fn bodies<T: DeserializeOwned>(
    db: &mut SqliteConnection,
    table: &str,
    sql: &'static str,
) -> Result<Vec<T>> {
    let rows: Vec<(String, String)> = sqlx::query_as(sql)
        .fetch_all(db)
        .await
        .map_err(unavailable)?;
    rows.iter()
        .map(|(key, body)| parse(table, key, body))
        .collect()
}

async fn of_task<T: DeserializeOwned>(
    db: &mut SqliteConnection,
    table: &str,
    sql: &'static str,
    id: &TaskId,
) -> Result<Vec<T>> {
    let rows: Vec<(String, String)> = sqlx::query_as(sql)
        .bind(id.0.clone())
        .fetch_all(db)
        .await
        .map_err(unavailable)?;
    rows.iter()
        .map(|(key, body)| parse(table, key, body))
        .collect()
}
