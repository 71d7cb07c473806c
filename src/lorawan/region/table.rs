//! What the `lrwn` crate says of each region, looked up once, because its look-ups allocate, and put right where it
//! errs.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use lrwn::region::{DataRateModulation, MacVersion, Revision};

use super::super::airtime::{Bandwidth, DataRate, SpreadingFactor};
use super::{MAX_DR, Region, UplinkChannel};

/// A data rate in one direction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) data_rate: DataRate,
    /// N, in bytes; 0 if nothing fits.
    pub(super) max_payload: u8,
}

/// A region with one setting of its dwell time.
pub(super) struct Table {
    pub(super) foreign: Box<dyn lrwn::region::Region + Sync + Send>,
    pub(super) uplink: [Option<Row>; MAX_DR as usize + 1],
    pub(super) downlink: [Option<Row>; MAX_DR as usize + 1],
    pub(super) uplink_channels: Vec<UplinkChannel>,
    pub(super) rx2: (u32, u8),
    pub(super) rx1_delay_us: u32,
    pub(super) join_accept_delays_us: (u32, u32),
}

static TABLES: LazyLock<BTreeMap<(Region, bool), Table>> = LazyLock::new(|| {
    let keys = Region::ALL
        .into_iter()
        .flat_map(|region| [(region, false), (region, true)]);
    keys.map(|(region, dwell_400ms)| ((region, dwell_400ms), Table::new(region, dwell_400ms)))
        .collect()
});

impl Table {
    pub(super) fn of(region: Region, dwell_400ms: bool) -> &'static Self {
        TABLES
            .get(&(region, dwell_400ms))
            .expect("every region has a table for either dwell time")
    }

    fn new(region: Region, dwell_400ms: bool) -> Self {
        let foreign = lrwn::region::get(region.common_name(), false, dwell_400ms);
        let mut uplink = [None; MAX_DR as usize + 1];
        let mut downlink = uplink;
        for dr in 0..=MAX_DR {
            let Ok(modulation) = foreign.get_data_rate(dr) else {
                continue;
            };
            let Some(row) = row(region, foreign.as_ref(), dr, &modulation) else {
                continue;
            };
            // The crate tells a direction only by whether it finds the index again.
            for (is_uplink, rows) in [(true, &mut uplink), (false, &mut downlink)] {
                if foreign
                    .get_data_rate_index(is_uplink, &modulation)
                    .is_ok_and(|found| found == dr)
                {
                    rows[usize::from(dr)] = Some(row);
                }
            }
        }
        let defaults = foreign.get_defaults();
        Self {
            uplink,
            downlink,
            uplink_channels: uplink_channels(foreign.as_ref()),
            rx2: (defaults.rx2_frequency, defaults.rx2_dr),
            rx1_delay_us: micros(defaults.rx1_delay),
            join_accept_delays_us: (
                micros(defaults.join_accept_delay1),
                micros(defaults.join_accept_delay2),
            ),
            foreign,
        }
    }
}

fn row(
    region: Region,
    foreign: &(dyn lrwn::region::Region + Sync + Send),
    dr: u8,
    modulation: &DataRateModulation,
) -> Option<Row> {
    let data_rate = match modulation {
        DataRateModulation::Lora(lora) => DataRate::lora(
            SpreadingFactor::from_bits(lora.spreading_factor)?,
            Bandwidth::from_khz(lora.bandwidth / 1000)?,
        ),
        DataRateModulation::Fsk(_) => DataRate::Fsk50,
        DataRateModulation::LrFhss(_) => return None,
    };
    let sizes = foreign
        .get_max_payload_size(MacVersion::LORAWAN_1_0_4, Revision::RP002_1_0_4, dr)
        .ok()?;
    let max_payload = match (region, dr) {
        // The crate says 222 beside M = 250: a slip, since N is M - 8.
        (Region::Eu868, 4) | (Region::Au915, 10) => 242,
        _ => u8::try_from(sizes.n).ok()?,
    };
    Some(Row {
        data_rate,
        max_payload,
    })
}

fn uplink_channels(foreign: &(dyn lrwn::region::Region + Sync + Send)) -> Vec<UplinkChannel> {
    let indices = foreign.get_default_uplink_channel_indices().into_iter();
    let channels = indices.filter_map(|index| foreign.get_uplink_channel(index).ok());
    channels
        .map(|channel| UplinkChannel {
            frequency_hz: channel.frequency,
            min_dr: channel.min_dr,
            max_dr: channel.max_dr,
        })
        .collect()
}

fn micros(delay: Duration) -> u32 {
    u32::try_from(delay.as_micros()).expect("delays of the regional parameters are seconds")
}
