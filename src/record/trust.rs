//! Whom images are believed from: trusted public keys, and what each device model demands. Private keys are nowhere in
//! the server.

use serde::{Deserialize, Serialize};

use super::{Sha256, TenantId};
use crate::firmware::KeyKind;
use crate::time::Timestamp;

/// A public key that signatures of images are checked with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedKey {
    /// Owner.
    pub tenant: TenantId,
    /// SHA-256 of the key as MCUboot names it; its identity.
    pub id: Sha256,
    /// Free text for people.
    pub display_name: String,
    /// Algorithm.
    pub kind: KeyKind,
    /// SubjectPublicKeyInfo, DER.
    pub der: Vec<u8>,
    /// The one device model it signs for; empty = all.
    pub model: String,
    /// When it came.
    pub created_at: Timestamp,
    /// Since when nothing signed with it is taken any more.
    pub retired_at: Option<Timestamp>,
}

impl TrustedKey {
    /// It may sign images of `model`.
    pub fn signs_for(&self, model: &str) -> bool {
        self.retired_at.is_none() && (self.model.is_empty() || self.model == model)
    }
}

/// What a device model demands of images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePolicy {
    /// Owner.
    pub tenant: TenantId,
    /// The model; [`ImagePolicy::OTHERS`] for all that have no policy of their own.
    pub model: String,
    /// Images need no signature.
    pub allow_unsigned: bool,
    /// Images need a signature inside: one beside them is not enough, since the device could not check it.
    pub embedded_only: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

impl ImagePolicy {
    /// Stands for all models without a policy of their own.
    pub const OTHERS: &str = "others";

    /// What holds where nobody has said anything: a signature is needed, inside or beside.
    pub fn strict(tenant: TenantId, model: &str) -> Self {
        Self {
            tenant,
            model: model.to_owned(),
            allow_unsigned: false,
            embedded_only: false,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        }
    }
}
