//! The parts of a task: its devices, waves and distribution sessions, as resources to read.

use std::collections::{BTreeMap, BTreeSet};

use crate::lorawan::identifiers::DevEui;
use crate::proto::v1;
use crate::record::{DeviceState, StateCounts, Task, TaskDevice};
use crate::store::{Catalog, Page, TaskDeviceFilter};

use super::errors::ApiError;
use super::fields::{Fields, tenant};
use super::filter::Kind;
use super::page::PageRequest;
use super::task_part_records::{self, TaskContext};
use super::{Api, names, regions};

const DEVICE_FILTER: [(&str, Kind); 6] = [
    ("state", Kind::Word(is_device_state)),
    ("reason", Kind::Word(is_device_reason)),
    ("verdict", Kind::Word(is_verdict)),
    ("cleanup_state", Kind::Word(is_cleanup)),
    ("wave", Kind::Text),
    ("session", Kind::Text),
];

impl<S: Catalog> Api<S> {
    /// What the messages of a task's devices need to say.
    pub(super) async fn context(&self, task: Task) -> Result<TaskContext, ApiError> {
        let waves = self.store().waves(&task.id).await?;
        let sessions = self.store().distribution_sessions(&task.id).await?;
        Ok(TaskContext {
            task,
            waves,
            sessions,
        })
    }

    /// A device of a task, with the version it reported since the start.
    pub(super) async fn show_task_device(
        &self,
        context: &TaskContext,
        components: &[String],
        device: &TaskDevice,
    ) -> Result<v1::TaskDevice, ApiError> {
        let mut version = None;
        if let Some(started) = context.task.started_at {
            let known = self.store().device(&tenant(), device.dev_eui).await?;
            let component = components.get(usize::from(context.image_of(device)));
            let reported = known.and_then(|known| {
                let versions = &known.status.versions;
                component.and_then(|component| versions.get(component).copied())
            });
            version = reported
                .filter(|reported| reported.at >= started)
                .map(|reported| reported.version);
        }
        Ok(context.show(device, version))
    }

    /// The components a task updates, image by image.
    pub(super) async fn components(&self, task: &Task) -> Result<Vec<String>, ApiError> {
        let mut components = Vec::with_capacity(task.images.len());
        for sha256 in &task.images {
            let image = self.store().image(&tenant(), *sha256).await?;
            components.push(image.map(|image| image.component).unwrap_or_default());
        }
        Ok(components)
    }

    pub(super) async fn one_task_device(&self, name: &str) -> Result<v1::TaskDevice, ApiError> {
        let form = "tasks/{id}/devices/{dev_eui}";
        let (id, dev_eui) = names::required("name", form, name, |name| {
            let (id, device) = names::part_of_task("devices", name)?;
            Some((id, names::dev_eui(device)?))
        })?;
        let task = self.task(&id).await?;
        let device = self.store().task_device(&id, dev_eui).await?;
        let device = device.ok_or_else(|| ApiError::NotFound(name.to_owned()))?;
        let components = self.components(&task).await?;
        let context = self.context(task).await?;
        self.show_task_device(&context, &components, &device).await
    }

    pub(super) async fn page_of_task_devices(
        &self,
        request: &v1::ListTaskDevicesRequest,
    ) -> Result<v1::ListTaskDevicesResponse, ApiError> {
        let mut fields = Fields::default();
        let page = PageRequest::read(
            &mut fields,
            request.page_size,
            &request.page_token,
            &["ListTaskDevices", &request.parent, &request.filter],
        );
        let filter = fields.filter(&request.filter, &DEVICE_FILTER);
        fields.finish()?;
        let task = self.find_task("parent", &request.parent).await?;
        let components = self.components(&task).await?;
        let context = self.context(task).await?;
        let keep = |device: &TaskDevice| {
            let shown = context.show(device, None);
            filter.holds(|field| {
                Some(match field {
                    "state" => regions::word_of(shown.state().as_str_name(), "TASK_DEVICE_STATE_"),
                    "reason" => regions::word_of(shown.reason().as_str_name(), "DEVICE_REASON_"),
                    "verdict" => regions::word_of(shown.verdict().as_str_name(), "VERDICT_"),
                    "cleanup_state" => {
                        regions::word_of(shown.cleanup_state().as_str_name(), "CLEANUP_STATE_")
                    }
                    "wave" => shown.wave.clone(),
                    _ => shown.session.clone(),
                })
            })
        };
        let (store, id, all) = (self.store(), &context.task.id, &TaskDeviceFilter::default());
        let fetch = |page: Page| async move { store.task_devices(id, all, &page).await };
        let key = |device: &TaskDevice| device.dev_eui.to_string();
        let listed = page.walk(key, keep, fetch).await?;
        let mut task_devices = Vec::new();
        for device in &listed.items {
            task_devices.push(self.show_task_device(&context, &components, device).await?);
        }
        Ok(v1::ListTaskDevicesResponse {
            task_devices,
            next_page_token: listed.next_page_token,
            total_size: listed.total_size,
        })
    }

