//! Secrets of the installation: entropy, the master key file and the bearer token file.

#![expect(
    clippy::disallowed_methods,
    reason = "this is the one place that draws random numbers"
)]

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

/// Fills `bytes` from the operating system.
///
/// # Panics
/// When the operating system has no entropy to give: nothing secret could be made then.
pub fn entropy(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system gives entropy");
}

/// Reads the 32-byte master key (64 hex digits). Without the file, and if `create`, makes one with mode 0600.
/// Returns the key and whether it was made now.
///
/// # Errors
/// The file cannot be read, made, or is not a key.
pub fn master_key(path: &Path, create: bool) -> io::Result<(Zeroizing<[u8; 32]>, bool)> {
    match fs::read_to_string(path) {
        Ok(text) => Ok((parse(&Zeroizing::new(text))?, false)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
            let mut key = Zeroizing::new([0; 32]);
            entropy(key.as_mut());
            let text = Zeroizing::new(
                key.iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect::<String>(),
            );
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?;
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            Ok((key, true))
        }
        Err(error) => Err(error),
    }
}

/// Reads a bearer token: the file's text without surrounding white space.
///
/// # Errors
/// The file cannot be read, or holds fewer than 16 characters.
pub fn token(path: &Path) -> io::Result<String> {
    let text = fs::read_to_string(path)?.trim().to_owned();
    if text.len() < 16 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a token has at least 16 characters",
        ));
    }
    Ok(text)
}

fn parse(text: &str) -> io::Result<Zeroizing<[u8; 32]>> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "a master key is 64 hex digits");
    let text = text.trim();
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(invalid());
    }
    let mut key = Zeroizing::new([0; 32]);
    for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| invalid())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| invalid())?;
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_master_key_is_made_once_and_only_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        let (made, new) = master_key(&path, true).unwrap();
        let (read, again) = master_key(&path, true).unwrap();
        assert!(new && !again && made == read);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_named_master_key_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        assert!(master_key(&dir.path().join("absent"), false).is_err());
        let path = dir.path().join("short");
        fs::write(&path, "abcd").unwrap();
        assert!(master_key(&path, true).is_err());
    }
}
