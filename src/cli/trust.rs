//! `fuota keys` and `fuota policy`: whom the server believes images from, and what it demands of them.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::moment::{distance_text, now, time_json};
use super::names::{id, word, word_json};
use super::output::{Failure, fields, table};
use super::settings::read_text;
use super::{Context, Outcome};
use crate::proto::v1;

/// What to do with the keys a server trusts.
#[derive(Subcommand)]
pub enum TrustCommand {
    /// Have the server trust a public key
    #[command(
        after_help = "Example:\n  fuota keys import release.pub.pem --name release-2026 --model sensor-2"
    )]
    Import(ImportArgs),
    /// List the keys the server trusts, retired ones too
    List,
    /// Retire a key for good: what it has signed is as good as unsigned
    Retire {
        /// Key id or its beginning
        key: String,
    },
}

/// Arguments of `fuota keys import`.
#[derive(Args)]
pub struct ImportArgs {
    /// The public key in PEM; - reads standard input
    file: PathBuf,
    /// Name for people
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// The one device model whose images it signs [default: all]
    #[arg(long, default_value = "", hide_default_value = true)]
    model: String,
}

/// What to do with image policies.
#[derive(Subcommand)]
pub enum PolicyCommand {
    /// Say what a device model demands of images
    #[command(after_help = "Example:\n  fuota policy set lab-board --allow-unsigned")]
    Set {
        /// The model; `others` stands for all that have no policy of their own
        model: String,
        /// Take images that nobody signed
        #[arg(long)]
        allow_unsigned: bool,
        /// Take a signature only if the image itself carries it
        #[arg(long, conflicts_with = "allow_unsigned")]
        embedded_only: bool,
    },
    /// List the policies; where there is none, a signature is demanded
    List,
    /// Delete a policy
    Delete {
        /// The model
        model: String,
    },
}

/// Carries out one of the commands for keys.
pub(super) async fn keys(command: TrustCommand, context: &mut Context) -> Result<Outcome, Failure> {
    let request_id = context.connection.request_id();
    let mut client = context.connection.trust();
    let key = match command {
        TrustCommand::Import(args) => {
            let request = v1::ImportTrustedKeyRequest {
                trusted_key: Some(v1::TrustedKey {
                    display_name: args.name,
                    public_key_pem: read_text(&args.file)?,
                    model: args.model,
                    ..v1::TrustedKey::default()
                }),
                request_id,
            };
            client.import_trusted_key(request).await?.into_inner()
        }
        TrustCommand::List => {
            let keys = all_keys(context).await?;
            context.output.show(
                || json!({"trusted_keys": keys.iter().map(key_json).collect::<Vec<_>>()}),
                || keys_text(&keys),
            )?;
            return Ok(Outcome::Done);
        }
        TrustCommand::Retire { key } => {
            let name = find_key(&key, context).await?;
            let request = v1::RetireTrustedKeyRequest { name, request_id };
            client.retire_trusted_key(request).await?.into_inner()
        }
    };
    context.output.show(|| key_json(&key), || key_text(&key))?;
    Ok(Outcome::Done)
}

/// Carries out one of the commands for policies.
pub(super) async fn policy(
    command: PolicyCommand,
    context: &mut Context,
) -> Result<Outcome, Failure> {
    let request_id = context.connection.request_id();
    let mut client = context.connection.trust();
    match command {
        PolicyCommand::Set {
            model,
            allow_unsigned,
            embedded_only,
        } => {
            let request = v1::SetImagePolicyRequest {
                image_policy: Some(v1::ImagePolicy {
                    name: policy_name(&model),
                    allow_unsigned,
                    embedded_signature_only: embedded_only,
                    ..v1::ImagePolicy::default()
                }),
                request_id,
            };
            let policy = client.set_image_policy(request).await?.into_inner();
            context.output.show(
                || policy_json(&policy),
                || format!("{}: {}", policy.name, demand(&policy)),
            )?;
        }
        PolicyCommand::List => {
            let request = v1::ListImagePoliciesRequest {};
            let listed = client.list_image_policies(request).await?.into_inner();
            let policies = listed.image_policies;
            context.output.show(
                || json!({"image_policies": policies.iter().map(policy_json).collect::<Vec<_>>()}),
                || policies_text(&policies),
            )?;
        }
        PolicyCommand::Delete { model } => {
            let name = policy_name(&model);
            let request = v1::DeleteImagePolicyRequest {
                name: name.clone(),
                request_id,
            };
            client.delete_image_policy(request).await?;
            context
                .output
                .show(|| json!({}), || format!("{name} deleted"))?;
        }
    }
    Ok(Outcome::Done)
}

