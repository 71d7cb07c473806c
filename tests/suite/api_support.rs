//! An API server over an in-memory connection, with a writer that does nothing but commit.

use std::future::{Ready, ready};
use std::io;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use lorawan_fuota::api::{Api, Clock, Entropy, ServerOptions};
use lorawan_fuota::proto::v1;
use lorawan_fuota::record::{
    Change, DeviceState, Task, TaskDevice, TaskId, TaskState, TenantId, Wave,
};
use lorawan_fuota::runtime::command::CommandRequest;
use lorawan_fuota::runtime::{Command, CommandError, Handle, Notice};
use lorawan_fuota::store::{Catalog, MemoryStore, Store};
use lorawan_fuota::task::PlanError;
use lorawan_fuota::time::Timestamp;
use tokio::io::DuplexStream;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::StreamExt;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// 2026-11-21T00:00:00Z.
pub(crate) const NOW: i64 = 1_795_219_200;

/// A server and what is behind it.
pub(crate) struct Server {
    pub(crate) api: Api<MemoryStore>,
    pub(crate) store: MemoryStore,
    pub(crate) notices: broadcast::Sender<Notice>,
    pub(crate) now: Arc<AtomicI64>,
    pub(crate) channel: Channel,
}

macro_rules! clients {
    ($($name:ident: $module:ident::$client:ident),* $(,)?) => {$(
        pub(crate) fn $name(&self) -> v1::$module::$client<Channel> {
            v1::$module::$client::new(self.channel.clone())
                .max_decoding_message_size(16 << 20)
                .max_encoding_message_size(64 << 20)
        }
    )*};
}

impl Server {
    /// A server with an empty store.
    pub(crate) async fn start() -> Self {
        Self::start_with(ServerOptions::default()).await
    }

    pub(crate) async fn start_with(options: ServerOptions) -> Self {
        let (api, store, notices, now) = api();
        let (client, server) = tokio::io::duplex(1 << 16);
        // The server stops when no more connections can come.
        let incoming =
            tokio_stream::once(Ok::<_, io::Error>(server)).chain(tokio_stream::pending());
        let serving = api.clone();
        tokio::spawn(async move {
            serving
                .serve_with_incoming(incoming, options, std::future::pending())
                .await
        });
        let channel = Endpoint::from_static("http://in.memory")
            .connect_with_connector(Connector(Arc::new(Mutex::new(Some(client)))))
            .await
            .unwrap();
        Self {
            api,
            store,
            notices,
            now,
            channel,
        }
    }

    clients!(
        images: image_service_client::ImageServiceClient,
        profiles: device_profile_service_client::DeviceProfileServiceClient,
        devices: device_service_client::DeviceServiceClient,
        groups: multicast_group_service_client::MulticastGroupServiceClient,
        tasks: task_service_client::TaskServiceClient,
        gateways: gateway_service_client::GatewayServiceClient,
        network: network_service_client::NetworkServiceClient,
        trust: trust_service_client::TrustServiceClient,
        rollouts: rollout_service_client::RolloutServiceClient,
    );

    /// Commits what the machines would, and tells watchers.
    pub(crate) async fn change_task(
        &self,
        id: &str,
        change: impl Fn(&mut Task, &mut [TaskDevice]),
    ) {
        let id = TaskId(id.to_owned());
        let filter = lorawan_fuota::store::TaskDeviceFilter::default();
        let page = lorawan_fuota::store::Page {
            size: 1000,
            after: None,
        };
        let mut task = self
            .store
            .task(&TenantId::default(), &id)
            .await
            .unwrap()
            .unwrap();
        let mut devices = self.store.task_devices(&id, &filter, &page).await.unwrap();
        let before = devices.clone();
        change(&mut task, &mut devices);
        let mut changes = vec![];
        for (mut device, before) in devices.into_iter().zip(before) {
            if device != before {
                task.sequence += 1;
                device.sequence = task.sequence;
                changes.push(Change::PutTaskDevice(device.into()));
            }
        }
        if changes.is_empty() {
            task.sequence += 1;
        }
        let sequence = task.sequence;
        changes.push(Change::PutTask(task.into()));
        self.store.commit(&changes).await.unwrap();
        let _ = self.notices.send(Notice::Task { task: id, sequence });
    }

