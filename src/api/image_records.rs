//! Images: proto <-> record, and what an upload has to be.

use std::collections::BTreeSet;

use crate::firmware::{self, Container, ImageError, McubootImage};
use crate::lorawan::identifiers::DevEui;
use crate::proto::v1;
use crate::record::{
    Image, ImageContainer, ImageFacts, ImageSignature, Release, ReleaseState, Sha256, TrustedKey,
};
use crate::time::Timestamp;

use super::errors::ApiError;
use super::fields::{Fields, show_moment, tenant};
use super::{names, regions};

/// Devices on the list of an image.
const MOST_LISTED: usize = 1000;
/// Versions an image may be for.
const MOST_SOURCES: usize = 64;
/// Characters of release notes.
const LONGEST_NOTES: usize = 16_383;

/// The image that metadata and bytes make, once all of it is right. `keys` are those that are in use.
pub(super) fn read(
    metadata: &v1::ImageMetadata,
    sha256: Sha256,
    bytes: &[u8],
    keys: &[TrustedKey],
    now: Timestamp,
) -> Result<Image, ApiError> {
    let mut fields = Fields::of("metadata");
    fields.text("file_name", &metadata.file_name, 255);
    fields.text("model", &metadata.model, 63);
    fields.text("version", &metadata.version, 63);
    if !metadata.component.is_empty() && !names::is_mark_key(&metadata.component) {
        fields.bad("component", "not 1 to 63 characters of [A-Za-z0-9_-]");
    }
    fields.marks("annotations", &metadata.annotations, 1023);
    if !metadata.expected_sha256.is_empty() {
        match names::sha256(&metadata.expected_sha256) {
            None => fields.bad("expected_sha256", "not 64 hex digits"),
            Some(expected) if expected != sha256 => {
                fields.bad("expected_sha256", format!("the bytes have {sha256}"));
            }
            Some(_) => {}
        }
    }
    if metadata.source_versions.len() > MOST_SOURCES {
        fields.bad("source_versions", format!("more than {MOST_SOURCES}"));
    }
    let release = Release {
        state: match metadata.activate {
            true => ReleaseState::Active,
            false => ReleaseState::Draft,
        },
        allowed_devices: read_devices(&mut fields, &metadata.allowed_devices),
        restricted: metadata.restricted,
        notes: read_notes(&mut fields, &metadata.release_notes),
        changed_at: now,
    };
    let container = read_container(&mut fields, metadata.container, bytes);
    let signature = container
        .as_ref()
        .and_then(|container| read_signature(&mut fields, metadata, container, bytes, keys));
    fields.finish()?;
    let container = container.unwrap_or(Container::Raw);
    let version = container.version();
    let written = version.map(|version| version.to_string());
    Ok(Image {
        tenant: tenant(),
        sha256,
        size_bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        container: match container {
            Container::Raw => ImageContainer::Raw,
            Container::Mcuboot(_) => ImageContainer::Mcuboot,
        },
        file_name: metadata.file_name.clone(),
        model: metadata.model.clone(),
        component: if metadata.component.is_empty() {
            "main".to_owned()
        } else {
            metadata.component.clone()
        },
        target_version: metadata
            .target_version
            .or_else(|| version.map(firmware::ImageVersion::to_ts006))
            .unwrap_or(0),
        version_text: if metadata.version.is_empty() {
            written.unwrap_or_default()
        } else {
            metadata.version.clone()
        },
        annotations: metadata.annotations.clone(),
        created_at: now,
        facts: ImageFacts {
            version,
            signature,
            security_counter: match &container {
                Container::Raw => None,
                Container::Mcuboot(image) => image.security_counter(bytes).ok().flatten(),
            },
            source_versions: metadata.source_versions.iter().copied().collect(),
            md5: firmware::md5_hex(bytes),
            delta: None,
        },
        release,
    })
}

/// The container of the bytes, which must be the one that was said.
fn read_container(fields: &mut Fields, said: i32, bytes: &[u8]) -> Option<Container> {
    let said = v1::ImageContainer::try_from(said);
    let found = match said {
        Ok(v1::ImageContainer::Raw) => return Some(Container::Raw),
        Ok(v1::ImageContainer::Unspecified | v1::ImageContainer::Mcuboot) => {
            Container::recognise(bytes)
        }
        Ok(v1::ImageContainer::Delta) => {
            fields.bad("container", "deltas are made by CreateDelta");
            return None;
        }
        Err(_) => {
            fields.bad("container", "a value this server does not know");
            return None;
        }
    };
    match found {
        Ok(Container::Raw) if said == Ok(v1::ImageContainer::Mcuboot) => {
            fields.bad_in_request("chunk", "no MCUboot image: magic number not found");
            None
        }
        Ok(container) => Some(container),
        Err(error) => {
            fields.bad_in_request("chunk", format!("no MCUboot image: {error}"));
            None
        }
    }
}

