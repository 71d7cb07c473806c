//! `fuota serve`: where the parts are put together. Nothing is decided here.
//!
//! Two threads of work: the one writer (`drive`: gateways, campaigns, store) on a thread of its own, because its
//! futures need not be `Send`, and the gRPC API on the others. SIGINT and SIGTERM end both; so does the end of either.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use lorawan_fuota::api::{Api, ApiSettings, ServerOptions, TlsIdentity, Token, check_listen};
use lorawan_fuota::campaign::AddressSpace;
use lorawan_fuota::lorawan::identifiers::DevAddr;
use lorawan_fuota::network::native::udp::UdpGateways;
use lorawan_fuota::network::native::{DevAddrPrefix, Native, NativeConfig};
use lorawan_fuota::record::Snapshot;
use lorawan_fuota::runtime::clock::SystemClock;
use lorawan_fuota::runtime::config::{Config, ServeArgs};
use lorawan_fuota::runtime::drive::Edges;
use lorawan_fuota::runtime::{Clock, Engine, Handle, drive, secrets};
use lorawan_fuota::store::{MasterKey, SqliteStore};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tracing::{info, warn};

/// Bits of an address that name the network: the prefix of NetIDs of type 0, and one bit that tells groups from
/// devices.
const NET_ID_BITS: u8 = 7;

/// Runs the server until it is told to stop.
pub(crate) fn run(args: &ServeArgs) -> ExitCode {
    match Config::load(args)
        .map_err(anyhow::Error::from)
        .and_then(|config| start(&config, args.print_ports))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "logging may not be set up, and a start that fails is for people"
)]
fn report(error: &anyhow::Error) {
    eprintln!("fuota serve: {error:#}");
}

fn start(config: &Config, print_ports: bool) -> Result<()> {
    log_to_stderr(config)?;
    let options = server_options(config)?;
    check_listen(config.grpc, &options)?;
    std::fs::create_dir_all(&config.data).with_context(|| format!("{}", config.data.display()))?;
    let master_key = master_key(config)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(serve(config, options, master_key, print_ports))
}

async fn serve(
    config: &Config,
    options: ServerOptions,
    master_key: MasterKey,
    print_ports: bool,
) -> Result<()> {
    let clock = SystemClock::start();
    let path = config.data.join("fuota.db");
    let store = SqliteStore::open(&path, &master_key, Box::new(secrets::entropy))
        .await
        .with_context(|| format!("{}", path.display()))?;
    let listener = TcpListener::bind(config.grpc)
        .await
        .with_context(|| format!("grpc {}", config.grpc))?;
    let (handle, edges) = Handle::new();
    let settings = ApiSettings {
        net_id: config.net_id,
        ..ApiSettings::default()
    };
    let api = Api::with_settings(
        Arc::new(store.clone()),
        handle,
        Arc::new(move || clock.now()),
        Arc::new(secrets::entropy),
        settings,
    );
    let grpc = listener.local_addr()?;
    let (udp, driving) = spawn_driver(config, clock, store, edges)?;
    announce(grpc, udp, print_ports)?;
    let rollouts = api.clone();
    tokio::spawn(async move { rollouts.drive_rollouts(std::future::pending()).await });
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::select! {
        served = api.serve_with_incoming(incoming, options, std::future::pending()) => served.context("gRPC")?,
        driven = driving => driven.context("the writer is gone")?.context("the writer")?,
        signal = stop_signal() => info!(signal = signal?, "stopping"),
    }
    Ok(())
}

/// The one writer, on a thread of its own. Returns where gateways send to, and how it ended.
fn spawn_driver(
    config: &Config,
    clock: SystemClock,
    store: SqliteStore,
    mut edges: Edges,
) -> Result<(SocketAddr, oneshot::Receiver<Result<()>>)> {
    let native = native_config(config);
    let addresses = address_space(config);
    let socket =
        std::net::UdpSocket::bind(config.udp).with_context(|| format!("udp {}", config.udp))?;
    let udp = socket.local_addr()?;
    let (ended, driving) = oneshot::channel();
    std::thread::Builder::new()
        .name("writer".to_owned())
        .spawn(move || {
            let result = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(anyhow::Error::from);
            let result = result.and_then(|runtime| {
                runtime.block_on(async {
                    let mut gateways = UdpGateways::from_std(socket, move || clock.now())?;
                    let restore = |snapshot: Snapshot| {
                        let network = Native::restore(native, &snapshot);
                        Engine::restore(network, addresses, snapshot)
                    };
                    Ok(drive(&clock, &mut gateways, &store, &mut edges, restore).await?)
                })
            });
            // The receiver is gone when the server is stopping anyway.
            let _ = ended.send(result);
        })?;
    Ok((udp, driving))
}

fn native_config(config: &Config) -> NativeConfig {
    let space = address_space(config);
    // The other half of the network's addresses belongs to devices.
    let devices = space.prefix ^ (1 << (32 - u32::from(space.prefix_bits)));
    NativeConfig {
        net_id: config.net_id,
        dev_addr_prefix: DevAddrPrefix::new(DevAddr(devices), space.prefix_bits),
        ..NativeConfig::default()
    }
}

/// Multicast groups live in the upper half of the network's addresses.
fn address_space(config: &Config) -> AddressSpace {
    let network = (config.net_id & 0x3f) << 25;
    AddressSpace {
        prefix: network | 1 << 24,
        prefix_bits: NET_ID_BITS + 1,
    }
}

fn announce(grpc: SocketAddr, udp: SocketAddr, print_ports: bool) -> Result<()> {
    info!(%grpc, %udp, "serving");
    if print_ports {
        let line = serde_json::json!({
            "grpc": grpc.to_string(),
            "udp": udp.to_string(),
            "pid": std::process::id(),
        });
        use std::io::Write;
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{line}")?;
        stdout.flush()?;
    }
    Ok(())
}

fn server_options(config: &Config) -> Result<ServerOptions> {
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))
    };
    let tls = match &config.tls {
        Some((cert, key)) => Some(TlsIdentity {
            certificates: read(cert)?,
            private_key: read(key)?,
        }),
        None => None,
    };
    let token = match &config.token_file {
        Some(path) => Some(Token::new(
            &secrets::token(path).with_context(|| format!("{}", path.display()))?,
        )),
        None => None,
    };
    Ok(ServerOptions { tls, token })
}

fn master_key(config: &Config) -> Result<MasterKey> {
    let path = &config.master_key_file;
    let (key, made) = secrets::master_key(path, !config.master_key_given)
        .with_context(|| format!("{}", path.display()))?;
    if made {
        warn!(path = %path.display(), "made a new master key; keep a copy, without it the device keys are lost");
    }
    Ok(MasterKey::from_bytes(*key))
}

fn log_to_stderr(config: &Config) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log).context("log")?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if config.log_json {
        builder.json().init();
    } else {
        builder.init();
    }
    Ok(())
}

async fn stop_signal() -> Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    Ok(tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    })
}