    /// Uploads bytes in chunks.
    pub(crate) async fn upload(
        &self,
        metadata: v1::ImageMetadata,
        bytes: &[u8],
    ) -> Result<v1::Image, Status> {
        let metadata = v1::ImageMetadata {
            activate: true,
            ..metadata
        };
        self.upload_draft(metadata, bytes).await
    }

    /// As [`Server::upload`], and the image stays a draft unless its metadata says otherwise.
    pub(crate) async fn upload_draft(
        &self,
        metadata: v1::ImageMetadata,
        bytes: &[u8],
    ) -> Result<v1::Image, Status> {
        let mut messages = vec![metadata_message(metadata)];
        messages.extend(bytes.chunks(100_000).map(chunk_message));
        let stream = tokio_stream::iter(messages);
        Ok(self.images().upload_image(stream).await?.into_inner())
    }

    /// A profile, a gateway, and so many devices with DevEUI 1 and up, which take unsigned images.
    pub(crate) async fn fill(&self, devices: u64) {
        let policy = v1::ImagePolicy {
            name: "imagePolicies/others".to_owned(),
            allow_unsigned: true,
            ..v1::ImagePolicy::default()
        };
        self.trust()
            .set_image_policy(v1::SetImagePolicyRequest {
                image_policy: Some(policy),
                request_id: String::new(),
            })
            .await
            .unwrap();
        self.profiles()
            .create_device_profile(v1::CreateDeviceProfileRequest {
                device_profile: Some(profile()),
                device_profile_id: "meter".to_owned(),
                request_id: String::new(),
            })
            .await
            .unwrap();
        self.gateways()
            .create_gateway(v1::CreateGatewayRequest {
                gateway: Some(gateway(1)),
                request_id: String::new(),
            })
            .await
            .unwrap();
        if devices == 0 {
            return;
        }
        let answer = self
            .devices()
            .batch_create_devices(v1::BatchCreateDevicesRequest {
                requests: (1..=devices)
                    .map(|n| v1::CreateDeviceRequest {
                        device: Some(device(n)),
                        request_id: String::new(),
                    })
                    .collect(),
                request_id: String::new(),
            })
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            u64::try_from(answer.created_count).unwrap(),
            devices,
            "{answer:?}"
        );
    }
}

/// An API, its store, and the ends of what it is connected to.
pub(crate) fn api() -> (
    Api<MemoryStore>,
    MemoryStore,
    broadcast::Sender<Notice>,
    Arc<AtomicI64>,
) {
    let store = MemoryStore::new();
    let (handle, edges) = Handle::new();
    let (commands, notices) = (edges.commands, edges.notices);
    let now = Arc::new(AtomicI64::new(NOW));
    let clock: Clock = {
        let now = Arc::clone(&now);
        Arc::new(move || Timestamp::from_unix_seconds(now.load(Ordering::SeqCst)))
    };
    let drawn = AtomicU64::new(0);
    let entropy: Entropy = Arc::new(move |bytes: &mut [u8]| {
        let number = drawn.fetch_add(1, Ordering::SeqCst).to_be_bytes();
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = number[at % 8];
        }
    });
    tokio::spawn(write(
        store.clone(),
        commands,
        notices.clone(),
        Arc::clone(&now),
    ));
    let api = Api::new(Arc::new(store.clone()), handle, clock, entropy);
    (api, store, notices, now)
}

