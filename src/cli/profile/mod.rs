//! `fuota profile`: create, get, list, update, delete. Printing is in `document`.

mod document;
mod parts;
mod version;

use clap::{ArgAction, Args, Subcommand};
use prost_types::Duration;
use serde_json::json;

use self::document::{classes, lorawan_version, package_text, profile_json, profile_text};
use self::parts::PartArgs;
use self::version::parse_version_source;
use super::connection::{ListArgs, pages};
use super::moment::{distance_text, duration_parser, now};
use super::names::{enum_parser, id, parse_hex, resource, word};
use super::output::{Failure, table};
use super::settings::{ClearArgs, Mask};
use super::{Context, Outcome};
use crate::proto::v1;

/// What to do with device profiles.
#[derive(Subcommand)]
pub enum ProfileCommand {
    /// Create a profile
    #[command(after_help = "Example: class C devices with TS003-TS005 v2 and TS006
  fuota profile create --id sensor-2 --region EU868 --lorawan-version 1.0.4 --class-c \\
      --clock-sync 2 --multicast-setup 2 --fragmentation 2 --firmware-management 1")]
    Create {
        /// The last part of its name: a-z, 0-9 and hyphens; default: made by the server
        #[arg(long, default_value = "", hide_default_value = true)]
        id: String,
        #[command(flatten)]
        settings: Box<ProfileSettings>,
    },
    /// Show one profile
    Get {
        /// The profile
        profile: String,
    },
    /// List profiles
    ///
    /// Filter fields: region, lorawan_version.
    List(ListArgs),
    /// Change settings; a started task keeps the profile it started with
    Update {
        /// The profile
        profile: String,
        #[command(flatten)]
        settings: Box<ProfileSettings>,
        #[command(flatten)]
        clear: ClearArgs,
    },
    /// Delete a profile; refused while devices use it
    Delete {
        /// The profile
        profile: String,
    },
}

/// Settings of a profile.
#[derive(Args)]
pub struct ProfileSettings {
    /// A name for people
    #[arg(long)]
    name: Option<String>,

    /// LoRaWAN version of the devices (required to create), such as 1.0.4
    #[arg(long, value_parser = enum_parser::<v1::LorawanVersion>())]
    lorawan_version: Option<v1::LorawanVersion>,

    /// Region of the devices (required to create)
    #[arg(long, value_parser = enum_parser::<v1::Region>())]
    region: Option<v1::Region>,

    /// They can do class B (--class-b=false takes it back)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set)]
    class_b: Option<bool>,

    /// They can do class C (--class-c=false takes it back)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set)]
    class_c: Option<bool>,

    /// Clock synchronisation (TS003): version, and FPort if it is not 202
    #[arg(long, value_name = "VERSION[:F_PORT]", value_parser = parse_package, help_heading = "Packages")]
    clock_sync: Option<v1::Package>,

    /// Remote multicast set-up (TS005): version, and FPort if it is not 200
    #[arg(long, value_name = "VERSION[:F_PORT]", value_parser = parse_package, help_heading = "Packages")]
    multicast_setup: Option<v1::Package>,

    /// Fragmented data block transport (TS004): version, and FPort if it is not 201
    #[arg(long, value_name = "VERSION[:F_PORT]", value_parser = parse_package, help_heading = "Packages")]
    fragmentation: Option<v1::Package>,

    /// Firmware management (TS006): version, and FPort if it is not 203
    #[arg(long, value_name = "VERSION[:F_PORT]", value_parser = parse_package, help_heading = "Packages")]
    firmware_management: Option<v1::Package>,

    /// Most uncoded fragments in a session [default: 16383]
    #[arg(long, value_name = "N", help_heading = "Decoder limits")]
    max_nb_frag: Option<u32>,

    /// Largest FragSize in bytes [default: 239]
    #[arg(long, value_name = "BYTES", help_heading = "Decoder limits")]
    max_frag_size: Option<u32>,

    /// Most lost fragments the decoder can repair [default: unlimited]
    #[arg(long, value_name = "N", help_heading = "Decoder limits")]
    max_lost_fragments: Option<u32>,

    /// Multicast groups it can hold at once, 1 to 4 [default: 1]
    #[arg(long, value_name = "N", help_heading = "Decoder limits")]
    max_multicast_groups: Option<u32>,

    /// Fragmentation sessions it can hold at once, 1 to 4 [default: 1]
    #[arg(long, value_name = "N", help_heading = "Decoder limits")]
    max_frag_sessions: Option<u32>,

    /// They decode the Reed-Solomon code of this project too (--reed-solomon=false takes it back)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set, help_heading = "Decoder limits")]
    reed_solomon: Option<bool>,

    /// A finished data block survives the end of its session, so images of one task may follow each other in one
    /// (--keeps-finished-blocks=false takes it back)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set, help_heading = "Decoder limits")]
    keeps_finished_blocks: Option<bool>,

    /// The stack whose meaning its status answers have [default: SPEC]
    #[arg(long, value_parser = enum_parser::<v1::StatusInterpretation>())]
    status_interpretation: Option<v1::StatusInterpretation>,

