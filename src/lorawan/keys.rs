//! Keys and message integrity: derivations of LoRaWAN 1.0.x sessions, of TS005 multicast keys and of the TS004 data-block MIC.
//!
//! [`Key128`] never prints itself, compares in constant time and is wiped when dropped. Serialisation is opt-in per field
//! ([`serde_hex`]), for records that a store seals.

use std::fmt;
use std::str::FromStr;

use aes::Aes128;
use aes::cipher::{Block, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use cmac::{Cmac, Mac};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::identifiers::McAddr;

/// A 128-bit AES key.
#[derive(Clone)]
pub struct Key128([u8; 16]);

/// A text that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 32 hex digits")]
pub struct InvalidKey;

/// How `McRootKey` derives from a device's root key (TS005-2.0.0 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyDerivation {
    /// LoRaWAN 1.0.x: from GenAppKey, constant 0x00.
    GenAppKey,
    /// LoRaWAN 1.1: from AppKey, constant 0x20.
    AppKey,
}

impl Key128 {
    /// From 16 bytes, in the order AES takes them.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// 32 lower-case hex digits. For sealed storage and test vectors, never for logs.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn cipher(&self) -> Aes128 {
        Aes128::new(&self.0.into())
    }
}

impl PartialEq for Key128 {
    /// Takes the same time wherever the keys differ.
    fn eq(&self, other: &Self) -> bool {
        self.0
            .iter()
            .zip(&other.0)
            .fold(0, |difference, (a, b)| difference | (a ^ b))
            == 0
    }
}

impl Eq for Key128 {}

impl Drop for Key128 {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Key128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key128(..)")
    }
}

impl FromStr for Key128 {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidKey);
        }
        u128::from_str_radix(text, 16)
            .map(|value| Self(value.to_be_bytes()))
            .map_err(|_| InvalidKey)
    }
}

/// `#[serde(with = "...")]` for a key in a record that is sealed at rest.
pub mod serde_hex {
    use super::Key128;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the key as hex.
    pub fn serialize<S: Serializer>(key: &Key128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&key.to_hex())
    }

    /// Reads a key from hex.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Key128, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// As [`serde_hex`], for an optional key.
pub mod serde_hex_option {
    use super::Key128;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes the key as hex, or null.
    pub fn serialize<S: Serializer>(
        key: &Option<Key128>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        key.as_ref().map(Key128::to_hex).serialize(serializer)
    }

    /// Reads a key from hex, or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Key128>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom))
            .transpose()
    }
}

/// AES-128 of one block.
pub fn aes128_encrypt(key: &Key128, block: [u8; 16]) -> [u8; 16] {
    let mut block: Block<Aes128> = block.into();
    key.cipher().encrypt_block(&mut block);
    block.into()
}

/// The inverse of [`aes128_encrypt`].
pub fn aes128_decrypt(key: &Key128, block: [u8; 16]) -> [u8; 16] {
    let mut block: Block<Aes128> = block.into();
    key.cipher().decrypt_block(&mut block);
    block.into()
}

