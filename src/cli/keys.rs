//! `fuota keys`: the keys that images are signed with and checked by.
//!
//! `generate` and `export` work on files and speak to no server; a private key never leaves the machine it is made on.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::names::hex;
use super::output::{Failure, fields};
use super::settings::read_text;
use super::trust::{self, TrustCommand};
use super::{Context, Outcome};
use crate::firmware::{Entropy, KeyError, KeyKind, PrivateKey, PublicKey};

/// What to do with keys.
#[derive(Subcommand)]
pub enum KeysCommand {
    /// Make a new private key; needs no server
    ///
    /// The key is written as PKCS#8 PEM that only its owner can read. Keep it where images are signed: the server
    /// gets the public half alone.
    #[command(after_help = "Example:\n  fuota keys generate --type ed25519 -o release.pem")]
    Generate(GenerateArgs),
    /// Write the public half of a key, for the boot loader or for others; needs no server
    #[command(
        after_help = "Example:\n  fuota keys export release.pem --format c > boot/keys_release.c"
    )]
    Export(ExportArgs),
    #[command(flatten)]
    Trust(TrustCommand),
}

/// Arguments of `fuota keys generate`.
#[derive(clap::Args)]
pub struct GenerateArgs {
    /// Kind of the key
    #[arg(long = "type", value_name = "TYPE", value_parser = key_kinds())]
    kind: KeyKind,

    /// File to write; must not exist
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Arguments of `fuota keys export`.
#[derive(clap::Args)]
pub struct ExportArgs {
    /// PEM file with a private or public key; - reads standard input
    file: PathBuf,

    /// pem: SubjectPublicKeyInfo; c: array for MCUboot; hex: the DER of the PEM in hexadecimal digits
    #[arg(long, value_enum, default_value = "pem")]
    format: Format,

    /// Name of the C array; default: that of MCUboot's own keys.c
    #[arg(long)]
    name: Option<String>,
}

/// How a public key is written.
#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Pem,
    C,
    Hex,
}

/// Carries out one of the commands.
pub(super) async fn run(command: KeysCommand, context: &mut Context) -> Result<Outcome, Failure> {
    match command {
        KeysCommand::Generate(args) => generate(&args, context)?,
        KeysCommand::Export(args) => export(&args, context)?,
        KeysCommand::Trust(command) => return trust::keys(command, context).await,
    }
    Ok(Outcome::Done)
}

/// The public key in a PEM file.
///
/// # Errors
/// It cannot be read, or holds another thing; a private one, too.
pub(super) fn read_public(path: &Path) -> Result<PublicKey, Failure> {
    PublicKey::from_pem(&read_text(path)?).map_err(|error| unusable(path, error))
}

/// The private key in a PEM file.
///
/// # Errors
/// It cannot be read, or holds another thing.
pub(super) fn read_private(path: &Path) -> Result<PrivateKey, Failure> {
    let text = zeroize::Zeroizing::new(read_text(path)?);
    PrivateKey::from_pem(&text).map_err(|error| unusable(path, error))
}

/// Random bytes of the operating system.
#[expect(
    clippy::disallowed_methods,
    reason = "a command is run by a person; nothing is replayed here"
)]
pub(super) fn entropy() -> impl FnMut(&mut [u8]) {
    |bytes| getrandom::fill(bytes).expect("the operating system gives entropy")
}

fn key_kinds() -> impl clap::builder::TypedValueParser<Value = KeyKind> {
    use clap::builder::{PossibleValuesParser, TypedValueParser};

    PossibleValuesParser::new(KeyKind::ALL.map(KeyKind::name))
        .try_map(|name| KeyKind::from_name(&name).ok_or("no such type"))
}

fn unusable(path: &Path, error: KeyError) -> Failure {
    Failure::Usage(format!("{}: {error}", path.display()))
}

fn generate(args: &GenerateArgs, context: &mut Context) -> Result<(), Failure> {
    let path = &args.output;
    // Asked for first: making an RSA key takes seconds.
    let failed = |error: std::io::Error| Failure::Usage(format!("{}: {error}", path.display()));
    let mut file = owner_only().open(path).map_err(failed)?;
    let entropy: Entropy<'_> = &mut entropy();
    let made = PrivateKey::generate(args.kind, entropy)
        .map_err(|error| unusable(path, error))
        .and_then(|key| {
            file.write_all(key.to_pem().as_bytes())
                .and_then(|()| file.sync_all())
                .map_err(failed)?;
            Ok(key.public())
        });
    let public = made.inspect_err(|_| {
        // An empty or broken file would stand in the way of the next try.
        let _ = std::fs::remove_file(path);
    })?;
    let (kind, key_id) = (public.kind().name(), hex(&public.key_id()));
    let file = path.display().to_string();
    context.output.show(
        || json!({"file": file, "type": kind, "key_id": key_id}),
        || {
            fields(&[
                ("file", file.clone()),
                ("type", kind.into()),
                ("key id", key_id.clone()),
            ])
        },
    )?;
    Ok(())
}

/// A new file that nobody else can read.
fn owner_only() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn export(args: &ExportArgs, context: &mut Context) -> Result<(), Failure> {
    let text = zeroize::Zeroizing::new(read_text(&args.file)?);
    let key = match PublicKey::from_pem(&text) {
        Err(KeyError::PrivateGiven) => PrivateKey::from_pem(&text).map(|key| key.public()),
        other => other,
    }
    .map_err(|error| unusable(&args.file, error))?;
    let content = match args.format {
        Format::Pem => key.to_pem(),
        Format::C => key.to_c_array(args.name.as_deref()),
        Format::Hex => hex(&key.to_der()),
    };
    context.output.show(
        || {
            json!({
                "type": key.kind().name(),
                "key_id": hex(&key.key_id()),
                "content": content,
            })
        },
        || content.clone(),
    )?;
    Ok(())
}