/// Who signed the image: beside it, else within it. No signature is no error; one that does not hold is.
fn read_signature(
    fields: &mut Fields,
    metadata: &v1::ImageMetadata,
    container: &Container,
    bytes: &[u8],
    keys: &[TrustedKey],
) -> Option<ImageSignature> {
    let keys: Vec<firmware::PublicKey> = keys
        .iter()
        .filter(|key| metadata.model.is_empty() || key.signs_for(&metadata.model))
        .filter_map(|key| firmware::PublicKey::from_der(&key.der).ok())
        .collect();
    let mut embedded = None;
    if let Container::Mcuboot(image) = container {
        match embedded_signer(image, bytes, &keys) {
            Ok(signer) => embedded = signer,
            Err(error) => fields.bad_in_request("chunk", format!("no MCUboot image: {error}")),
        }
    }
    if let Some(key) = embedded {
        return Some(ImageSignature {
            key: Sha256(key),
            detached: false,
        });
    }
    if metadata.signature.is_empty() {
        return None;
    }
    match firmware::verify_detached(bytes, &metadata.signature, &keys) {
        Ok(key) => Some(ImageSignature {
            key: Sha256(key),
            detached: true,
        }),
        Err(error) => {
            fields.bad("signature", error.to_string());
            None
        }
    }
}

/// The key that signed an MCUboot image; `None` if nobody did, or if there is no key to tell with. What is encrypted
/// only the device can check.
fn embedded_signer(
    image: &McubootImage,
    bytes: &[u8],
    keys: &[firmware::PublicKey],
) -> Result<Option<[u8; 32]>, ImageError> {
    match image.verify(bytes, keys) {
        Ok(key) => Ok(Some(key)),
        Err(ImageError::Encrypted) => Ok(None),
        Err(ImageError::Unsigned | ImageError::NoKey) => image.verify_digest(bytes).map(|()| None),
        Err(error) => Err(error),
    }
}

/// The devices on the list of an image.
pub(super) fn read_devices(fields: &mut Fields, names: &[String]) -> BTreeSet<DevEui> {
    if names.len() > MOST_LISTED {
        fields.bad("allowed_devices", format!("more than {MOST_LISTED}"));
        return BTreeSet::new();
    }
    let read: Option<BTreeSet<DevEui>> = names.iter().map(|name| names::device(name)).collect();
    if read.is_none() {
        fields.bad(
            "allowed_devices",
            "one is not of the form devices/{dev_eui}",
        );
    }
    read.unwrap_or_default()
}

/// Notes may have line breaks and tabs.
pub(super) fn read_notes(fields: &mut Fields, notes: &str) -> String {
    let plain = notes.replace(['\n', '\r', '\t'], " ");
    fields.text("release_notes", &plain, LONGEST_NOTES);
    notes.to_owned()
}

/// An image as the API shows it.
pub(super) fn show(image: Image) -> v1::Image {
    let (facts, release) = (image.facts, image.release);
    v1::Image {
        name: names::name("images", image.sha256),
        sha256: image.sha256.to_string(),
        size_bytes: image.size_bytes.into(),
        container: show_container(image.container).into(),
        file_name: image.file_name,
        model: image.model,
        component: image.component,
        target_version: image.target_version,
        version: image.version_text,
        annotations: image.annotations,
        create_time: Some(show_moment(image.created_at)),
        release_state: show_release_state(release.state).into(),
        allowed_devices: release
            .allowed_devices
            .iter()
            .map(|device| names::name("devices", device))
            .collect(),
        restricted: release.restricted,
        release_notes: release.notes,
        release_time: Some(show_moment(release.changed_at)),
        source_versions: facts.source_versions.into_iter().collect(),
        signed_by: facts
            .signature
            .map(|signature| names::name("trustedKeys", signature.key))
            .unwrap_or_default(),
        detached_signature: facts.signature.is_some_and(|s| s.detached),
        security_counter: facts.security_counter,
        container_version: facts.version.map(|v| v.to_string()).unwrap_or_default(),
        md5: facts.md5,
        delta: facts.delta.map(|delta| v1::DeltaInfo {
            base: names::name("images", delta.base),
            base_version: delta.base_version,
            target: names::name("images", delta.target),
            target_size_bytes: delta.target_size_bytes.into(),
        }),
    }
}

fn show_container(container: ImageContainer) -> v1::ImageContainer {
    match container {
        ImageContainer::Raw => v1::ImageContainer::Raw,
        ImageContainer::Mcuboot => v1::ImageContainer::Mcuboot,
        ImageContainer::Delta => v1::ImageContainer::Delta,
    }
}

fn show_release_state(state: ReleaseState) -> v1::ReleaseState {
    match state {
        ReleaseState::Draft => v1::ReleaseState::Draft,
        ReleaseState::Active => v1::ReleaseState::Active,
        ReleaseState::Withdrawn => v1::ReleaseState::Withdrawn,
    }
}

pub(super) fn container_word(container: ImageContainer) -> String {
    regions::word_of(show_container(container).as_str_name(), "IMAGE_CONTAINER_")
}

pub(super) fn release_word(state: ReleaseState) -> String {
    regions::word_of(show_release_state(state).as_str_name(), "RELEASE_STATE_")
}

pub(super) fn is_container(word: &str) -> bool {
    v1::ImageContainer::from_str_name(&format!("IMAGE_CONTAINER_{word}")).is_some()
}

pub(super) fn is_release_state(word: &str) -> bool {
    v1::ReleaseState::from_str_name(&format!("RELEASE_STATE_{word}")).is_some()
}
