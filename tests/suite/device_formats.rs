//! The C header for devices reads what this crate makes: `docs/device/fuota_formats.h`, compiled with the system's C
//! compiler, against deltas, MCUboot images and descriptors.

use std::path::{Path, PathBuf};
use std::process::Command;

use lorawan_fuota::firmware::delta::{self, DeltaHeader, DeltaOptions};
use lorawan_fuota::firmware::{ImageVersion, McubootImage, sha256};

const IMAGE: &[u8] = include_bytes!("../vectors/imgtool_ed25519.bin");
const BASE: &[u8] = include_bytes!("../vectors/delta_base.bin");
const TARGET: &[u8] = include_bytes!("../vectors/delta_target.bin");

/// The compiled reader, in a folder of its own.
struct Reader {
    folder: tempfile::TempDir,
    program: PathBuf,
}

impl Reader {
    fn compiled() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("formats_test");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let output = Command::new("cc")
            .args([
                "-std=c11",
                "-Wall",
                "-Wextra",
                "-Wpedantic",
                "-Wconversion",
                "-Werror",
            ])
            .args(["-fsanitize=undefined", "-fno-sanitize-recover", "-I"])
            .arg(root.join("docs/device"))
            .arg(root.join("tests/device/formats_test.c"))
            .arg("-o")
            .arg(&program)
            .output()
            .unwrap_or_else(|error| panic!("cc, the C compiler of the tests: {error}"));
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Self { folder, program }
    }

    fn run(&self, kind: &str, argument: &Path) -> String {
        let output = Command::new(&self.program)
            .arg(kind)
            .arg(argument)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn read(&self, kind: &str, bytes: &[u8]) -> String {
        let file = self.folder.path().join("bytes");
        std::fs::write(&file, bytes).unwrap();
        self.run(kind, &file)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_c_header_reads_deltas() {
    let reader = Reader::compiled();
    let options = DeltaOptions {
        target_version: 0x0102_0003,
        ..DeltaOptions::default()
    };
    let delta = delta::make(BASE, TARGET, &options).unwrap();
    let header = DeltaHeader::parse(&delta).unwrap();
    let expected = format!(
        "base_len {}\ntarget_len {}\ntarget_version 16908291\npatch_len {}\nbase_sha256 {}\ntarget_sha256 {}\n\
         patch_at {}\nown_base 0\nother_base -5\n",
        BASE.len(),
        TARGET.len(),
        header.patch_len,
        hex(&sha256(BASE)),
        hex(&sha256(TARGET)),
        delta::HEADER_LEN,
    );
    assert_eq!(reader.read("delta", &delta), expected);
    assert_eq!(reader.read("delta", &delta[..delta::HEADER_LEN]), expected);
    for (place, byte, error) in [
        (0, 0, -2),
        (4, 2, -3),
        (5, 9, -3),
        (6, 0, -3),
        (11, 1, -4),
        (15, 1, -4),
    ] {
        let mut wrong = delta.clone();
        wrong[place] = byte;
        assert_eq!(
            reader.read("delta", &wrong),
            format!("error {error}\n"),
            "{place}"
        );
        assert!(DeltaHeader::parse(&wrong).is_err());
    }
    for len in [0, 3, 4, 87] {
        assert_eq!(reader.read("delta", &delta[..len]), "error -1\n");
    }
}

#[test]
fn the_c_header_reads_mcuboot_images() {
    let reader = Reader::compiled();
    let image = McubootImage::parse(IMAGE).unwrap();
    let expected = format!(
        "version {}\nbuild {}\nhdr_size {}\nimg_size {}\nlen {}\n",
        image.version.to_ts006(),
        image.version.build,
        image.hdr_size,
        image.img_size,
        image.len(),
    );
    let slot = [IMAGE, &[0xff; 1000]].concat();
    assert_eq!(reader.read("mcuboot", &slot), expected);
    for len in [0, 31, 32, 200, image.len() - 1] {
        assert_eq!(reader.read("mcuboot", &IMAGE[..len]), "error -1\n", "{len}");
    }
    assert_eq!(reader.read("mcuboot", &[0; 64]), "error -2\n");
}

#[test]
fn the_c_header_reads_descriptors() {
    let reader = Reader::compiled();
    let version: ImageVersion = "3.7.21".parse().unwrap();
    let wire = hex(&version.to_ts006().to_le_bytes());
    let expected = format!("version {}\nerror -3\n", version.to_ts006());
    assert_eq!(reader.run("descriptor", Path::new(&wire)), expected);
    let component = reader.run("descriptor", Path::new("02010000"));
    assert_eq!(component, "version 258\nerror 0\ncomponent 2\ncontent 1\n");
}
