//! What an operator does over gRPC: enter gateways, devices and an image, create and start a task, watch it to its end.
//!
//! It uses the public API only, as any client would, and survives restarts of the server: calls are repeated with the
//! same `request_id`, and a broken watch is resumed after the last sequence that was seen.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lorawan_fuota::proto::v1::device_profile_service_client::DeviceProfileServiceClient;
use lorawan_fuota::proto::v1::device_service_client::DeviceServiceClient;
use lorawan_fuota::proto::v1::gateway_service_client::GatewayServiceClient;
use lorawan_fuota::proto::v1::image_service_client::ImageServiceClient;
use lorawan_fuota::proto::v1::task_service_client::TaskServiceClient;
use lorawan_fuota::proto::v1::trust_service_client::TrustServiceClient;
use lorawan_fuota::proto::v1::{
    BatchCreateDevicesRequest, CreateDeviceProfileRequest, CreateDeviceRequest,
    CreateGatewayRequest, CreateTaskRequest, DeviceProfile, DistributionSession, EndDevice,
    FuotaTask, Gateway, GetTaskRequest, Image, ImageMetadata, ImportTrustedKeyRequest,
    ListDistributionSessionsRequest, StartTaskRequest, TaskDevice, TaskState, TrustedKey,
    UploadImageRequest, WatchTaskRequest, batch_create_devices_result, upload_image_request,
    watch_task_response,
};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

/// Bytes of an image per message.
const CHUNK: usize = 64 * 1024;
/// Between two tries while the server is away.
const RETRY_PAUSE: Duration = Duration::from_millis(300);
/// Tries while the server is away: about half a minute.
const RETRIES: usize = 100;

/// Adds the bearer token to each call.
#[derive(Clone, Debug)]
struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let metadata = request.metadata_mut();
            metadata.insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// A client of one server.
#[derive(Clone, Debug)]
pub struct Operator {
    channel: InterceptedService<Channel, Bearer>,
    run: String,
}

/// Where a watched task is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The task as last seen.
    pub task: FuotaTask,
    /// Its devices as last seen, by name.
    pub devices: BTreeMap<String, TaskDevice>,
}

impl Progress {
    /// The task never changes again.
    pub fn is_over(&self) -> bool {
        matches!(
            self.task.state(),
            TaskState::Completed | TaskState::Cancelled | TaskState::Failed
        )
    }
}

impl Operator {
    /// A client of the server at `address`; `run` makes its request ids unique. Connects when first used.
    ///
    /// # Errors
    /// The address is no address.
    pub fn new(address: &str, run: &str) -> Result<Self> {
        Self::with_token(&format!("http://{address}"), run, None)
    }

