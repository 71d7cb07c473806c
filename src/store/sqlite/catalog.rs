//! The reads of the API, on the reading connections.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use sqlx::pool::PoolConnection;
use sqlx::query::QueryAs;
use sqlx::sqlite::{Sqlite, SqliteArguments};
use sqlx::{Acquire, QueryBuilder};

use super::rows::{identifier, name, parse, unavailable, unsealed, variant};
use super::{SqliteStore, restore};
use crate::lorawan::identifiers::{DevEui, GatewayEui};
use crate::record::{
    Activation, AirLedger, Device, DeviceKeys, DeviceProfile, DistributionSession, Gateway, Image,
    ImagePolicy, MulticastGroup, RequestRecord, Rollout, SessionId, Sha256, StateCounts, Task,
    TaskDevice, TaskId, TaskSnapshot, TenantId, TrustedKey, Wave,
};
use crate::store::refusal::session_key;
use crate::store::{
    Catalog, DeviceFilter, Page, Result, TaskDeviceFilter, TaskFilter, after_sequence,
};
use crate::time::Timestamp;

/// A query for (key, body) rows.
type Bodies = QueryAs<'static, Sqlite, (String, String), SqliteArguments>;

impl SqliteStore {
    async fn reader(&self) -> Result<PoolConnection<Sqlite>> {
        self.0.readers.acquire().await.map_err(unavailable)
    }

    async fn one<T: DeserializeOwned>(&self, table: &str, query: Bodies) -> Result<Option<T>> {
        let row = query
            .fetch_optional(&self.0.readers)
            .await
            .map_err(unavailable)?;
        row.map(|(key, body)| parse(table, &key, &body)).transpose()
    }

    async fn many<T: DeserializeOwned>(&self, table: &str, query: Bodies) -> Result<Vec<T>> {
        let rows = query
            .fetch_all(&self.0.readers)
            .await
            .map_err(unavailable)?;
        rows.iter()
            .map(|(key, body)| parse(table, key, body))
            .collect()
    }

    async fn sealed<T: DeserializeOwned>(
        &self,
        table: &str,
        sql: &'static str,
        dev_eui: DevEui,
    ) -> Result<Option<T>> {
        let key = dev_eui.to_string();
        let row: Option<Vec<u8>> = sqlx::query_scalar(sql)
            .bind(key.clone())
            .fetch_optional(&self.0.readers)
            .await
            .map_err(unavailable)?;
        row.map(|sealed| unsealed(&self.0.seal, table, &key, &sealed))
            .transpose()
    }

