//! The server as other machines reach it: TLS and a bearer token, or not at all. A real process, a certificate made for
//! the test.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use lorawan_fuota::proto::v1;
use lorawan_fuota::proto::v1::network_service_client::NetworkServiceClient;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use crate::cli::fuota;

const TOKEN: &str = "t0ken-of-the-test";

/// Certificate, key and token in files.
struct Secrets {
    dir: TempDir,
    certificate: String,
}

impl Secrets {
    fn new() -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let (dir, certificate) = (tempfile::tempdir().unwrap(), made.cert.pem());
        let files = [
            ("cert.pem", certificate.clone()),
            ("key.pem", made.signing_key.serialize_pem()),
            ("token", format!("{TOKEN}\n")),
        ];
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        Self { dir, certificate }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `fuota serve` with these secrets, where wanted.
    fn serve(&self, grpc: &str, tls: bool, token: bool) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fuota"));
        command
            .arg("serve")
            .args(["--grpc", grpc, "--udp", "127.0.0.1:0", "--print-ports"])
            .arg("--data")
            .arg(self.path("data"))
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut file = |flag: &str, name: &str| {
            command.arg(flag).arg(self.path(name));
        };
        if tls {
            file("--tls-cert", "cert.pem");
            file("--tls-key", "key.pem");
        }
        if token {
            file("--token-file", "token");
        }
        command
    }
}

/// A server, and the port it listens on.
async fn started(mut command: Command) -> (Child, u16) {
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    let ports: serde_json::Value = serde_json::from_str(&first).unwrap();
    let (_, port) = ports["grpc"].as_str().unwrap().rsplit_once(':').unwrap();
    (child, port.parse().unwrap())
}

/// Asks for the network; `ca` is the certificate to trust over TLS.
async fn ask(url: String, ca: Option<&str>, token: Option<&str>) -> Result<v1::Network, Status> {
    let mut endpoint = Endpoint::from_shared(url).unwrap();
    if let Some(ca) = ca {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
        endpoint = endpoint.tls_config(tls).unwrap();
    }
    let mut request = Request::new(v1::GetNetworkRequest {});
    if let Some(token) = token {
        let header = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", header);
    }
    NetworkServiceClient::new(endpoint.connect_lazy())
        .get_network(request)
        .await
        .map(tonic::Response::into_inner)
}

#[tokio::test]
async fn with_tls_and_token_only_those_who_hold_both_get_in() {
    let secrets = Secrets::new();
    // Any address may be listened on now.
    let (_server, port) = started(secrets.serve("0.0.0.0:0", true, true)).await;
    let ca = Some(secrets.certificate.as_str());
    let (https, http) = (
        || format!("https://127.0.0.1:{port}"),
        || format!("http://127.0.0.1:{port}"),
    );

    let network = ask(https(), ca, Some(TOKEN)).await.unwrap();
    assert_eq!(network.name, "network");
    for wrong in [None, Some("t0ken"), Some("")] {
        let status = ask(https(), ca, wrong).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{wrong:?} {status}");
    }
    // Neither in the clear, nor to a server that cannot prove who it is.
    let stranger = Secrets::new();
    let other = Some(stranger.certificate.as_str());
    for (url, ca) in [(http(), None), (https(), other)] {
        let status = ask(url.clone(), ca, Some(TOKEN)).await.unwrap_err();
        assert_ne!(status.code(), Code::Unauthenticated, "{url} {status}");
        assert_ne!(status.code(), Code::Ok, "{url} {status}");
    }
}

#[tokio::test]
async fn the_client_program_gets_in_with_both() {
    let secrets = Secrets::new();
    let (_server, port) = started(secrets.serve("127.0.0.1:0", true, true)).await;
    let (address, ca) = (format!("127.0.0.1:{port}"), secrets.path("cert.pem"));
    let run = async |ca: Option<&Path>, token: &str| {
        let mut args = vec!["network"];
        args.extend(ca.iter().flat_map(|ca| ["--ca", ca.to_str().unwrap()]));
        fuota(&address, &args, "", &[("FUOTA_TOKEN", token)]).await
    };
    let good = run(Some(&ca), TOKEN).await;
    assert_eq!(good.status, 0, "{good:?}");
    let tokenless = run(Some(&ca), "").await;
    assert_eq!(tokenless.status, 3, "{tokenless:?}");
    assert!(
        tokenless.err.contains("bearer token missing"),
        "{tokenless:?}"
    );
    let wrong = run(Some(&ca), "wrong").await;
    assert!(wrong.err.contains("wrong bearer token"), "{wrong:?}");
    let plain = run(None, TOKEN).await;
    assert_eq!(plain.status, 4, "{plain:?}");
}

#[tokio::test]
async fn an_open_address_without_both_is_refused_at_the_start() {
    let secrets = Secrets::new();
    for (tls, token) in [(false, false), (true, false), (false, true)] {
        let output = secrets
            .serve("0.0.0.0:0", tls, token)
            .output()
            .await
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{said}");
        assert!(
            said.contains(
                "0.0.0.0:0 is no loopback address: listening there needs TLS and a bearer token"
            ),
            "{said}"
        );
        assert!(output.stdout.is_empty(), "it never listened");
    }
}

#[tokio::test]
async fn half_an_identity_is_refused_at_the_start() {
    let secrets = Secrets::new();
    let mut command = secrets.serve("127.0.0.1:0", false, false);
    command.arg("--tls-cert").arg(secrets.path("cert.pem"));
    let output = command.output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("needs tls_key"), "{said}");
}
