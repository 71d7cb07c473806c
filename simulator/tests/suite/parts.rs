//! Devices of several parts, each with an image of its own: received one after the other or side by side, installed by
//! one reboot.

use fuota_simulator::device::{DeviceConfig, ImageCheck, PartFirmware, Payloads, Uplinks};
use lorawan_fuota::erasure::{CodeVersion, Encoder};
use lorawan_fuota::firmware::delta::{self, DeltaOptions};
use lorawan_fuota::firmware::{ImageVersion, McubootBuilder};
use lorawan_fuota::lorawan::PackageVersion::V2;
use lorawan_fuota::lorawan::firmware_management::UpImageStatus;
use lorawan_fuota::lorawan::fragmentation::{
    DEFAULT_F_PORT, DataFragment, DownlinkCommand, FragSessionSetupReq,
};
use lorawan_fuota::lorawan::keys::{data_block_int_key, data_block_mic};
use lorawan_fuota::lorawan::region::Region;

use crate::bench::{Bench, GEN_APP_KEY, SECOND, abp};

const MAIN: u8 = 0;
const RADIO: u8 = 3;
const BOARD: u8 = 7;
/// What runs at the start.
const OLD: [u32; 3] = [0x0100_0000, 0x0103_0000, 0x0000_0007];
/// What is sent.
const NEW: [u32; 3] = [0x0200_0000, 0x0203_0000, 0x0000_0008];
const FRAG_SIZE: u8 = 100;

/// A device with a radio core that takes MCUboot images, and a configuration that is nothing but bytes.
fn device() -> DeviceConfig {
    let mut config = abp();
    config.firmware.version = OLD[0];
    config.firmware.parts = vec![
        PartFirmware {
            number: RADIO,
            version: OLD[1],
            check: ImageCheck::Sha256,
            raw_image_version: None,
        },
        PartFirmware {
            number: BOARD,
            version: OLD[2],
            check: ImageCheck::None,
            raw_image_version: Some(NEW[2]),
        },
    ];
    config
}

fn image(version: u32) -> Vec<u8> {
    let body = (0..=255).cycle().take(300).collect();
    McubootBuilder::new(body, ImageVersion::from_ts006(version))
        .build()
        .unwrap()
}

/// An image whose digest is wrong.
fn corrupt(version: u32) -> Vec<u8> {
    let mut image = image(version);
    image[100] ^= 1;
    image
}

/// The server's side.
struct Update {
    bench: Bench,
    session_cnt: u16,
}

impl Update {
    fn new(config: DeviceConfig) -> Self {
        let mut bench = Bench::new(config, 1);
        bench.next_uplink();
        Self {
            bench,
            session_cnt: 0,
        }
    }

    /// Sets up the fragmentation session of an index for an image; its fragments.
    fn set_up(&mut self, frag_index: u8, descriptor: [u8; 4], data: &[u8]) -> Vec<Vec<u8>> {
        self.session_cnt += 1;
        let session_cnt = self.session_cnt;
        let encoder = Encoder::new(CodeVersion::V2, data, FRAG_SIZE).unwrap();
        let key = data_block_int_key(&GEN_APP_KEY);
        let request = FragSessionSetupReq {
            frag_index,
            mc_group_bit_mask: 0,
            nb_frag: encoder.nb_frag(),
            frag_size: FRAG_SIZE,
            ack_reception: false,
            frag_algo: 0,
            block_ack_delay: 0,
            padding: encoder.padding(),
            descriptor,
            session_cnt,
            mic: data_block_mic(&key, session_cnt, frag_index, descriptor, data),
        };
        let mut bytes = Vec::new();
        DownlinkCommand::FragSessionSetupReq(request).encode(V2, &mut bytes);
        let answer = self.bench.ask(DEFAULT_F_PORT, &bytes);
        assert_eq!(answer, [0x02, frag_index << 6], "accepted");
        let fragment = |n| {
            let mut fragment = vec![0; usize::from(FRAG_SIZE)];
            encoder.fragment(n, &mut fragment).unwrap();
            let mut bytes = Vec::new();
            DataFragment {
                frag_index,
                n,
                fragment: &fragment,
            }
            .encode(&mut bytes);
            bytes
        };
        (1..=encoder.nb_frag()).map(fragment).collect()
    }

    /// Sends an image for a part.
    fn send(&mut self, part: u8, data: &[u8]) {
        for fragment in self.set_up(0, [part, 0, 0, 0], data) {
            self.bench.tell(DEFAULT_F_PORT, &fragment);
        }
    }

    /// `DevUpgradeImageReq`.
    fn upgrade_image(&mut self) -> Vec<u8> {
        self.bench.ask(203, &[0x04])
    }

    /// `DevDeleteImageReq`; the status of the answer.
    fn delete_image(&mut self, version: u32) -> u8 {
        let [a, b, c, d] = version.to_le_bytes();
        self.bench.ask(203, &[0x05, a, b, c, d])[1]
    }

