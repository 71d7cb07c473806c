//! Images over gRPC: what is taken, what is refused, what a repeat gives.

use lorawan_fuota::firmware::{ImageVersion, McubootBuilder};
use lorawan_fuota::proto::v1;
use tonic::Code;

use crate::api_support::{Server, bad_fields, chunk_message, metadata_message, reason};

fn mcuboot() -> Vec<u8> {
    let version = ImageVersion {
        major: 2,
        minor: 4,
        revision: 1,
        build: 0,
    };
    McubootBuilder::new(vec![7; 5000], version)
        .sign_ed25519(&[9; 32])
        .build()
        .unwrap()
}

fn metadata(container: v1::ImageContainer) -> v1::ImageMetadata {
    v1::ImageMetadata {
        container: container.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn an_mcuboot_image_tells_its_version() {
    let server = Server::start().await;
    let image = server
        .upload(metadata(v1::ImageContainer::Mcuboot), &mcuboot())
        .await
        .unwrap();
    assert_eq!(image.target_version, 0x0204_0001);
    assert_eq!(image.version, "2.4.1");
    assert_eq!(image.component, "main");
    assert_eq!(image.name, format!("images/{}", image.sha256));
    assert_eq!(usize::try_from(image.size_bytes).unwrap(), mcuboot().len());
    let request = v1::GetImageRequest {
        name: image.name.clone(),
    };
    let got = server.images().get_image(request).await.unwrap();
    assert_eq!(got.into_inner(), image);
}

#[tokio::test]
async fn a_damaged_mcuboot_image_is_refused_and_not_stored() {
    let server = Server::start().await;
    let mut bytes = mcuboot();
    bytes[100] ^= 1;
    let damaged = server
        .upload(metadata(v1::ImageContainer::Mcuboot), &bytes)
        .await;
    assert_eq!(bad_fields(damaged), ["chunk"]);
    let no_header = server
        .upload(metadata(v1::ImageContainer::Mcuboot), b"text")
        .await;
    assert_eq!(bad_fields(no_header), ["chunk"]);
    let list = server
        .images()
        .list_images(v1::ListImagesRequest::default())
        .await;
    assert_eq!(list.unwrap().into_inner().total_size, 0);
}

#[tokio::test]
async fn the_same_bytes_are_the_same_image() {
    let server = Server::start().await;
    let first = server
        .upload(metadata(v1::ImageContainer::Raw), b"bytes")
        .await
        .unwrap();
    let again = v1::ImageMetadata {
        file_name: "another name".to_owned(),
        ..metadata(v1::ImageContainer::Raw)
    };
    assert_eq!(server.upload(again, b"bytes").await.unwrap(), first);
    let other = v1::ImageMetadata {
        model: "other".to_owned(),
        ..Default::default()
    };
    let differs = server.upload(other, b"bytes").await;
    assert_eq!(
        reason(differs, Code::AlreadyExists),
        "IMAGE_METADATA_DIFFERS"
    );
}

#[tokio::test]
async fn bad_metadata_is_named_field_by_field() {
    let server = Server::start().await;
    let bad = v1::ImageMetadata {
        container: 9,
        file_name: "x".repeat(256),
        model: "x".repeat(64),
        component: "a b".to_owned(),
        version: "\n".to_owned(),
        annotations: [("a b".to_owned(), "v".to_owned())].into(),
        expected_sha256: "00".repeat(32),
        ..Default::default()
    };
    let mut fields = bad_fields(server.upload(bad, b"bytes").await);
    fields.sort();
    let expected = [
        "annotations",
        "component",
        "container",
        "expected_sha256",
        "file_name",
        "model",
        "version",
    ];
    assert_eq!(fields, expected.map(|field| format!("metadata.{field}")));
}

#[tokio::test]
async fn uploads_keep_their_order_and_limits() {
    let server = Server::start().await;
    let send = |messages: Vec<v1::UploadImageRequest>| {
        let mut images = server.images();
        async move { images.upload_image(tokio_stream::iter(messages)).await }
    };
    let metadata = || metadata_message(v1::ImageMetadata::default());
    assert_eq!(bad_fields(send(vec![]).await), ["metadata"]);
    assert_eq!(
        bad_fields(send(vec![chunk_message(b"x")]).await),
        ["metadata"]
    );
    let twice = vec![metadata(), chunk_message(b"x"), metadata()];
    assert_eq!(bad_fields(send(twice).await), ["metadata"]);
    assert_eq!(bad_fields(send(vec![metadata()]).await), ["chunk"]);
    let empty = vec![metadata(), chunk_message(b"")];
    assert_eq!(bad_fields(send(empty).await), ["chunk"]);
    let nothing = vec![metadata(), v1::UploadImageRequest { data: None }];
    assert_eq!(bad_fields(send(nothing).await), ["data"]);
    let large = vec![metadata(), chunk_message(&vec![0; (1 << 20) + 1])];
    assert_eq!(bad_fields(send(large).await), ["chunk"]);
    let mebibyte = vec![0; 1 << 20];
    let mut messages = vec![metadata()];
    messages.extend((0..4).map(|_| chunk_message(&mebibyte)));
    let largest = send(messages.clone()).await.unwrap().into_inner();
    assert_eq!(largest.size_bytes, 4 << 20);
    messages.push(chunk_message(b"x"));
    assert_eq!(
        reason(send(messages).await, Code::ResourceExhausted),
        "TOO_LARGE"
    );
}

#[tokio::test]
async fn pages_follow_each_other_and_keep_their_filter() {
    let server = Server::start().await;
    let mut names = vec![];
    for n in 0..7u8 {
        let metadata = v1::ImageMetadata {
            model: if n < 5 { "meter" } else { "lamp" }.to_owned(),
            annotations: [("site".to_owned(), "north gate".to_owned())].into(),
            target_version: Some(n.into()),
            ..Default::default()
        };
        names.push(server.upload(metadata, &[n]).await.unwrap().name);
    }
    let list = |page_size, page_token: String, filter: &str| {
        let request = v1::ListImagesRequest {
            page_size,
            page_token,
            filter: filter.to_owned(),
        };
        let mut images = server.images();
        async move { Ok::<_, tonic::Status>(images.list_images(request).await?.into_inner()) }
    };
    let (mut seen, mut token) = (vec![], String::new());
    for length in [2, 2, 1] {
        let page = list(2, token, "model = meter").await.unwrap();
        assert_eq!((page.total_size, page.images.len()), (5, length));
        seen.extend(page.images.into_iter().map(|image| image.name));
        token = page.next_page_token;
    }
    assert_eq!(token, "");
    let mut expected = names[..5].to_vec();
    expected.sort();
    assert_eq!(seen, expected);

    let token = list(2, String::new(), "").await.unwrap().next_page_token;
    assert_eq!(
        bad_fields(list(2, token.clone(), "model = meter").await),
        ["page_token"]
    );
    assert_eq!(
        bad_fields(list(-1, "x".to_owned(), "x").await),
        ["page_size", "page_token", "filter"]
    );
    let both = list(
        0,
        String::new(),
        "annotations.site = \"north gate\" AND target_version = 6",
    );
    assert_eq!(both.await.unwrap().images[0].name, names[6]);
    assert_eq!(
        list(0, String::new(), "model = none")
            .await
            .unwrap()
            .total_size,
        0
    );
}

#[tokio::test]
async fn a_request_id_makes_an_upload_idempotent() {
    let server = Server::start().await;
    let metadata = v1::ImageMetadata {
        request_id: "upload-1".to_owned(),
        ..Default::default()
    };
    let first = server.upload(metadata.clone(), b"bytes").await.unwrap();
    assert_eq!(
        server.upload(metadata.clone(), b"bytes").await.unwrap(),
        first
    );
    let other = server.upload(metadata.clone(), b"other").await;
    assert_eq!(reason(other, Code::FailedPrecondition), "REQUEST_ID_REUSED");
    server
        .now
        .fetch_add(24 * 3600, std::sync::atomic::Ordering::SeqCst);
    server.upload(metadata, b"other").await.unwrap();
}

#[tokio::test]
async fn deleted_images_are_gone_and_repeats_of_the_call_are_not_errors() {
    let server = Server::start().await;
    let image = server
        .upload(v1::ImageMetadata::default(), b"bytes")
        .await
        .unwrap();
    let delete = |request_id: &str| {
        let request = v1::DeleteImageRequest {
            name: image.name.clone(),
            request_id: request_id.to_owned(),
        };
        let mut images = server.images();
        async move { images.delete_image(request).await }
    };
    delete("d").await.unwrap();
    delete("d").await.unwrap();
    assert_eq!(reason(delete("").await, Code::NotFound), "NOT_FOUND");
    let malformed = v1::GetImageRequest {
        name: "images/1".to_owned(),
    };
    assert_eq!(
        bad_fields(server.images().get_image(malformed).await),
        ["name"]
    );
}
