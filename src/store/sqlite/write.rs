//! One [`Change`] to the statements that make it.

use std::collections::BTreeMap;

use sqlx::SqliteConnection;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments};

use super::rows::{body, name, sealed, unavailable};
use crate::lorawan::identifiers::DevEui;
use crate::record::{Change, DeviceSettings, Image, McGroup, RequestRecord, Task, TaskDevice};
use crate::store::refusal::{broken_reference, check_numbers, foreign_owner, session_key};
use crate::store::seal::Seal;
use crate::store::{REQUEST_LIFETIME, Result, StoreError};

/// Makes one change within the transaction of `connection`.
pub(super) async fn apply(
    connection: &mut SqliteConnection,
    seal: &Seal,
    change: &Change,
) -> Result<()> {
    check_numbers(change)?;
    let mut write = Write { connection, change };
    match change {
        Change::PutDeviceSettings(record) => write.put_device(record).await,
        Change::PutDeviceStatus(eui, record) => {
            let sql = "INSERT INTO device_status (dev_eui, body) VALUES (?1, ?2) \
                 ON CONFLICT (dev_eui) DO UPDATE SET body = excluded.body";
            let query = sqlx::query(sql).bind(eui.to_string());
            write.run(query.bind(body(record.as_ref())?)).await
        }
        Change::PutDeviceKeys(record) => {
            let sql = "INSERT INTO device_keys (dev_eui, sealed) VALUES (?1, ?2) \
                 ON CONFLICT (dev_eui) DO UPDATE SET sealed = excluded.sealed";
            let key = record.dev_eui.to_string();
            let sealed = sealed(seal, "device_keys", &key, record)?;
            write.run(sqlx::query(sql).bind(key).bind(sealed)).await
        }
        Change::DeleteDevice(eui) => {
            write
                .delete("DELETE FROM device WHERE dev_eui = ?1", eui)
                .await
        }
        Change::PutJoinState(eui, record) => {
            let sql = "INSERT INTO join_state (dev_eui, sealed) VALUES (?1, ?2) \
                 ON CONFLICT (dev_eui) DO UPDATE SET sealed = excluded.sealed";
            let key = eui.to_string();
            let sealed = sealed(seal, "join_state", &key, record)?;
            write.run(sqlx::query(sql).bind(key).bind(sealed)).await
        }
        Change::DeleteJoinState(eui) => {
            write
                .delete("DELETE FROM join_state WHERE dev_eui = ?1", eui)
                .await
        }
        Change::PutSession(eui, record) => {
            let sql = "INSERT INTO session (dev_eui, sealed) VALUES (?1, ?2) \
                 ON CONFLICT (dev_eui) DO UPDATE SET sealed = excluded.sealed";
            let key = eui.to_string();
            let sealed = sealed(seal, "session", &key, record)?;
            write.run(sqlx::query(sql).bind(key).bind(sealed)).await
        }
        Change::DeleteSession(eui) => {
            write
                .delete("DELETE FROM session WHERE dev_eui = ?1", eui)
                .await
        }
        Change::PutTask(record) => write.put_task(seal, record).await,
        Change::PutTaskDevice(record) => write.put_task_device(record).await,
        Change::PutMcGroup(record) => write.put_mc_group(seal, record).await,
        Change::PutImage(image, bytes) => write.put_image(image, bytes).await,
        Change::PutRequest(record) => write.put_request(record).await,
        _ => write.plain().await,
    }
}

type SqliteQuery<'q> = Query<'q, Sqlite, SqliteArguments>;

/// A change on its way into the transaction.
struct Write<'a> {
    connection: &'a mut SqliteConnection,
    change: &'a Change,
}

