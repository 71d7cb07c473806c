//! `fuota rollout` against the API itself, over TCP: what is written arrives, and is shown.

use lorawan_fuota::api::ServerOptions;
use lorawan_fuota::proto::v1;
use serde_json::Value;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

use crate::api_support::Server;
use crate::cli::{Run, fuota};

/// A server with two devices of model `m` and an image for them, and where the client finds it.
async fn start() -> (Server, String) {
    let server = Server::start().await;
    server.fill(2).await;
    for n in 1..=2 {
        let device = v1::EndDevice {
            name: format!("devices/{n:016x}"),
            model: "m".to_owned(),
            versions: [(
                "main".to_owned(),
                v1::ComponentVersion {
                    version: 1,
                    ..Default::default()
                },
            )]
            .into(),
            ..Default::default()
        };
        let request = v1::UpdateDeviceRequest {
            device: Some(device),
            update_mask: crate::api_support::mask(&["model", "versions"]),
            request_id: String::new(),
        };
        server.devices().update_device(request).await.unwrap();
    }
    let metadata = v1::ImageMetadata {
        model: "m".to_owned(),
        target_version: Some(2),
        ..Default::default()
    };
    server.upload(metadata, &[2; 500]).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = TcpIncoming::from(listener);
    let api = server.api.clone();
    tokio::spawn(async move {
        let options = ServerOptions::default();
        api.serve_with_incoming(incoming, options, std::future::pending())
            .await
    });
    (server, address)
}

fn json(run: &Run) -> Value {
    assert_eq!(run.status, 0, "{run:?}");
    serde_json::from_str(&run.out).unwrap()
}

#[tokio::test]
async fn a_rollout_is_written_changed_pushed_and_withdrawn() {
    let (_server, address) = start().await;
    let run = async |args: &str| {
        let args: Vec<&str> = args.split(' ').collect();
        fuota(&address, &args, "", &[]).await
    };
    let made = json(
        &run(
            "rollout create --json --id r --name meters --model m --from-version 0x1 --match-tag a=b --frag-size 60 \
             --not-before +1d --every 2d --start-within 2h --min-devices 2 --max-wait 7d --max-failures 3 \
             --retry-after 12h --test-device 0000000000000001 --required-percent 50",
        )
        .await,
    );
    assert_eq!(made["name"], "rollouts/r");
    assert_eq!(
        (&made["display_name"], &made["task"]["frag_size"]),
        (&"meters".into(), &60.into())
    );
    assert_eq!(made["selector"]["tags"]["a"], "b");
    assert_eq!(made["selector"]["from_versions"][0], 1);
    assert_eq!(made["schedule"]["repeat_interval"], "172800s");
    assert_eq!(made["schedule"]["max_wait"], "604800s");
    assert_eq!(
        made["validation"]["test_devices"][0],
        "devices/0000000000000001"
    );
    assert_eq!(
        (&made["state"], &made["enabled"]),
        (&"DISABLED".into(), &false.into())
    );
    // What an update does not name stays as it is.
    let changed = json(
        &run("rollout update --json r --data-rate 3 --min-devices 1 --clear validation --match-tag c=d")
            .await,
    );
    assert_eq!(changed["task"]["frag_size"], 60);
    assert_eq!(
        (&changed["task"]["data_rate"], &changed["max_failures"]),
        (&3.into(), &3.into())
    );
    assert_eq!(changed["schedule"]["repeat_interval"], "172800s");
    assert_eq!(changed["validation"]["test_devices"], serde_json::json!([]));
    assert_eq!(changed["selector"]["tags"], serde_json::json!({"c": "d"}));
    let shown = run("rollout get r").await;
    assert!(shown.out.contains("every 2d"), "{shown:?}");
    let pushed = run("rollout push r --device 0000000000000002").await;
    assert_eq!(pushed.status, 0, "{pushed:?}");
    assert!(pushed.out.contains("tasks/r-1 was started"), "{pushed:?}");
    let listed = run("rollout list").await;
    assert!(listed.out.contains("DISABLED"), "{listed:?}");
    let enabled = json(&run("rollout enable --json r").await);
    assert_eq!(enabled["state"], "RUNNING");
    assert_eq!(enabled["tasks"][0]["purpose"], "PUSH");
    let withdrawn = run("rollout withdraw r").await;
    assert!(
        withdrawn.out.contains("tasks/r-1 is being cancelled"),
        "{withdrawn:?}"
    );
    assert_eq!(run("rollout disable r").await.status, 0);
    assert_eq!(run("rollout delete r").await.status, 3);
    assert_eq!(run("rollout get none").await.status, 3);
}

#[tokio::test]
async fn what_a_device_ran_is_shown() {
    let (_server, address) = start().await;
    let shown = fuota(&address, &["device", "get", "0000000000000001"], "", &[]).await;
    assert!(
        shown.out.contains("0x00000001 since 2026-11-21T00:00:00Z"),
        "{shown:?}"
    );
}
