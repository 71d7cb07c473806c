//! The server under test as a child process: started, watched, and started again when it dies.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// How long a server may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the server listens, as it says itself on its first line.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Ports {
    /// gRPC address.
    pub grpc: String,
    /// UDP address.
    pub udp: String,
    /// Process id.
    pub pid: u32,
}

/// `fuota serve` in a directory of its own.
#[derive(Debug)]
pub struct Server {
    binary: PathBuf,
    data: PathBuf,
    log: PathBuf,
    ports: Ports,
    child: Child,
}

impl Server {
    /// Starts the server on free loopback ports; its log goes to `server.log` in `data`.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(binary: &Path, data: &Path) -> Result<Self> {
        std::fs::create_dir_all(data).with_context(|| format!("{}", data.display()))?;
        let log = data.join("server.log");
        let (child, ports) = launch(binary, data, &log, "127.0.0.1:0", "127.0.0.1:0").await?;
        Ok(Self {
            binary: binary.to_owned(),
            data: data.to_owned(),
            log,
            ports,
            child,
        })
    }

    /// Where it listens; stays the same over restarts, but for the process id.
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Where its log is.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Waits until the server has died, and starts it again on the same ports.
    ///
    /// # Errors
    /// It does not start again.
    pub async fn restart_when_dead(&mut self) -> Result<()> {
        self.child.wait().await.context("wait for the server")?;
        let Ports { grpc, udp, .. } = self.ports.clone();
        let (child, ports) = launch(&self.binary, &self.data, &self.log, &grpc, &udp).await?;
        (self.child, self.ports) = (child, ports);
        Ok(())
    }

    /// Kills the server at once, as `kill -9` does.
    ///
    /// # Errors
    /// The process cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.child.start_kill().context("kill the server")
    }

    /// Ends the server.
    ///
    /// # Errors
    /// The process cannot be killed.
    pub async fn stop(mut self) -> Result<()> {
        self.child.kill().await.context("stop the server")
    }
}

async fn launch(
    binary: &Path,
    data: &Path,
    log: &Path,
    grpc: &str,
    udp: &str,
) -> Result<(Child, Ports)> {
    let log_file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)?;
    let mut child = Command::new(binary)
        .arg("serve")
        .args(["--grpc", grpc, "--udp", udp, "--print-ports"])
        .arg("--data")
        .arg(data)
        .stdout(Stdio::piped())
        .stderr(log_file)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{}", binary.display()))?;
    let stdout = child.stdout.take().context("the server has no output")?;
    let mut lines = BufReader::new(stdout).lines();
    let first = tokio::time::timeout(START_TIMEOUT, lines.next_line())
        .await
        .context("the server does not say where it listens")??;
    let Some(first) = first else {
        bail!("the server ended at once, see {}", log.display());
    };
    let ports = serde_json::from_str(&first).with_context(|| format!("first line {first:?}"))?;
    // Whatever it prints later must not block it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((child, ports))
}
