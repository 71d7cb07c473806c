//! Keys, policies and releases over the API: who may be believed, what is refused before a frame is sent.

use lorawan_fuota::firmware::{ImageVersion, McubootBuilder, PrivateKey, RsaPadding};
use lorawan_fuota::proto::v1;
use tonic::{Code, Status};

use crate::api_support::{Server, bad_fields, mask, reason};

const SEED: [u8; 32] = [3; 32];

fn key() -> PrivateKey {
    PrivateKey::from_ed25519_seed(&SEED)
}

fn signed(version: &str, seed: &[u8; 32]) -> Vec<u8> {
    let version: ImageVersion = version.parse().unwrap();
    let body = (0u8..=255).cycle().take(3000).collect();
    let builder = McubootBuilder::new(body, version).sign_ed25519(seed);
    builder.build().unwrap()
}

async fn import(server: &Server, pem: String, model: &str) -> Result<v1::TrustedKey, Status> {
    let request = v1::ImportTrustedKeyRequest {
        trusted_key: Some(v1::TrustedKey {
            display_name: "release".to_owned(),
            public_key_pem: pem,
            model: model.to_owned(),
            ..Default::default()
        }),
        request_id: String::new(),
    };
    Ok(server
        .trust()
        .import_trusted_key(request)
        .await?
        .into_inner())
}

async fn set_policy(server: &Server, model: &str, allow_unsigned: bool, embedded_only: bool) {
    let request = v1::SetImagePolicyRequest {
        image_policy: Some(v1::ImagePolicy {
            name: format!("imagePolicies/{model}"),
            allow_unsigned,
            embedded_signature_only: embedded_only,
            ..Default::default()
        }),
        request_id: String::new(),
    };
    server.trust().set_image_policy(request).await.unwrap();
}

/// A server that knows two devices without a model, and has no policy: the strictest one holds.
async fn strict() -> Server {
    let server = Server::start().await;
    server.fill(2).await;
    let request = v1::DeleteImagePolicyRequest {
        name: "imagePolicies/others".to_owned(),
        request_id: String::new(),
    };
    server.trust().delete_image_policy(request).await.unwrap();
    server
}

/// The blocking problems of a task of this image for both devices: reason, field and words.
async fn problems(server: &Server, id: &str, image: &str) -> Vec<(String, String, String)> {
    let request = v1::CreateTaskRequest {
        task: Some(v1::FuotaTask {
            images: vec![image.to_owned()],
            success_criterion: v1::SuccessCriterion::ReportedReceived.into(),
            reboot_mode: v1::RebootMode::None.into(),
            ..Default::default()
        }),
        task_id: id.to_owned(),
        ..Default::default()
    };
    let task = server
        .tasks()
        .create_task(request)
        .await
        .unwrap()
        .into_inner();
    let request = v1::AddTaskDevicesRequest {
        name: task.name.clone(),
        devices: vec![
            "devices/0000000000000001".to_owned(),
            "devices/0000000000000002".to_owned(),
        ],
        ..Default::default()
    };
    server.tasks().add_task_devices(request).await.unwrap();
    let request = v1::PlanTaskRequest { name: task.name };
    let plan = server
        .tasks()
        .plan_task(request)
        .await
        .unwrap()
        .into_inner();
    let blocking = plan.problems.into_iter().filter(|problem| problem.blocking);
    blocking
        .map(|p| (p.reason().as_str_name().to_owned(), p.field, p.message))
        .collect()
}

async fn start(server: &Server, id: &str) -> Result<v1::FuotaTask, Status> {
    let request = v1::StartTaskRequest {
        name: format!("tasks/{id}"),
        ..Default::default()
    };
    Ok(server.tasks().start_task(request).await?.into_inner())
}

