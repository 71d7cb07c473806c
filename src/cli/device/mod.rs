//! `fuota device`: create, batch, get, list, update, delete. Files of devices are read in `file`, keys in `identity`,
//! printing is in `document`.

mod document;
mod file;
mod identity;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use prost_types::Duration;
use serde_json::json;

use self::document::{device_json, device_text, versions_text};
use self::file::read_devices;
use self::identity::{Identity, Secrets};
use super::connection::{ListArgs, pages};
use super::group::{item_error_json, item_error_text};
use super::image::parse_number;
use super::moment::{distance_text, duration_parser, now};
use super::names::{eui, eui_resource, id, parse_pair, resource};
use super::output::{Failure, counted, table};
use super::settings::{ClearArgs, Mask, TagArgs};
use super::{Context, Outcome};
use crate::proto::v1;

/// Devices sent in one call.
const BATCH_MAX: usize = 5000;

/// What to do with end-devices.
#[derive(Subcommand)]
pub enum DeviceCommand {
    /// Create a device
    ///
    /// Keys are not given as arguments, which every user of the machine can see, but as lines NAME = HEX in a
    /// file or on standard input (--key-file), or in the environment (--keys-from-env; FUOTA_ and the name in
    /// capitals).
    ///
    ///   gen_app_key         root of the multicast keys, LoRaWAN 1.0.x
    ///   root_app_key        root of the multicast keys, LoRaWAN 1.1
    ///   mc_root_key         with data_block_int_key, instead of a root key
    ///   app_key             for OTAA, with --join-eui
    ///   nwk_s_key           with app_s_key, for an imported session, with --dev-addr
    #[command(
        verbatim_doc_comment,
        after_help = "Example:\n  fuota device create 70b3d57ed0000001 --profile sensor-2 --join-eui 0000000000000000 --key-file keys.txt"
    )]
    Create {
        /// DevEUI, 16 hex digits
        dev_eui: String,
        #[command(flatten)]
        settings: DeviceSettings,
    },
    /// Create many devices from a CSV or JSON file
    ///
    /// CSV has a header line; JSON is an array of objects with the same names. Columns: dev_eui, device_profile,
    /// display_name, model, version, tags.KEY; for OTAA join_eui, app_key, next_join_nonce; for an imported session
    /// dev_addr, nwk_s_key, app_s_key, f_cnt_up, f_cnt_down, rx1_delay_s; for multicast keys one of gen_app_key,
    /// root_app_key, same_as_app_key, mc_root_key (with data_block_int_key).
    ///
    /// Nothing is sent if the file is wrong. Devices the server refuses are listed, the others are created; the exit
    /// status is then 1.
    Batch {
        /// The file; - reads standard input
        file: PathBuf,
        /// Profile of the devices for which the file names none
        #[arg(long)]
        profile: Option<String>,
    },
    /// Show one device; keys are never shown
    Get {
        /// DevEUI
        device: String,
    },
    /// List devices
    ///
    /// Filter fields: device_profile, model, tags.KEY, versions.COMPONENT, active_task.
    List(ListArgs),
    /// Change settings
    Update {
        /// DevEUI
        device: String,
        #[command(flatten)]
        settings: DeviceSettings,
        #[command(flatten)]
        clear: ClearArgs,
    },
    /// Delete a device, its keys and its session
    Delete {
        /// DevEUI
        device: String,
    },
}

/// Settings of a device.
#[derive(Args)]
pub struct DeviceSettings {
    /// A name for people
    #[arg(long)]
    name: Option<String>,

    /// Its device profile (required to create)
    #[arg(long)]
    profile: Option<String>,

    /// Hardware model, compared with that of images
    #[arg(long)]
    model: Option<String>,

    /// Version that a component runs, where it cannot say so itself, such as main=0x01020003
    #[arg(long = "version-of", value_name = "COMPONENT=NUMBER", value_parser = parse_pair)]
    versions: Vec<(String, String)>,

    #[command(flatten)]
    tags: TagArgs,

    /// File with its keys, lines NAME = HEX; - reads standard input
    #[arg(long, value_name = "FILE", help_heading = "Keys")]
    key_file: Option<PathBuf>,

    /// Take its keys from the environment: FUOTA_APP_KEY, FUOTA_GEN_APP_KEY, ...
    #[arg(long, conflicts_with = "key_file", help_heading = "Keys")]
    keys_from_env: bool,

    /// The root of its multicast keys is its AppKey (GenAppKey = AppKey)
    #[arg(long, help_heading = "Keys")]
    same_as_app_key: bool,

