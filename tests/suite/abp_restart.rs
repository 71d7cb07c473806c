//! An ABP device may count from the start again only after a reboot that a task asked for.

use std::collections::BTreeMap;

use lorawan_fuota::campaign::AddressSpace;
use lorawan_fuota::lorawan::identifiers::DevEui;
use lorawan_fuota::network::{Network, NetworkCommand, NetworkCounters, NetworkEvent, Sending};
use lorawan_fuota::record::*;
use lorawan_fuota::runtime::{Command, Engine};
use lorawan_fuota::time::Timestamp;

use crate::store_records;

/// A network that hears what it is told to, and remembers what its devices may do.
#[derive(Default)]
struct Ears {
    allowed: BTreeMap<DevEui, bool>,
    events: Vec<NetworkEvent>,
}

impl Network for Ears {
    type Inbound = ();
    type Outbound = ();

    fn listen(&mut self, _: Timestamp, _: Vec<()>) -> Vec<NetworkEvent> {
        std::mem::take(&mut self.events)
    }

    fn apply(&mut self, command: &NetworkCommand) {
        if let NetworkCommand::PutDevice { dev_eui, link } = command {
            self.allowed.insert(*dev_eui, link.f_cnt_reset_allowed);
        }
    }

    fn send(&mut self, _: Timestamp, _: Vec<NetworkRequest>) -> Sending<()> {
        Sending {
            changes: vec![],
            outbound: vec![],
        }
    }

    fn wake(&self) -> Option<Timestamp> {
        None
    }

    fn counts(&self) -> NetworkCounters {
        NetworkCounters::default()
    }
}

fn engine(f_cnt_reset: FCntReset, reboot_expected: bool) -> (Engine<Ears>, DevEui) {
    let mut profile = store_records::profile(&TenantId::default(), "meter");
    profile.after_reboot.f_cnt_reset = f_cnt_reset;
    let settings = store_records::settings(&TenantId::default(), 1);
    let dev_eui = settings.dev_eui;
    let snapshot = Snapshot {
        profiles: vec![profile],
        devices: vec![Device {
            settings,
            status: DeviceStatus {
                reboot_expected,
                ..DeviceStatus::default()
            },
        }],
        keys: vec![store_records::root_keys(1)],
        ..Snapshot::default()
    };
    let addresses = AddressSpace {
        prefix: 0x0100_0000,
        prefix_bits: 8,
    };
    (
        Engine::restore(Ears::default(), addresses, snapshot),
        dev_eui,
    )
}

fn now() -> Timestamp {
    Timestamp::from_unix_seconds(1_800_000_000)
}

#[test]
fn profile_and_reboot_must_both_allow_it() {
    for (profile, reboot, allowed) in [
        (FCntReset::Refuse, false, false),
        (FCntReset::Refuse, true, false),
        (FCntReset::AllowAfterReboot, false, false),
        (FCntReset::AllowAfterReboot, true, true),
    ] {
        let (engine, dev_eui) = engine(profile, reboot);
        assert_eq!(
            engine.network().allowed[&dev_eui],
            allowed,
            "{profile:?} {reboot}"
        );
    }
}

#[test]
fn a_reboot_opens_the_door_and_the_restart_closes_it() {
    let (mut engine, dev_eui) = engine(FCntReset::AllowAfterReboot, false);
    engine
        .fleet_mut()
        .status_mut(dev_eui)
        .unwrap()
        .reboot_expected = true;
    let step = engine.step(now(), vec![], vec![]);
    assert!(engine.network().allowed[&dev_eui]);
    assert_eq!(expected(&step.changes), [true]);
    // A changed profile or device does not close it.
    let mut still = store_records::profile(&TenantId::default(), "meter");
    still.after_reboot.f_cnt_reset = FCntReset::AllowAfterReboot;
    engine.step(now(), vec![], vec![Command::PutDeviceProfile(still)]);
    assert!(engine.network().allowed[&dev_eui]);

    let restarted = NetworkEvent::CounterRestarted(dev_eui);
    engine.network_mut().events.push(restarted);
    let step = engine.step(now(), vec![], vec![]);
    assert!(!engine.network().allowed[&dev_eui]);
    assert_eq!(
        expected(&step.changes),
        [false],
        "it survives a restart of the server"
    );
}

#[test]
fn a_join_ends_the_waiting_too() {
    let (mut engine, dev_eui) = engine(FCntReset::AllowAfterReboot, true);
    let joined = Heard::Joined { dev_eui, at: now() };
    engine
        .network_mut()
        .events
        .push(NetworkEvent::Heard(joined));
    let step = engine.step(now(), vec![], vec![]);
    assert_eq!(expected(&step.changes), [false]);
    assert!(!engine.network().allowed[&dev_eui]);
}

fn expected(changes: &[Change]) -> Vec<bool> {
    let statuses = changes.iter().filter_map(|change| match change {
        Change::PutDeviceStatus(_, status) => Some(status.reboot_expected),
        _ => None,
    });
    statuses.collect()
}
