//! `fuota image sign` and `fuota image inspect`: what can be done with an image file without a server.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::image::{find, parse_number};
use super::image_release::image_bytes;
use super::keys::{entropy, read_private, read_public};
use super::names::hex;
use super::output::{Failure, fields, table};
use super::settings::read_bytes;
use super::{Context, Outcome};
use crate::firmware::{
    Dependency, ImageVersion, Inspection, McubootBuilder, McubootInspection, Padding, PrivateKey,
    RsaPadding, SignatureCheck, verify_detached,
};

/// Hexadecimal digits of a TLV that the table shows.
const VALUE_DIGITS: usize = 32;

/// Arguments of `fuota image sign`.
#[derive(clap::Args)]
pub struct SignArgs {
    /// The file; - reads standard input
    file: PathBuf,

    /// PEM file with the private key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// File to write; with --detached the default is FILE.sig
    #[arg(short, long, value_name = "FILE", required_unless_present = "detached")]
    output: Option<PathBuf>,

    /// Version for the header, major.minor.revision+build
    #[arg(long, required_unless_present = "detached")]
    version: Option<ImageVersion>,

    /// Leave the file as it is and write the signature alone
    #[arg(long, conflicts_with_all = ["version", "header_size", "header_in_file", "security_counter", "dependencies",
        "slot_size", "align", "pad"])]
    detached: bool,

    /// With --detached and an RSA key: PSS instead of PKCS#1 v1.5
    #[arg(long, requires = "detached")]
    pss: bool,

    /// Bytes of the header, at least 32; what the image is linked for
    #[arg(long, value_name = "N", value_parser = parse_u16, default_value = "0x20")]
    header_size: u16,

    /// The file already opens with that many zero bytes, as Zephyr builds it: the header takes their place
    #[arg(long)]
    header_in_file: bool,

    /// Security counter: a number, or auto for one made from the version
    #[arg(long, value_name = "N|auto", value_parser = parse_counter)]
    security_counter: Option<Counter>,

    /// Image that is needed, such as (1,1.2.0+0): number and least version; may be repeated
    #[arg(long = "dependency", value_name = "(ID,VERSION)", value_parser = parse_dependency)]
    dependencies: Vec<Dependency>,

    /// Bytes of the slot: refuse an image that does not fit it together with the trailer of the boot loader
    #[arg(long, value_name = "N", value_parser = parse_number)]
    slot_size: Option<u32>,

    /// Largest write of the flash in bytes, which the size of that trailer depends on
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8), default_value = "8",
        requires = "slot_size")]
    align: u8,

    /// Fill the slot to its end, for programming by cable; over the air it only takes time
    #[arg(long, requires = "slot_size")]
    pad: bool,
}

/// Arguments of `fuota image inspect`.
#[derive(clap::Args)]
pub struct InspectArgs {
    /// The file, - for standard input, or else a stored image by its SHA-256 or the beginning of it
    file: PathBuf,

    /// PEM file with a public key the signature may be of; may be repeated
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,

    /// File with a signature that lies beside the image
    #[arg(long, value_name = "FILE", requires = "keys")]
    signature: Option<PathBuf>,
}

/// A security counter on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counter {
    Auto,
    Number(u32),
}

/// Signs an image, or makes a signature that lies beside it.
pub(super) fn sign(args: &SignArgs, context: &mut Context) -> Result<Outcome, Failure> {
    let key = read_private(&args.key)?;
    let bytes = read_bytes(&args.file)?;
    let (made, document) = if args.detached {
        sign_detached(args, &key, &bytes)?
    } else {
        sign_mcuboot(args, &key, bytes, context)?
    };
    let path = match (&args.output, args.file.to_str()) {
        (Some(path), _) => path.clone(),
        (None, Some("-")) => {
            return Err(Failure::Usage(
                "standard input has no name: give --output".into(),
            ));
        }
        (None, _) => {
            let mut name = args.file.clone().into_os_string();
            name.push(".sig");
            name.into()
        }
    };
    std::fs::write(&path, made).map_err(|error| unwritable(&path, &error))?;
    let mut document = document;
    document["file"] = path.display().to_string().into();
    document["key_id"] = hex(&key.public().key_id()).into();
    document["type"] = key.public().kind().name().into();
    let text = |name: &str| match &document[name] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let shown = ["file", "version", "size", "sha256", "type", "key_id"];
    let label = |name: &'static str| if name == "key_id" { "key id" } else { name };
    context.output.show(
        || document.clone(),
        || fields(&shown.map(|name| (label(name), text(name)))),
    )?;
    Ok(Outcome::Done)
}

