//! Who is served when: the devices of a task divided into waves.

use std::collections::BTreeSet;

use crate::lorawan::identifiers::DevEui;
use crate::record::WavePolicy;

/// Divides devices into waves, none of them empty. Named canaries come first; the others in an order that has nothing
/// to do with their EUIs, so that each wave is a sample of the fleet, and that is the same each time.
pub(super) fn waves(policy: &WavePolicy, devices: &[DevEui]) -> Vec<Vec<DevEui>> {
    let canary: BTreeSet<DevEui> = policy.canary.iter().copied().collect();
    let (first, mut rest): (Vec<DevEui>, Vec<DevEui>) =
        devices.iter().partition(|dev_eui| canary.contains(dev_eui));
    rest.sort_by_key(|dev_eui| (scatter(dev_eui.0), *dev_eui));
    let mut served = first.len();
    let mut waves = vec![first];
    for percent in policy.cumulative_percent.iter().chain([&100]) {
        let until = (devices.len() * usize::from((*percent).min(100))).div_ceil(100);
        let size = until.saturating_sub(served).min(rest.len());
        served += size;
        waves.push(rest.drain(..size).collect());
    }
    waves.retain(|wave| !wave.is_empty());
    waves
}

/// Mixes the bits of an EUI: the finaliser of SplitMix64.
fn scatter(eui: u64) -> u64 {
    let mixed = (eui ^ (eui >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(count: u64) -> Vec<DevEui> {
        (1..=count).map(DevEui).collect()
    }

    #[test]
    fn without_a_policy_all_are_one_wave() {
        assert_eq!(waves(&WavePolicy::default(), &fleet(9))[0].len(), 9);
        assert_eq!(waves(&WavePolicy::default(), &[]).len(), 0);
    }

    #[test]
    fn named_canaries_come_first_and_shares_count_them() {
        let policy = WavePolicy {
            canary: vec![DevEui(7), DevEui(8), DevEui(4711)],
            cumulative_percent: vec![10, 50],
            ..WavePolicy::default()
        };
        let waves = waves(&policy, &fleet(100));
        let sizes: Vec<usize> = waves.iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 8, 40, 50]);
        assert_eq!(waves[0], [DevEui(7), DevEui(8)]);
    }

    #[test]
    fn every_device_is_in_one_wave_and_small_shares_are_at_least_one_device() {
        let policy = WavePolicy {
            cumulative_percent: vec![1, 1, 20, 100],
            ..WavePolicy::default()
        };
        for count in [1, 2, 3, 10, 57] {
            let waves = waves(&policy, &fleet(count));
            assert_eq!(waves[0].len(), 1);
            let mut all: Vec<DevEui> = waves.concat();
            all.sort_unstable();
            assert_eq!(all, fleet(count));
        }
    }

    #[test]
    fn neighbours_are_scattered() {
        let policy = WavePolicy {
            cumulative_percent: vec![10],
            ..WavePolicy::default()
        };
        let first = waves(&policy, &fleet(1000)).swap_remove(0);
        let low = first.iter().filter(|d| d.0 <= 500).count();
        assert!((35..=65).contains(&low), "{low}");
    }
}