async fn all_keys(context: &Context) -> Result<Vec<v1::TrustedKey>, Failure> {
    let request = v1::ListTrustedKeysRequest {};
    let listed = context
        .connection
        .trust()
        .list_trusted_keys(request)
        .await?;
    Ok(listed.into_inner().trusted_keys)
}

/// The name of the key that `text` names by its id, whole or its unambiguous beginning.
async fn find_key(text: &str, context: &Context) -> Result<String, Failure> {
    let digits = text
        .strip_prefix("trustedKeys/")
        .unwrap_or(text)
        .to_ascii_lowercase();
    let mut matching = all_keys(context).await?;
    matching.retain(|key| id(&key.name).starts_with(&digits));
    match matching.as_slice() {
        [key] => Ok(key.name.clone()),
        [] => Err(Failure::Usage(format!(
            "no trusted key begins with {digits}"
        ))),
        _ => Err(Failure::Usage(format!(
            "{} trusted keys begin with {digits}: give more digits",
            matching.len()
        ))),
    }
}

fn policy_name(model: &str) -> String {
    match model.strip_prefix("imagePolicies/") {
        Some(_) => model.to_owned(),
        None => format!("imagePolicies/{model}"),
    }
}

fn key_json(key: &v1::TrustedKey) -> Value {
    json!({
        "name": key.name,
        "display_name": key.display_name,
        "kind": word_json::<v1::KeyKind>(key.kind),
        "public_key_pem": key.public_key_pem,
        "model": key.model,
        "state": word_json::<v1::TrustedKeyState>(key.state),
        "create_time": time_json(key.create_time.as_ref()),
        "retire_time": time_json(key.retire_time.as_ref()),
    })
}

fn key_text(key: &v1::TrustedKey) -> String {
    fields(&[
        ("name", key.name.clone()),
        ("display name", key.display_name.clone()),
        ("kind", word::<v1::KeyKind>(key.kind)),
        ("model", key.model.clone()),
        ("state", word::<v1::TrustedKeyState>(key.state)),
    ])
}

fn keys_text(keys: &[v1::TrustedKey]) -> String {
    if keys.is_empty() {
        return "no trusted keys".to_owned();
    }
    let now = now();
    let rows = keys.iter().map(|key| {
        vec![
            super::image::short(&key.name).to_owned(),
            key.display_name.clone(),
            word::<v1::KeyKind>(key.kind),
            key.model.clone(),
            word::<v1::TrustedKeyState>(key.state),
            distance_text(key.create_time.as_ref(), &now),
        ]
    });
    table(&["KEY", "NAME", "KIND", "MODEL", "STATE", "CREATED"], rows)
}

fn policy_json(policy: &v1::ImagePolicy) -> Value {
    json!({
        "name": policy.name,
        "allow_unsigned": policy.allow_unsigned,
        "embedded_signature_only": policy.embedded_signature_only,
        "create_time": time_json(policy.create_time.as_ref()),
        "update_time": time_json(policy.update_time.as_ref()),
    })
}

fn policies_text(policies: &[v1::ImagePolicy]) -> String {
    if policies.is_empty() {
        return "no policies: every image needs a signature".to_owned();
    }
    let rows = policies
        .iter()
        .map(|policy| vec![id(&policy.name).to_owned(), demand(policy).to_owned()]);
    table(&["MODEL", "DEMANDS"], rows)
}

fn demand(policy: &v1::ImagePolicy) -> &'static str {
    match (policy.allow_unsigned, policy.embedded_signature_only) {
        (true, _) => "no signature",
        (false, true) => "a signature within the image",
        (false, false) => "a signature within the image or beside it",
    }
}