impl Write<'_> {
    /// Runs one statement; the rows it touched.
    async fn execute(&mut self, query: SqliteQuery<'_>) -> Result<u64> {
        match query.execute(&mut *self.connection).await {
            Ok(done) => Ok(done.rows_affected()),
            Err(sqlx::Error::Database(error)) if error.is_foreign_key_violation() => {
                Err(broken_reference(self.change))
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn run(&mut self, query: SqliteQuery<'_>) -> Result<()> {
        self.execute(query).await.map(|_| ())
    }

    async fn delete(&mut self, sql: &'static str, key: &impl ToString) -> Result<()> {
        self.run(sqlx::query(sql).bind(key.to_string())).await
    }

    /// Changes of one statement without secrets and filter columns.
    async fn plain(&mut self) -> Result<()> {
        let query = match self.change {
            Change::PutDeviceProfile(record) => sqlx::query(
                "INSERT INTO device_profile (tenant, id, body) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (tenant, id) DO UPDATE SET body = excluded.body",
            )
            .bind(record.tenant.0.clone())
            .bind(record.id.clone())
            .bind(body(record)?),
            Change::DeleteDeviceProfile(tenant, id) => {
                sqlx::query("DELETE FROM device_profile WHERE tenant = ?1 AND id = ?2")
                    .bind(tenant.0.clone())
                    .bind(id.clone())
            }
            Change::PutGatewaySettings(record) => sqlx::query(
                "INSERT INTO gateway (eui, body) VALUES (?1, ?2) \
                 ON CONFLICT (eui) DO UPDATE SET body = excluded.body",
            )
            .bind(record.eui.to_string())
            .bind(body(record)?),
            Change::PutGatewayStatus(eui, record) => sqlx::query(
                "INSERT INTO gateway_status (eui, body) VALUES (?1, ?2) \
                 ON CONFLICT (eui) DO UPDATE SET body = excluded.body",
            )
            .bind(eui.to_string())
            .bind(body(record)?),
            Change::DeleteGateway(eui) => {
                sqlx::query("DELETE FROM gateway WHERE eui = ?1").bind(eui.to_string())
            }
            Change::PutAirLedger(record) => sqlx::query(
                "INSERT INTO air_ledger (gateway, sub_band, body) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (gateway, sub_band) DO UPDATE SET body = excluded.body",
            )
            .bind(record.gateway.to_string())
            .bind(i64::from(record.sub_band))
            .bind(body(record)?),
            Change::PutMulticastGroup(record) => sqlx::query(
                "INSERT INTO multicast_group (tenant, id, body) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (tenant, id) DO UPDATE SET body = excluded.body",
            )
            .bind(record.tenant.0.clone())
            .bind(record.id.clone())
            .bind(body(record)?),
            Change::DeleteMulticastGroup(tenant, id) => {
                sqlx::query("DELETE FROM multicast_group WHERE tenant = ?1 AND id = ?2")
                    .bind(tenant.0.clone())
                    .bind(id.clone())
            }
            Change::DeleteImage(tenant, sha256) => {
                sqlx::query("DELETE FROM image WHERE tenant = ?1 AND sha256 = ?2")
                    .bind(tenant.0.clone())
                    .bind(sha256.to_string())
            }
            Change::PutImageRecord(_)
            | Change::PutTrustedKey(_)
            | Change::PutImagePolicy(_)
            | Change::DeleteImagePolicy(..) => return self.plain_of_image().await,
            Change::PutRollout(_) | Change::DeleteRollout(..) => return self.rollout().await,
            _ => return self.plain_of_task().await,
        };
        self.run(query).await
    }

    /// As [`Write::plain`], for what surrounds images.
    async fn plain_of_image(&mut self) -> Result<()> {
        let query = match self.change {
            Change::PutImageRecord(image) => {
                let query =
                    sqlx::query("UPDATE image SET body = ?3 WHERE tenant = ?1 AND sha256 = ?2")
                        .bind(image.tenant.0.clone())
                        .bind(image.sha256.to_string())
                        .bind(body(image)?);
                return match self.execute(query).await? {
                    0 => Err(broken_reference(self.change)),
                    _ => Ok(()),
                };
            }
            Change::PutTrustedKey(record) => sqlx::query(
                "INSERT INTO trusted_key (tenant, id, body) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (tenant, id) DO UPDATE SET body = excluded.body",
            )
            .bind(record.tenant.0.clone())
            .bind(record.id.to_string())
            .bind(body(record)?),
            Change::PutImagePolicy(record) => sqlx::query(
                "INSERT INTO image_policy (tenant, model, body) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (tenant, model) DO UPDATE SET body = excluded.body",
            )
            .bind(record.tenant.0.clone())
            .bind(record.model.clone())
            .bind(body(record)?),
            Change::DeleteImagePolicy(tenant, model) => {
                sqlx::query("DELETE FROM image_policy WHERE tenant = ?1 AND model = ?2")
                    .bind(tenant.0.clone())
                    .bind(model.clone())
            }
            // The caller hands over these kinds only.
            other => return Err(broken_reference(other)),
        };
        self.run(query).await
    }

    /// As [`Write::plain`], for rollouts.
    async fn rollout(&mut self) -> Result<()> {
        let query = match self.change {
            Change::PutRollout(record) => sqlx::query(
                "INSERT INTO rollout (tenant, id, body) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (tenant, id) DO UPDATE SET body = excluded.body",
            )
            .bind(record.tenant.0.clone())
            .bind(record.id.clone())
            .bind(body(record)?),
            Change::DeleteRollout(tenant, id) => {
                sqlx::query("DELETE FROM rollout WHERE tenant = ?1 AND id = ?2")
                    .bind(tenant.0.clone())
                    .bind(id.clone())
            }
            // The caller hands over these kinds only.
            other => return Err(broken_reference(other)),
        };
        self.run(query).await
    }

    /// As [`Write::plain`], for what belongs to a task.
    async fn plain_of_task(&mut self) -> Result<()> {
        let query = match self.change {
            Change::DeleteTask(id) => {
                sqlx::query("DELETE FROM task WHERE id = ?1").bind(id.0.clone())
            }
            Change::DeleteTaskDevice(id, eui) => {
                sqlx::query("DELETE FROM task_device WHERE task = ?1 AND dev_eui = ?2")
                    .bind(id.0.clone())
                    .bind(eui.to_string())
            }
            Change::PutWave(record) => sqlx::query(
                "INSERT INTO wave (task, number, body) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (task, number) DO UPDATE SET body = excluded.body",
            )
            .bind(record.task.0.clone())
            .bind(i64::from(record.number))
            .bind(body(record)?),
            Change::PutDistributionSession(record) => sqlx::query(
                "INSERT INTO distribution_session (task, number, body) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (task, number) DO UPDATE SET body = excluded.body",
            )
            .bind(record.id.task.0.clone())
            .bind(i64::from(record.id.number))
            .bind(body(record)?),
            Change::DeleteMcGroup(session) => {
                sqlx::query("DELETE FROM mc_group WHERE task = ?1 AND number = ?2")
                    .bind(session.task.0.clone())
                    .bind(i64::from(session.number))
            }
            // The callers above handle every other kind.
            other => return Err(broken_reference(other)),
        };
        self.run(query).await
    }

    async fn put_device(&mut self, record: &DeviceSettings) -> Result<()> {
        let query = sqlx::query(
            "INSERT INTO device (dev_eui, tenant, profile, model, body) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT (dev_eui) DO UPDATE \
             SET profile = excluded.profile, model = excluded.model, body = excluded.body \
             WHERE tenant = excluded.tenant",
        )
        .bind(record.dev_eui.to_string())
        .bind(record.tenant.0.clone())
        .bind(record.profile.clone())
        .bind(record.model.clone())
        .bind(body(record)?);
        if self.execute(query).await? == 0 {
            return Err(foreign_owner("end-device", &record.dev_eui));
        }
        self.put_tags(record.dev_eui, &record.tags).await
    }

    async fn put_tags(&mut self, dev_eui: DevEui, tags: &BTreeMap<String, String>) -> Result<()> {
        self.delete("DELETE FROM device_tag WHERE dev_eui = ?1", &dev_eui)
            .await?;
        for (tag, value) in tags {
            let sql = "INSERT INTO device_tag (dev_eui, name, value) VALUES (?1, ?2, ?3)";
            let query = sqlx::query(sql).bind(dev_eui.to_string());
            self.run(query.bind(tag.clone()).bind(value.clone()))
                .await?;
        }
        Ok(())
    }

    async fn put_image(&mut self, image: &Image, bytes: &[u8]) -> Result<()> {
        let query = sqlx::query(
            "INSERT INTO image (tenant, sha256, body) VALUES (?1, ?2, ?3) \
             ON CONFLICT (tenant, sha256) DO UPDATE SET body = excluded.body",
        )
        .bind(image.tenant.0.clone())
        .bind(image.sha256.to_string())
        .bind(body(image)?);
        self.run(query).await?;
        let query = sqlx::query(
            "INSERT INTO image_bytes (tenant, sha256, bytes) VALUES (?1, ?2, ?3) \
             ON CONFLICT (tenant, sha256) DO UPDATE SET bytes = excluded.bytes",
        )
        .bind(image.tenant.0.clone())
        .bind(image.sha256.to_string())
        .bind(bytes.to_vec());
        self.run(query).await
    }

    /// The seed is sealed in its own column and left out of the body.
    async fn put_task(&mut self, seal: &Seal, record: &Task) -> Result<()> {
        let seed = record
            .seed
            .as_ref()
            .map(|seed| seal.seal("task", &record.id.0, seed.as_bytes()));
        let without_seed = Task {
            seed: None,
            ..record.clone()
        };
        let query = sqlx::query(
            "INSERT INTO task (id, tenant, state, active, sealed, body) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO UPDATE \
             SET state = excluded.state, active = excluded.active, sealed = excluded.sealed, \
             body = excluded.body WHERE tenant = excluded.tenant",
        )
        .bind(record.id.0.clone())
        .bind(record.tenant.0.clone())
        .bind(name(&record.state)?)
        .bind(record.state.is_active())
        .bind(seed)
        .bind(body(&without_seed)?);
        if self.execute(query).await? == 0 {
            return Err(foreign_owner("task", &record.id));
        }
        self.delete("DELETE FROM task_image WHERE task = ?1", &record.id)
            .await?;
        for sha256 in record.images.iter().chain(&record.deltas) {
            let query = sqlx::query(
                "INSERT INTO task_image (task, tenant, sha256) VALUES (?1, ?2, ?3) \
                 ON CONFLICT DO NOTHING",
            )
            .bind(record.id.0.clone())
            .bind(record.tenant.0.clone());
            self.run(query.bind(sha256.to_string())).await?;
        }
        Ok(())
    }

    async fn put_task_device(&mut self, record: &TaskDevice) -> Result<()> {
        let sequence = i64::try_from(record.sequence)
            .map_err(|_| StoreError::Conflict("sequence number beyond 2^63".to_owned()))?;
        let query = sqlx::query(
            "INSERT INTO task_device (task, dev_eui, state, reason, sequence, body) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (task, dev_eui) DO UPDATE \
             SET state = excluded.state, reason = excluded.reason, \
             sequence = excluded.sequence, body = excluded.body",
        )
        .bind(record.task.0.clone())
        .bind(record.dev_eui.to_string())
        .bind(name(&record.state)?)
        .bind(record.reason.as_ref().map(name).transpose()?)
        .bind(sequence)
        .bind(body(record)?);
        self.run(query).await
    }

    async fn put_mc_group(&mut self, seal: &Seal, record: &McGroup) -> Result<()> {
        let sealed = sealed(seal, "mc_group", &session_key(&record.session), record)?;
        let query = sqlx::query(
            "INSERT INTO mc_group (task, number, sealed) VALUES (?1, ?2, ?3) \
             ON CONFLICT (task, number) DO UPDATE SET sealed = excluded.sealed",
        )
        .bind(record.session.task.0.clone())
        .bind(i64::from(record.session.number))
        .bind(sealed);
        self.run(query).await
    }

    async fn put_request(&mut self, record: &RequestRecord) -> Result<()> {
        let lifetime = i64::try_from(REQUEST_LIFETIME.as_micros()).unwrap_or(i64::MAX);
        let oldest = record.at.as_micros().saturating_sub(lifetime);
        self.run(sqlx::query("DELETE FROM request WHERE at < ?1").bind(oldest))
            .await?;
        let query = sqlx::query(
            "INSERT INTO request (tenant, request_id, method, fingerprint, response, at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (tenant, request_id) DO UPDATE \
             SET method = excluded.method, fingerprint = excluded.fingerprint, \
             response = excluded.response, at = excluded.at",
        )
        .bind(record.tenant.0.clone())
        .bind(record.request_id.clone())
        .bind(record.method.clone())
        .bind(record.fingerprint.to_string())
        .bind(record.response.clone())
        .bind(record.at.as_micros());
        self.run(query).await
    }
}
