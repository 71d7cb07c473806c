//! The commands of `fuota` that need no server: keys are made, images signed and inspected, on files alone.
//!
//! `tests/python/test_images.py` holds the same against imgtool and openssl.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// What a run of the binary left.
#[derive(Debug)]
struct Run {
    status: i32,
    out: String,
    err: String,
}

/// Runs the binary; a word with `@` names a file in the folder.
fn run(folder: &Path, command: &str) -> Run {
    let place = |word: &str| match word.strip_prefix('@') {
        Some(name) => folder.join(name).display().to_string(),
        None => word.to_owned(),
    };
    let output = Command::new(env!("CARGO_BIN_EXE_fuota"))
        .args(command.split(' ').map(place))
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Run {
        status: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn done(folder: &Path, command: &str) -> Run {
    let run = run(folder, command);
    assert_eq!(run.status, 0, "{command}: {run:?}");
    run
}

#[test]
fn an_image_is_signed_with_a_new_key_and_inspected() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("app.bin"), [0x5a; 700]).unwrap();
    for kind in ["ed25519", "ecdsa-p256"] {
        done(at, &format!("keys generate --type {kind} -o @{kind}.pem"));
        let public = done(at, &format!("keys export @{kind}.pem"));
        std::fs::write(at.join(format!("{kind}.pub.pem")), public.out).unwrap();
        let sign = format!(
            "image sign @app.bin --key @{kind}.pem --version 2.0.1 --security-counter auto --dependency (1,1.0.0) \
             -o @{kind}.bin"
        );
        done(at, &sign);
        let command = format!("--json image inspect @{kind}.bin --key @{kind}.pub.pem");
        let said: Value = serde_json::from_str(&done(at, &command).out).unwrap();
        assert_eq!(said["embedded_signature"]["outcome"], "verified");
        assert_eq!(said["mcuboot"]["version"], "2.0.1");
        assert_eq!(said["mcuboot"]["security_counter"], 0x0200_0001);
        let mut damaged = std::fs::read(at.join(format!("{kind}.bin"))).unwrap();
        damaged[100] ^= 1;
        std::fs::write(at.join(format!("{kind}.bin")), damaged).unwrap();
        let refused = run(at, &command);
        let said: Value = serde_json::from_str(&refused.out).unwrap();
        assert_eq!((refused.status, &said["good"]), (1, &Value::Bool(false)));
        assert_eq!(said["error"], "image digest does not match");
    }
    let other = run(at, "image inspect @ed25519.bin --key @ecdsa-p256.pub.pem");
    assert_eq!(other.status, 1);
    assert!(other.out.contains("DOES NOT MATCH"), "{other:?}");
}

#[test]
fn a_signature_beside_a_file_stands_for_every_byte() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("app.bin"), b"any bytes").unwrap();
    done(at, "keys generate --type ed25519 -o @k.pem");
    let public = done(at, "keys export @k.pem");
    std::fs::write(at.join("k.pub.pem"), public.out).unwrap();
    done(at, "image sign @app.bin --key @k.pem --detached");
    let inspect = "image inspect @app.bin --key @k.pub.pem --signature @app.bin.sig";
    let good = done(at, inspect);
    assert!(good.out.contains("detached:   good, by key "), "{good:?}");
    std::fs::write(at.join("app.bin"), b"any Bytes").unwrap();
    let bad = run(at, inspect);
    assert_eq!(bad.status, 1);
    assert!(
        bad.out.contains("REFUSED: detached signature matches none"),
        "{bad:?}"
    );
}

#[test]
fn private_keys_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let made = done(at, "keys generate --type ed25519 -o @k.pem");
    let secret = std::fs::read_to_string(at.join("k.pem")).unwrap();
    let digits = secret.lines().nth(1).unwrap().to_owned();
    let exported = done(at, "--json keys export @k.pem --format c --name release");
    for run in [&made, &exported] {
        assert!(!run.out.contains(&digits) && !run.err.contains(&digits));
    }
    assert!(exported.out.contains("const unsigned char release[] = {"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = at.join("k.pem").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let again = run(at, "keys generate --type ed25519 -o @k.pem");
    assert_eq!(again.status, 2);
    assert_eq!(std::fs::read_to_string(at.join("k.pem")).unwrap(), secret);
    std::fs::write(at.join("app.bin"), b"bytes").unwrap();
    for (command, reason) in [
        (
            "image inspect @app.bin --key @k.pem",
            "a public key is wanted here",
        ),
        (
            "image sign @app.bin --key @app.bin --detached",
            "there is no key in PEM form",
        ),
        (
            "image sign @app.bin --key @k.pem --version 1.0.0 --slot-size 2048 -o @x",
            "do not fit a slot",
        ),
        ("image sign @app.bin --key @k.pem -o @x", "--version"),
    ] {
        let refused = run(at, command);
        assert_eq!(refused.status, 2, "{refused:?}");
        assert!(refused.err.contains(reason), "{refused:?}");
    }
}
