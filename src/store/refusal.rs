//! What a store refuses, in one place, so that every store says the same of the same change.

use super::{Result, StoreError};
use crate::record::{Change, SessionId};

/// Refuses numbers that JSON cannot hold: a record with one would never be read back, nor the snapshot it is part of.
pub(super) fn check_numbers(change: &Change) -> Result<()> {
    let finite = match change {
        Change::PutDeviceStatus(_, status) => {
            status.links.values().all(|link| link.snr_db.is_finite())
        }
        Change::PutGatewaySettings(settings) => {
            settings.antenna_gain_dbi.is_finite()
                && settings.cable_loss_db.is_finite()
                && settings.max_eirp_dbm.is_none_or(f32::is_finite)
                && settings.position.is_none_or(|at| {
                    at.latitude.is_finite() && at.longitude.is_finite() && at.altitude_m.is_finite()
                })
        }
        _ => true,
    };
    finite
        .then_some(())
        .ok_or_else(|| StoreError::Corrupt("a number is not finite".to_owned()))
}

/// The error of a change that names a record that does not exist, or removes one that others still name.
pub(super) fn broken_reference(change: &Change) -> StoreError {
    let device = |eui| StoreError::NotFound(format!("end-device {eui}"));
    let task = |id| StoreError::NotFound(format!("task {id}"));
    match change {
        Change::PutDeviceSettings(settings) => {
            StoreError::NotFound(format!("device profile {}", settings.profile))
        }
        Change::PutDeviceStatus(eui, _)
        | Change::PutJoinState(eui, _)
        | Change::PutSession(eui, _) => device(eui),
        Change::PutDeviceKeys(keys) => device(&keys.dev_eui),
        Change::PutGatewayStatus(eui, _) => StoreError::NotFound(format!("gateway {eui}")),
        Change::PutTask(record) => StoreError::NotFound(format!("an image of task {}", record.id)),
        Change::PutImageRecord(image) => StoreError::NotFound(format!("image {}", image.sha256)),
        Change::PutTaskDevice(record) => task(&record.task),
        Change::PutWave(record) => task(&record.task),
        Change::PutDistributionSession(record) => task(&record.id.task),
        Change::PutMcGroup(record) => task(&record.session.task),
        Change::DeleteDeviceProfile(_, id) => {
            StoreError::Conflict(format!("device profile {id} is in use"))
        }
        Change::DeleteImage(_, sha256) => StoreError::Conflict(format!("image {sha256} is in use")),
        Change::PutDeviceProfile(_)
        | Change::DeleteDevice(_)
        | Change::DeleteJoinState(_)
        | Change::DeleteSession(_)
        | Change::PutGatewaySettings(_)
        | Change::DeleteGateway(_)
        | Change::PutAirLedger(_)
        | Change::PutMulticastGroup(_)
        | Change::DeleteMulticastGroup(..)
        | Change::PutImage(..)
        | Change::DeleteTask(_)
        | Change::DeleteTaskDevice(..)
        | Change::DeleteMcGroup(_)
        | Change::PutTrustedKey(_)
        | Change::PutImagePolicy(_)
        | Change::DeleteImagePolicy(..)
        | Change::PutRollout(_)
        | Change::DeleteRollout(..)
        | Change::PutRequest(_) => StoreError::Conflict("another record names this one".to_owned()),
    }
}

/// The error of a record whose key another tenant owns.
pub(super) fn foreign_owner(kind: &str, key: &impl std::fmt::Display) -> StoreError {
    StoreError::Conflict(format!("{kind} {key} exists already"))
}

/// The error of a task that should have an image and has none.
pub(super) fn without_image(task: &crate::record::TaskId) -> StoreError {
    StoreError::Corrupt(format!("task {task}: no image"))
}

/// Key text of a session, for messages and sealing.
pub(super) fn session_key(id: &SessionId) -> String {
    format!("{}/{}", id.task, id.number)
}
