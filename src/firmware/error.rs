//! What is wrong with an image, in words for whoever sends it.

use super::tlv::TlvKind;

/// What is wrong with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The bytes do not open with the MCUboot magic.
    #[error("image magic is absent")]
    Magic,
    /// The image ends before what its sizes announce.
    #[error("image is truncated")]
    Truncated,
    /// `hdr_size` is below 32.
    #[error("header size {0} is below 32")]
    HeaderSize(u16),
    /// A TLV area opens with another magic.
    #[error("tlv magic {0:#06x} is not the expected one")]
    TlvMagic(u16),
    /// The sizes of a TLV area, of its entries or of the header's field about it contradict each other.
    #[error("tlv area sizes contradict each other")]
    TlvSize,
    /// There is no such TLV.
    #[error("tlv {0} is absent")]
    Absent(TlvKind),
    /// The digest in the image is not that of its bytes.
    #[error("image digest does not match")]
    Digest,
    /// The image is signed with another key.
    #[error("image is signed with another key")]
    OtherKey,
    /// The signature is wrong, or the key is not a usable one.
    #[error("image signature does not match")]
    Signature,
    /// The digest is over the plain body, which is not there.
    #[error("image is encrypted")]
    Encrypted,
    /// Written for big-endian machines.
    #[error("image is big-endian, which is not supported")]
    BigEndian,
    /// There is no signature.
    #[error("image is not signed")]
    Unsigned,
    /// There is a signature and no key to check it with.
    #[error("there is no key to check the signature with")]
    NoKey,
    /// The signature is of a kind that does not go with the key it names or with the digest beside it: also ECDSA
    /// P-384, which is not supported.
    #[error("signature {0} does not fit its key or digest, or is not supported")]
    SignatureKind(TlvKind),
    /// A detached signature that none of the keys made over these bytes.
    #[error("detached signature matches none of the keys")]
    Detached,
    /// A TLV that may stand there once stands there twice.
    #[error("tlv {0} is repeated")]
    Repeated(TlvKind),
    /// A TLV stands among those that no digest covers, and has to be covered.
    #[error("tlv {0} is not covered by the digest")]
    Uncovered(TlvKind),
    /// The value of a TLV has another size than its kind asks for, or means nothing.
    #[error("value of tlv {0} is malformed")]
    TlvValue(TlvKind),
    /// From this byte on there is something after the image that is neither padding nor a trailer of the boot loader.
    #[error("bytes from {0} on follow the image and are not covered by its digest")]
    TrailingBytes(usize),
}