    /// How often a device sends by itself, such as 15m [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = duration_parser())]
    uplink_interval: Option<Duration>,

    /// Root of the multicast keys [default: by LoRaWAN version]
    #[arg(long, value_parser = enum_parser::<v1::MulticastRootKey>())]
    multicast_root_key: Option<v1::MulticastRootKey>,

    /// It joins again after a reboot
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set, help_heading = "After a reboot")]
    rejoins: Option<bool>,

    /// It forgets its multicast groups in a reboot
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set, help_heading = "After a reboot")]
    loses_multicast_groups: Option<bool>,

    /// What to do when an ABP device starts its uplink counter again [default: REFUSE]
    #[arg(long, value_parser = enum_parser::<v1::FCntReset>(), help_heading = "After a reboot")]
    f_cnt_reset: Option<v1::FCntReset>,

    /// Where the running version is read from: ts006, or F_PORT:OFFSET:LENGTH[:big] of an application uplink
    /// [default: TS006 if the devices have it]
    #[arg(long, value_name = "SOURCE", value_parser = parse_version_source)]
    version_source: Option<v1::VersionSource>,

    /// A downlink upon which devices without TS006 reboot: F_PORT:HEX [default: they do so by themselves]
    #[arg(long, value_name = "DOWNLINK", value_parser = parse_application_reboot, help_heading = "After a reboot")]
    application_reboot: Option<v1::ApplicationReboot>,

    #[command(flatten)]
    parts: PartArgs,
}

impl ProfileSettings {
    fn apply(self, profile: &mut v1::DeviceProfile, mask: &mut Mask) {
        mask.put("display_name", &mut profile.display_name, self.name);
        mask.put(
            "lorawan_version",
            &mut profile.lorawan_version,
            self.lorawan_version,
        );
        mask.put("region", &mut profile.region, self.region);
        mask.put(
            "supports_class_b",
            &mut profile.supports_class_b,
            self.class_b,
        );
        mask.put(
            "supports_class_c",
            &mut profile.supports_class_c,
            self.class_c,
        );
        mask.put("clock_sync", &mut profile.clock_sync, self.clock_sync);
        mask.put(
            "multicast_setup",
            &mut profile.multicast_setup,
            self.multicast_setup,
        );
        mask.put(
            "fragmentation",
            &mut profile.fragmentation,
            self.fragmentation,
        );
        mask.put(
            "firmware_management",
            &mut profile.firmware_management,
            self.firmware_management,
        );
        mask.put(
            "status_interpretation",
            &mut profile.status_interpretation,
            self.status_interpretation,
        );
        mask.put(
            "uplink_interval",
            &mut profile.uplink_interval,
            self.uplink_interval,
        );
        mask.put(
            "multicast_root_key",
            &mut profile.multicast_root_key,
            self.multicast_root_key,
        );
        mask.put(
            "version_source",
            &mut profile.version_source,
            self.version_source,
        );

        mask.put(
            "application_reboot",
            &mut profile.application_reboot,
            self.application_reboot,
        );
        self.parts.apply(profile, mask);

        // Messages are replaced whole, so one limit keeps the others as they are.
        let limits = profile.decoder_limits.get_or_insert_default();
        mask.put("decoder_limits", &mut limits.max_nb_frag, self.max_nb_frag);
        mask.put(
            "decoder_limits",
            &mut limits.max_frag_size,
            self.max_frag_size,
        );
        mask.put(
            "decoder_limits",
            &mut limits.max_lost_fragments,
            self.max_lost_fragments,
        );
        mask.put(
            "decoder_limits",
            &mut limits.max_multicast_groups,
            self.max_multicast_groups,
        );
        mask.put(
            "decoder_limits",
            &mut limits.max_frag_sessions,
            self.max_frag_sessions,
        );
        mask.put(
            "decoder_limits",
            &mut limits.reed_solomon,
            self.reed_solomon,
        );
        mask.put(
            "decoder_limits",
            &mut limits.keeps_finished_blocks,
            self.keeps_finished_blocks,
        );

        let reboot = profile.after_reboot.get_or_insert_default();
        mask.put("after_reboot", &mut reboot.rejoins, self.rejoins);
        mask.put(
            "after_reboot",
            &mut reboot.loses_multicast_groups,
            self.loses_multicast_groups,
        );
        mask.put("after_reboot", &mut reboot.f_cnt_reset, self.f_cnt_reset);
    }
}

fn parse_package(text: &str) -> Result<v1::Package, String> {
    let (version, f_port) = text.split_once(':').unwrap_or((text, "0"));
    match (version.parse(), f_port.parse()) {
        (Ok(version), Ok(f_port)) => Ok(v1::Package { version, f_port }),
        _ => Err("expected VERSION or VERSION:F_PORT, such as 2 or 1:201".into()),
    }
}

fn parse_application_reboot(text: &str) -> Result<v1::ApplicationReboot, String> {
    let read = || {
        let (f_port, payload) = text.split_once(':')?;
        Some(v1::ApplicationReboot {
            f_port: f_port.parse().ok()?,
            payload: parse_hex(payload).ok()?.into(),
        })
    };
    read().ok_or_else(|| "expected F_PORT:HEX, such as 10:ff01".into())
}