    /// It joins over the air, with this JoinEUI; needs app_key
    #[arg(
        long,
        value_name = "EUI",
        conflicts_with = "dev_addr",
        help_heading = "Activation"
    )]
    join_eui: Option<String>,

    /// JoinNonce of its next join, above the last one another network used
    #[arg(
        long,
        value_name = "N",
        requires = "join_eui",
        help_heading = "Activation"
    )]
    next_join_nonce: Option<u32>,

    /// Import its session with this DevAddr; needs nwk_s_key and app_s_key
    #[arg(long, value_name = "ADDR", help_heading = "Activation")]
    dev_addr: Option<String>,

    /// The last uplink counter seen plus 1
    #[arg(
        long,
        value_name = "N",
        requires = "dev_addr",
        help_heading = "Activation"
    )]
    f_cnt_up: Option<u32>,

    /// The last downlink counter sent plus 1
    #[arg(
        long,
        value_name = "N",
        requires = "dev_addr",
        help_heading = "Activation"
    )]
    f_cnt_down: Option<u32>,

    /// From the end of an uplink to its first receive window [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = duration_parser(), requires = "dev_addr", help_heading = "Activation")]
    rx1_delay: Option<Duration>,

    /// RX1DROffset, 0 to 7
    #[arg(
        long,
        value_name = "N",
        requires = "dev_addr",
        help_heading = "Activation"
    )]
    rx1_dr_offset: Option<u32>,

    /// Data rate of its second receive window [default: that of the region]
    #[arg(
        long,
        value_name = "DR",
        requires = "dev_addr",
        help_heading = "Activation"
    )]
    rx2_data_rate: Option<u32>,

    /// Frequency of its second receive window in Hz [default: that of the region]
    #[arg(
        long,
        value_name = "HZ",
        requires = "dev_addr",
        help_heading = "Activation"
    )]
    rx2_frequency: Option<u32>,
}

impl DeviceSettings {
    fn apply(mut self, device: &mut v1::EndDevice, mask: &mut Mask) -> Result<(), Failure> {
        let profile = self
            .profile
            .take()
            .map(|profile| resource("deviceProfiles", &profile));
        mask.put("display_name", &mut device.display_name, self.name.take());
        mask.put("device_profile", &mut device.device_profile, profile);
        mask.put("model", &mut device.model, self.model.take());
        for (component, number) in std::mem::take(&mut self.versions) {
            let version = parse_number(&number).map_err(|problem| {
                Failure::Usage(format!("--version-of {component}: {problem}"))
            })?;
            let version = v1::ComponentVersion {
                version,
                ..Default::default()
            };
            device.versions.insert(component, version);
            mask.touch("versions");
        }
        let identity = self.identity()?;
        self.tags.apply(mask, &mut device.tags);
        for path in identity.apply(device).map_err(Failure::Usage)? {
            mask.touch(path);
        }
        Ok(())
    }

    fn identity(&mut self) -> Result<Identity, Failure> {
        let secrets = match &self.key_file {
            Some(path) => Secrets::from_file(path)?,
            None if self.keys_from_env => Secrets::from_environment()?,
            None => Secrets::default(),
        };
        let listens = self.rx1_delay.is_some()
            || self.rx1_dr_offset.is_some()
            || self.rx2_data_rate.is_some()
            || self.rx2_frequency.is_some();
        Ok(Identity {
            secrets,
            same_as_app_key: self.same_as_app_key,
            join_eui: self.join_eui.take(),
            next_join_nonce: self.next_join_nonce,
            dev_addr: self.dev_addr.take(),
            f_cnt_up: self.f_cnt_up,
            f_cnt_down: self.f_cnt_down,
            receive_parameters: listens.then(|| v1::ReceiveParameters {
                rx1_delay: self.rx1_delay,
                rx1_dr_offset: self.rx1_dr_offset.unwrap_or(0),
                rx2_data_rate: self.rx2_data_rate,
                rx2_frequency_hz: self.rx2_frequency.unwrap_or(0),
            }),
        })
    }
}

