//! What a file without a container this crate knows seems to be, told from its first bytes.
//!
//! A guess to warn by: most devices want the plain bytes of their flash, and a file for a debugger or an archive is a
//! mistake that would only show after hours on air. Does not look inside.

use super::keys::hex;

/// A guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// What it seems to be.
    pub(super) name: &'static str,
    /// Hardly any device takes it as it is.
    pub(super) odd: bool,
}

/// Bytes at an offset, and what opens so.
const MARKS: [(usize, &[u8], &str); 17] = [
    (0, b"\x7fELF", "ELF"),
    (0, b"UF2\n", "UF2"),
    (0, b"DfuSe", "DfuSe"),
    (0, b"PK\x03\x04", "zip archive"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"7z\xbc\xaf\x27\x1c", "7-Zip archive"),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard"),
    (0, b"\x04\x22\x4d\x18", "LZ4"),
    (257, b"ustar", "tar archive"),
    (0, b"!<arch>\n", "object library"),
    (0, b"MZ", "Windows program"),
    (0, b"-----BEGIN ", "PEM"),
    (0, b"%PDF", "PDF"),
    (0, b"\x89PNG", "PNG picture"),
    (0, b"<!DOCTYPE", "HTML page"),
];

/// The guess about `bytes`; nothing where they could be anything.
pub(super) fn content(bytes: &[u8]) -> Option<Content> {
    let odd = |name| Some(Content { name, odd: true });
    let opens = |(at, mark, _): &&(usize, &[u8], &str)| {
        bytes.get(*at..).is_some_and(|rest| rest.starts_with(mark))
    };
    if bytes.is_empty() {
        return odd("empty file");
    }
    if let Some((_, _, name)) = MARKS.iter().find(opens) {
        return odd(name);
    }
    if is_record(bytes, b":", 10) {
        return odd("Intel HEX");
    }
    if is_record(bytes, b"S0", 8) {
        return odd("Motorola S-record");
    }
    if bytes.iter().all(|&byte| byte == 0xff) || bytes.iter().all(|&byte| byte == 0) {
        return odd("erased flash");
    }
    if is_text(bytes) {
        return odd("text");
    }
    is_vector_table(bytes).then_some(Content {
        name: "Cortex-M vector table",
        odd: false,
    })
}

/// A line of hexadecimal digits after a mark.
fn is_record(bytes: &[u8], mark: &[u8], digits: usize) -> bool {
    bytes
        .strip_prefix(mark)
        .and_then(|rest| rest.get(..digits))
        .is_some_and(|rest| rest.iter().all(u8::is_ascii_hexdigit))
}

fn is_text(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .all(|&byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace())
}

/// A stack pointer into RAM and the odd address of a reset handler below it.
fn is_vector_table(bytes: &[u8]) -> bool {
    let word = |at: usize| {
        let word = bytes.get(at..)?.first_chunk()?;
        Some(u32::from_le_bytes(*word))
    };
    matches!(
        (word(0), word(4)),
        (Some(0x2000_0001..=0x2fff_ffff), Some(reset)) if reset % 2 == 1 && reset < 0x2000_0000
    )
}

/// SHA-256 and MD5 of any bytes, in hexadecimal digits. MD5 is told because devices of old ask for it; nothing here
/// decides anything by it.
pub(super) fn digests(bytes: &[u8]) -> (String, String) {
    (hex(&super::sha256(bytes)), md5_hex(bytes))
}

/// MD5 of `bytes`, 32 lower-case hex digits: a value to report to those who know nothing better.
pub fn md5_hex(bytes: &[u8]) -> String {
    use md5::Digest;
    hex(&md5::Md5::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_firmware_are_named() {
        let tar = [&[b'a'; 100][..], &[0; 157], b"ustar\x0000"].concat();
        for (bytes, name) in [
            (&b"\x7fELF\x01\x01\x01"[..], "ELF"),
            (b":020000040800F2\r\n", "Intel HEX"),
            (b"S00F000068656C6C6F", "Motorola S-record"),
            (b"UF2\nWQ]\x9e", "UF2"),
            (b"PK\x03\x04\x14\0", "zip archive"),
            (b"\x1f\x8b\x08\0", "gzip"),
            (&tar, "tar archive"),
            (&[0xff; 64], "erased flash"),
            (b"", "empty file"),
            (b"version = 1\n", "text"),
        ] {
            assert_eq!(content(bytes), Some(Content { name, odd: true }));
        }
    }

    #[test]
    fn plain_code_raises_no_doubt() {
        let table = b"\x00\x40\x00\x20\xc1\x01\x00\x08";
        assert_eq!(content(table).map(|content| content.odd), Some(false));
        assert_eq!(content(&[0x12, 0x80, 0x07, 0xfe]), None);
    }

    #[test]
    fn digests_of_abc() {
        let (sha256, md5) = digests(b"abc");
        assert!(sha256.starts_with("ba7816bf"));
        assert_eq!(md5, "900150983cd24fb0d6963f7d28e17f72");
    }
}
