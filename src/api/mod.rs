//! EDGE: the gRPC services of `proto/fuota/v1`.
//!
//! Reads come from the store ([`Catalog`]). What the machines hold (profiles, devices, gateways, started tasks) is
//! changed
//! only by commands to the one writer ([`Handle`]); images, multicast groups and drafts are committed straight to the
//! store. Every change holds the *desk*, one lock around read, check and write, and runs to its end even when its
//! client
//! goes away. No business rule lives here: the plan decides what can be started, the writer what is done.
//!
//! One file per service; beside them the files that turn records into messages and back, named by what they turn.

mod access;
mod device_parts;
mod device_profile_records;
mod device_profiles;
mod device_records;
mod devices;
mod drafts;
mod errors;
mod fields;
mod filter;
mod gateways;
mod idempotency;
mod image_records;
mod images;
mod mask;
mod multicast_groups;
mod names;
mod network;
mod page;
mod plan;
mod plan_outlook;
mod regions;
mod releases;
mod rollout_driver;
mod rollout_records;
mod rollouts;
mod task_control;
mod task_part_records;
mod task_parts;
mod task_policies;
mod task_records;
mod task_rules;
mod tasks;
mod trust;
mod watch;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, MutexGuard, watch as change};
use tokio_stream::Stream;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::Connected;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Response, Status};

use crate::proto::{FILE_DESCRIPTOR_SET, v1};
use crate::record::Change;
use crate::runtime::{Command, Handle};
use crate::store::Catalog;
use crate::time::Timestamp;

use self::errors::ApiError;

pub use self::access::{ListenError, ServerOptions, TlsIdentity, Token, check_listen};
pub use self::errors::ERROR_DOMAIN;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;
/// Fills a buffer with random bytes fit for keys.
pub type Entropy = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// Bytes of a request that are decoded at all. Calls that take less say so themselves, with the status the proto
/// names.
const DECODE_LIMIT: usize = 16 << 20;

/// The gRPC API over a store and the line to the writer.
#[derive(Debug)]
pub struct Api<S> {
    core: Arc<Core<S>>,
}

struct Core<S> {
    store: Arc<S>,
    handle: Handle,
    clock: Clock,
    entropy: Entropy,
    settings: ApiSettings,
    /// When this server began.
    started_at: Timestamp,
    /// Held from the first read of a change to its commit.
    desk: Mutex<()>,
    /// Counts up when a task is changed past the writer, which sends no notice then.
    drafts: change::Sender<u64>,
}

/// What the API says of the network, and defaults it fills in. They come from the server's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiSettings {
    /// NetID, 24 bits.
    pub net_id: u32,
    /// Share of the lawful air that gateways get unless they say, in percent, 1..=100.
    pub air_share_percent: u16,
}

impl Default for ApiSettings {
    /// NetID 000000 (experimental networks), all of the lawful air.
    fn default() -> Self {
        Self {
            net_id: 0,
            air_share_percent: 100,
        }
    }
}

impl<S> std::fmt::Debug for Core<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("settings", &self.settings)
            .field("started_at", &self.started_at)
            .finish_non_exhaustive()
    }
}

impl<S> Clone for Api<S> {
    fn clone(&self) -> Self {
        Self {
            core: Arc::clone(&self.core),
        }
    }
}

impl<S: Catalog> Api<S> {
    /// The API of one network.
    pub fn new(store: Arc<S>, handle: Handle, clock: Clock, entropy: Entropy) -> Self {
        Self::with_settings(store, handle, clock, entropy, ApiSettings::default())
    }

    /// As [`Api::new`], with settings from the configuration.
    pub fn with_settings(
        store: Arc<S>,
        handle: Handle,
        clock: Clock,
        entropy: Entropy,
        settings: ApiSettings,
    ) -> Self {
        let started_at = clock();
        Self {
            core: Arc::new(Core {
                store,
                handle,
                clock,
                entropy,
                settings,
                started_at,
                desk: Mutex::new(()),
                drafts: change::Sender::new(0),
            }),
        }
    }