/// Carries out one of the commands.
pub(super) async fn run(command: DeviceCommand, context: &mut Context) -> Result<Outcome, Failure> {
    let mut client = context.connection.devices();
    let request_id = context.connection.request_id();
    let device = match command {
        DeviceCommand::Create { dev_eui, settings } => {
            if settings.profile.is_none() {
                return Err(Failure::Usage("a device needs --profile".into()));
            }
            let mut device = v1::EndDevice {
                dev_eui: eui(&dev_eui),
                ..Default::default()
            };
            settings.apply(&mut device, &mut Mask::default())?;
            let request = v1::CreateDeviceRequest {
                device: Some(device),
                request_id,
            };
            client.create_device(request).await?.into_inner()
        }
        DeviceCommand::Batch { file, profile } => {
            return batch(read_devices(&file, profile.as_deref())?, context).await;
        }
        DeviceCommand::Get { device } => {
            let name = eui_resource("devices", &device);
            client
                .get_device(v1::GetDeviceRequest { name })
                .await?
                .into_inner()
        }
        DeviceCommand::Update {
            device,
            settings,
            clear,
        } => {
            let name = eui_resource("devices", &device);
            let request = v1::GetDeviceRequest { name: name.clone() };
            let present = client.get_device(request).await?.into_inner();
            let mut device = v1::EndDevice {
                name,
                tags: clear.keep("tags", present.tags),
                versions: clear.keep("versions", present.versions),
                ..Default::default()
            };
            let mut mask = Mask::default();
            settings.apply(&mut device, &mut mask)?;
            clear.apply(&mut mask);
            let request = v1::UpdateDeviceRequest {
                device: Some(device),
                update_mask: Some(mask.finish()?),
                request_id,
            };
            client.update_device(request).await?.into_inner()
        }
        DeviceCommand::Delete { device } => {
            let name = eui_resource("devices", &device);
            let request = v1::DeleteDeviceRequest {
                name: name.clone(),
                request_id,
            };
            client.delete_device(request).await?;
            context
                .output
                .show(|| json!({}), || format!("{name} deleted"))?;
            return Ok(Outcome::Done);
        }
        DeviceCommand::List(args) => {
            list(args, context).await?;
            return Ok(Outcome::Done);
        }
    };
    context
        .output
        .show(|| device_json(&device), || device_text(&device))?;
    Ok(Outcome::Done)
}

async fn batch(devices: Vec<v1::EndDevice>, context: &mut Context) -> Result<Outcome, Failure> {
    use v1::batch_create_devices_result::Result as Item;

    let mut client = context.connection.devices();
    let names: Vec<String> = devices
        .iter()
        .map(|device| device.dev_eui.clone())
        .collect();
    let mut results = Vec::with_capacity(devices.len());
    for (index, part) in devices.chunks(BATCH_MAX).enumerate() {
        let item = |device: &v1::EndDevice| v1::CreateDeviceRequest {
            device: Some(device.clone()),
            request_id: String::new(),
        };
        let request = v1::BatchCreateDevicesRequest {
            requests: part.iter().map(item).collect(),
            request_id: match index {
                0 => context.connection.request_id(),
                index => context.connection.request_id_for(&index.to_string()),
            },
        };
        let answer = client.batch_create_devices(request).await;
        if answer.is_err() && index > 0 {
            context.output.note(&format!(
                "the first {} devices were sent before",
                index * BATCH_MAX
            ));
        }
        results.extend(answer?.into_inner().results);
    }
    let refused: Vec<_> = names
        .iter()
        .zip(&results)
        .filter_map(|(name, result)| match &result.result {
            Some(Item::Error(error)) => Some((name, error)),
            _ => None,
        })
        .collect();
    let created = results
        .iter()
        .filter(|result| matches!(result.result, Some(Item::Device(_))))
        .count();
    context.output.show(
        || {
            let errors: Vec<_> = refused
                .iter()
                .map(|(name, error)| json!({"dev_eui": name, "error": item_error_json(error)}))
                .collect();
            json!({"created_count": created, "requested_count": names.len(), "errors": errors})
        },
        || {
            let summary = format!("{created} of {} created", counted_devices(names.len()));
            if refused.is_empty() {
                return summary;
            }
            let rows = refused
                .iter()
                .map(|(name, error)| vec![(*name).clone(), item_error_text(error)]);
            format!("{}\n\n{summary}", table(&["NOT CREATED", "WHY"], rows))
        },
    )?;
    Ok(Outcome::from_success(created == names.len()))
}

fn counted_devices(count: usize) -> String {
    counted(u64::try_from(count).unwrap_or(u64::MAX), "device")
}

async fn list(args: ListArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.connection.devices();
    let listing = pages(args.limit, async |page_size, page_token| {
        let request = v1::ListDevicesRequest {
            page_size,
            page_token,
            filter: args.filter.clone(),
        };
        let answer = client.list_devices(request).await?.into_inner();
        Ok((answer.devices, answer.next_page_token, answer.total_size))
    })
    .await?;
    context.show_list("devices", "device", &listing, device_json, |devices| {
        let now = now();
        let header = [
            "DEVICE", "NAME", "PROFILE", "MODEL", "VERSION", "SEEN", "SIGNAL", "TASK",
        ];
        table(
            &header,
            devices.iter().map(|device| {
                vec![
                    device.dev_eui.clone(),
                    device.display_name.clone(),
                    id(&device.device_profile).into(),
                    device.model.clone(),
                    versions_text(device),
                    distance_text(device.last_seen_time.as_ref(), &now),
                    device.links.first().map_or_else(String::new, |link| {
                        format!("{} dBm {} dB", link.rssi_dbm, link.snr_db)
                    }),
                    id(&device.active_task).into(),
                ]
            }),
        )
    })
}
