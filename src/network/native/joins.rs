//! Joining (OTAA, LoRaWAN 1.0.x): a good join-request becomes a session and a join-accept in the receive windows.
//!
//! Nothing is random: the address is a hash, the nonce counts. A request that cannot be answered changes nothing.
//! LoRaWAN 1.0.4 §6.2.

use super::Native;
use super::air::Transmission;
use super::receive_windows::{join_openings, place};
use super::uplinks::HeardFrame;
use crate::lorawan::identifiers::{DevAddr, DevEui};
use crate::lorawan::join::{CfList, DlSettings, JoinAccept, JoinRequest, session_keys};
use crate::lorawan::region::Region;
use crate::network::NetworkEvent;
use crate::record::{Heard, Session};
use crate::time::Timestamp;

/// Length of a join-accept without and with a CFList.
const ACCEPT_LENGTHS: [u8; 2] = [17, 33];
/// The first value that is no JoinNonce any more.
const NONCE_END: u32 = 1 << 24;
/// How many addresses are tried for one that nobody has.
const ADDRESS_TRIES: u64 = 16;
/// Delay of RX1 given to devices, seconds.
const RX1_DELAY_S: u8 = 1;

impl Native {
    /// Takes a join-request in.
    pub(super) fn join_request(
        &mut self,
        now: Timestamp,
        request: &JoinRequest,
        heard: &HeardFrame,
    ) {
        let dev_eui = request.dev_eui;
        let Some((region, join)) = self
            .devices
            .get(dev_eui)
            .and_then(|device| Some((device.link.region, device.join.as_ref()?)))
            .filter(|(_, join)| join.join_eui == request.join_eui)
        else {
            self.counters.join_unknown += 1;
            return;
        };
        if !request.verify_mic(&join.app_key) {
            self.counters.join_wrong_mic += 1;
            return;
        }
        if join.dev_nonces.contains(&request.dev_nonce) {
            self.counters.join_replayed += 1;
            return;
        }
        let (app_key, join_nonce) = (join.app_key.clone(), join.next_join_nonce);
        let Some(data_rate) = heard.data_rate_index(region) else {
            self.counters.unknown_data_rate += 1;
            return;
        };
        let uplink = heard.uplink(data_rate);
        let (rx2_frequency_hz, rx2_dr) = region.rx2();
        let accept = JoinAccept {
            join_nonce,
            net_id: self.config.net_id & 0x00ff_ffff,
            dev_addr: self.allocate(dev_eui, join_nonce),
            dl_settings: DlSettings {
                rx1_dr_offset: 0,
                rx2_data_rate: rx2_dr,
            },
            rx_delay: RX1_DELAY_S,
            cf_list: self.cf_list(region),
        };
        let placement = place(
            &self.air,
            now,
            region,
            &uplink,
            &join_openings(region, &uplink),
            ACCEPT_LENGTHS[usize::from(accept.cf_list.is_some())],
            (now, Timestamp::from_micros(i64::MAX)),
        );
        let (Ok(placement), Ok(phy_payload), true) =
            (placement, accept.build(&app_key), join_nonce < NONCE_END)
        else {
            self.counters.join_unanswered += 1;
            return;
        };
        let (nwk_s_key, app_s_key) = session_keys(&app_key, &accept, request.dev_nonce);
        if let Some(join) = self.devices.join_mut(dev_eui) {
            join.next_join_nonce = join_nonce + 1;
            join.dev_nonces.insert(request.dev_nonce);
            join.last_dev_nonce = Some(request.dev_nonce);
        }
        self.devices.set_session(
            dev_eui,
            Session {
                dev_addr: accept.dev_addr,
                nwk_s_key,
                app_s_key,
                f_cnt_up: None,
                next_f_cnt_down: 0,
                rx1_delay_s: RX1_DELAY_S,
                rx1_dr_offset: 0,
                rx2_dr,
                rx2_frequency_hz,
                activated_at: uplink.received_at,
                imported: false,
            },
        );
        if let Some(device) = self.devices.get_mut(dev_eui) {
            device.heard_by.clone_from(&heard.receptions);
            device.silent_until = placement.start;
        }
        let transmission = Transmission {
            start: placement.start,
            when: placement.when,
            hand_over_at: now,
            mapped: false,
            phy_payload,
            report: None,
        };
        self.air
            .transmit(now, placement.gateway, &placement.emission, transmission);
        self.counters.joins += 1;
        self.events.push(NetworkEvent::Heard(Heard::Joined {
            dev_eui,
            at: uplink.received_at,
        }));
    }

    /// An address of the network's own that, if possible, nobody has. It may be shared: the MIC tells devices apart.
    fn allocate(&self, dev_eui: DevEui, join_nonce: u32) -> DevAddr {
        let address = |attempt: u64| {
            let seed = mix(dev_eui.0) ^ mix(u64::from(join_nonce) << 8 | attempt);
            let [a, b, c, d, ..] = mix(seed).to_le_bytes();
            self.config
                .dev_addr_prefix
                .address(u32::from_le_bytes([a, b, c, d]))
        };
        let free = |address: &DevAddr| {
            address.0 != 0
                && !self.devices.has_address(*address)
                && !self.groups.has_address(*address)
        };
        (0..ADDRESS_TRIES)
            .map(address)
            .find(free)
            .unwrap_or_else(|| address(0))
    }

    /// The channels of a gateway with eight of them, where a region has 64.
    fn cf_list(&self, region: Region) -> Option<CfList> {
        let sub_band = self
            .config
            .channel_sub_band
            .filter(|n| (1..=8).contains(n))?;
        if !matches!(region, Region::Us915 | Region::Au915) {
            return None;
        }
        let index = usize::from(sub_band - 1);
        let mut masks = [0; 6];
        masks[index / 2] = 0x00ff << (8 * (index % 2));
        masks[4] = 1 << index;
        Some(CfList::ChannelMasks(masks))
    }
}

/// A bijection that spreads its input over all bits (the finaliser of SplitMix64).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
