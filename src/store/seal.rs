//! Sealing of secrets at rest: AES-256-GCM under the master key, bound to the row they belong to.
//!
//! A sealed value is nonce (96 bits), ciphertext and tag. The associated data are the table's name and the row's key,
//! so that a value moved to another row does not open. Entropy comes from outside: nothing here makes randomness. With
//! random nonces, one master key is good for 2^32 sealings (NIST SP 800-38D §8.3).

use std::fmt;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key};
use zeroize::{Zeroize, Zeroizing};

const NONCE_LEN: usize = 12;

/// Fills a buffer with unpredictable bytes; never twice the same.
pub type Entropy = Box<dyn Fn(&mut [u8]) + Send + Sync>;

/// The 256-bit key all secrets of a store are sealed with. Wiped when dropped, never printed.
#[derive(Clone)]
pub struct MasterKey([u8; 32]);

impl MasterKey {
    /// From its 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl Drop for MasterKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// The value was sealed with another key, for another row, or was damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CannotOpen;

/// Seals and opens values of rows.
pub(super) struct Seal {
    cipher: Aes256Gcm,
    entropy: Entropy,
}

impl Seal {
    pub(super) fn new(key: &MasterKey, entropy: Entropy) -> Self {
        Self {
            cipher: Aes256Gcm::new(&Key::<Aes256Gcm>::from(key.0)),
            entropy,
        }
    }

    /// Seals `plain` for the row `key` of `table`.
    pub(super) fn seal(&self, table: &str, key: &str, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        (self.entropy)(&mut nonce);
        let payload = Payload {
            msg: plain,
            aad: &row(table, key),
        };
        let sealed = self
            .cipher
            .encrypt(&nonce.into(), payload)
            .expect("a record is shorter than the 64 GiB AES-GCM allows");
        [nonce.as_slice(), &sealed].concat()
    }

    /// Opens what was sealed for the row `key` of `table`.
    pub(super) fn open(
        &self,
        table: &str,
        key: &str,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CannotOpen> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(CannotOpen)?;
        let payload = Payload {
            msg: sealed,
            aad: &row(table, key),
        };
        self.cipher
            .decrypt(&(*nonce).into(), payload)
            .map(Zeroizing::new)
            .map_err(|_| CannotOpen)
    }
}

/// Table names hold no NUL, so no two rows share their associated data.
fn row(table: &str, key: &str) -> Vec<u8> {
    [table.as_bytes(), &[0], key.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    fn seal_with(key: u8) -> Seal {
        let count = AtomicU8::new(0);
        Seal::new(
            &MasterKey::from_bytes([key; 32]),
            Box::new(move |out| out.fill(count.fetch_add(1, Ordering::Relaxed))),
        )
    }

    #[test]
    fn opens_for_its_row_alone() {
        let seal = seal_with(1);
        let sealed = seal.seal("session", "a", b"secret");
        assert_eq!(
            seal.open("session", "a", &sealed).unwrap().as_slice(),
            b"secret"
        );
        assert_eq!(seal.open("session", "b", &sealed), Err(CannotOpen));
        assert_eq!(seal.open("join_state", "a", &sealed), Err(CannotOpen));
        assert_eq!(seal_with(2).open("session", "a", &sealed), Err(CannotOpen));
    }

    #[test]
    fn each_sealing_takes_a_fresh_nonce() {
        let seal = seal_with(1);
        assert_ne!(seal.seal("t", "k", b"x"), seal.seal("t", "k", b"x"));
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let seal = seal_with(1);
        let sealed = seal.seal("t", "k", b"secret");
        for cut in 0..sealed.len() {
            assert_eq!(seal.open("t", "k", &sealed[..cut]), Err(CannotOpen));
            let mut bent = sealed.clone();
            bent[cut] ^= 1;
            assert_eq!(seal.open("t", "k", &bent), Err(CannotOpen));
        }
    }

    #[test]
    fn a_master_key_does_not_print_itself() {
        assert_eq!(
            format!("{:?}", MasterKey::from_bytes([7; 32])),
            "MasterKey(..)"
        );
    }
}
