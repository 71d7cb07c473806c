//! `fuota image delta` and `fuota image apply-delta`: delta images, made and applied without a server.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::image::parse_number;
use super::names::hex;
use super::output::{Failure, counted, fields};
use super::settings::read_bytes;
use super::{Context, Outcome};
use crate::firmware::delta::{
    self, Compression, DeltaHeader, DeltaOptions, Heatshrink, image_as_stored,
};
use crate::firmware::{Container, ImageVersion};

/// Arguments of `fuota image delta`.
#[derive(Args)]
pub struct DeltaArgs {
    /// The image that the devices run
    base: PathBuf,

    /// The image they shall run
    target: PathBuf,

    /// Where the delta goes; a file that is there is replaced
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Number a device reports when it runs the target (TS006 FWversion), decimal or 0x...; default: from the
    /// MCUboot header
    #[arg(long, value_name = "NUMBER", value_parser = parse_number)]
    target_version: Option<u32>,

    /// What the decoder on the devices knows; auto takes the smaller of heatshrink and crle
    #[arg(long, value_enum, default_value = "auto")]
    compression: CompressionArg,

    /// Window of the devices' heatshrink decoder, as the power of two: 4 to 15
    #[arg(long, value_name = "BITS", default_value_t = 8)]
    window: u8,

    /// Longest repetition of the devices' heatshrink decoder, as the power of two: 3 to below the window
    #[arg(long, value_name = "BITS", default_value_t = 7)]
    lookahead: u8,
}

/// Arguments of `fuota image apply-delta`.
#[derive(Args)]
pub struct ApplyArgs {
    /// The image the delta is for
    base: PathBuf,

    /// The delta
    delta: PathBuf,

    /// Where the image goes; a file that is there is replaced
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CompressionArg {
    Auto,
    Heatshrink,
    Crle,
    None,
}

/// Makes a delta from two files.
pub(super) fn make(args: &DeltaArgs, context: &mut Context) -> Result<Outcome, Failure> {
    let base = read_image(&args.base, context)?;
    let target = read_image(&args.target, context)?;
    let heatshrink = Heatshrink::new(args.window, args.lookahead).ok_or_else(|| {
        Failure::Usage(format!(
            "--window {} --lookahead {}: no decoder has these",
            args.window, args.lookahead
        ))
    })?;
    let (auto, chosen) = (args.compression == CompressionArg::Auto, args.compression);
    let options = DeltaOptions {
        target_version: args.target_version.unwrap_or_else(|| version_of(&target)),
        heatshrink: (auto || chosen == CompressionArg::Heatshrink).then_some(heatshrink),
        crle: auto || chosen == CompressionArg::Crle,
    };
    let delta = delta::make(&base, &target, &options)
        .map_err(|error| Failure::Usage(format!("{}: {error}", args.target.display())))?;
    write(&args.output, &delta)?;
    show(&args.output, &delta, context)
}

/// Makes the target of a delta from its base.
pub(super) fn apply(args: &ApplyArgs, context: &mut Context) -> Result<Outcome, Failure> {
    let base = read_image(&args.base, context)?;
    let delta = read_bytes(&args.delta)?;
    let target = delta::apply(&base, &delta)
        .map_err(|error| Failure::Usage(format!("{}: {error}", args.delta.display())))?;
    write(&args.output, &target)?;
    show(&args.output, &delta, context)
}

/// An image as a device stores it; says so where that is not the whole file.
fn read_image(path: &Path, context: &mut Context) -> Result<Vec<u8>, Failure> {
    let mut bytes = read_bytes(path)?;
    let stored = image_as_stored(&bytes).len();
    if stored < bytes.len() {
        context.output.note(&format!(
            "{}: {} after the image left out",
            path.display(),
            counted(
                u64::try_from(bytes.len() - stored).unwrap_or(u64::MAX),
                "byte"
            ),
        ));
        bytes.truncate(stored);
    }
    Ok(bytes)
}

fn version_of(image: &[u8]) -> u32 {
    let container = Container::recognise(image).ok();
    let version = container.and_then(|container| container.version());
    version.map_or(0, ImageVersion::to_ts006)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes)
        .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

fn show(path: &Path, delta: &[u8], context: &mut Context) -> Result<Outcome, Failure> {
    let broken = |error| Failure::Usage(format!("{error}"));
    let header = DeltaHeader::parse(delta).map_err(broken)?;
    let patch = delta::patch(delta).map_err(broken)?;
    let compression = delta::compression(patch).map_err(broken)?;
    let shown = Shown {
        path,
        header,
        compression,
        len: delta.len(),
    };
    context.output.show(|| shown.json(), || shown.text())?;
    Ok(Outcome::Done)
}

struct Shown<'a> {
    path: &'a Path,
    header: DeltaHeader,
    compression: Compression,
    len: usize,
}

impl Shown<'_> {
    fn compression(&self) -> &'static str {
        match self.compression {
            Compression::None => "none",
            Compression::Crle => "crle",
            Compression::Heatshrink(_) => "heatshrink",
        }
    }

    fn window_bytes(&self) -> usize {
        match self.compression {
            Compression::Heatshrink(settings) => settings.window_bytes(),
            Compression::None | Compression::Crle => 0,
        }
    }

    fn json(&self) -> Value {
        let header = &self.header;
        json!({
            "file": self.path.display().to_string(),
            "base_bytes": header.base_len,
            "base_sha256": hex(&header.base_sha256),
            "target_bytes": header.target_len,
            "target_sha256": hex(&header.target_sha256),
            "target_version": header.target_version,
            "delta_bytes": self.len,
            "patch_bytes": header.patch_len,
            "compression": self.compression(),
            "window_bytes": self.window_bytes(),
        })
    }

    fn text(&self) -> String {
        let header = &self.header;
        let image = |len: u32, digest: &[u8; 32]| format!("{len} bytes, SHA-256 {}", hex(digest));
        let per_mille = u64::from(header.patch_len) * 1000 / u64::from(header.target_len.max(1));
        fields(&[
            ("file", self.path.display().to_string()),
            ("base", image(header.base_len, &header.base_sha256)),
            ("target", image(header.target_len, &header.target_sha256)),
            (
                "target version",
                format!("{0:#010x} ({0})", header.target_version),
            ),
            (
                "delta",
                format!(
                    "{} bytes, patch {}.{} % of the target",
                    self.len,
                    per_mille / 10,
                    per_mille % 10
                ),
            ),
            (
                "compression",
                format!(
                    "{}, window {} bytes",
                    self.compression(),
                    self.window_bytes()
                ),
            ),
        ])
    }
}