/// The writer: turns each command into the changes it means, and commits them.
async fn write(
    store: MemoryStore,
    mut commands: mpsc::Receiver<CommandRequest>,
    notices: broadcast::Sender<Notice>,
    now: Arc<AtomicI64>,
) {
    while let Some(request) = commands.recv().await {
        let at = Timestamp::from_unix_seconds(now.load(Ordering::SeqCst));
        let outcome = match changes(&store, request.command, at).await {
            Ok((mut changes, notice)) => {
                changes.extend(request.with);
                let done = store.commit(&changes).await;
                if let Some(notice) = notice {
                    let _ = notices.send(notice);
                }
                done.map_err(|error| CommandError::Conflict(error.to_string()))
            }
            Err(error) => Err(error),
        };
        let _ = request.reply.send(outcome);
    }
}

async fn changes(
    store: &MemoryStore,
    command: Command,
    now: Timestamp,
) -> Result<(Vec<Change>, Option<Notice>), CommandError> {
    Ok(match command {
        Command::PutDeviceProfile(profile) => (vec![Change::PutDeviceProfile(profile)], None),
        Command::DeleteDeviceProfile(tenant, id) => {
            (vec![Change::DeleteDeviceProfile(tenant, id)], None)
        }
        Command::PutDevices(devices) => {
            let mut changes = vec![];
            for device in devices {
                let dev_eui = device.settings.dev_eui;
                changes.push(Change::PutDeviceSettings(device.settings));
                if let Some(versions) = device.versions {
                    let known = store.device(&TenantId::default(), dev_eui).await.unwrap();
                    let mut status = known.map(|known| known.status).unwrap_or_default();
                    status.set_versions(&versions, now);
                    changes.push(Change::PutDeviceStatus(dev_eui, status.into()));
                }
                changes.extend(device.keys.map(Change::PutDeviceKeys));
                changes.extend(device.join.map(|join| Change::PutJoinState(dev_eui, join)));
                changes.extend(device.session.map(|s| Change::PutSession(dev_eui, s)));
            }
            (changes, None)
        }
        Command::DeleteDevice(dev_eui) => (vec![Change::DeleteDevice(dev_eui)], None),
        Command::PutGateway(settings) => (vec![Change::PutGatewaySettings(settings)], None),
        Command::DeleteGateway(eui) => (vec![Change::DeleteGateway(eui)], None),
        Command::StartTask {
            mut task, devices, ..
        }
        | Command::QueueTask {
            mut task, devices, ..
        } => {
            assert!(task.seed.is_some());
            if devices.is_empty() {
                return Err(CommandError::Plan(PlanError::NoDevices(vec![])));
            }
            task.state = TaskState::Scheduled;
            task.started_at = Some(now);
            let id = task.id.clone();
            let mut changes = vec![];
            for dev_eui in &devices {
                task.sequence += 1;
                let mut device = TaskDevice::new(id.clone(), *dev_eui, now);
                device.sequence = task.sequence;
                changes.push(Change::PutTaskDevice(device.into()));
            }
            changes.push(Change::PutWave(Wave {
                task: id.clone(),
                number: 0,
                devices,
                started_at: Some(now),
                ended_at: None,
            }));
            let sequence = task.sequence;
            changes.push(Change::PutTask((*task).into()));
            (changes, Some(Notice::Task { task: id, sequence }))
        }
        Command::DescribeTask {
            task: id,
            display_name,
            tags,
        } => {
            let task = store.task(&TenantId::default(), &id).await.unwrap();
            let mut task = task.ok_or_else(|| CommandError::NotFound(id.to_string()))?;
            (task.display_name, task.tags, task.updated_at) = (display_name, tags, now);
            task.sequence += 1;
            let sequence = task.sequence;
            (
                vec![Change::PutTask(task.into())],
                Some(Notice::Task { task: id, sequence }),
            )
        }
        Command::RemoveTaskDevices(id, devices) => {
            let task = store.task(&TenantId::default(), &id).await.unwrap();
            let mut task = task.ok_or_else(|| CommandError::NotFound(id.to_string()))?;
            let mut changes = vec![];
            for dev_eui in devices {
                if let Some(mut device) = store.task_device(&id, dev_eui).await.unwrap() {
                    task.sequence += 1;
                    (device.state, device.sequence) = (DeviceState::Removed, task.sequence);
                    changes.push(Change::PutTaskDevice(device.into()));
                }
            }
            let sequence = task.sequence;
            changes.push(Change::PutTask(task.into()));
            (changes, Some(Notice::Task { task: id, sequence }))
        }
        command @ (Command::PauseTask(_) | Command::ResumeTask(_) | Command::CancelTask(_)) => {
            let (id, state) = match command {
                Command::PauseTask(id) => (id, TaskState::Paused),
                Command::ResumeTask(id) => (id, TaskState::Preparing),
                Command::CancelTask(id) => (id, TaskState::Cancelling),
                _ => unreachable!(),
            };
            let task = store.task(&TenantId::default(), &id).await.unwrap();
            let mut task = task.ok_or_else(|| CommandError::NotFound(id.to_string()))?;
            task.state = state;
            task.sequence += 1;
            let sequence = task.sequence;
            (
                vec![Change::PutTask(task.into())],
                Some(Notice::Task { task: id, sequence }),
            )
        }
    })
}

