//! Checks of signatures: the one step that all kinds of images share, and signatures that lie beside a file.

use p256::ecdsa::signature::Verifier;
use rsa::traits::PublicKeyParts;
use rsa::{Pkcs1v15Sign, Pss};

use super::error::ImageError;
use super::image::sha256;
use super::keys::{Inner, PublicKey};

/// Bytes of SHA-256, and of the salt that MCUboot expects in PSS.
const DIGEST_BYTES: usize = 32;

/// Checks a signature that lies beside `bytes` against each of `keys`; returns the id of the key that made it.
///
/// Ed25519: 64 bytes over `bytes` themselves. ECDSA: DER, over their SHA-256. RSA: as long as the modulus, over their
/// SHA-256, PKCS#1 v1.5 or PSS with a salt of 32 bytes or of all the room there is. `openssl` makes each of them.
///
/// ```
/// use lorawan_fuota::firmware::{PrivateKey, RsaPadding, verify_detached};
/// let key = PrivateKey::from_ed25519_seed(&[1; 32]);
/// let signature = key.sign_detached(b"firmware", RsaPadding::default(), &mut |_| {})?;
/// let keys = [key.public()];
/// assert_eq!(verify_detached(b"firmware", &signature, &keys), Ok(keys[0].key_id()));
/// assert!(verify_detached(b"firmwart", &signature, &keys).is_err());
/// # Ok::<(), lorawan_fuota::firmware::KeyError>(())
/// ```
///
/// # Errors
/// No keys, an empty signature, or none of the keys made it.
pub fn verify_detached(
    bytes: &[u8],
    signature: &[u8],
    keys: &[PublicKey],
) -> Result<[u8; 32], ImageError> {
    if keys.is_empty() {
        return Err(ImageError::NoKey);
    }
    if signature.is_empty() {
        return Err(ImageError::Unsigned);
    }
    let digest = sha256(bytes);
    let made_it = |key: &&PublicKey| match &key.0 {
        Inner::Rsa(rsa) => {
            let room = rsa.size() - DIGEST_BYTES - 2;
            let v15 = rsa.verify(Pkcs1v15Sign::new::<rsa::sha2::Sha256>(), &digest, signature);
            v15.is_ok()
                || is_pss(rsa, &digest, signature, DIGEST_BYTES)
                || is_pss(rsa, &digest, signature, room)
        }
        _ => is_signed(key, bytes, signature),
    };
    keys.iter()
        .find(made_it)
        .map(PublicKey::key_id)
        .ok_or(ImageError::Detached)
}

/// Whether `key` made `signature` over `message` the way MCUboot signs: Ed25519 over the message itself, ECDSA in DER
/// and RSA PSS over its SHA-256.
pub(super) fn is_signed(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    match &key.0 {
        Inner::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
            .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
        Inner::EcdsaP256(key) => p256::ecdsa::Signature::from_der(signature)
            .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
        Inner::Rsa(key) => is_pss(key, &sha256(message), signature, DIGEST_BYTES),
    }
}

fn is_pss(key: &rsa::RsaPublicKey, digest: &[u8], signature: &[u8], salt_len: usize) -> bool {
    let scheme = Pss::new_with_salt::<rsa::sha2::Sha256>(salt_len);
    key.verify(scheme, digest, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::PrivateKey;
    use super::super::private_key::RsaPadding;
    use super::*;

    macro_rules! vector {
        ($name:literal) => {
            include_bytes!(concat!("../../tests/vectors/images/", $name))
        };
    }

    const FILE: &[u8] = vector!("ed25519.bin");
    /// Private keys, and what openssl made of them and [`FILE`].
    const SIGNED: [(&[u8], &[u8]); 5] = [
        (vector!("ed25519.key.pem"), vector!("ed25519.openssl.sig")),
        (
            vector!("ecdsa-p256.key.pem"),
            vector!("ecdsa-p256.openssl.sig"),
        ),
        (vector!("rsa-2048.key.pem"), vector!("rsa-2048.openssl.sig")),
        (
            vector!("rsa-2048.key.pem"),
            vector!("rsa-2048.pss.openssl.sig"),
        ),
        (vector!("rsa-3072.key.pem"), vector!("rsa-3072.openssl.sig")),
    ];

    fn key(pem: &[u8]) -> PrivateKey {
        PrivateKey::from_pem(std::str::from_utf8(pem).unwrap()).unwrap()
    }

    #[test]
    fn signatures_of_openssl_verify_and_their_bits_may_not_change() {
        let keys: Vec<PublicKey> = SIGNED.iter().map(|(pem, _)| key(pem).public()).collect();
        for (signer, (_, signature)) in keys.iter().zip(SIGNED) {
            assert_eq!(verify_detached(FILE, signature, &keys), Ok(signer.key_id()));
            let one = std::slice::from_ref(signer);
            assert_eq!(
                verify_detached(&FILE[1..], signature, one),
                Err(ImageError::Detached)
            );
            // Each check of RSA tries three paddings: there every 29th bit, which meets each position in a byte.
            let stride = if signature.len() < 100 { 1 } else { 29 };
            for bit in (0..signature.len() * 8).step_by(stride) {
                let mut flipped = signature.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(
                    verify_detached(FILE, &flipped, one),
                    Err(ImageError::Detached),
                    "bit {bit}"
                );
            }
        }
        let (_, signature) = SIGNED[0];
        assert_eq!(
            verify_detached(FILE, signature, &keys[1..]),
            Err(ImageError::Detached)
        );
        assert_eq!(
            verify_detached(FILE, signature, &[]),
            Err(ImageError::NoKey)
        );
        assert_eq!(verify_detached(FILE, &[], &keys), Err(ImageError::Unsigned));
    }

    #[test]
    fn our_signatures_are_those_of_openssl_where_the_scheme_is_deterministic() {
        for (pem, theirs) in [SIGNED[0], SIGNED[2], SIGNED[4]] {
            let ours =
                key(pem).sign_detached(FILE, RsaPadding::Pkcs1v15, &mut |bytes| bytes.fill(7));
            assert_eq!(ours.as_deref(), Ok(theirs));
        }
        for (pem, _) in SIGNED {
            let key = key(pem);
            for padding in [RsaPadding::Pkcs1v15, RsaPadding::Pss] {
                let ours = key
                    .sign_detached(FILE, padding, &mut |bytes| bytes.fill(7))
                    .unwrap();
                assert_eq!(
                    verify_detached(FILE, &ours, &[key.public()]),
                    Ok(key.public().key_id())
                );
            }
        }
    }
}
