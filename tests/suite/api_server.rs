//! The server itself: health, reflection, access.

use lorawan_fuota::api::{ServeError, ServerOptions, TlsIdentity, Token};
use lorawan_fuota::proto::v1;
use tokio_stream::StreamExt;
use tonic::transport::Endpoint;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1 as reflection, v1alpha};

use crate::api_support::{Server, api};

const SERVICES: [&str; 7] = [
    "fuota.v1.DeviceProfileService",
    "fuota.v1.DeviceService",
    "fuota.v1.GatewayService",
    "fuota.v1.ImageService",
    "fuota.v1.MulticastGroupService",
    "fuota.v1.NetworkService",
    "fuota.v1.TaskService",
];

#[tokio::test]
async fn health_and_reflection_answer_on_a_real_port() {
    let (api, ..) = api();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let stopped = async move {
            let _ = stopped.await;
        };
        api.serve_with_incoming(incoming, ServerOptions::default(), stopped)
            .await
    });
    let channel = Endpoint::from_shared(format!("http://{addr}"))
        .unwrap()
        .connect()
        .await
        .unwrap();

    for service in SERVICES.into_iter().chain([""]) {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let health = HealthClient::new(channel.clone())
            .check(request)
            .await
            .unwrap();
        assert_eq!(
            health.into_inner().status(),
            ServingStatus::Serving,
            "{service}"
        );
    }

    let ask = reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            reflection::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
    };
    let answer = reflection::server_reflection_client::ServerReflectionClient::new(channel.clone())
        .server_reflection_info(tokio_stream::once(ask))
        .await
        .unwrap()
        .into_inner()
        .next()
        .await
        .unwrap()
        .unwrap();
    let Some(reflection::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.message_response
    else {
        panic!("{answer:?}");
    };
    let found: Vec<String> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for service in SERVICES {
        assert!(
            found.iter().any(|name| name == service),
            "{service} in {found:?}"
        );
    }

    let ask = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
                "fuota.v1.TaskService".to_owned(),
            ),
        ),
    };
    let answer = v1alpha::server_reflection_client::ServerReflectionClient::new(channel.clone())
        .server_reflection_info(tokio_stream::once(ask))
        .await
        .unwrap()
        .into_inner()
        .next()
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(
        answer.message_response,
        Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_))
    ));

    drop(channel);
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_token_is_asked_of_every_call_but_health() {
    let options = ServerOptions {
        tls: None,
        token: Some(Token::new("secret")),
    };
    let server = Server::start_with(options).await;
    let call = |header: Option<&str>| {
        let mut request = Request::new(v1::GetNetworkRequest {});
        if let Some(header) = header {
            request
                .metadata_mut()
                .insert("authorization", header.parse().unwrap());
        }
        let mut network = server.network();
        async move {
            network
                .get_network(request)
                .await
                .map_err(|status| status.code())
        }
    };
    for header in [
        None,
        Some("Bearer wrong"),
        Some("secret"),
        Some("Basic secret"),
    ] {
        assert_eq!(
            call(header).await.unwrap_err(),
            Code::Unauthenticated,
            "{header:?}"
        );
    }
    for header in ["Bearer secret", "bearer secret"] {
        assert_eq!(
            call(Some(header)).await.unwrap().into_inner().name,
            "network"
        );
    }
    HealthClient::new(server.channel.clone())
        .check(HealthCheckRequest::default())
        .await
        .unwrap();
    let ask = reflection::ServerReflectionRequest::default();
    let refused =
        reflection::server_reflection_client::ServerReflectionClient::new(server.channel.clone())
            .server_reflection_info(tokio_stream::once(ask))
            .await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn an_open_address_needs_tls_and_a_token() {
    let (api, ..) = api();
    let tls = Some(TlsIdentity {
        certificates: String::new(),
        private_key: String::new(),
    });
    for options in [ServerOptions::default(), ServerOptions { tls, token: None }] {
        let refused = api
            .serve(
                "0.0.0.0:0".parse().unwrap(),
                options,
                std::future::ready(()),
            )
            .await;
        assert!(matches!(refused, Err(ServeError::Listen(_))), "{refused:?}");
    }
    api.serve(
        "127.0.0.1:0".parse().unwrap(),
        ServerOptions::default(),
        std::future::ready(()),
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn secrets_of_the_server_are_not_printed() {
    let options = ServerOptions {
        tls: Some(TlsIdentity {
            certificates: "pem".to_owned(),
            private_key: "private".to_owned(),
        }),
        token: Some(Token::new("secret")),
    };
    let text = format!("{options:?}");
    assert!(
        !text.contains("private\"") && !text.contains("secret"),
        "{text}"
    );
}