    /// `DevRebootCountdownReq`, and the reboot.
    fn reboot(&mut self) {
        assert_eq!(self.bench.ask(203, &[0x03, 60, 0, 0]), [0x03, 60, 0, 0]);
        self.bench.now += SECOND * 70;
        self.bench.next_uplink();
    }

    fn fail_power(&mut self) {
        self.bench.device.reset(self.bench.now);
        self.bench.next_uplink();
    }

    /// The versions that run, in the order of [`OLD`].
    fn running(&self) -> [u32; 3] {
        [MAIN, RADIO, BOARD].map(|part| self.bench.device.running_version_of(part).unwrap())
    }

    fn log(&self) -> String {
        self.bench.device.log().to_string()
    }
}

fn good(version: u32) -> Vec<u8> {
    [&[0x04, 0x03][..], &version.to_le_bytes()].concat()
}

#[test]
fn images_of_two_parts_are_installed_by_one_reboot() {
    let mut update = Update::new(device());
    update.send(MAIN, &image(NEW[0]));
    assert_eq!(update.upgrade_image(), good(NEW[0]));
    let radio = image(NEW[1]);
    let fragments = update.set_up(0, [RADIO, 0, 0, 0], &radio);
    assert_eq!(update.upgrade_image(), good(NEW[0]), "still the last one");
    for fragment in &fragments {
        update.bench.tell(DEFAULT_F_PORT, fragment);
    }
    assert_eq!(update.upgrade_image(), good(NEW[1]));
    let next_firmware_version = NEW[1];
    let status = UpImageStatus::Valid {
        next_firmware_version,
    };
    let received = update.bench.device.image_received();
    assert_eq!(received, Some((radio.as_slice(), status)));
    assert_eq!(update.running(), OLD);
    update.reboot();
    assert_eq!(update.running(), [NEW[0], NEW[1], OLD[2]]);
    assert_eq!(update.bench.device.running_version(), NEW[0]);
    assert_eq!(update.bench.device.running_version_of(1), None);
    let mut versions = vec![0x01];
    versions.extend(NEW[0].to_le_bytes());
    versions.extend(1_u32.to_le_bytes());
    assert_eq!(update.bench.ask(203, &[0x01]), versions, "DevVersionAns");
    assert_eq!(update.upgrade_image(), [0x04, 0x00], "no image left");
}

#[test]
fn images_may_come_side_by_side_and_the_application_may_order_the_reboot() {
    let mut config = device();
    config.firmware.reboots_on = Some((10, vec![0xb0]));
    config.firmware.installs_by_itself = true;
    let mut update = Update::new(config);
    let images = [image(NEW[0]), image(NEW[1]), vec![0x55; 290]];
    let mut sessions = Vec::new();
    for (index, (part, image)) in (0..).zip([MAIN, RADIO, BOARD].into_iter().zip(&images)) {
        sessions.push(update.set_up(index, [part, 0, 0, 0], image));
    }
    let longest = sessions.iter().map(Vec::len).max().unwrap();
    for n in 0..longest {
        for fragment in sessions.iter().filter_map(|session| session.get(n)) {
            update.bench.tell(DEFAULT_F_PORT, fragment);
        }
    }
    update.bench.next_uplink();
    assert!(!update.log().contains("reboots"), "not by itself");
    update.bench.tell(10, &[0xb0]);
    update.bench.next_uplink();
    assert_eq!(update.running(), NEW, "{}", update.log());
}

#[test]
fn a_patch_applies_to_the_main_firmware_though_another_part_came_after_it() {
    let images = [OLD[0], NEW[0], 0x0201_0000].map(image);
    let patch = |from: usize| {
        let options = DeltaOptions::default();
        delta::make(&images[from], &images[from + 1], &options).unwrap()
    };
    let mut config = device();
    config.firmware.base_image = Some(images[0].clone().into());
    let mut update = Update::new(config);
    update.send(MAIN, &patch(0));
    update.send(RADIO, &image(NEW[1]));
    update.reboot();
    assert_eq!(update.running(), [NEW[0], NEW[1], OLD[2]]);
    update.send(MAIN, &patch(1));
    update.send(BOARD, &[0x55; 290]);
    update.reboot();
    assert_eq!(update.running(), [0x0201_0000, NEW[1], NEW[2]]);
}

#[test]
fn a_power_failure_installs_nothing_and_the_images_wait() {
    let mut update = Update::new(device());
    update.send(MAIN, &image(NEW[0]));
    update.fail_power();
    update.send(RADIO, &image(NEW[1]));
    // The order to reboot is lost with the power.
    assert_eq!(update.bench.ask(203, &[0x03, 60, 0, 0]), [0x03, 60, 0, 0]);
    update.fail_power();
    update.bench.now += SECOND * 70;
    update.bench.next_uplink();
    assert_eq!(update.running(), OLD);
    assert_eq!(update.upgrade_image(), good(NEW[1]));
    update.reboot();
    assert_eq!(update.running(), [NEW[0], NEW[1], OLD[2]]);
}