    /// As [`Operator::new`], at a URL and with a bearer token, which goes to this machine alone: the connection is not
    /// encrypted.
    ///
    /// # Errors
    /// The address is no address, or a token would leave this machine.
    pub fn with_token(url: &str, run: &str, token: Option<&str>) -> Result<Self> {
        let endpoint = Endpoint::from_shared(url.to_owned())?
            .connect_timeout(Duration::from_secs(2))
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5));
        let host = endpoint.uri().host().unwrap_or_default();
        let host = host.trim_matches(['[', ']']);
        let loopback = host == "localhost"
            || host
                .parse()
                .is_ok_and(|address: IpAddr| address.is_loopback());
        if token.is_some() && !loopback {
            bail!("a token is sent to this machine only: the connection is not encrypted");
        }
        let token = token.map(|token| format!("Bearer {token}").parse());
        let token = token.transpose().context("token")?;
        Ok(Self {
            channel: InterceptedService::new(endpoint.connect_lazy(), Bearer(token)),
            run: run.to_owned(),
        })
    }

    /// Enters gateways.
    ///
    /// # Errors
    /// The server refuses one.
    pub async fn create_gateways(&self, gateways: &[Gateway]) -> Result<()> {
        for gateway in gateways {
            let request = CreateGatewayRequest {
                gateway: Some(gateway.clone()),
                request_id: self.request_id(&format!("gateway-{}", gateway.eui)),
            };
            retry(async || {
                GatewayServiceClient::new(self.channel.clone())
                    .create_gateway(request.clone())
                    .await
            })
            .await
            .with_context(|| format!("gateway {}", gateway.eui))?;
        }
        Ok(())
    }

    /// Enters a device profile; returns its name.
    ///
    /// # Errors
    /// The server refuses it.
    pub async fn create_profile(&self, id: &str, profile: &DeviceProfile) -> Result<String> {
        let request = CreateDeviceProfileRequest {
            device_profile: Some(profile.clone()),
            device_profile_id: id.to_owned(),
            request_id: self.request_id(&format!("profile-{id}")),
        };
        let made = retry(async || {
            DeviceProfileServiceClient::new(self.channel.clone())
                .create_device_profile(request.clone())
                .await
        })
        .await
        .context("device profile")?;
        Ok(made.name)
    }

    /// Enters devices; returns their names in the same order.
    ///
    /// # Errors
    /// The server refuses any of them.
    pub async fn create_devices(&self, devices: Vec<EndDevice>) -> Result<Vec<String>> {
        let requests = devices.into_iter().map(|device| CreateDeviceRequest {
            device: Some(device),
            request_id: String::new(),
        });
        let request = BatchCreateDevicesRequest {
            requests: requests.collect(),
            request_id: self.request_id("devices"),
        };
        let made = retry(async || {
            DeviceServiceClient::new(self.channel.clone())
                .batch_create_devices(request.clone())
                .await
        })
        .await
        .context("devices")?;
        let names = made.results.into_iter().map(|result| match result.result {
            Some(batch_create_devices_result::Result::Device(device)) => Ok(device.name),
            Some(batch_create_devices_result::Result::Error(error)) => bail!("device: {error:?}"),
            None => bail!("device: neither made nor refused"),
        });
        names.collect()
    }

    /// Has the server trust a public key, in PEM, for images of a model; one it trusts already is fine.
    ///
    /// # Errors
    /// The server refuses it.
    pub async fn trust(&self, name: &str, model: &str, public_key_pem: String) -> Result<()> {
        let request = ImportTrustedKeyRequest {
            trusted_key: Some(TrustedKey {
                display_name: name.to_owned(),
                model: model.to_owned(),
                public_key_pem,
                ..TrustedKey::default()
            }),
            request_id: self.request_id("trust"),
        };
        retry(async || {
            let mut client = TrustServiceClient::new(self.channel.clone());
            match client.import_trusted_key(request.clone()).await {
                Err(status) if status.code() == Code::AlreadyExists => Ok(Response::new(())),
                imported => imported.map(|_| Response::new(())),
            }
        })
        .await
        .context("trusted key")
    }

    /// Uploads an image.
    ///
    /// # Errors
    /// The server refuses it.
    pub async fn upload(&self, metadata: &ImageMetadata, bytes: &[u8]) -> Result<Image> {
        let metadata = ImageMetadata {
            request_id: self.request_id("image"),
            ..metadata.clone()
        };
        let head = upload_image_request::Data::Metadata(metadata);
        let chunks = bytes
            .chunks(CHUNK)
            .map(|chunk| upload_image_request::Data::Chunk(chunk.to_vec().into()));
        let parts: Vec<UploadImageRequest> = [head]
            .into_iter()
            .chain(chunks)
            .map(|data| UploadImageRequest { data: Some(data) })
            .collect();
        retry(async || {
            let stream = tokio_stream::iter(parts.clone());
            ImageServiceClient::new(self.channel.clone())
                .upload_image(stream)
                .await
        })
        .await
        .context("image")
    }

    /// Creates a task for `devices` and starts it.
    ///
    /// # Errors
    /// The server refuses it.
    pub async fn run_task(
        &self,
        id: &str,
        task: &FuotaTask,
        devices: Vec<String>,
    ) -> Result<FuotaTask> {
        let request = CreateTaskRequest {
            task: Some(task.clone()),
            task_id: id.to_owned(),
            devices,
            request_id: self.request_id("task"),
            ..CreateTaskRequest::default()
        };
        let made = retry(async || {
            TaskServiceClient::new(self.channel.clone())
                .create_task(request.clone())
                .await
        })
        .await
        .context("create task")?;
        let start = StartTaskRequest {
            name: made.name,
            request_id: self.request_id("start"),
            ..StartTaskRequest::default()
        };
        retry(async || {
            TaskServiceClient::new(self.channel.clone())
                .start_task(start.clone())
                .await
        })
        .await
        .context("start task")
    }

    /// Follows a task to its end, through any number of broken connections. `seen` is called after every change.
    ///
    /// # Errors
    /// The server says that it does not know the task.
    pub async fn watch(&self, name: &str, mut seen: impl FnMut(&Progress)) -> Result<Progress> {
        let mut progress = Progress::default();
        let mut last = 0;
        while !progress.is_over() {
            let request = WatchTaskRequest {
                name: name.to_owned(),
                resume_after_sequence: last,
            };
            let call = TaskServiceClient::new(self.channel.clone())
                .watch_task(request)
                .await;
            let mut stream = match call {
                Ok(stream) => stream.into_inner(),
                Err(status) if is_passing(&status) => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
                Err(status) => return Err(status).context("watch task"),
            };
            // An error here is a broken connection: the outer loop resumes.
            while let Ok(Some(change)) = stream.message().await {
                last = change.sequence;
                match change.record {
                    Some(watch_task_response::Record::Task(task)) => progress.task = task,
                    Some(watch_task_response::Record::TaskDevice(device)) => {
                        progress.devices.insert(device.name.clone(), device);
                    }
                    None => {}
                }
                seen(&progress);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        Ok(progress)
    }

    /// The task as it stands.
    ///
    /// # Errors
    /// The server does not know it.
    pub async fn task(&self, name: &str) -> Result<FuotaTask> {
        let request = GetTaskRequest {
            name: name.to_owned(),
        };
        retry(async || {
            TaskServiceClient::new(self.channel.clone())
                .get_task(request.clone())
                .await
        })
        .await
    }

    /// The distribution sessions of a task.
    ///
    /// # Errors
    /// The server does not know the task.
    pub async fn sessions(&self, name: &str) -> Result<Vec<DistributionSession>> {
        let request = ListDistributionSessionsRequest {
            parent: name.to_owned(),
            ..ListDistributionSessionsRequest::default()
        };
        let listed = retry(async || {
            TaskServiceClient::new(self.channel.clone())
                .list_distribution_sessions(request.clone())
                .await
        })
        .await?;
        Ok(listed.sessions)
    }

    fn request_id(&self, what: &str) -> String {
        format!("{}-{what}", self.run)
    }
}

/// Repeats a call while the server is away.
async fn retry<T>(call: impl AsyncFn() -> Result<Response<T>, Status>) -> Result<T> {
    for _ in 0..RETRIES {
        match call().await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) if is_passing(&status) => tokio::time::sleep(RETRY_PAUSE).await,
            Err(status) => bail!("{}: {}", status.code(), status.message()),
        }
    }
    bail!("the server does not answer")
}

/// The server is away or restarting; nothing is wrong with the call.
fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Cancelled | Code::Aborted
    ) || (status.code() == Code::Unknown && std::error::Error::source(status).is_some())
}