    async fn count(&self, sql: &'static str, keys: &[&str]) -> Result<u64> {
        let mut query = sqlx::query_scalar::<_, i64>(sql);
        for key in keys {
            query = query.bind((*key).to_owned());
        }
        let count = query
            .fetch_one(&self.0.readers)
            .await
            .map_err(unavailable)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

/// A page of the rows of one tenant; `sql` takes tenant, key and size.
fn owned_page(sql: &'static str, tenant: &TenantId, page: &Page) -> Bodies {
    sqlx::query_as(sql)
        .bind(tenant.0.clone())
        .bind(after(page))
        .bind(i64::from(page.size))
}

/// No key is empty, so every key is greater than the empty text.
fn after(page: &Page) -> String {
    page.after.clone().unwrap_or_default()
}

impl Catalog for SqliteStore {
    async fn device_profile(&self, tenant: &TenantId, id: &str) -> Result<Option<DeviceProfile>> {
        let sql = "SELECT id, body FROM device_profile WHERE tenant = ?1 AND id = ?2";
        let query = sqlx::query_as(sql).bind(tenant.0.clone());
        self.one("device_profile", query.bind(id.to_owned())).await
    }

    async fn device_profiles(&self, tenant: &TenantId, page: &Page) -> Result<Vec<DeviceProfile>> {
        let sql = "SELECT id, body FROM device_profile \
             WHERE tenant = ?1 AND id > ?2 ORDER BY id LIMIT ?3";
        self.many("device_profile", owned_page(sql, tenant, page))
            .await
    }

    async fn count_devices_of_profile(&self, tenant: &TenantId, id: &str) -> Result<u64> {
        let sql = "SELECT count(*) FROM device WHERE tenant = ?1 AND profile = ?2";
        self.count(sql, &[&tenant.0, id]).await
    }

    async fn device(&self, tenant: &TenantId, dev_eui: DevEui) -> Result<Option<Device>> {
        let row = sqlx::query_as(
            "SELECT d.dev_eui, d.body, s.body FROM device d \
             LEFT JOIN device_status s ON s.dev_eui = d.dev_eui \
             WHERE d.dev_eui = ?1 AND d.tenant = ?2",
        )
        .bind(dev_eui.to_string())
        .bind(tenant.0.clone())
        .fetch_optional(&self.0.readers)
        .await
        .map_err(unavailable)?;
        row.map(restore::device).transpose()
    }

    async fn device_exists(&self, dev_eui: DevEui) -> Result<bool> {
        let sql = "SELECT count(*) FROM device WHERE dev_eui = ?1";
        Ok(self.count(sql, &[&dev_eui.to_string()]).await? > 0)
    }

    async fn devices(
        &self,
        tenant: &TenantId,
        filter: &DeviceFilter,
        page: &Page,
    ) -> Result<Vec<Device>> {
        let mut query = QueryBuilder::new(
            "SELECT d.dev_eui, d.body, s.body FROM device d \
             LEFT JOIN device_status s ON s.dev_eui = d.dev_eui WHERE d.tenant = ",
        );
        query.push_bind(tenant.0.clone());
        query.push(" AND d.dev_eui > ").push_bind(after(page));
        if let Some(profile) = &filter.profile {
            query.push(" AND d.profile = ").push_bind(profile.clone());
        }
        if let Some(model) = &filter.model {
            query.push(" AND d.model = ").push_bind(model.clone());
        }
        for (tag, value) in &filter.tags {
            query.push(
                " AND EXISTS (SELECT 1 FROM device_tag t WHERE t.dev_eui = d.dev_eui AND t.name = ",
            );
            query.push_bind(tag.clone());
            query.push(" AND t.value = ").push_bind(value.clone());
            query.push(")");
        }
        query.push(" ORDER BY d.dev_eui LIMIT ");
        query.push_bind(i64::from(page.size));
        let rows = query
            .build_query_as()
            .fetch_all(&self.0.readers)
            .await
            .map_err(unavailable)?;
        rows.into_iter().map(restore::device).collect()
    }

    async fn device_keys(&self, dev_eui: DevEui) -> Result<Option<DeviceKeys>> {
        let keys = "SELECT sealed FROM device_keys WHERE dev_eui = ?1";
        self.sealed("device_keys", keys, dev_eui).await
    }

    async fn activation(&self, dev_eui: DevEui) -> Result<Activation> {
        let join = "SELECT sealed FROM join_state WHERE dev_eui = ?1";
        let session = "SELECT sealed FROM session WHERE dev_eui = ?1";
        Ok(Activation {
            dev_eui,
            join: self.sealed("join_state", join, dev_eui).await?,
            session: self.sealed("session", session, dev_eui).await?,
        })
    }

    async fn gateway(&self, eui: GatewayEui) -> Result<Option<Gateway>> {
        let row = sqlx::query_as(
            "SELECT g.eui, g.body, s.body FROM gateway g \
             LEFT JOIN gateway_status s ON s.eui = g.eui WHERE g.eui = ?1",
        )
        .bind(eui.to_string())
        .fetch_optional(&self.0.readers)
        .await
        .map_err(unavailable)?;
        row.map(restore::gateway).transpose()
    }

    async fn gateways(&self, page: &Page) -> Result<Vec<Gateway>> {
        let rows = sqlx::query_as(
            "SELECT g.eui, g.body, s.body FROM gateway g \
             LEFT JOIN gateway_status s ON s.eui = g.eui \
             WHERE g.eui > ?1 ORDER BY g.eui LIMIT ?2",
        )
        .bind(after(page))
        .bind(i64::from(page.size))
        .fetch_all(&self.0.readers)
        .await
        .map_err(unavailable)?;
        rows.into_iter().map(restore::gateway).collect()
    }

    async fn air_ledgers(&self) -> Result<Vec<AirLedger>> {
        let sql = "SELECT gateway, body FROM air_ledger ORDER BY gateway, sub_band";
        self.many("air_ledger", sqlx::query_as(sql)).await
    }

    async fn multicast_group(&self, tenant: &TenantId, id: &str) -> Result<Option<MulticastGroup>> {
        let sql = "SELECT id, body FROM multicast_group WHERE tenant = ?1 AND id = ?2";
        let query = sqlx::query_as(sql).bind(tenant.0.clone());
        self.one("multicast_group", query.bind(id.to_owned())).await
    }

    async fn multicast_groups(
        &self,
        tenant: &TenantId,
        page: &Page,
    ) -> Result<Vec<MulticastGroup>> {
        let sql = "SELECT id, body FROM multicast_group \
             WHERE tenant = ?1 AND id > ?2 ORDER BY id LIMIT ?3";
        self.many("multicast_group", owned_page(sql, tenant, page))
            .await
    }

    async fn image(&self, tenant: &TenantId, sha256: Sha256) -> Result<Option<Image>> {
        let sql = "SELECT sha256, body FROM image WHERE tenant = ?1 AND sha256 = ?2";
        let query = sqlx::query_as(sql).bind(tenant.0.clone());
        self.one("image", query.bind(sha256.to_string())).await
    }

    async fn images(&self, tenant: &TenantId, page: &Page) -> Result<Vec<Image>> {
        let sql = "SELECT sha256, body FROM image \
             WHERE tenant = ?1 AND sha256 > ?2 ORDER BY sha256 LIMIT ?3";
        self.many("image", owned_page(sql, tenant, page)).await
    }

    async fn image_bytes(&self, tenant: &TenantId, sha256: Sha256) -> Result<Option<Arc<[u8]>>> {
        let sql = "SELECT bytes FROM image_bytes WHERE tenant = ?1 AND sha256 = ?2";
        let bytes: Option<Vec<u8>> = sqlx::query_scalar(sql)
            .bind(tenant.0.clone())
            .bind(sha256.to_string())
            .fetch_optional(&self.0.readers)
            .await
            .map_err(unavailable)?;
        Ok(bytes.map(Arc::from))
    }

    async fn trusted_keys(&self, tenant: &TenantId) -> Result<Vec<TrustedKey>> {
        let sql = "SELECT id, body FROM trusted_key WHERE tenant = ?1 ORDER BY id";
        let query = sqlx::query_as(sql).bind(tenant.0.clone());
        self.many("trusted_key", query).await
    }

    async fn image_policies(&self, tenant: &TenantId) -> Result<Vec<ImagePolicy>> {
        let sql = "SELECT model, body FROM image_policy WHERE tenant = ?1 ORDER BY model";
        let query = sqlx::query_as(sql).bind(tenant.0.clone());
        self.many("image_policy", query).await
    }

    async fn rollouts(&self, tenant: &TenantId) -> Result<Vec<Rollout>> {
        let sql = "SELECT id, body FROM rollout WHERE tenant = ?1 ORDER BY id";
        let query = sqlx::query_as(sql).bind(tenant.0.clone());
        self.many("rollout", query).await
    }

    async fn task(&self, tenant: &TenantId, id: &TaskId) -> Result<Option<Task>> {
        let sql = "SELECT id, body, sealed FROM task WHERE id = ?1 AND tenant = ?2";
        let row = sqlx::query_as(sql)
            .bind(id.0.clone())
            .bind(tenant.0.clone())
            .fetch_optional(&self.0.readers)
            .await
            .map_err(unavailable)?;
        row.map(|row| restore::task(&self.0.seal, row)).transpose()
    }

    async fn tasks(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        page: &Page,
    ) -> Result<Vec<Task>> {
        let mut query =
            QueryBuilder::new("SELECT t.id, t.body, t.sealed FROM task t WHERE t.tenant = ");
        query.push_bind(tenant.0.clone());
        query.push(" AND t.id > ").push_bind(after(page));
        if let Some(state) = &filter.state {
            query.push(" AND t.state = ").push_bind(name(state)?);
        }
        if let Some(sha256) = &filter.image {
            query.push(
                " AND EXISTS (SELECT 1 FROM task_image i WHERE i.task = t.id AND i.sha256 = ",
            );
            query.push_bind(sha256.to_string()).push(")");
        }
        if let Some(eui) = &filter.device {
            query.push(
                " AND EXISTS (SELECT 1 FROM task_device d WHERE d.task = t.id AND d.dev_eui = ",
            );
            query.push_bind(eui.to_string()).push(")");
        }
        query.push(" ORDER BY t.id LIMIT ");
        query.push_bind(i64::from(page.size));
        let rows = query
            .build_query_as()
            .fetch_all(&self.0.readers)
            .await
            .map_err(unavailable)?;
        rows.into_iter()
            .map(|row| restore::task(&self.0.seal, row))
            .collect()
    }

    async fn task_counts(&self, id: &TaskId) -> Result<StateCounts> {
        let sql = "SELECT state, count(*) FROM task_device WHERE task = ?1 GROUP BY state";
        let rows: Vec<(String, i64)> = sqlx::query_as(sql)
            .bind(id.0.clone())
            .fetch_all(&self.0.readers)
            .await
            .map_err(unavailable)?;
        rows.into_iter()
            .map(|(state, count)| {
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                Ok((variant("task_device", state)?, count))
            })
            .collect()
    }

    async fn task_devices(
        &self,
        id: &TaskId,
        filter: &TaskDeviceFilter,
        page: &Page,
    ) -> Result<Vec<TaskDevice>> {
        let mut query = QueryBuilder::new("SELECT dev_eui, body FROM task_device WHERE task = ");
        query.push_bind(id.0.clone());
        if let Some(state) = &filter.state {
            query.push(" AND state = ").push_bind(name(state)?);
        }
        if let Some(reason) = &filter.reason {
            query.push(" AND reason = ").push_bind(name(reason)?);
        }
        match after_sequence(filter, page)? {
            Some(sequence) => {
                let sequence = i64::try_from(sequence).unwrap_or(i64::MAX);
                query.push(" AND sequence > ").push_bind(sequence);
                query.push(" ORDER BY sequence, dev_eui LIMIT ");
            }
            None => {
                query.push(" AND dev_eui > ").push_bind(after(page));
                query.push(" ORDER BY dev_eui LIMIT ");
            }
        }
        query.push_bind(i64::from(page.size));
        let rows: Vec<(String, String)> = query
            .build_query_as()
            .fetch_all(&self.0.readers)
            .await
            .map_err(unavailable)?;
        rows.iter()
            .map(|(key, body)| parse("task_device", key, body))
            .collect()
    }

    async fn task_device(&self, id: &TaskId, dev_eui: DevEui) -> Result<Option<TaskDevice>> {
        let sql = "SELECT dev_eui, body FROM task_device WHERE task = ?1 AND dev_eui = ?2";
        let query = sqlx::query_as(sql).bind(id.0.clone());
        self.one("task_device", query.bind(dev_eui.to_string()))
            .await
    }

    async fn active_tasks_of(&self, devices: &[DevEui]) -> Result<Vec<(DevEui, TaskId)>> {
        let devices: Vec<String> = devices.iter().map(DevEui::to_string).collect();
        let rows: Vec<(String, String, String, String)> = sqlx::query_as(
            "SELECT DISTINCT d.dev_eui, d.task, d.body, json_extract(t.body, '$.success') \
             FROM json_each(?1) wanted JOIN task_device d ON d.dev_eui = wanted.value \
             JOIN task t ON t.id = d.task AND t.active = 1 ORDER BY d.dev_eui, d.task",
        )
        .bind(super::rows::body(&devices)?)
        .fetch_all(&self.0.readers)
        .await
        .map_err(unavailable)?;
        let mut held = Vec::new();
        for (eui, task, body, success) in rows {
            let device: TaskDevice = parse("task_device", &eui, &body)?;
            if device.is_held(variant("task", success)?) {
                held.push((identifier("task_device", &eui)?, TaskId(task)));
            }
        }
        Ok(held)
    }

    async fn waves(&self, id: &TaskId) -> Result<Vec<Wave>> {
        restore::waves(&mut *self.reader().await?, id).await
    }

    async fn distribution_sessions(&self, id: &TaskId) -> Result<Vec<DistributionSession>> {
        restore::distribution_sessions(&mut *self.reader().await?, id).await
    }

    async fn distribution_session(&self, id: &SessionId) -> Result<Option<DistributionSession>> {
        let sql = "SELECT ?3, body FROM distribution_session WHERE task = ?1 AND number = ?2";
        let query = sqlx::query_as(sql)
            .bind(id.task.0.clone())
            .bind(i64::from(id.number))
            .bind(session_key(id));
        self.one("distribution_session", query).await
    }

    async fn task_snapshot(&self, tenant: &TenantId, id: &TaskId) -> Result<Option<TaskSnapshot>> {
        let mut reader = self.reader().await?;
        let mut transaction = reader.begin().await.map_err(unavailable)?;
        let sql = "SELECT id, body, sealed FROM task WHERE id = ?1 AND tenant = ?2";
        let row = sqlx::query_as(sql)
            .bind(id.0.clone())
            .bind(tenant.0.clone())
            .fetch_optional(&mut *transaction)
            .await
            .map_err(unavailable)?;
        let Some(row) = row else {
            return Ok(None);
        };
        let task = restore::task(&self.0.seal, row)?;
        restore::task_snapshot(&mut transaction, task)
            .await
            .map(Some)
    }

    async fn request(&self, tenant: &TenantId, request_id: &str) -> Result<Option<RequestRecord>> {
        let row: Option<(String, String, Vec<u8>, i64)> = sqlx::query_as(
            "SELECT method, fingerprint, response, at FROM request \
             WHERE tenant = ?1 AND request_id = ?2",
        )
        .bind(tenant.0.clone())
        .bind(request_id.to_owned())
        .fetch_optional(&self.0.readers)
        .await
        .map_err(unavailable)?;
        row.map(|(method, fingerprint, response, at)| {
            Ok(RequestRecord {
                tenant: tenant.clone(),
                request_id: request_id.to_owned(),
                method,
                fingerprint: identifier("request", &fingerprint)?,
                response,
                at: Timestamp::from_micros(at),
            })
        })
        .transpose()
    }
}