/// AES-128-CMAC (RFC 4493) over the concatenation of `parts`.
pub fn aes128_cmac(key: &Key128, parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = <Cmac<Aes128> as KeyInit>::new(&key.0.into());
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// `McRootKey` (TS005-2.0.0 §4.1).
pub fn mc_root_key(derivation: KeyDerivation, root_key: &Key128) -> Key128 {
    let constant = match derivation {
        KeyDerivation::GenAppKey => 0x00,
        KeyDerivation::AppKey => 0x20,
    };
    derive(root_key, constant, &[])
}

/// `McKEKey` (TS005-2.0.0 §4.1).
pub fn mc_ke_key(mc_root_key: &Key128) -> Key128 {
    derive(mc_root_key, 0x00, &[])
}

/// `McKey_encrypted`, as the server sends it. It *decrypts*, so that devices need encryption only.
pub fn encrypt_mc_key(mc_ke_key: &Key128, mc_key: &Key128) -> [u8; 16] {
    aes128_decrypt(mc_ke_key, mc_key.0)
}

/// `McKey`, as a device gets it from `McKey_encrypted`.
pub fn decrypt_mc_key(mc_ke_key: &Key128, mc_key_encrypted: [u8; 16]) -> Key128 {
    Key128(aes128_encrypt(mc_ke_key, mc_key_encrypted))
}

/// `McAppSKey` (TS005-2.0.0 §4.1).
pub fn mc_app_s_key(mc_key: &Key128, mc_addr: McAddr) -> Key128 {
    derive(mc_key, 0x01, &mc_addr.to_le_bytes())
}

/// `McNwkSKey`, called `McNetSKey` in some places of the specification (TS005-2.0.0 §4.1).
pub fn mc_nwk_s_key(mc_key: &Key128, mc_addr: McAddr) -> Key128 {
    derive(mc_key, 0x02, &mc_addr.to_le_bytes())
}

/// `DataBlockIntKey` from GenAppKey (1.0.x) or AppKey (1.1) (TS004-2.0.0 §3.2).
pub fn data_block_int_key(root_key: &Key128) -> Key128 {
    derive(root_key, 0x30, &[])
}

/// The MIC of `FragSessionSetupReq` over the block without its padding (TS004-2.0.0 §3.2). `data` is at most 4 GiB.
pub fn data_block_mic(
    data_block_int_key: &Key128,
    session_cnt: u16,
    frag_index: u8,
    descriptor: [u8; 4],
    data: &[u8],
) -> [u8; 4] {
    let mut b0 = [0u8; 16];
    b0[0] = 0x49;
    b0[1..3].copy_from_slice(&session_cnt.to_le_bytes());
    b0[3] = frag_index;
    b0[4..8].copy_from_slice(&descriptor);
    b0[12..16].copy_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_le_bytes());
    let mac = aes128_cmac(data_block_int_key, &[&b0, data]);
    [mac[0], mac[1], mac[2], mac[3]]
}

/// A block of one constant byte, up to 15 bytes of context and zeros, encrypted under `key`.
fn derive(key: &Key128, constant: u8, context: &[u8]) -> Key128 {
    let mut block = [0u8; 16];
    block[0] = constant;
    for (to, from) in block[1..].iter_mut().zip(context) {
        *to = *from;
    }
    Key128(aes128_encrypt(key, block))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_print_itself() {
        let key: Key128 = "000102030405060708090a0b0c0d0e0f".parse().unwrap();
        assert_eq!(format!("{key:?}"), "Key128(..)");
        assert_eq!(key.to_hex(), "000102030405060708090a0b0c0d0e0f");
    }

    #[test]
    fn cmac_of_the_published_examples() {
        // RFC 4493 §4.
        let key: Key128 = "2b7e151628aed2a6abf7158809cf4f3c".parse().unwrap();
        let hex = |mac: [u8; 16]| Key128::from_bytes(mac).to_hex();
        assert_eq!(
            hex(aes128_cmac(&key, &[])),
            "bb1d6929e95937287fa37d129b756746"
        );
        let message = u128::from_str_radix("6bc1bee22e409f96e93d7e117393172a", 16)
            .unwrap()
            .to_be_bytes();
        assert_eq!(
            hex(aes128_cmac(&key, &[&message[..7], &message[7..]])),
            "070a16b46b4d4144f79bdd9dd04a287c"
        );
    }

    #[test]
    fn a_wrapped_mc_key_comes_back() {
        let ke: Key128 = "101112131415161718191a1b1c1d1e1f".parse().unwrap();
        let key: Key128 = "202122232425262728292a2b2c2d2e2f".parse().unwrap();
        assert_eq!(decrypt_mc_key(&ke, encrypt_mc_key(&ke, &key)), key);
    }
}
