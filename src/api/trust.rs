//! Trust service: public keys and image policies, and whether an image may be sent under them.

use std::collections::{BTreeMap, BTreeSet};

use tonic::{Request, Response, Status};

use crate::firmware::{KeyKind, PublicKey};
use crate::proto::v1;
use crate::record::{Change, Image, ImagePolicy, Sha256, TrustedKey};
use crate::store::Catalog;

use super::errors::ApiError;
use super::fields::{Fields, show_moment, tenant};
use super::idempotency::first_or_return;
use super::{Api, answer, carry_out, names};

#[tonic::async_trait]
impl<S: Catalog> v1::trust_service_server::TrustService for Api<S> {
    async fn import_trusted_key(
        &self,
        request: Request<v1::ImportTrustedKeyRequest>,
    ) -> Result<Response<v1::TrustedKey>, Status> {
        let api = self.clone();
        carry_out(async move { api.import_key(request.into_inner()).await }).await
    }

    async fn get_trusted_key(
        &self,
        request: Request<v1::GetTrustedKeyRequest>,
    ) -> Result<Response<v1::TrustedKey>, Status> {
        answer(
            self.find_key(&request.get_ref().name)
                .await
                .map(|key| show_key(&key)),
        )
    }

    async fn list_trusted_keys(
        &self,
        _: Request<v1::ListTrustedKeysRequest>,
    ) -> Result<Response<v1::ListTrustedKeysResponse>, Status> {
        let keys = self.store().trusted_keys(&tenant()).await;
        answer(keys.map_err(ApiError::from).map(|keys| {
            let trusted_keys = keys.iter().map(show_key).collect();
            v1::ListTrustedKeysResponse { trusted_keys }
        }))
    }

    async fn retire_trusted_key(
        &self,
        request: Request<v1::RetireTrustedKeyRequest>,
    ) -> Result<Response<v1::TrustedKey>, Status> {
        let api = self.clone();
        carry_out(async move { api.retire_key(request.into_inner()).await }).await
    }

    async fn set_image_policy(
        &self,
        request: Request<v1::SetImagePolicyRequest>,
    ) -> Result<Response<v1::ImagePolicy>, Status> {
        let api = self.clone();
        carry_out(async move { api.set_policy(request.into_inner()).await }).await
    }

    async fn list_image_policies(
        &self,
        _: Request<v1::ListImagePoliciesRequest>,
    ) -> Result<Response<v1::ListImagePoliciesResponse>, Status> {
        let policies = self.store().image_policies(&tenant()).await;
        answer(policies.map_err(ApiError::from).map(|policies| {
            let image_policies = policies.iter().map(show_policy).collect();
            v1::ListImagePoliciesResponse { image_policies }
        }))
    }

    async fn delete_image_policy(
        &self,
        request: Request<v1::DeleteImagePolicyRequest>,
    ) -> Result<Response<()>, Status> {
        let api = self.clone();
        carry_out(async move { api.delete_policy(request.into_inner()).await }).await
    }
}

