//! The textual wrapping of keys (RFC 7468), and the older one of OpenSSL that knows header lines.
//!
//! Finds the one block that is a key; does not look into it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::keys::KeyError;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";
/// Characters of base64 in a line.
const LINE: usize = 64;

/// One block: what it says it is, and its bytes, wiped when dropped.
pub(super) struct Block {
    pub(super) label: String,
    pub(super) der: Zeroizing<Vec<u8>>,
}

/// The only block of `text` with a label that ends in `KEY`. Parameters and text around it are skipped.
///
/// # Errors
/// No such block, several, an encrypted one, a certificate alone, or base64 that is none.
pub(super) fn decode(text: &str) -> Result<Block, KeyError> {
    let mut found = None;
    let mut certificate = false;
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(BEGIN) {
        let (label, body) = after.split_once(DASHES).ok_or(KeyError::NotPem)?;
        let (body, after) = body.split_once(END).ok_or(KeyError::NotPem)?;
        rest = after
            .strip_prefix(label)
            .and_then(|after| after.strip_prefix(DASHES))
            .ok_or(KeyError::NotPem)?;
        certificate |= label == "CERTIFICATE";
        if !label.ends_with("KEY") {
            continue;
        }
        if label.starts_with("ENCRYPTED") || body.contains("ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        if found.is_some() {
            return Err(KeyError::Several);
        }
        found = Some(Block {
            label: label.to_owned(),
            der: bytes(body)?,
        });
    }
    found.ok_or(if certificate {
        KeyError::Certificate
    } else {
        KeyError::NotPem
    })
}

/// The block of `der` under `label`, in lines of 64 characters.
pub(super) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let digits = Zeroizing::new(STANDARD.encode(der));
    // Room for all of it: a string that grows leaves copies behind.
    let room = digits.len() + digits.len() / LINE + 2 * (label.len() + BEGIN.len() + 8);
    let mut text = Zeroizing::new(String::with_capacity(room));
    text.extend([BEGIN, label, DASHES, "\n"]);
    let mut rest = digits.as_str();
    while let Some((line, after)) = rest.split_at_checked(rest.len().min(LINE)) {
        if line.is_empty() {
            break;
        }
        text.extend([line, "\n"]);
        rest = after;
    }
    text.extend([END, label, DASHES, "\n"]);
    text
}

fn bytes(body: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let mut digits = Zeroizing::new(String::with_capacity(body.len()));
    digits.extend(body.chars().filter(|sign| !sign.is_ascii_whitespace()));
    STANDARD
        .decode(digits.as_bytes())
        .map(Zeroizing::new)
        .map_err(|_| KeyError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str) -> Result<String, KeyError> {
        decode(text).map(|block| block.label)
    }

    #[test]
    fn a_block_reads_as_it_is_written() {
        for len in [0, 1, 47, 48, 49, 300] {
            let der = vec![0x5a; len];
            let text = encode("PUBLIC KEY", &der);
            assert!(text.lines().all(|line| line.len() <= LINE));
            let block = decode(&text).unwrap();
            assert_eq!((block.label.as_str(), &*block.der), ("PUBLIC KEY", &der));
            let foreign = text.replace('\n', "\r\n");
            assert_eq!(*decode(&foreign).unwrap().der, der);
        }
    }

    #[test]
    fn what_is_no_key_is_named() {
        let key = encode("PUBLIC KEY", b"bytes");
        let parameters = encode("EC PARAMETERS", b"curve");
        let both = format!("remark\n{}{}", &*parameters, &*key);
        assert_eq!(label(&both).as_deref(), Ok("PUBLIC KEY"));
        assert_eq!(
            label(&format!("{}{}", &*key, &*key)),
            Err(KeyError::Several)
        );
        assert_eq!(label(""), Err(KeyError::NotPem));
        assert_eq!(label(&parameters), Err(KeyError::NotPem));
        assert_eq!(label(&key[..key.len() - 10]), Err(KeyError::NotPem));
        assert_eq!(
            label(&encode("CERTIFICATE", b"x")),
            Err(KeyError::Certificate)
        );
        assert_eq!(
            label(&encode("ENCRYPTED PRIVATE KEY", b"x")),
            Err(KeyError::Encrypted)
        );
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n\
                   -----END RSA PRIVATE KEY-----\n";
        assert_eq!(label(old), Err(KeyError::Encrypted));
        let garbage = "-----BEGIN PUBLIC KEY-----\n!!!!\n-----END PUBLIC KEY-----";
        assert_eq!(label(garbage), Err(KeyError::Malformed));
    }
}
