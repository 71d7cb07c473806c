//! The kinds of entries that follow the body of an MCUboot image: their numbers, names and meanings.
//!
//! The numbers are those that imgtool 2.5.0 writes. Does not look at values.

use std::fmt;

/// What a TLV holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlvKind {
    /// Digest of the public key, with the hash of the image digest: SHA-256 as a rule.
    KeyHash,
    /// The public key itself.
    PubKey,
    /// SHA-256 of the image.
    Sha256,
    /// SHA-384 of the image.
    Sha384,
    /// SHA-512 of the image.
    Sha512,
    /// RSA-2048 signature.
    Rsa2048,
    /// ECDSA signature.
    Ecdsa,
    /// RSA-3072 signature.
    Rsa3072,
    /// Ed25519 signature.
    Ed25519,
    /// The signature is over the image, not its digest.
    SigPure,
    /// Key of the body, encrypted with RSA-2048.
    EncRsa2048,
    /// Key of the body, wrapped with AES.
    EncKw,
    /// Key of the body, encrypted for a P-256 key.
    EncEc256,
    /// Key of the body, encrypted for an X25519 key.
    EncX25519,
    /// The same with HMAC-SHA512.
    EncX25519Sha512,
    /// Version of another image this one needs.
    Dependency,
    /// Security counter against downgrades.
    SecurityCounter,
    /// Measured boot record.
    BootRecord,
    /// Bytes of the body once it is decompressed.
    DecompSize,
    /// Digest of the image once it is decompressed.
    DecompSha,
    /// Signature of the image once it is decompressed.
    DecompSignature,
    /// Bytes of the body that was compressed.
    CompDecSize,
    /// UUID of the vendor.
    UuidVid,
    /// UUID of the image class.
    UuidCid,
    /// Any other type.
    Other(u16),
}

/// Number, kind, MCUboot's name and meaning; the one place that knows them.
const TLV_KINDS: [(u16, TlvKind, &str, &str); 24] = [
    (0x01, TlvKind::KeyHash, "KEYHASH", "hash of the public key"),
    (0x02, TlvKind::PubKey, "PUBKEY", "public key"),
    (0x10, TlvKind::Sha256, "SHA256", "digest of the image"),
    (0x11, TlvKind::Sha384, "SHA384", "digest of the image"),
    (0x12, TlvKind::Sha512, "SHA512", "digest of the image"),
    (0x20, TlvKind::Rsa2048, "RSA2048", "signature"),
    (0x22, TlvKind::Ecdsa, "ECDSASIG", "signature"),
    (0x23, TlvKind::Rsa3072, "RSA3072", "signature"),
    (0x24, TlvKind::Ed25519, "ED25519", "signature"),
    (
        0x25,
        TlvKind::SigPure,
        "SIG_PURE",
        "signature is over the image, not its digest",
    ),
    (
        0x30,
        TlvKind::EncRsa2048,
        "ENCRSA2048",
        "encrypted key of the body",
    ),
    (0x31, TlvKind::EncKw, "ENCKW", "encrypted key of the body"),
    (
        0x32,
        TlvKind::EncEc256,
        "ENCEC256",
        "encrypted key of the body",
    ),
    (
        0x33,
        TlvKind::EncX25519,
        "ENCX25519",
        "encrypted key of the body",
    ),
    (
        0x34,
        TlvKind::EncX25519Sha512,
        "ENCX25519_SHA512",
        "encrypted key of the body",
    ),
    (
        0x40,
        TlvKind::Dependency,
        "DEPENDENCY",
        "another image that is needed",
    ),
    (
        0x50,
        TlvKind::SecurityCounter,
        "SEC_CNT",
        "security counter",
    ),
    (
        0x60,
        TlvKind::BootRecord,
        "BOOT_RECORD",
        "measured boot record",
    ),
    (
        0x70,
        TlvKind::DecompSize,
        "DECOMP_SIZE",
        "size when decompressed",
    ),
    (
        0x71,
        TlvKind::DecompSha,
        "DECOMP_SHA",
        "digest when decompressed",
    ),
    (
        0x72,
        TlvKind::DecompSignature,
        "DECOMP_SIGNATURE",
        "signature when decompressed",
    ),
    (
        0x73,
        TlvKind::CompDecSize,
        "COMP_DEC_SIZE",
        "size before compression",
    ),
    (0x74, TlvKind::UuidVid, "UUID_VID", "UUID of the vendor"),
    (
        0x75,
        TlvKind::UuidCid,
        "UUID_CID",
        "UUID of the image class",
    ),
];

impl TlvKind {
    /// MCUboot's name; `VENDOR` in the range that is the vendors' own, else `UNKNOWN`.
    pub fn name(self) -> &'static str {
        match self.row() {
            Some((_, _, name, _)) => name,
            None if self.is_vendor() => "VENDOR",
            None => "UNKNOWN",
        }
    }

    /// What it is there for, in words.
    pub fn meaning(self) -> &'static str {
        match self.row() {
            Some((_, _, _, meaning)) => meaning,
            None if self.is_vendor() => "the vendor's own",
            None => "unknown",
        }
    }

    /// Of the range 0xa0..=0xfffe.
    pub fn is_vendor(self) -> bool {
        matches!(self, Self::Other(0xa0..=0xfffe))
    }

    fn row(self) -> Option<(u16, Self, &'static str, &'static str)> {
        TLV_KINDS
            .iter()
            .find(|(_, kind, ..)| *kind == self)
            .copied()
    }
}

impl fmt::Display for TlvKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(number) => write!(f, "{} {number:#06x}", self.name()),
            _ => f.write_str(self.name()),
        }
    }
}

impl From<u16> for TlvKind {
    fn from(number: u16) -> Self {
        let known = TLV_KINDS.iter().find(|(known, ..)| *known == number);
        known.map_or(Self::Other(number), |(_, kind, ..)| *kind)
    }
}

impl From<TlvKind> for u16 {
    fn from(kind: TlvKind) -> Self {
        if let TlvKind::Other(number) = kind {
            return number;
        }
        kind.row().map_or(0, |(number, ..)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_numbers_agree() {
        for number in 0..=u16::MAX {
            assert_eq!(u16::from(TlvKind::from(number)), number);
        }
    }

    #[test]
    fn kinds_have_names() {
        assert_eq!(TlvKind::Ecdsa.name(), "ECDSASIG");
        assert_eq!(TlvKind::SecurityCounter.to_string(), "SEC_CNT");
        assert_eq!(TlvKind::from(0xa0).to_string(), "VENDOR 0x00a0");
        assert_eq!(TlvKind::from(0x9f).name(), "UNKNOWN");
    }
}
