//! `fuota-sim lab`: gateways and end-devices that speak to a server somebody else runs, for QA and for clients' own
//! tests.
//!
//! The first line on standard output describes the lab as one JSON object, so that a client can enter it in the server;
//! field names are those of the API. The lab runs until it is killed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lorawan_fuota::proto::v1;
use serde_json::{Value, json};

use crate::demo::{lab, machine_code};
use crate::device::{Activation, DeviceConfig, StackProfile};
use crate::fleet::{Fleet, FleetOptions, MODEL, NEW_VERSION, Stacks};
use crate::image_set::{ImageSet, PARTS};
use crate::realtime::{RealTime, WallClock};

/// What the lab can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct LabArgs {
    /// Where the server listens for gateways.
    #[arg(long, value_name = "ADDR")]
    pub udp: SocketAddr,
    /// End-devices.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub devices: u32,
    /// Gateways; every device hears all of them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub gateways: u32,
    /// Frames lost, in percent, in each direction.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=60))]
    pub loss: u32,
    /// Keys, EUIs and all randomness of the radio come from it.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The stack of the devices, or "mix" for all known ones in turn.
    #[arg(long, default_value = "spec-v2", value_parser = Stacks::from_name)]
    pub stack: Stacks,
    /// Bytes of firmware in the image that is made for the devices.
    #[arg(long, default_value_t = 4000)]
    pub image_bytes: usize,
    /// Where the signed image is written; a temporary file when not given.
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Further parts of each device, 0 to 3: radio, board, modem. Their signed images are written beside the first,
    /// with the name of the part before the last extension.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=3))]
    pub parts: u8,
    /// Write the devices with their keys to this file, as `fuota device batch` reads them.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write the key that a server has to trust to take the image to this file, in PEM.
    #[arg(long, value_name = "FILE")]
    pub public_key: Option<PathBuf>,
    /// Print the description of the lab as one JSON object. Always on; accepted for symmetry with other commands.
    #[arg(long)]
    pub json: bool,
}

/// Runs a lab until the process is killed.
///
/// # Errors
/// The image cannot be written or a socket cannot be opened.
pub fn run(args: &LabArgs) -> Result<()> {
    let mut fleet = Fleet::new(FleetOptions {
        seed: args.seed,
        devices: args.devices,
        gateways: args.gateways,
        loss: f64::from(args.loss) / 100.0,
        stacks: args.stack,
        ..FleetOptions::default()
    });
    let set = ImageSet::Together(args.parts);
    for device in &mut fleet.devices {
        set.change_device(device);
    }
    let code = machine_code(&std::env::current_exe()?, args.image_bytes)?;
    let image = fleet.image(&code)?;
    let path = match &args.image {
        Some(path) => path.clone(),
        None => tempfile::Builder::new()
            .suffix(".signed.bin")
            .tempfile()?
            .into_temp_path()
            .keep()?,
    };
    std::fs::write(&path, &image).with_context(|| format!("{}", path.display()))?;
    let mut parts = Vec::new();
    for (number, version) in set.parts() {
        let name = PARTS[usize::from(number) - 1];
        let of_part = fleet.image_of(version, &code[..code.len() / 2])?;
        let path = beside(&path, name);
        std::fs::write(&path, of_part).with_context(|| format!("{}", path.display()))?;
        parts.push(json!({
            "component": name,
            "number": number,
            "target_version": version.to_ts006(),
            "image_path": path,
        }));
    }
    if let Some(csv) = &args.csv {
        std::fs::write(csv, device_list(&fleet)).with_context(|| format!("{}", csv.display()))?;
    }
    if let Some(path) = &args.public_key {
        std::fs::write(path, fleet.public_key_pem())
            .with_context(|| format!("{}", path.display()))?;
    }
    print_line(&description(&fleet, set, &path, &parts));
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let clock = WallClock::start();
            let mut lab = RealTime::open(lab(&fleet, clock.now()), clock, args.udp).await?;
            lab.run_until(std::future::pending::<()>()).await;
            Ok(())
        })
}

/// The path of a part's image: `app.signed.radio.bin` beside `app.signed.bin`.
fn beside(image: &Path, part: &str) -> PathBuf {
    let stem = image.file_stem().unwrap_or_default().to_string_lossy();
    let extension = image.extension().unwrap_or_default().to_string_lossy();
    image.with_file_name(format!("{stem}.{part}.{extension}"))
}

fn device_list(fleet: &Fleet) -> String {
    let mut list = String::from("dev_eui,model,join_eui,app_key,gen_app_key\n");
    for device in &fleet.devices {
        if let Activation::Otaa {
            join_eui, app_key, ..
        } = &device.activation
        {
            let (app_key, gen_app_key) = (app_key.to_hex(), device.gen_app_key.to_hex());
            list += &format!(
                "{},{},{join_eui},{app_key},{gen_app_key}\n",
                device.dev_eui, MODEL
            );
        }
    }
    list
}

