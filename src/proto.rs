//! The gRPC API as Rust types, generated from `proto/fuota/v1` by `build.rs`.
//!
//! Holds no logic: the meaning of each message stands in the proto files, the services that answer
//! stand in the `api` layer. The one thing written by hand is `Debug` for the messages that carry
//! keys, so that no key reaches a log.

use std::fmt;

/// Package `fuota.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    elided_lifetimes_in_paths,
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::disallowed_types
)]
pub mod v1 {
    tonic::include_proto!("fuota.v1");
}

/// The proto files with their comments and imports, as an encoded `google.protobuf.FileDescriptorSet`;
/// for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("fuota_descriptor");

/// Stands where a key is, and tells no more than whether there is one.
struct Redacted<'a>(&'a [u8]);

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "unset"
        } else {
            "redacted"
        })
    }
}

impl fmt::Debug for v1::root_keys::Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GenAppKey(key) => f.debug_tuple("GenAppKey").field(&Redacted(key)).finish(),
            Self::AppKey(key) => f.debug_tuple("AppKey").field(&Redacted(key)).finish(),
            Self::SameAsAppKey(same) => f.debug_tuple("SameAsAppKey").field(same).finish(),
        }
    }
}

impl fmt::Debug for v1::RootKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootKeys")
            .field("source", &self.source)
            .finish()
    }
}

impl fmt::Debug for v1::DerivedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DerivedKeys")
            .field("mc_root_key", &Redacted(&self.mc_root_key))
            .field("data_block_int_key", &Redacted(&self.data_block_int_key))
            .finish()
    }
}

impl fmt::Debug for v1::OtaaActivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtaaActivation")
            .field("join_eui", &self.join_eui)
            .field("app_key", &Redacted(&self.app_key))
            .field("next_join_nonce", &self.next_join_nonce)
            .field("last_dev_nonce", &self.last_dev_nonce)
            .field("used_dev_nonce_count", &self.used_dev_nonce_count)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::AbpActivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AbpActivation")
            .field("dev_addr", &self.dev_addr)
            .field("nwk_s_key", &Redacted(&self.nwk_s_key))
            .field("app_s_key", &Redacted(&self.app_s_key))
            .field("f_cnt_up", &self.f_cnt_up)
            .field("f_cnt_down", &self.f_cnt_down)
            .field("receive_parameters", &self.receive_parameters)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::{FILE_DESCRIPTOR_SET, v1};

    const KEY: [u8; 16] = [0xA7; 16];

    fn key() -> prost::bytes::Bytes {
        prost::bytes::Bytes::copy_from_slice(&KEY)
    }

    #[test]
    fn debug_of_a_device_shows_no_key() {
        let root = v1::EndDevice {
            keys: Some(v1::end_device::Keys::RootKeys(v1::RootKeys {
                source: Some(v1::root_keys::Source::GenAppKey(key())),
            })),
            activation: Some(v1::end_device::Activation::Otaa(v1::OtaaActivation {
                app_key: key(),
                ..Default::default()
            })),
            ..Default::default()
        };
        let derived = v1::EndDevice {
            keys: Some(v1::end_device::Keys::DerivedKeys(v1::DerivedKeys {
                mc_root_key: key(),
                data_block_int_key: key(),
            })),
            activation: Some(v1::end_device::Activation::Abp(v1::AbpActivation {
                nwk_s_key: key(),
                app_s_key: key(),
                ..Default::default()
            })),
            ..Default::default()
        };
        for device in [root, derived] {
            let text = format!("{device:?}").to_lowercase();
            assert_eq!(
                text.matches("redacted").count(),
                if text.contains("otaa") { 2 } else { 4 }
            );
            for leak in ["\\xa7", "167", "a7a7"] {
                assert!(!text.contains(leak), "{leak} in {text}");
            }
        }
    }

    /// A `bytes` field that is named a key must be in a message whose `Debug` is written above.
    #[test]
    fn every_key_field_is_in_a_redacted_message() {
        let redacted = ["RootKeys", "DerivedKeys", "OtaaActivation", "AbpActivation"];
        let mut keys = 0;
        for message in own_files().iter().flat_map(|file| &file.message_type) {
            for field in message
                .field
                .iter()
                .filter(|field| field.name().ends_with("_key"))
            {
                if field.r#type() == prost_types::field_descriptor_proto::Type::Bytes {
                    keys += 1;
                    assert!(redacted.contains(&message.name()), "{}", message.name());
                }
            }
        }
        assert_eq!(keys, 7);
    }

    #[test]
    fn every_mutating_request_has_a_request_id() {
        let verbs = [
            "Create",
            "BatchCreate",
            "Update",
            "Delete",
            "Add",
            "Remove",
            "Start",
            "Cancel",
            "Activate",
            "Withdraw",
            "Import",
            "Retire",
            "Set",
            "Enable",
            "Disable",
            "Push",
            "Pause",
            "Resume",
            "Retry",
        ];
        let mut checked = 0;
        for message in own_files().iter().flat_map(|file| &file.message_type) {
            let name = message.name();
            if name.ends_with("Request") && verbs.iter().any(|verb| name.starts_with(verb)) {
                checked += 1;
                assert!(
                    message
                        .field
                        .iter()
                        .any(|field| field.name() == "request_id"),
                    "{name}"
                );
            }
        }
        assert_eq!(checked, 41);
    }

    fn own_files() -> Vec<prost_types::FileDescriptorProto> {
        let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET)
            .expect("descriptor set decodes");
        set.file
            .into_iter()
            .filter(|file| file.package() == "fuota.v1")
            .collect()
    }
}
