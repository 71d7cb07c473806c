//! AES-128 keys and what LoRaWAN derives from them: session keys, multicast keys and the MIC over a data block.
//!
//! Keys are written out only on an explicit call ([`Key128::to_hex`], [`serde_hex`], [`serde_hex_option`]), never by
//! `Debug`. Making keys, storing them and wrapping them at rest happen elsewhere, and so do the MIC and encryption of
//! frames.
//!
//! Source: TS001-1.0.4 §6.2.6 (session keys); TS005-2.0.0 §4.3 (multicast keys); TS004-2.0.0, FragSessionSetupReq (data
//! block MIC).

use std::fmt;
use std::str::FromStr;

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use cmac::{Cmac, Mac};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::identifiers::{McAddr, octets_from_hex};

/// A 128-bit AES key. Compared in constant time, wiped from memory when dropped.
#[derive(Clone)]
pub struct Key128([u8; 16]);

impl Key128 {
    /// From the key's octets, in the order they are written in hexadecimal.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The key's octets, in the order they are written in hexadecimal.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The key in the clear, as 32 lower-case hexadecimal digits. The text is not wiped when dropped.
    pub fn to_hex(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Key128 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Key128(..)")
    }
}

impl PartialEq for Key128 {
    fn eq(&self, other: &Self) -> bool {
        let difference = self
            .0
            .iter()
            .zip(&other.0)
            .fold(0, |difference, (a, b)| difference | (a ^ b));
        // The black box keeps the compiler from turning the fold into a loop that stops at the first difference.
        std::hint::black_box(difference) == 0
    }
}

impl Eq for Key128 {}

impl Drop for Key128 {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for Key128 {}

/// A text is no key. Does not repeat the text, which may be most of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key needs 32 hexadecimal digits")]
pub struct InvalidKey;

/// Reads 32 hexadecimal digits of either case, with `-` or `:` allowed between the octets.
impl FromStr for Key128 {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        octets_from_hex(text).map(Self).ok_or(InvalidKey)
    }
}

/// From which root key, and so how, a device derives its `McRootKey` (TS005-2.0.0 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum KeyDerivation {
    /// From the GenAppKey, with a block of 0x00 and zeros: devices joined to a LoRaWAN 1.0.x network server.
    GenAppKey,
    /// From the AppKey, with a block of 0x20 and zeros: LoRaWAN 1.1.
    AppKey,
}

/// One AES-128 block encryption.
pub fn aes128_encrypt(key: &Key128, block: [u8; 16]) -> [u8; 16] {
    let mut block = block.into();
    Aes128::new((&key.0).into()).encrypt_block(&mut block);
    block.into()
}

/// AES-CMAC (RFC 4493) over the concatenation of `parts`.
pub fn aes128_cmac(key: &Key128, parts: &[&[u8]]) -> [u8; 16] {
    let mut cmac = <Cmac<Aes128> as KeyInit>::new((&key.0).into());
    for part in parts {
        cmac.update(part);
    }
    cmac.finalize().into_bytes().into()
}

/// `McRootKey` from the device's root key, which is the GenAppKey or the AppKey as `derivation` says (TS005-2.0.0
/// §4.3).
pub fn mc_root_key(derivation: KeyDerivation, root_key: &Key128) -> Key128 {
    derive(
        root_key,
        match derivation {
            KeyDerivation::GenAppKey => &[0x00],
            KeyDerivation::AppKey => &[0x20],
        },
    )
}

/// `McKEKey`, the key a device's multicast keys travel under (TS005-2.0.0 §4.3).
pub fn mc_ke_key(mc_root_key: &Key128) -> Key128 {
    derive(mc_root_key, &[])
}

/// `McKey_encrypted` of a `McGroupSetupReq`: the server's side, an AES *de*cryption so that devices need only
/// encryption (TS005-2.0.0 §4.3).
pub fn encrypt_mc_key(mc_ke_key: &Key128, mc_key: &Key128) -> [u8; 16] {
    let mut block = mc_key.0.into();
    Aes128::new((&mc_ke_key.0).into()).decrypt_block(&mut block);
    block.into()
}

/// `McKey` from the `McKey_encrypted` of a `McGroupSetupReq`: the device's side (TS005-2.0.0 §4.3).
pub fn decrypt_mc_key(mc_ke_key: &Key128, mc_key_encrypted: [u8; 16]) -> Key128 {
    Key128(aes128_encrypt(mc_ke_key, mc_key_encrypted))
}

/// `McAppSKey`, which encrypts the payloads of a group's frames (TS005-2.0.0 §4.3).
pub fn mc_app_s_key(mc_key: &Key128, mc_addr: McAddr) -> Key128 {
    let [a, b, c, d] = mc_addr.to_le_bytes();
    derive(mc_key, &[0x01, a, b, c, d])
}