    pub(super) async fn shown_waves(&self, task: Task) -> Result<Vec<v1::Wave>, ApiError> {
        let devices = self.devices_of_task(&task.id).await?;
        let states: BTreeMap<DevEui, DeviceState> = devices
            .iter()
            .map(|device| (device.dev_eui, device.state))
            .collect();
        let context = self.context(task).await?;
        let waves = context.waves.iter().map(|wave| {
            let mut counts = StateCounts::new();
            for state in wave
                .devices
                .iter()
                .filter_map(|dev_eui| states.get(dev_eui))
            {
                *counts.entry(*state).or_default() += 1;
            }
            context.show_wave(wave, &counts)
        });
        Ok(waves.collect())
    }

    pub(super) async fn one_wave(&self, name: &str) -> Result<v1::Wave, ApiError> {
        let form = "tasks/{id}/waves/{n}";
        let (id, _) = names::required("name", form, name, |name| names::numbered("waves", name))?;
        let waves = self.shown_waves(self.task(&id).await?).await?;
        let wave = waves.into_iter().find(|wave| wave.name == name);
        wave.ok_or_else(|| ApiError::NotFound(name.to_owned()))
    }

    pub(super) async fn page_of_waves(
        &self,
        request: &v1::ListWavesRequest,
    ) -> Result<v1::ListWavesResponse, ApiError> {
        let mut fields = Fields::default();
        let page = PageRequest::read(
            &mut fields,
            request.page_size,
            &request.page_token,
            &["ListWaves", &request.parent],
        );
        fields.finish()?;
        let task = self.find_task("parent", &request.parent).await?;
        let waves = self.shown_waves(task).await?;
        let listed = page.of(waves, |wave| number_key(&wave.name));
        Ok(v1::ListWavesResponse {
            waves: listed.items,
            next_page_token: listed.next_page_token,
            total_size: listed.total_size,
        })
    }

    pub(super) async fn shown_sessions(
        &self,
        task: &Task,
    ) -> Result<Vec<v1::DistributionSession>, ApiError> {
        let devices = self.devices_of_task(&task.id).await?;
        let mut members: BTreeMap<u16, Vec<&TaskDevice>> = BTreeMap::new();
        for device in &devices {
            let course = device.images.iter().flat_map(|course| &course.done);
            let sessions: BTreeSet<u16> = course
                .map(|done| done.session)
                .chain(device.session)
                .collect();
            for number in sessions {
                members.entry(number).or_default().push(device);
            }
        }
        let sessions = self.store().distribution_sessions(&task.id).await?;
        let shown = sessions.iter().map(|session| {
            let members = members.get(&session.id.number).map(Vec::as_slice);
            task_part_records::show_session(task, session, members.unwrap_or_default())
        });
        Ok(shown.collect())
    }

    pub(super) async fn one_session(
        &self,
        name: &str,
    ) -> Result<v1::DistributionSession, ApiError> {
        let form = "tasks/{id}/sessions/{n}";
        let (id, _) =
            names::required("name", form, name, |name| names::numbered("sessions", name))?;
        let sessions = self.shown_sessions(&self.task(&id).await?).await?;
        let session = sessions.into_iter().find(|session| session.name == name);
        session.ok_or_else(|| ApiError::NotFound(name.to_owned()))
    }

    pub(super) async fn page_of_sessions(
        &self,
        request: &v1::ListDistributionSessionsRequest,
    ) -> Result<v1::ListDistributionSessionsResponse, ApiError> {
        let mut fields = Fields::default();
        let page = PageRequest::read(
            &mut fields,
            request.page_size,
            &request.page_token,
            &["ListDistributionSessions", &request.parent],
        );
        fields.finish()?;
        let task = self.find_task("parent", &request.parent).await?;
        let sessions = self.shown_sessions(&task).await?;
        let listed = page.of(sessions, |session| number_key(&session.name));
        Ok(v1::ListDistributionSessionsResponse {
            sessions: listed.items,
            next_page_token: listed.next_page_token,
            total_size: listed.total_size,
        })
    }
}

/// The number at the end of a name, so that keys sort as the numbers do.
fn number_key(name: &str) -> String {
    let number = name.rsplit('/').next().unwrap_or_default();
    format!("{number:0>8}")
}

fn is_device_state(word: &str) -> bool {
    v1::TaskDeviceState::from_str_name(&format!("TASK_DEVICE_STATE_{word}")).is_some()
}

pub(super) fn is_device_reason(word: &str) -> bool {
    v1::DeviceReason::from_str_name(&format!("DEVICE_REASON_{word}")).is_some()
}

fn is_verdict(word: &str) -> bool {
    v1::Verdict::from_str_name(&format!("VERDICT_{word}")).is_some()
}

fn is_cleanup(word: &str) -> bool {
    v1::CleanupState::from_str_name(&format!("CLEANUP_STATE_{word}")).is_some()
}