#[test]
fn a_device_of_one_part_installs_at_a_power_failure() {
    let mut config = device();
    config.firmware.parts.clear();
    let mut update = Update::new(config);
    // It does not look at the descriptor.
    update.send(RADIO, &image(NEW[0]));
    update.fail_power();
    assert_eq!(update.bench.device.running_version(), NEW[0]);
    assert_eq!(update.bench.device.running_version_of(RADIO), None);
}

#[test]
fn one_corrupt_image_keeps_all_from_being_installed() {
    let mut update = Update::new(device());
    update.send(RADIO, &corrupt(NEW[1]));
    assert_eq!(update.upgrade_image(), [0x04, 0x01]);
    update.send(MAIN, &image(NEW[0]));
    assert_eq!(update.upgrade_image(), good(NEW[0]));
    update.reboot();
    assert_eq!(update.running(), OLD, "{}", update.log());
    assert_eq!(update.upgrade_image(), good(NEW[0]), "it still waits");
    update.send(RADIO, &image(NEW[1]));
    update.reboot();
    assert_eq!(update.running(), [NEW[0], NEW[1], OLD[2]]);
}

#[test]
fn an_image_for_no_part_is_dropped_as_corrupt() {
    let mut update = Update::new(device());
    update.send(MAIN, &image(NEW[0]));
    update.send(9, &image(NEW[1]));
    assert_eq!(update.upgrade_image(), [0x04, 0x01]);
    assert_eq!(update.bench.device.image_received(), None);
    assert!(update.log().contains("there is no part 9"));
    update.reboot();
    assert_eq!(update.running(), [NEW[0], OLD[1], OLD[2]]);
}

#[test]
fn a_block_whose_bytes_nobody_kept_is_corrupt() {
    let mut config = device();
    config.payloads = Payloads::Counted { version: NEW[0] };
    let mut update = Update::new(config);
    update.send(MAIN, &image(NEW[0]));
    assert_eq!(update.upgrade_image(), [0x04, 0x01]);
}

#[test]
fn images_are_deleted_by_version() {
    let mut update = Update::new(device());
    assert_eq!(update.delete_image(NEW[0]), 0b01, "none is held");
    update.send(MAIN, &image(NEW[0]));
    update.send(RADIO, &image(NEW[1]));
    assert_eq!(update.delete_image(NEW[2]), 0b10, "none of that version");
    assert_eq!(update.delete_image(NEW[0]), 0);
    assert_eq!(
        update.upgrade_image(),
        good(NEW[1]),
        "the last one is there"
    );
    assert_eq!(update.delete_image(NEW[0]), 0b10);
    update.reboot();
    assert_eq!(update.running(), [OLD[0], NEW[1], OLD[2]]);
    // Two of one version go together.
    update.send(MAIN, &image(NEW[2]));
    update.send(BOARD, &[0x55; 290]);
    assert_eq!(update.delete_image(NEW[2]), 0);
    assert_eq!(update.upgrade_image(), [0x04, 0x00]);
    assert_eq!(update.delete_image(NEW[2]), 0b01);
}

#[test]
fn a_broken_boot_loader_leaves_a_part_out() {
    for (part, expected) in [
        (RADIO, [NEW[0], OLD[1], OLD[2]]),
        (MAIN, [OLD[0], NEW[1], OLD[2]]),
    ] {
        let mut config = device();
        config.firmware.leaves_out = Some(part);
        let mut update = Update::new(config);
        update.send(MAIN, &image(NEW[0]));
        update.send(RADIO, &image(NEW[1]));
        update.reboot();
        assert_eq!(update.running(), expected);
        assert_eq!(update.upgrade_image(), [0x04, 0x00]);
    }
}

#[test]
fn a_failed_self_test_puts_all_parts_back() {
    let mut config = device();
    config.firmware.rolls_back = true;
    let mut update = Update::new(config);
    update.send(MAIN, &image(NEW[0]));
    update.send(RADIO, &image(NEW[1]));
    update.reboot();
    assert_eq!(update.running(), OLD);
    assert_eq!(update.upgrade_image(), [0x04, 0x00]);
}

#[test]
fn uplinks_carry_the_version_of_each_part() {
    let mut update = Update::new(device());
    update.send(BOARD, &[0x55; 290]);
    update.reboot();
    let payload = update.bench.next_on(2).payload;
    let versions: Vec<u8> = [OLD[0], OLD[1], NEW[2]]
        .iter()
        .flat_map(|version| version.to_be_bytes())
        .collect();
    assert_eq!(payload[..12], versions);
    assert_eq!(payload.len(), 13, "and a count");
}

#[test]
fn what_a_short_uplink_does_not_hold_is_left_out() {
    // 11 bytes at DR0.
    let mut config = device();
    config.region = Region::Us915;
    config.uplinks = Uplinks::new(Region::Us915);
    config.uplinks.data_rate = 0;
    config.clock.offset_us = Some(0);
    config.clock.device_time_req = false;
    let mut bench = Bench::new(config, 1);
    let payload = bench.next_on(2).payload;
    assert_eq!(payload[..4], OLD[0].to_be_bytes());
    assert_eq!(payload[4..8], OLD[1].to_be_bytes());
    assert_eq!(payload.len(), 9);
}