#[tokio::test]
async fn keys_come_in_once_and_are_retired_for_good() {
    let server = Server::start().await;
    let pem = key().public().to_pem();
    let made = import(&server, pem.clone(), "meter").await.unwrap();
    let id: String = key()
        .public()
        .key_id()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert_eq!(made.name, format!("trustedKeys/{id}"));
    assert_eq!(
        (made.kind(), made.state()),
        (v1::KeyKind::Ed25519, v1::TrustedKeyState::Active)
    );
    assert_eq!(
        (made.public_key_pem.as_str(), made.model.as_str()),
        (pem.as_str(), "meter")
    );
    let again = import(&server, pem, "").await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    let private = import(&server, key().to_pem().to_string(), "").await;
    assert_eq!(bad_fields(private), ["trusted_key.public_key_pem"]);
    let garbage = import(&server, "key".to_owned(), "").await;
    assert_eq!(bad_fields(garbage), ["trusted_key.public_key_pem"]);
    let retire = v1::RetireTrustedKeyRequest {
        name: made.name.clone(),
        request_id: String::new(),
    };
    let retired = server
        .trust()
        .retire_trusted_key(retire.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(retired.state(), v1::TrustedKeyState::Retired);
    let twice = server
        .trust()
        .retire_trusted_key(retire)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(twice, retired);
    let all = server
        .trust()
        .list_trusted_keys(v1::ListTrustedKeysRequest {})
        .await
        .unwrap();
    assert_eq!(all.into_inner().trusted_keys, [retired]);
    let unknown = v1::GetTrustedKeyRequest {
        name: format!("trustedKeys/{}", "0".repeat(64)),
    };
    let unknown = server.trust().get_trusted_key(unknown).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn unsigned_images_are_refused_until_a_policy_takes_them() {
    let server = strict().await;
    let image = server
        .upload(v1::ImageMetadata::default(), &[7; 5000])
        .await
        .unwrap();
    assert_eq!(image.signed_by, "");
    let found = problems(&server, "a", &image.name).await;
    assert_eq!(found.len(), 1, "{found:?}");
    let (reason_word, field, message) = &found[0];
    assert_eq!(reason_word, "PLAN_PROBLEM_REASON_IMAGE_NOT_ALLOWED");
    assert_eq!(field, "images");
    assert!(message.contains("demands a signature"), "{message}");
    assert_eq!(
        reason(start(&server, "a").await, Code::FailedPrecondition),
        "PLAN_BLOCKED"
    );
    // A policy for another model changes nothing, one for the rest does.
    set_policy(&server, "lab", true, false).await;
    assert_eq!(problems(&server, "b", &image.name).await.len(), 1);
    set_policy(&server, "others", true, false).await;
    assert_eq!(problems(&server, "c", &image.name).await, []);
    start(&server, "a").await.unwrap();
}

#[tokio::test]
async fn signed_images_go_through_until_their_key_is_retired() {
    let server = strict().await;
    let trusted = import(&server, key().public().to_pem(), "").await.unwrap();
    let image = server
        .upload(v1::ImageMetadata::default(), &signed("2.1.0+7", &SEED))
        .await;
    let image = image.unwrap();
    assert_eq!(image.container(), v1::ImageContainer::Mcuboot);
    assert_eq!(
        (image.signed_by.as_str(), image.detached_signature),
        (trusted.name.as_str(), false)
    );
    assert_eq!(image.container_version, "2.1.0+7");
    assert_eq!(image.md5.len(), 32);
    assert_eq!(problems(&server, "a", &image.name).await, []);
    let retire = v1::RetireTrustedKeyRequest {
        name: trusted.name,
        request_id: String::new(),
    };
    server.trust().retire_trusted_key(retire).await.unwrap();
    let found = problems(&server, "b", &image.name).await;
    assert!(found[0].2.contains("is retired"), "{found:?}");
}

#[tokio::test]
async fn an_image_that_came_before_its_key_is_looked_at_again() {
    let server = strict().await;
    let bytes = signed("2.0.0", &SEED);
    let metadata = v1::ImageMetadata::default();
    let early = server.upload(metadata.clone(), &bytes).await.unwrap();
    assert_eq!(early.signed_by, "");
    assert_eq!(problems(&server, "a", &early.name).await.len(), 1);
    let key = import(&server, key().public().to_pem(), "").await.unwrap();
    let again = server.upload(metadata, &bytes).await.unwrap();
    assert_eq!(again.signed_by, key.name);
    assert_eq!(again.create_time, early.create_time);
    assert_eq!(problems(&server, "b", &early.name).await, []);
}

#[tokio::test]
async fn images_that_were_tampered_with_are_not_stored() {
    let server = strict().await;
    import(&server, key().public().to_pem(), "").await.unwrap();
    let good = signed("2.0.0", &SEED);
    for at in [0x14, 40, 2000, good.len() - 70, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        let refused = server.upload(v1::ImageMetadata::default(), &bad).await;
        assert_eq!(bad_fields(refused), ["chunk"], "byte {at}");
    }
    let other = server
        .upload(v1::ImageMetadata::default(), &signed("2.0.0", &[4; 32]))
        .await;
    assert_eq!(bad_fields(other), ["chunk"]);
    let images = server
        .images()
        .list_images(v1::ListImagesRequest::default())
        .await
        .unwrap();
    assert_eq!(images.into_inner().total_size, 0);
}

#[tokio::test]
async fn a_signature_beside_the_image_is_checked_and_may_not_be_enough() {
    let server = strict().await;
    let trusted = import(&server, key().public().to_pem(), "").await.unwrap();
    let bytes = [7; 5000];
    let mut entropy = |out: &mut [u8]| out.fill(5);
    let signature = key()
        .sign_detached(&bytes, RsaPadding::default(), &mut entropy)
        .unwrap();
    let metadata = |signature: Vec<u8>| v1::ImageMetadata {
        signature: signature.into(),
        ..Default::default()
    };
    let mut wrong = signature.clone();
    wrong[9] ^= 1;
    let refused = server.upload(metadata(wrong), &bytes).await;
    assert_eq!(bad_fields(refused), ["metadata.signature"]);
    let image = server.upload(metadata(signature), &bytes).await.unwrap();
    assert_eq!(
        (image.signed_by, image.detached_signature),
        (trusted.name, true)
    );
    assert_eq!(problems(&server, "a", &image.name).await, []);
    set_policy(&server, "others", false, true).await;
    let found = problems(&server, "b", &image.name).await;
    assert!(found[0].2.contains("within the image"), "{found:?}");
}

#[tokio::test]
async fn a_key_of_one_model_signs_for_no_other() {
    let server = strict().await;
    import(&server, key().public().to_pem(), "meter")
        .await
        .unwrap();
    let image = server
        .upload(v1::ImageMetadata::default(), &signed("2.0.0", &SEED))
        .await;
    let image = image.unwrap();
    let found = problems(&server, "a", &image.name).await;
    assert!(found[0].2.contains("for model meter only"), "{found:?}");
    let metadata = v1::ImageMetadata {
        model: "valve".to_owned(),
        ..Default::default()
    };
    // No key may sign for that model, so that nobody can tell who did.
    let valve = server
        .upload(metadata, &signed("2.0.1", &SEED))
        .await
        .unwrap();
    assert_eq!(valve.signed_by, "");
}

#[tokio::test]
async fn policies_are_checked_and_replaced_whole() {
    let server = Server::start().await;
    set_policy(&server, "lab board 2", true, false).await;
    set_policy(&server, "lab board 2", false, true).await;
    let all = server
        .trust()
        .list_image_policies(v1::ListImagePoliciesRequest {})
        .await
        .unwrap();
    let all = all.into_inner().image_policies;
    assert_eq!(all.len(), 1);
    assert!(!all[0].allow_unsigned && all[0].embedded_signature_only);
    for (name, both, field) in [
        ("imagePolicies/", false, "image_policy.name"),
        ("lab", false, "image_policy.name"),
        (
            "imagePolicies/lab",
            true,
            "image_policy.embedded_signature_only",
        ),
    ] {
        let request = v1::SetImagePolicyRequest {
            image_policy: Some(v1::ImagePolicy {
                name: name.to_owned(),
                allow_unsigned: both,
                embedded_signature_only: both,
                ..Default::default()
            }),
            request_id: String::new(),
        };
        let refused = server.trust().set_image_policy(request).await;
        assert_eq!(bad_fields(refused), [field], "{name}");
    }
}

#[tokio::test]
async fn a_draft_goes_to_its_devices_only_and_activation_lets_it_out() {
    let server = Server::start().await;
    server.fill(2).await;
    let metadata = v1::ImageMetadata {
        allowed_devices: vec!["devices/0000000000000001".to_owned()],
        release_notes: "first\nsecond".to_owned(),
        source_versions: vec![1, 2],
        ..Default::default()
    };
    let image = server.upload_draft(metadata, &[7; 5000]).await.unwrap();
    assert_eq!(image.release_state(), v1::ReleaseState::Draft);
    assert_eq!(image.release_notes, "first\nsecond");
    assert_eq!(image.source_versions, [1, 2]);
    let found = problems(&server, "a", &image.name).await;
    assert_eq!(found[0].0, "PLAN_PROBLEM_REASON_UNFIT_DEVICES", "{found:?}");
    let update = v1::UpdateImageRequest {
        image: Some(v1::Image {
            name: image.name.clone(),
            allowed_devices: vec![],
            ..Default::default()
        }),
        update_mask: mask(&["allowed_devices"]),
        request_id: String::new(),
    };
    let updated = server
        .images()
        .update_image(update)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(updated.allowed_devices, Vec::<String>::new());
    assert_eq!(updated.release_notes, "first\nsecond");
    let name = image.name.clone();
    let activate = v1::ActivateImageRequest {
        name: name.clone(),
        request_id: "once".to_owned(),
    };
    let active = server
        .images()
        .activate_image(activate.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(active.release_state(), v1::ReleaseState::Active);
    let again = server
        .images()
        .activate_image(activate)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again, active);
    // The versions of the devices are not known, and the image is for two of them.
    let found = problems(&server, "b", &name).await;
    assert_eq!(found[0].1, "source_versions", "{found:?}");
}

#[tokio::test]
async fn a_withdrawn_image_starts_nothing_and_stops_what_runs_if_asked() {
    let server = Server::start().await;
    server.fill(2).await;
    let image = server
        .upload(v1::ImageMetadata::default(), &[7; 5000])
        .await
        .unwrap();
    assert_eq!(problems(&server, "a", &image.name).await, []);
    start(&server, "a").await.unwrap();
    let withdraw = v1::WithdrawImageRequest {
        name: image.name.clone(),
        cancel_tasks: true,
        request_id: "once".to_owned(),
    };
    let answer = server
        .images()
        .withdraw_image(withdraw.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.cancelled_tasks, ["tasks/a"]);
    let repeated = server
        .images()
        .withdraw_image(withdraw)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(repeated, answer);
    let found = problems(&server, "b", &image.name).await;
    let not_allowed = "PLAN_PROBLEM_REASON_IMAGE_NOT_ALLOWED";
    assert!(
        found.iter().any(|problem| problem.0 == not_allowed),
        "{found:?}"
    );
    let activate = v1::ActivateImageRequest {
        name: image.name,
        request_id: String::new(),
    };
    let refused = server.images().activate_image(activate).await;
    assert_eq!(reason(refused, Code::FailedPrecondition), "IMAGE_WITHDRAWN");
}

#[tokio::test]
async fn a_delta_is_made_tried_and_given_back() {
    use tokio_stream::StreamExt;

    let server = Server::start().await;
    let upload = async |version: &str| {
        server
            .upload(v1::ImageMetadata::default(), &signed(version, &SEED))
            .await
            .unwrap()
    };
    let (old, new) = (upload("1.0.0").await, upload("2.0.0").await);
    let create = |base: &v1::Image, target: &v1::Image| v1::CreateDeltaRequest {
        base: base.name.clone(),
        target: target.name.clone(),
        activate: true,
        request_id: String::new(),
    };
    let delta = server
        .images()
        .create_delta(create(&old, &new))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(delta.container(), v1::ImageContainer::Delta);
    assert_eq!(delta.target_version, new.target_version);
    assert_eq!(delta.source_versions, [old.target_version]);
    let info = delta.delta.clone().unwrap();
    assert_eq!((&info.base, &info.target), (&old.name, &new.name));
    assert_eq!(info.target_size_bytes, new.size_bytes);
    assert!(
        delta.size_bytes < new.size_bytes / 4,
        "{} bytes",
        delta.size_bytes
    );
    let download = async |name: &str| {
        let request = v1::DownloadImageRequest {
            name: name.to_owned(),
        };
        let mut chunks = server
            .images()
            .download_image(request)
            .await
            .unwrap()
            .into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.next().await {
            bytes.extend_from_slice(&chunk.unwrap().chunk);
        }
        bytes
    };
    let (base, patch) = (download(&old.name).await, download(&delta.name).await);
    assert_eq!(base, signed("1.0.0", &SEED));
    let applied = lorawan_fuota::firmware::delta::apply(&base, &patch).unwrap();
    assert_eq!(applied, signed("2.0.0", &SEED));
    for (base, target) in [(&old, &old), (&delta, &new), (&old, &delta)] {
        let refused = server.images().create_delta(create(base, target)).await;
        assert_eq!(reason(refused, Code::FailedPrecondition), "IMAGES_DIFFER");
    }
}