fn description(fleet: &Fleet, set: ImageSet, image: &Path, parts: &[Value]) -> Value {
    let options = &fleet.options;
    let device = |(device, stack): (&DeviceConfig, &StackProfile)| {
        let (join_eui, app_key) = match &device.activation {
            Activation::Otaa {
                join_eui, app_key, ..
            } => (join_eui.to_string(), app_key.to_hex()),
            Activation::Abp { .. } => (String::new(), String::new()),
        };
        json!({
            "dev_eui": device.dev_eui.to_string(),
            "join_eui": join_eui,
            "app_key": app_key,
            "gen_app_key": device.gen_app_key.to_hex(),
            "stack": stack.name(),
        })
    };
    let stacks = fleet.distinct_stacks();
    let profiles = stacks.iter().map(|stack| {
        let record = profile(&fleet.profile_record(*stack), set);
        (stack.name().to_owned(), record)
    });
    let profiles: serde_json::Map<String, Value> = profiles.collect();
    let first = stacks.first().and_then(|stack| profiles.get(stack.name()));
    json!({
        "region": options.region.name(),
        "data_rate": options.data_rate,
        "gateways": fleet.gateways.iter().map(|eui| json!({ "eui": eui.to_string() })).collect::<Vec<_>>(),
        "profile": first,
        "profiles": profiles,
        "devices": fleet.devices.iter().zip(&fleet.stacks).map(device).collect::<Vec<_>>(),
        "image_path": image,
        "parts": parts,
        "public_key_pem": fleet.public_key_pem(),
        "target_version": NEW_VERSION.to_ts006(),
    })
}

/// The profile with the API's field names, as protobuf's JSON form has it.
fn profile(profile: &v1::DeviceProfile, set: ImageSet) -> Value {
    let package = |p: &Option<v1::Package>| {
        p.as_ref()
            .map(|p| json!({ "version": p.version, "f_port": p.f_port }))
    };
    let limits = profile.decoder_limits.unwrap_or_default();
    let after = profile.after_reboot.unwrap_or_default();
    let mut described = json!({
        "display_name": profile.display_name,
        "lorawan_version": profile.lorawan_version().as_str_name(),
        "region": profile.region().as_str_name(),
        "supports_class_c": profile.supports_class_c,
        "clock_sync": package(&profile.clock_sync),
        "multicast_setup": package(&profile.multicast_setup),
        "fragmentation": package(&profile.fragmentation),
        "firmware_management": package(&profile.firmware_management),
        "decoder_limits": { "max_nb_frag": limits.max_nb_frag, "max_frag_size": limits.max_frag_size },
        "status_interpretation": profile.status_interpretation().as_str_name(),
        "uplink_interval": format!("{}s", profile.uplink_interval.unwrap_or_default().seconds),
        "multicast_root_key": profile.multicast_root_key().as_str_name(),
        "after_reboot": {
            "rejoins": after.rejoins,
            "loses_multicast_groups": after.loses_multicast_groups,
        },
        "version_source": version_source(profile),
    });
    let components = components(set);
    if !components.is_empty() {
        described["components"] = components.into();
        described["descriptor_rule"] = json!({ "component": true });
        described["decoder_limits"]["max_frag_sessions"] = json!(4);
        described["decoder_limits"]["keeps_finished_blocks"] = json!(true);
    }
    described
}

/// The main firmware, and the parts beside it with the places of their versions in the application's uplinks.
fn components(set: ImageSet) -> Vec<Value> {
    let parts: Vec<Value> = set
        .parts()
        .map(|(number, _)| {
            let field = ImageSet::version_field(number);
            json!({
                "name": PARTS[usize::from(number) - 1],
                "number": number,
                "version_field": {
                    "f_port": field.f_port,
                    "offset_bytes": field.offset,
                    "length_bytes": field.length,
                    "byte_order": v1::ByteOrder::BigEndian.as_str_name(),
                },
            })
        })
        .collect();
    if parts.is_empty() {
        return parts;
    }
    [vec![json!({ "name": "main", "number": 0 })], parts].concat()
}

fn version_source(profile: &v1::DeviceProfile) -> Value {
    use v1::version_source::Source;
    let source = profile.version_source.as_ref();
    match source.and_then(|source| source.source.as_ref()) {
        Some(Source::UplinkField(field)) => json!({ "uplink_field": {
            "f_port": field.f_port,
            "offset_bytes": field.offset_bytes,
            "length_bytes": field.length_bytes,
            "byte_order": field.byte_order().as_str_name(),
        } }),
        Some(Source::FirmwareManagement(())) | None => json!({ "firmware_management": {} }),
    }
}

#[expect(clippy::print_stdout, reason = "the description is the output")]
fn print_line(value: &Value) {
    use std::io::Write;
    println!("{value}");
    // Nobody reading is no reason to stop the radio.
    let _ = std::io::stdout().flush();
}