/// `McNwkSKey` (also called McNetSKey), which authenticates a group's frames (TS005-2.0.0 §4.3).
pub fn mc_nwk_s_key(mc_key: &Key128, mc_addr: McAddr) -> Key128 {
    let [a, b, c, d] = mc_addr.to_le_bytes();
    derive(mc_key, &[0x02, a, b, c, d])
}

/// `DataBlockIntKey` from the device's root key: the GenAppKey (LoRaWAN 1.0.x) or the AppKey (1.1), in both cases with
/// the same block (TS004-2.0.0, FragSessionSetupReq).
pub fn data_block_int_key(root_key: &Key128) -> Key128 {
    derive(root_key, &[0x30])
}

/// The MIC of a `FragSessionSetupReq` of version 2, in wire order: over the whole data block without its padding
/// (TS004-2.0.0, FragSessionSetupReq). `descriptor` is in wire order. A block of 4 GiB and more, which no session can
/// carry, counts as 4 GiB - 1 long.
pub fn data_block_mic(
    data_block_int_key: &Key128,
    session_cnt: u16,
    frag_index: u8,
    descriptor: [u8; 4],
    data: &[u8],
) -> [u8; 4] {
    let mut b0 = [0; 16];
    b0[0] = 0x49;
    b0[1..3].copy_from_slice(&session_cnt.to_le_bytes());
    b0[3] = frag_index;
    b0[4..8].copy_from_slice(&descriptor);
    b0[12..].copy_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_le_bytes());
    let [a, b, c, d, ..] = aes128_cmac(data_block_int_key, &[&b0, data]);
    [a, b, c, d]
}

/// `NwkSKey` of a LoRaWAN 1.0.x activation (TS001-1.0.4 §6.2.6). `join_nonce` (called AppNonce before 1.0.4) and
/// `net_id` are 24 bits wide, their upper 8 bits are not used.
pub fn nwk_s_key(app_key: &Key128, join_nonce: u32, net_id: u32, dev_nonce: u16) -> Key128 {
    session_key(0x01, app_key, join_nonce, net_id, dev_nonce)
}

/// `AppSKey` of a LoRaWAN 1.0.x activation (TS001-1.0.4 §6.2.6). Arguments as for [`nwk_s_key`].
pub fn app_s_key(app_key: &Key128, join_nonce: u32, net_id: u32, dev_nonce: u16) -> Key128 {
    session_key(0x02, app_key, join_nonce, net_id, dev_nonce)
}

/// A [`Key128`] as a string of hexadecimal digits, in the clear: for
/// `#[serde(with = "crate::lorawan::keys::serde_hex")]`.
pub mod serde_hex {
    use std::fmt;

    use serde::de::{self, Visitor};
    use serde::{Deserializer, Serializer};
    use zeroize::Zeroizing;

    use super::Key128;

    /// Writes the key in the clear.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(key: &Key128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(key.to_hex()))
    }

    /// Reads the key.
    ///
    /// # Errors
    /// The deserializer's own, and a text that is no key; the message does not repeat the text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Key128, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Key128;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string of 32 hexadecimal digits")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Key128, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// An `Option<Key128>` as a string of hexadecimal digits in the clear, or null: for
/// `#[serde(with = "crate::lorawan::keys::serde_hex_option")]`. Add `default` where the field may be absent.
pub mod serde_hex_option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Key128;

    #[derive(Serialize)]
    struct Borrowed<'a>(#[serde(serialize_with = "super::serde_hex::serialize")] &'a Key128);

    #[derive(Deserialize)]
    struct Owned(#[serde(deserialize_with = "super::serde_hex::deserialize")] Key128);

    /// Writes the key in the clear.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(
        key: &Option<Key128>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        key.as_ref().map(Borrowed).serialize(serializer)
    }

    /// Reads the key.
    ///
    /// # Errors
    /// The deserializer's own, and a text that is no key; the message does not repeat the text.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Key128>, D::Error> {
        Ok(Option::<Owned>::deserialize(deserializer)?.map(|Owned(key)| key))
    }
}

/// Encrypts `prefix`, filled up with zeros to a block. A prefix longer than a block is cut.
fn derive(key: &Key128, prefix: &[u8]) -> Key128 {
    let mut block = [0; 16];
    for (octet, value) in block.iter_mut().zip(prefix) {
        *octet = *value;
    }
    Key128(aes128_encrypt(key, block))
}

fn session_key(kind: u8, app_key: &Key128, join_nonce: u32, net_id: u32, dev_nonce: u16) -> Key128 {
    let [j0, j1, j2, _] = join_nonce.to_le_bytes();
    let [n0, n1, n2, _] = net_id.to_le_bytes();
    let [d0, d1] = dev_nonce.to_le_bytes();
    derive(app_key, &[kind, j0, j1, j2, n0, n1, n2, d0, d1])
}