    /// All services, health and reflection (v1 and v1alpha) included. With a token every call but those of the health
    /// service has to carry it: a load balancer asks for health and has no token; reflection tells what the server
    /// can do.
    pub async fn router(
        &self,
        token: Option<Token>,
    ) -> Result<Routes, tonic_reflection::server::Error> {
        let (health_reporter, health) = tonic_health::server::health_reporter();
        let access = access::Access::new(token);
        macro_rules! serving {
            ($module:ident, $server:ident) => {{
                let server =
                    v1::$module::$server::new(self.clone()).max_decoding_message_size(DECODE_LIMIT);
                health_reporter
                    .set_serving::<v1::$module::$server<Self>>()
                    .await;
                InterceptedService::new(server, access.clone())
            }};
        }
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        Ok(Routes::new(health)
            .add_service(serving!(image_service_server, ImageServiceServer))
            .add_service(serving!(
                device_profile_service_server,
                DeviceProfileServiceServer
            ))
            .add_service(serving!(device_service_server, DeviceServiceServer))
            .add_service(serving!(
                multicast_group_service_server,
                MulticastGroupServiceServer
            ))
            .add_service(serving!(task_service_server, TaskServiceServer))
            .add_service(serving!(gateway_service_server, GatewayServiceServer))
            .add_service(serving!(network_service_server, NetworkServiceServer))
            .add_service(serving!(trust_service_server, TrustServiceServer))
            .add_service(serving!(rollout_service_server, RolloutServiceServer))
            .add_service(InterceptedService::new(
                reflection().build_v1()?,
                access.clone(),
            ))
            .add_service(InterceptedService::new(
                reflection().build_v1alpha()?,
                access.clone(),
            )))
    }

    /// Answers the connections of `incoming` until `stop` resolves. Where it listens was checked with
    /// [`check_listen`].
    ///
    /// Streams that clients keep open are not waited for by `stop` alone: drop this future to end them.
    pub async fn serve_with_incoming<I, Io, E>(
        &self,
        incoming: I,
        options: ServerOptions,
        stop: impl Future<Output = ()>,
    ) -> Result<(), ServeError>
    where
        I: Stream<Item = Result<Io, E>>,
        Io: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let routes = self.router(options.token).await?;
        let mut server = Server::builder();
        if let Some(tls) = options.tls {
            let identity = Identity::from_pem(tls.certificates, tls.private_key);
            server = server.tls_config(ServerTlsConfig::new().identity(identity))?;
        }
        server
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, stop)
            .await?;
        Ok(())
    }

    /// Listens on `addr` and answers until `stop` resolves; see [`Api::serve_with_incoming`].
    pub async fn serve(
        &self,
        addr: SocketAddr,
        options: ServerOptions,
        stop: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        check_listen(addr, &options)?;
        let listener = tokio::net::TcpListener::bind(addr).await?;
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        self.serve_with_incoming(incoming, options, stop).await
    }

    fn store(&self) -> &S {
        &self.core.store
    }

    fn now(&self) -> Timestamp {
        (self.core.clock)()
    }

    fn settings(&self) -> ApiSettings {
        self.core.settings
    }

    async fn desk(&self) -> MutexGuard<'_, ()> {
        self.core.desk.lock().await
    }

    fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.core.entropy)(&mut bytes);
        bytes
    }

    /// An identifier nobody chose: 16 hex digits.
    fn made_id(&self) -> String {
        format!("{:016x}", u64::from_be_bytes(self.random()))
    }

    /// Has the writer carry out a command; `refusal` is the reason when it will not.
    async fn command(
        &self,
        refusal: &'static str,
        command: Command,
        with: Vec<Change>,
    ) -> Result<(), ApiError> {
        let done = self.core.handle.command(command, with).await;
        done.map_err(|error| ApiError::Command(refusal, error))
    }

    /// Commits what the writer does not hold.
    async fn commit(&self, changes: Vec<Change>) -> Result<(), ApiError> {
        Ok(self.store().commit(&changes).await?)
    }

    /// Tells watchers that a task was changed past the writer.
    fn draft_changed(&self) {
        self.core.drafts.send_modify(|count| *count += 1);
    }
}

/// Why the server does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is not allowed.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The address cannot be listened on.
    #[error("listen: {0}")]
    Bind(#[from] std::io::Error),
    /// Certificate, key or connection handling.
    #[error("transport: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors of the protos cannot be served.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Answers a read.
fn answer<T>(result: Result<T, ApiError>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(Status::from)
}

/// Carries a change out to its end, whether or not the client still waits: what was begun under the desk must not
/// be left
/// half done, nor the desk be given to the next before it is.
async fn carry_out<T: Send + 'static>(
    change: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<Response<T>, Status> {
    answer(tokio::spawn(change).await.unwrap_or(Err(ApiError::Stopped)))
}