/// Describes an image and checks what can be checked.
pub(super) async fn inspect(args: &InspectArgs, context: &mut Context) -> Result<Outcome, Failure> {
    let keys = args
        .keys
        .iter()
        .map(|path| read_public(path))
        .collect::<Result<Vec<_>, _>>()?;
    let signature = args.signature.as_deref().map(read_bytes).transpose()?;
    let bytes = match stored(&args.file) {
        Some(digits) => image_bytes(&find(digits, context).await?, context).await?,
        None => read_bytes(&args.file)?,
    };
    let it = Inspection::of(&bytes, &keys, signature.as_deref());
    context
        .output
        .show(|| inspection_json(&it), || text_of(&it))?;
    if !context.output.is_json() {
        for warning in &it.warnings {
            context.output.note(&format!("warning: {warning}"));
        }
    }
    Ok(Outcome::from_success(it.is_good()))
}

/// The digits of a stored image, where there is no file of that name.
fn stored(file: &Path) -> Option<&str> {
    let name = file.to_str()?;
    let digits = name.strip_prefix("images/").unwrap_or(name);
    let hex = digits.len() >= 4 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    (hex && !file.exists()).then_some(digits)
}

fn sign_detached(
    args: &SignArgs,
    key: &PrivateKey,
    bytes: &[u8],
) -> Result<(Vec<u8>, Value), Failure> {
    let padding = if args.pss {
        RsaPadding::Pss
    } else {
        RsaPadding::Pkcs1v15
    };
    let signature = key
        .sign_detached(bytes, padding, &mut entropy())
        .map_err(|error| Failure::Usage(error.to_string()))?;
    verify_detached(bytes, &signature, &[key.public()])
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let size = signature.len();
    Ok((signature, json!({"container": "detached", "size": size})))
}

fn sign_mcuboot(
    args: &SignArgs,
    key: &PrivateKey,
    bytes: Vec<u8>,
    context: &mut Context,
) -> Result<(Vec<u8>, Value), Failure> {
    warn_about(args, &bytes, context)?;
    let version = args.version.unwrap_or_default();
    let mut builder = McubootBuilder::new(bytes, version).header_size(args.header_size);
    if args.header_in_file {
        builder = builder.header_in_body();
    }
    match args.security_counter {
        Some(Counter::Auto) => builder = builder.security_counter(version.to_ts006()),
        Some(Counter::Number(number)) => builder = builder.security_counter(number),
        None => {}
    }
    for dependency in &args.dependencies {
        builder = builder.dependency(*dependency);
    }
    if let Some(size) = args.slot_size {
        builder = builder.slot_size(usize::try_from(size).unwrap_or(usize::MAX), args.align);
    }
    if args.pad {
        builder = builder.pad();
    }
    let image = builder
        .build_signed(key, &mut entropy())
        .map_err(|error| Failure::Usage(error.to_string()))?;
    // What goes out has been through the check it will meet.
    let it = Inspection::of(&image, &[key.public()], None);
    if !it.is_good() {
        let reason = it.error.unwrap_or_else(|| "signature does not hold".into());
        return Err(Failure::Usage(reason));
    }
    let document = json!({
        "container": it.container,
        "version": version.to_string(),
        "size": it.size,
        "sha256": it.sha256,
    });
    Ok((image, document))
}

/// Says what is odd about a file that is to become the body of an image.
fn warn_about(args: &SignArgs, bytes: &[u8], context: &mut Context) -> Result<(), Failure> {
    let it = Inspection::of(bytes, &[], None);
    if it.container == "mcuboot" {
        let text = "is an MCUboot image already: give the file it was made of";
        return Err(Failure::Usage(format!("{}: {text}", args.file.display())));
    }
    for warning in &it.warnings {
        context.output.note(&format!("warning: {warning}"));
    }
    let room = bytes.get(..usize::from(args.header_size));
    if !args.header_in_file && room.is_some_and(|room| room.iter().all(|&byte| byte == 0)) {
        context.output.note(&format!(
            "warning: the file opens with {} zero bytes or more; if they are the room for the header, give \
             --header-in-file",
            args.header_size
        ));
    }
    Ok(())
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Usage(format!("{}: {error}", path.display()))
}

fn parse_u16(text: &str) -> Result<u16, String> {
    let number = parse_number(text).ok().and_then(|it| it.try_into().ok());
    number.ok_or_else(|| "expected a number from 32 to 65535, or 0x...".into())
}

fn parse_counter(text: &str) -> Result<Counter, String> {
    if text == "auto" {
        return Ok(Counter::Auto);
    }
    parse_number(text).map(Counter::Number)
}

fn parse_dependency(text: &str) -> Result<Dependency, String> {
    let parts = text
        .strip_prefix('(')
        .and_then(|text| text.strip_suffix(')'))
        .and_then(|text| text.split_once(','));
    let dependency = parts.and_then(|(id, version)| {
        Some(Dependency {
            image_id: id.trim().parse().ok()?,
            min_version: version.trim().parse().ok()?,
        })
    });
    dependency.ok_or_else(|| "expected (ID,VERSION), such as (1,1.2.0+0)".into())
}

fn inspection_json(it: &Inspection) -> Value {
    // Plain fields only: this cannot go wrong.
    let mut document = serde_json::to_value(it).unwrap_or_default();
    document["good"] = it.is_good().into();
    document
}