/// Carries out one of the commands.
pub(super) async fn run(
    command: ProfileCommand,
    context: &mut Context,
) -> Result<Outcome, Failure> {
    let mut client = context.connection.profiles();
    let request_id = context.connection.request_id();
    let full = |profile: &str| resource("deviceProfiles", profile);
    let profile = match command {
        ProfileCommand::Create { id, settings } => {
            if settings.region.is_none() || settings.lorawan_version.is_none() {
                let text = "a profile needs --region and --lorawan-version";
                return Err(Failure::Usage(text.into()));
            }
            let mut profile = v1::DeviceProfile::default();
            settings.apply(&mut profile, &mut Mask::default());
            let request = v1::CreateDeviceProfileRequest {
                device_profile: Some(profile),
                device_profile_id: id,
                request_id,
            };
            client.create_device_profile(request).await?.into_inner()
        }
        ProfileCommand::Get { profile } => {
            let request = v1::GetDeviceProfileRequest {
                name: full(&profile),
            };
            client.get_device_profile(request).await?.into_inner()
        }
        ProfileCommand::Update {
            profile,
            settings,
            clear,
        } => {
            let name = full(&profile);
            let request = v1::GetDeviceProfileRequest { name: name.clone() };
            let present = client.get_device_profile(request).await?.into_inner();
            let mut profile = v1::DeviceProfile {
                name,
                decoder_limits: clear.keep("decoder_limits", present.decoder_limits),
                after_reboot: clear.keep("after_reboot", present.after_reboot),
                ..Default::default()
            };
            let mut mask = Mask::default();
            settings.apply(&mut profile, &mut mask);
            clear.apply(&mut mask);
            let request = v1::UpdateDeviceProfileRequest {
                device_profile: Some(profile),
                update_mask: Some(mask.finish()?),
                request_id,
            };
            client.update_device_profile(request).await?.into_inner()
        }
        ProfileCommand::Delete { profile } => {
            let name = full(&profile);
            let request = v1::DeleteDeviceProfileRequest {
                name: name.clone(),
                request_id,
            };
            client.delete_device_profile(request).await?;
            context
                .output
                .show(|| json!({}), || format!("{name} deleted"))?;
            return Ok(Outcome::Done);
        }
        ProfileCommand::List(args) => {
            list(args, context).await?;
            return Ok(Outcome::Done);
        }
    };
    context
        .output
        .show(|| profile_json(&profile), || profile_text(&profile))?;
    Ok(Outcome::Done)
}

async fn list(args: ListArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.connection.profiles();
    let listing = pages(args.limit, async |page_size, page_token| {
        let request = v1::ListDeviceProfilesRequest {
            page_size,
            page_token,
            filter: args.filter.clone(),
        };
        let answer = client.list_device_profiles(request).await?.into_inner();
        Ok((
            answer.device_profiles,
            answer.next_page_token,
            answer.total_size,
        ))
    })
    .await?;
    context.show_list(
        "device_profiles",
        "profile",
        &listing,
        profile_json,
        |profiles| {
            let now = now();
            let header = [
                "PROFILE", "NAME", "REGION", "LORAWAN", "CLASSES", "TS003", "TS004", "TS005",
                "TS006", "CREATED",
            ];
            table(
                &header,
                profiles.iter().map(|profile| {
                    vec![
                        id(&profile.name).into(),
                        profile.display_name.clone(),
                        word::<v1::Region>(profile.region),
                        lorawan_version(profile),
                        classes(profile),
                        package_text(profile.clock_sync.as_ref()),
                        package_text(profile.fragmentation.as_ref()),
                        package_text(profile.multicast_setup.as_ref()),
                        package_text(profile.firmware_management.as_ref()),
                        distance_text(profile.create_time.as_ref(), &now),
                    ]
                }),
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_have_a_version_and_perhaps_a_port() {
        assert_eq!(
            parse_package("2"),
            Ok(v1::Package {
                version: 2,
                f_port: 0
            })
        );
        assert_eq!(
            parse_package("1:201"),
            Ok(v1::Package {
                version: 1,
                f_port: 201
            })
        );
        assert!(parse_package("v1").is_err());
        assert_eq!(
            package_text(Some(&v1::Package {
                version: 1,
                f_port: 9
            })),
            "v1:9"
        );
    }

    #[test]
    fn one_limit_keeps_the_others() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            settings: ProfileSettings,
        }
        let line: Line = clap::Parser::parse_from(["test", "--max-frag-size", "48", "--rejoins"]);
        let mut profile = v1::DeviceProfile {
            decoder_limits: Some(v1::DecoderLimits {
                max_nb_frag: 500,
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut mask = Mask::default();
        line.settings.apply(&mut profile, &mut mask);
        assert_eq!(
            mask.finish().unwrap().paths,
            ["decoder_limits", "after_reboot"]
        );
        let limits = profile.decoder_limits.unwrap();
        assert_eq!((limits.max_nb_frag, limits.max_frag_size), (500, 48));
    }
}