#[derive(Clone)]
struct Connector(Arc<Mutex<Option<DuplexStream>>>);

impl Service<Uri> for Connector {
    type Response = TokioIo<DuplexStream>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let stream = self.0.lock().unwrap().take();
        let stream = stream.ok_or_else(|| io::Error::other("already connected"));
        ready(stream.map(TokioIo::new))
    }
}

pub(crate) fn metadata_message(metadata: v1::ImageMetadata) -> v1::UploadImageRequest {
    v1::UploadImageRequest {
        data: Some(v1::upload_image_request::Data::Metadata(metadata)),
    }
}

pub(crate) fn chunk_message(bytes: &[u8]) -> v1::UploadImageRequest {
    v1::UploadImageRequest {
        data: Some(v1::upload_image_request::Data::Chunk(bytes.to_vec().into())),
    }
}

/// A profile of a class C meter in EU868 with all packages.
pub(crate) fn profile() -> v1::DeviceProfile {
    let package = |version| Some(v1::Package { version, f_port: 0 });
    v1::DeviceProfile {
        lorawan_version: v1::LorawanVersion::LorawanVersion104.into(),
        region: v1::Region::Eu868.into(),
        supports_class_c: true,
        clock_sync: package(2),
        multicast_setup: package(2),
        fragmentation: package(2),
        firmware_management: package(1),
        uplink_interval: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..Default::default()
    }
}

pub(crate) fn gateway(n: u64) -> v1::Gateway {
    v1::Gateway {
        eui: format!("{n:016X}"),
        region: v1::Region::Eu868.into(),
        ..Default::default()
    }
}

/// An OTAA device of the profile `meter`.
pub(crate) fn device(n: u64) -> v1::EndDevice {
    v1::EndDevice {
        dev_eui: format!("{n:016X}"),
        device_profile: "deviceProfiles/meter".to_owned(),
        keys: Some(v1::end_device::Keys::RootKeys(v1::RootKeys {
            source: Some(v1::root_keys::Source::GenAppKey(vec![0xA7; 16].into())),
        })),
        activation: Some(v1::end_device::Activation::Otaa(v1::OtaaActivation {
            join_eui: "00000000000000ff".to_owned(),
            app_key: vec![0xA7; 16].into(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

pub(crate) fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
    Some(prost_types::FieldMask {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
    })
}

/// The reason in the details of a status, checked to come with this code.
pub(crate) fn reason(result: Result<impl std::fmt::Debug, Status>, code: Code) -> String {
    let status = result.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    status.get_details_error_info().unwrap().reason
}

/// The fields that a status says are bad.
pub(crate) fn bad_fields(result: Result<impl std::fmt::Debug, Status>) -> Vec<String> {
    let status = result.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_details_bad_request().unwrap();
    details
        .field_violations
        .into_iter()
        .map(|v| v.field)
        .collect()
}