fn text_of(it: &Inspection) -> String {
    let mut rows = vec![
        ("container", it.container.to_owned()),
        ("content", it.content.unwrap_or_default().to_owned()),
        ("size", it.size.to_string()),
        ("sha256", it.sha256.clone()),
        ("md5", it.md5.clone()),
        ("error", it.error.clone().unwrap_or_default()),
    ];
    if let Some(image) = &it.mcuboot {
        rows.extend(mcuboot_rows(image));
    }
    for (name, check) in [
        ("signature", &it.embedded_signature),
        ("detached", &it.detached_signature),
    ] {
        match check {
            SignatureCheck::Verified { key_id } => {
                rows.push((name, format!("good, by key {key_id}")))
            }
            SignatureCheck::Refused { reason } => rows.push((name, format!("REFUSED: {reason}"))),
            SignatureCheck::NotChecked => {}
        }
    }
    let mut text = fields(&rows);
    if let Some(image) = &it.mcuboot {
        let rows = image.tlvs.iter().map(|tlv| {
            let value = match tlv.value.get(..VALUE_DIGITS) {
                Some(start) if tlv.value.len() > VALUE_DIGITS => format!("{start}..."),
                _ => tlv.value.clone(),
            };
            vec![
                format!("{:#04x}", tlv.kind),
                tlv.name.into(),
                if tlv.protected { "yes" } else { "no" }.into(),
                tlv.size.to_string(),
                value,
                tlv.meaning.into(),
            ]
        });
        text.push_str("\n\n");
        let header = ["TLV", "NAME", "COVERED", "SIZE", "VALUE", "MEANING"];
        text.push_str(&table(&header, rows));
    }
    text
}

fn mcuboot_rows(image: &McubootInspection) -> Vec<(&'static str, String)> {
    let hash = image.digest_type.unwrap_or("no digest");
    let signed = match (image.signature_type, image.signature_pure) {
        (Some(kind), true) => format!("{kind} over the image"),
        (Some(kind), false) => kind.to_owned(),
        (None, _) => "none".to_owned(),
    };
    let needed = image
        .dependencies
        .iter()
        .map(|it| format!("image {} from {}", it.image_id, it.min_version));
    let padding = match image.padding {
        Padding::None => String::new(),
        Padding::Fill => format!("{} bytes", image.padding_size),
        Padding::Trailer => format!("{} bytes with boot trailer", image.padding_size),
        Padding::ConfirmedTrailer => {
            format!("{} bytes with boot trailer, confirmed", image.padding_size)
        }
    };
    vec![
        (
            "version",
            format!("{} (TS006 {:#010x})", image.version, image.ts006_version),
        ),
        ("header", image.header_size.to_string()),
        ("body", image.body_size.to_string()),
        ("image", image.image_size.to_string()),
        ("padding", padding),
        (
            "load address",
            match image.load_addr {
                0 => String::new(),
                address => format!("{address:#010x}"),
            },
        ),
        ("flags", image.flag_names.join(" ")),
        ("needs", needed.collect::<Vec<_>>().join(", ")),
        (
            "security counter",
            image
                .security_counter
                .map_or_else(String::new, |it| it.to_string()),
        ),
        (
            "digest",
            match image.digest_ok {
                Some(true) => format!("{hash}, matches"),
                Some(false) => format!("{hash}, DOES NOT MATCH"),
                None => format!("{hash}, not checked"),
            },
        ),
        ("signed", signed),
        ("key hash", image.key_hash.clone().unwrap_or_default()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_and_counters_read_as_imgtool_has_them() {
        let dependency = parse_dependency("(1, 1.2.0+7)").unwrap();
        assert_eq!(dependency.image_id, 1);
        assert_eq!(dependency.min_version.to_string(), "1.2.0+7");
        for text in ["1,1.2.0", "(256,1.0.0)", "(1;1.0.0)", "(1,x)", "()"] {
            assert!(parse_dependency(text).is_err(), "{text}");
        }
        assert_eq!(parse_counter("auto"), Ok(Counter::Auto));
        assert_eq!(parse_counter("0x10"), Ok(Counter::Number(16)));
        assert!(parse_counter("-1").is_err());
        assert_eq!(parse_u16("0x200"), Ok(512));
        assert!(parse_u16("65536").is_err());
    }

    #[test]
    fn an_inspection_is_shown_with_its_verdict() {
        let image: &[u8] = include_bytes!("../../tests/vectors/images/rsa-2048.bin");
        let it = Inspection::of(image, &[], None);
        let text = text_of(&it);
        assert!(
            text.contains("version:           1.2.3+4 (TS006 0x01020003)\n"),
            "{text}"
        );
        assert!(text.contains("needs:             image 1 from 1.2.0\n"));
        assert!(text.contains("digest:            SHA256, matches\n"));
        assert!(text.contains("\nTLV   NAME        COVERED"), "{text}");
        assert_eq!(inspection_json(&it)["good"], true);
    }
}