impl<S: Catalog> Api<S> {
    async fn import_key(
        self,
        request: v1::ImportTrustedKeyRequest,
    ) -> Result<v1::TrustedKey, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("ImportTrustedKey", &request, &[]).await?);
        let Some(given) = request.trusted_key else {
            return Err(ApiError::field("trusted_key", "missing"));
        };
        let mut fields = Fields::of("trusted_key");
        fields.text("display_name", &given.display_name, 255);
        fields.text("model", &given.model, 63);
        let key = match PublicKey::from_pem(&given.public_key_pem) {
            Ok(key) => Some(key),
            Err(error) => {
                fields.bad("public_key_pem", error.to_string());
                None
            }
        };
        let key = fields.finish_with(key)?;
        let key = TrustedKey {
            tenant: tenant(),
            id: Sha256(key.key_id()),
            display_name: given.display_name,
            kind: key.kind(),
            der: key.to_der(),
            model: given.model,
            created_at: self.now(),
            retired_at: None,
        };
        let known = self.store().trusted_keys(&tenant()).await?;
        if known.iter().any(|known| known.id == key.id) {
            return Err(ApiError::AlreadyExists {
                resource: names::name("trustedKeys", key.id),
                reason: "ALREADY_EXISTS",
            });
        }
        let shown = show_key(&key);
        let mut changes = vec![Change::PutTrustedKey(key)];
        changes.extend(ticket.answered(&shown));
        self.commit(changes).await?;
        Ok(shown)
    }

    async fn find_key(&self, name: &str) -> Result<TrustedKey, ApiError> {
        let id = names::required("name", "trustedKeys/{key_id}", name, |name| {
            names::sha256(name.strip_prefix("trustedKeys/")?)
        })?;
        let keys = self.store().trusted_keys(&tenant()).await?;
        let found = keys.into_iter().find(|key| key.id == id);
        found.ok_or_else(|| ApiError::NotFound(names::name("trustedKeys", id)))
    }

    /// Keys that are not retired.
    pub(super) async fn keys_in_use(&self) -> Result<Vec<TrustedKey>, ApiError> {
        let mut keys = self.store().trusted_keys(&tenant()).await?;
        keys.retain(|key| key.retired_at.is_none());
        Ok(keys)
    }

    async fn retire_key(
        self,
        request: v1::RetireTrustedKeyRequest,
    ) -> Result<v1::TrustedKey, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("RetireTrustedKey", &request, &[]).await?);
        let mut key = self.find_key(&request.name).await?;
        if key.retired_at.is_none() {
            key.retired_at = Some(self.now());
        }
        let shown = show_key(&key);
        let mut changes = vec![Change::PutTrustedKey(key)];
        changes.extend(ticket.answered(&shown));
        self.commit(changes).await?;
        Ok(shown)
    }

    async fn set_policy(
        self,
        request: v1::SetImagePolicyRequest,
    ) -> Result<v1::ImagePolicy, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("SetImagePolicy", &request, &[]).await?);
        let Some(given) = request.image_policy else {
            return Err(ApiError::field("image_policy", "missing"));
        };
        let model = read_model("image_policy.name", &given.name)?;
        if given.allow_unsigned && given.embedded_signature_only {
            let why = "excludes allow_unsigned";
            return Err(ApiError::field("image_policy.embedded_signature_only", why));
        }
        let known = self.store().image_policies(&tenant()).await?;
        let before = known.into_iter().find(|policy| policy.model == model);
        let now = self.now();
        let policy = ImagePolicy {
            tenant: tenant(),
            model,
            allow_unsigned: given.allow_unsigned,
            embedded_only: given.embedded_signature_only,
            created_at: before.map_or(now, |before| before.created_at),
            updated_at: now,
        };
        let shown = show_policy(&policy);
        let mut changes = vec![Change::PutImagePolicy(policy)];
        changes.extend(ticket.answered(&shown));
        self.commit(changes).await?;
        Ok(shown)
    }

    async fn delete_policy(self, request: v1::DeleteImagePolicyRequest) -> Result<(), ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("DeleteImagePolicy", &request, &[]).await?);
        let model = read_model("name", &request.name)?;
        let known = self.store().image_policies(&tenant()).await?;
        if !known.iter().any(|policy| policy.model == model) {
            return Err(ApiError::NotFound(request.name));
        }
        let mut changes = vec![Change::DeleteImagePolicy(tenant(), model)];
        changes.extend(ticket.answered(&()));
        self.commit(changes).await
    }

    /// Why images may not be sent to devices of these models; `None`: they may.
    pub(super) async fn distrust(
        &self,
        images: &[&Image],
        models: &BTreeSet<String>,
    ) -> Result<Option<String>, ApiError> {
        let keys: BTreeMap<Sha256, TrustedKey> = self
            .keys_in_use()
            .await?
            .into_iter()
            .map(|key| (key.id, key))
            .collect();
        let policies = self.store().image_policies(&tenant()).await?;
        let policy_of = |model: &str| {
            let of = |name: &str| policies.iter().find(|policy| policy.model == name);
            let own = of(model).filter(|_| !model.is_empty());
            let policy = own.or_else(|| of(ImagePolicy::OTHERS)).cloned();
            policy.unwrap_or_else(|| ImagePolicy::strict(tenant(), model))
        };
        let judged = images.iter().flat_map(|image| {
            let judge = |model: &String| distrusted(image, model, &policy_of(model), &keys);
            models.iter().filter_map(judge).collect::<Vec<_>>()
        });
        Ok(judged.into_iter().next())
    }
}

/// Why an image is not believed for one model.
fn distrusted(
    image: &Image,
    model: &str,
    policy: &ImagePolicy,
    keys: &BTreeMap<Sha256, TrustedKey>,
) -> Option<String> {
    if policy.allow_unsigned {
        return None;
    }
    let whom = match model {
        "" => "devices without a model".to_owned(),
        model => format!("model {model}"),
    };
    let demands = match policy.model.as_str() {
        ImagePolicy::OTHERS => format!("the policy for all others, which covers {whom},"),
        _ => format!("the policy for {whom}"),
    };
    let Some(signature) = image.facts.signature else {
        return Some(format!(
            "{demands} demands a signature, and no trusted key has signed the image"
        ));
    };
    match keys.get(&signature.key) {
        None => Some(format!(
            "{demands} demands a signature, and its key {} is retired",
            signature.key
        )),
        Some(key) if !key.signs_for(model) => Some(format!(
            "{demands} demands a signature, and its key {} signs for model {} only",
            signature.key, key.model
        )),
        Some(_) if signature.detached && policy.embedded_only => Some(format!(
            "{demands} demands a signature within the image, and this one is beside it"
        )),
        Some(_) => None,
    }
}

fn read_model(field: &str, name: &str) -> Result<String, ApiError> {
    names::required(field, "imagePolicies/{model}", name, |name| {
        let model = name.strip_prefix("imagePolicies/")?;
        let good = (1..=63).contains(&model.chars().count());
        (good && !model.chars().any(|c| c.is_control() || c == '/')).then(|| model.to_owned())
    })
}

fn show_key(key: &TrustedKey) -> v1::TrustedKey {
    let pem = PublicKey::from_der(&key.der).map(|key| key.to_pem());
    v1::TrustedKey {
        name: names::name("trustedKeys", key.id),
        display_name: key.display_name.clone(),
        kind: match key.kind {
            KeyKind::Ed25519 => v1::KeyKind::Ed25519,
            KeyKind::EcdsaP256 => v1::KeyKind::EcdsaP256,
            KeyKind::Rsa2048 => v1::KeyKind::Rsa2048,
            KeyKind::Rsa3072 => v1::KeyKind::Rsa3072,
        }
        .into(),
        public_key_pem: pem.unwrap_or_default(),
        model: key.model.clone(),
        state: match key.retired_at {
            None => v1::TrustedKeyState::Active,
            Some(_) => v1::TrustedKeyState::Retired,
        }
        .into(),
        create_time: Some(show_moment(key.created_at)),
        retire_time: key.retired_at.map(show_moment),
    }
}

fn show_policy(policy: &ImagePolicy) -> v1::ImagePolicy {
    v1::ImagePolicy {
        name: names::name("imagePolicies", &policy.model),
        allow_unsigned: policy.allow_unsigned,
        embedded_signature_only: policy.embedded_only,
        create_time: Some(show_moment(policy.created_at)),
        update_time: Some(show_moment(policy.updated_at)),
    }
}
