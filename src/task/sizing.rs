//! The figures that plan and campaign share: fragments, rounds, windows, and how long things take on air.
//!
//! Every formula says where it comes from; nothing here depends on the state of a device.

use std::time::Duration;

use crate::erasure::{BlockLayout, BlockSize, ParameterError, reed_solomon};
use crate::lorawan::airtime::MAC_OVERHEAD;
use crate::lorawan::class_b::{self, PingSlotPeriodicity};
use crate::lorawan::frame::Direction;
use crate::lorawan::multicast_setup;
use crate::lorawan::region::Region;
use crate::record::{DeviceClass, DeviceProfile, FragAlgo, StatusInterpretation};
use crate::time::Timestamp;

/// Bytes a `DataFragment` adds to its fragment: CID and `Index&N` (TS004-2.0.0 §3.6).
pub const DATA_FRAGMENT_OVERHEAD: u8 = 3;
/// Largest `N` of a fragment: 14 bits (TS004-2.0.0 §3.6).
pub const MAX_N: u16 = 16_383;
/// Between two frames of one gateway: what the usual just-in-time queue keeps between timed frames.
pub const FRAME_GAP: Duration = Duration::from_micros(43_500);
/// Before a class B window, so that devices find a beacon and miss one or two: three beacon periods. LoRa Basics Modem
/// starts to look for them 256 s before.
pub const BEACON_LOCK: Duration = class_b::BEACON_PERIOD.saturating_mul(3);
/// From one fragment to the next of a class A device that is told that more waits: two windows, an empty uplink, and
/// the rest its duty cycle wants.
pub const CLASS_A_SPACING: Duration = Duration::from_secs(10);
/// After `SessionTime` before the first frame: devices' clocks are good to a second or two.
pub const WINDOW_GUARD: Duration = Duration::from_secs(2);
/// Beyond 2^(BlockAckDelay+4): processing on the device, air time and the way to the server.
pub const ANSWER_SLACK: Duration = Duration::from_millis(3500);
/// Coded fragments no budget counts: small blocks need several receptions more than they lost.
pub const FREE_CODED: u32 = 16;
/// Loss assumed of a fleet nobody has measured yet, permille.
pub const UNKNOWN_LOSS_PERMILLE: u16 = 20;
/// Receptions beyond the number lost until random rows have full rank, in the mean.
pub const MEAN_EXTRA: f64 = 1.6;

/// Splits an image of `length` bytes into fragments of at most `largest` bytes, and avoids the block sizes whose matrix
/// columns hardly differ (multiples of 64 that are no power of two).
pub fn layout(length: usize, largest: u8) -> Result<BlockLayout, ParameterError> {
    let first = BlockLayout::new(length, largest)?;
    // One byte less per fragment nearly always changes NbFrag; a few suffice.
    let candidates = (1..=largest)
        .rev()
        .take(8)
        .filter_map(|size| BlockLayout::new(length, size).ok());
    Ok(candidates
        .into_iter()
        .find(|l| !matches!(BlockSize::of(l.nb_frag), BlockSize::Weak))
        .unwrap_or(first))
}

/// Largest fragment a data rate carries; `None` where the rate does not exist or is too slow for any.
pub fn largest_fragment(region: Region, data_rate: u8) -> Option<u8> {
    let n = region.max_payload(data_rate, Direction::Downlink, false)?;
    n.checked_sub(DATA_FRAGMENT_OVERHEAD)
        .filter(|size| *size > 0)
}

/// Time on air of a frame with an application payload of `payload` bytes; `None` where the rate does not exist.
pub fn frame_airtime(region: Region, data_rate: u8, payload: usize) -> Option<Duration> {
    let rate = region.data_rate(data_rate, Direction::Downlink)?;
    let length = u8::try_from(payload.saturating_add(usize::from(MAC_OVERHEAD))).ok()?;
    Some(Duration::from_micros(u64::from(
        rate.time_on_air_us(length, Direction::Downlink),
    )))
}

/// Coded fragments to send right after the uncoded pass, before anything is asked: what the median device needs, if the
/// loss is as estimated. The estimate is worse than any answer, and what is sent too much cannot be taken back.
pub fn first_coded(frag_algo: FragAlgo, nb_frag: u16, loss_permille: u16) -> u16 {
    let p = (f64::from(loss_permille) / 1000.0).clamp(0.0, 0.9);
    let lost = (f64::from(nb_frag) * p).round();
    if lost < 1.0 {
        return 0;
    }
    let extra = match frag_algo {
        FragAlgo::Ts004 => MEAN_EXTRA,
        FragAlgo::ReedSolomon => 0.0,
    };
    ceil_u16((lost + extra) / (1.0 - p))
}

/// Coded fragments after which every block has been helped alike: rounds are whole turns.
pub fn turn(frag_algo: FragAlgo, nb_frag: u16) -> u16 {
    match frag_algo {
        FragAlgo::Ts004 => 1,
        FragAlgo::ReedSolomon => reed_solomon::blocks(nb_frag),
    }
}

/// Loss of one downlink, permille, from commands sent and answers heard. Where several gateways hear the uplinks,
/// hardly any is lost and all loss is the downlinks'; else both are taken to be lost alike. Few exchanges say little,
/// and count with a few of the usual loss.
pub fn loss_of_exchanges(sends: u32, answers: u32, several_gateways: bool) -> u16 {
    const DOUBT: f64 = 5.0;
    let usual = 1.0 - f64::from(UNKNOWN_LOSS_PERMILLE) / 1000.0;
    let (sends, answers) = (f64::from(sends), f64::from(answers.min(sends)));
    let exponent = if several_gateways { 1.0 } else { 0.5 };
    let share = (answers + DOUBT * usual.powf(1.0 / exponent)) / (sends + DOUBT);
    ceil_u16((1.0 - share.powf(exponent)) * 1000.0).min(900)
}

/// Most coded fragments a session may send: a share of `NbFrag` and [`FREE_CODED`] more, and no further than `N`
/// reaches.
pub fn coded_budget(nb_frag: u16, max_redundancy_percent: u16) -> u16 {
    let share = u32::from(nb_frag) * u32::from(max_redundancy_percent) / 100 + FREE_CODED;
    u16::try_from(share)
        .unwrap_or(u16::MAX)
        .min(MAX_N.saturating_sub(nb_frag))
}

/// Coded fragments a device still needs on air: a random figure, taken as normal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Need {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub deviation: f64,
}

impl Need {
    /// What a device with this rank deficit needs when it loses the share `loss` (0..1): as many receptions as it is
    /// short of and a few for rows that tell it nothing new, each of which takes `1 / (1 - loss)` frames in the mean.
    pub fn of(deficit: u16, loss: f64) -> Self {
        let p = loss.clamp(0.0, 0.95);
        let receptions = f64::from(deficit) + MEAN_EXTRA - 1.0;
        Self {
            mean: receptions / (1.0 - p),
            deviation: (receptions * p + EXTRA_VARIANCE).sqrt() / (1.0 - p),
        }
    }

    /// Probability that `frames` are enough.
    fn met_by(self, frames: f64) -> f64 {
        normal_cdf((frames + 0.5 - self.mean) / self.deviation)
    }
}

/// Coded fragments of the next round, for devices that need these.
///
/// A frame too many is lost air; a round too short costs another poll, worth `poll_cost` frames. So frames are added
/// as long as the next one is the last one needed with a chance above `1 / poll_cost`, given that it is not one too
/// many. The chance falls with every frame, because the normal distribution is log-concave.
pub fn round_size(needs: &[Need], poll_cost: f64) -> u16 {
    let least = needs
        .iter()
        .map(|need| need.mean - SURELY_NEEDED * need.deviation);
    let most = needs
        .iter()
        .map(|need| need.mean + SURELY_NEEDED * need.deviation);
    let (least, most) = (
        ceil_u16(least.fold(1.0, f64::max)),
        ceil_u16(most.fold(1.0, f64::max)),
    );
    let ln_done = |frames: u16| -> f64 {
        let met = needs.iter().map(|need| need.met_by(f64::from(frames)));
        met.map(|chance| chance.max(f64::MIN_POSITIVE).ln()).sum()
    };
    let mut before = ln_done(least);
    for frames in least..most {
        let after = ln_done(frames + 1);
        if (after - before) * poll_cost < 1.0 {
            return frames;
        }
        before = after;
    }
    most
}

/// Standard deviations below its mean up to which a need is taken as sure.
const SURELY_NEEDED: f64 = 3.0;
/// Variance of the receptions that random rows need beyond the deficit.
const EXTRA_VARIANCE: f64 = 2.0;

/// The standard normal distribution; Abramowitz and Stegun 7.1.26, good to 1e-7.
fn normal_cdf(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let poly = t
        * (0.254_829_592
            + t * (-0.284_496_736
                + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    let tail = 0.5 * poly * (-x * x).exp();
    if z < 0.0 { tail } else { 1.0 - tail }
}

/// Coded fragments of a round of the Reed-Solomon code with `blocks` blocks, in whole turns. Any fragment of a block
/// helps it, but the sender does not know which blocks lack what: every block gets as many as the one that lacks most
/// can be expected to need. `lacking` is what is missing in the mean, summed over the blocks, less what came in excess:
/// it may be negative. `lost` is what fell into the blocks at random and made them differ.
pub fn repair_frames_in_turns(
    blocks: u16,
    lacking: i32,
    lost: u16,
    loss: f64,
    deviations: f64,
) -> u16 {
    let p = loss.clamp(0.0, 0.95);
    let (count, lacking) = (f64::from(blocks.max(1)), f64::from(lacking));
    let lost = f64::from(lost).max(lacking).max(1.0);
    let worst = lacking / count + largest_of(count) * (lost / count).sqrt();
    let worst = worst.clamp(1.0, lost).ceil();
    let spread = (worst * p).sqrt() / (1.0 - p);
    let turns = ceil_u16(worst / (1.0 - p) + deviations * spread);
    turns.saturating_mul(blocks.max(1))
}

/// Standard deviations by which the largest of `n` normal variables exceeds the mean, in the mean. Good to 0.1 up to
/// 128, the most blocks there are.
fn largest_of(n: f64) -> f64 {
    if n < 2.0 {
        return 0.0;
    }
    (2.0 * n.ln()).sqrt() - 0.6
}

/// Fragments after which devices with these losses (0..1) are all complete with the probability `chance` (0..1).
pub fn frames_until(frag_algo: FragAlgo, nb_frag: u16, losses: &[f64], chance: f64) -> u32 {
    let mut sorted = losses.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mut alike: Vec<(f64, u32)> = Vec::new();
    for loss in sorted {
        match alike.last_mut() {
            Some((last, count)) if (loss - *last).abs() < 1e-4 => *count += 1,
            _ => alike.push((loss, 1)),
        }
    }
    let done = |frames: u32| -> f64 {
        let each = alike.iter().map(|(loss, count)| {
            let met = complete_within(frag_algo, nb_frag, *loss, frames);
            f64::from(*count) * met.max(f64::MIN_POSITIVE).ln()
        });
        each.sum()
    };
    let wanted = chance.clamp(1e-6, 1.0 - 1e-6).ln();
    let (mut low, mut high) = (u32::from(nb_frag), u32::from(nb_frag) * 24 + 400);
    while low < high {
        let middle = low.midpoint(high);
        if done(middle) < wanted {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// Probability that a device with this loss (0..1) has put the block together after `frames` fragments. As many have to
/// arrive as the block has, and a few more that tell nothing new; with several blocks, each of them.
pub fn complete_within(frag_algo: FragAlgo, nb_frag: u16, loss: f64, frames: u32) -> f64 {
    let p = loss.clamp(0.0, 0.95);
    if p <= 0.0 {
        return if frames >= u32::from(nb_frag) {
            1.0
        } else {
            0.0
        };
    }
    let (blocks, extra) = match frag_algo {
        FragAlgo::Ts004 => (1, MEAN_EXTRA),
        FragAlgo::ReedSolomon => (reed_solomon::blocks(nb_frag).max(1), 0.0),
    };
    let m = f64::from(nb_frag) / f64::from(blocks);
    let sent = f64::from(frames) / f64::from(blocks);
    // Without a loss the uncoded fragments are enough, and no row is wasted.
    let lossless = (1.0 - p).powf(m);
    let whole = if sent >= m { lossless } else { 0.0 };
    let mean = m / (1.0 - p) + extra;
    let variance = m * p + extra.min(1.0) * EXTRA_VARIANCE;
    let deviation = variance.sqrt() / (1.0 - p);
    let met = normal_cdf((sent + 0.5 - mean) / deviation);
    met.max(whole).powi(i32::from(blocks))
}

/// `TimeOut` of a window of at least `length`: the smallest n with 2^n seconds (class C) or beacon periods (class B),
/// at most 15 (TS005-2.0.0 §3.5, §3.6).
pub fn time_out(class: DeviceClass, length: Duration) -> u8 {
    let lasts = match class {
        DeviceClass::B => multicast_setup::class_b_session_length_max,
        DeviceClass::A | DeviceClass::C => multicast_setup::class_c_session_length_max,
    };
    (0..15u8).find(|n| lasts(*n) >= length).unwrap_or(15)
}

/// The first moment, not before `start`, at which a window of a class can open.
pub fn window_at(class: DeviceClass, start: Timestamp) -> Timestamp {
    match class {
        DeviceClass::B => class_b::ceil_beacon_start(start.to_gps()).to_unix(),
        DeviceClass::A | DeviceClass::C => start.ceil_gps_second(),
    }
}

/// When a window may open for devices that are set up at `set_up`: at a whole GPS second in class C; in class B with a
/// beacon, late enough for the devices to have found some before ([`BEACON_LOCK`]).
pub fn window_opens(class: DeviceClass, set_up: Timestamp) -> Timestamp {
    match class {
        DeviceClass::B => window_at(class, set_up + BEACON_LOCK),
        DeviceClass::A | DeviceClass::C => window_at(class, set_up),
    }
}

/// From one frame of a class B group to the next, in the mean: every slot that a frame of `airtime` leaves free is
/// used, unless the duty cycle wants more time (`interval`).
pub fn ping_interval(
    periodicity: PingSlotPeriodicity,
    airtime: Duration,
    interval: Duration,
) -> Duration {
    let period = class_b::PING_SLOT_LENGTH * u32::from(periodicity.ping_period());
    let slots = (airtime + FRAME_GAP)
        .as_micros()
        .div_ceil(period.as_micros());
    let slots = u32::try_from(slots).unwrap_or(u32::MAX);
    (class_b::BEACON_PERIOD / u32::from(periodicity.ping_nb()) * slots).max(interval)
}

/// How often a class B group should listen: as seldom as does not slow its frames down. A little slower is worth a
/// device that sleeps twice as long.
pub fn ping_periodicity(airtime: Duration, interval: Duration) -> PingSlotPeriodicity {
    let enough = ping_interval(PingSlotPeriodicity::default(), airtime, interval).mul_f64(1.05);
    (0..=7u8)
        .rev()
        .filter_map(|number| PingSlotPeriodicity::try_from(number).ok())
        .find(|periodicity| ping_interval(*periodicity, airtime, interval) <= enough)
        .unwrap_or_default()
}

/// `BlockAckDelay` that lets `devices` answers of `airtime` each share the air with at most a tenth of it in use.
pub fn block_ack_delay(devices: usize, airtime: Duration) -> u8 {
    let needed = airtime
        .saturating_mul(u32::try_from(devices).unwrap_or(u32::MAX))
        .saturating_mul(10)
        / CHANNELS;
    (0..7u8)
        .find(|delay| Duration::from_secs(16 << delay) >= needed)
        .unwrap_or(7)
}

/// Uplink channels that answers spread over: the fewest any region has in use.
const CHANNELS: u32 = 3;

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the range just before"
)]
fn ceil_u16(value: f64) -> u16 {
    value.ceil().clamp(0.0, f64::from(u16::MAX)) as u16
}

/// Fragmentation sessions that are worth something on a device at once. Stacks that do not follow the book have one
/// decoder for all of them, and one refuses an index while another is taken; a set-up of the same index always replaces
/// what is there.
pub fn frag_sessions_at_once(profile: &DeviceProfile) -> u8 {
    match profile.status_interpretation {
        StatusInterpretation::Spec => profile.limits.max_frag_sessions,
        StatusInterpretation::LoramacNode
        | StatusInterpretation::LoraBasicsModem
        | StatusInterpretation::Zephyr => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_avoids_weak_block_sizes() {
        // 48 KiB in 64-byte fragments would be 768 of them.
        let layout = layout(49_152, 64).unwrap();
        assert_ne!(layout.nb_frag, 768);
        assert_eq!(layout.length(), 49_152);
    }

    #[test]
    fn a_layout_keeps_a_good_size() {
        assert_eq!(layout(20_000, 239).unwrap().nb_frag, 84);
    }

    #[test]
    fn time_out_covers_the_window() {
        let class_c = |seconds| time_out(DeviceClass::C, Duration::from_secs(seconds));
        let class_b = |seconds| time_out(DeviceClass::B, Duration::from_secs(seconds));
        assert_eq!([1, 100, 128, 1 << 20].map(class_c), [0, 7, 7, 15]);
        assert_eq!([1, 128, 129, 1 << 30].map(class_b), [0, 0, 1, 15]);
    }

    #[test]
    fn class_b_windows_open_with_a_beacon() {
        let set_up = Timestamp::from_unix_seconds(1_700_000_001);
        let opens = window_opens(DeviceClass::B, set_up);
        assert_eq!(opens.to_gps().seconds() % 128, 0);
        assert!(opens >= set_up + BEACON_LOCK);
        assert!(opens < set_up + BEACON_LOCK + class_b::BEACON_PERIOD);
    }

    /// Published figures for EU868: a frame every 3.94 s at DR5 wants 32 slots, one every 27.9 s at DR0 four.
    #[test]
    fn groups_listen_as_seldom_as_they_can() {
        let millis = Duration::from_millis;
        let number = |airtime| ping_periodicity(millis(airtime), millis(airtime * 10)).number();
        assert_eq!([394, 2_790].map(number), [2, 4]);
        // Without a duty cycle every slot counts, and the beacons take their part.
        let fast = ping_periodicity(millis(200), millis(243));
        assert_eq!(fast.number(), 0);
        assert_eq!(ping_interval(fast, millis(200), millis(243)), millis(1_000));
        assert_eq!(
            ping_interval(fast, millis(1_500), millis(1_543)),
            millis(2_000)
        );
    }

    #[test]
    fn set_up_shows_the_loss() {
        let permille = loss_of_exchanges(100, 81, false);
        assert!((90..=105).contains(&permille), "{permille}");
        assert!((150..=195).contains(&loss_of_exchanges(100, 81, true)));
        assert!(loss_of_exchanges(0, 0, false) <= UNKNOWN_LOSS_PERMILLE + 1);
    }

    #[test]
    fn a_round_is_about_the_deficit_when_nothing_is_lost() {
        let one = round_size(&[Need::of(5, 0.0)], 10.0);
        assert!((5..=8).contains(&one), "{one}");
        assert!(round_size(&[Need::of(5, 0.5)], 10.0) > one);
    }

    #[test]
    fn dear_polls_make_longer_rounds() {
        let needs = [Need::of(100, 0.3), Need::of(90, 0.3)];
        let sizes: Vec<u16> = [1.0, 4.0, 16.0, 256.0]
            .iter()
            .map(|cost| round_size(&needs, *cost))
            .collect();
        assert!(sizes.is_sorted(), "{sizes:?}");
        assert!(sizes[0] < 143 && sizes[3] > 150, "{sizes:?}");
    }

    #[test]
    fn many_devices_need_more_than_one() {
        let one = round_size(&[Need::of(50, 0.1)], 8.0);
        let many = round_size(&[Need::of(50, 0.1); 500], 8.0);
        assert!(many > one + 3, "{one} {many}");
    }

    #[test]
    fn the_median_device_sets_the_first_coded_fragments() {
        assert_eq!(first_coded(FragAlgo::Ts004, 500, 0), 0);
        assert_eq!(first_coded(FragAlgo::Ts004, 20, 10), 0);
        assert_eq!(first_coded(FragAlgo::Ts004, 500, 100), 58);
    }

    fn range(frag_algo: FragAlgo, nb_frag: u16, loss: f64, devices: usize) -> (u32, u32, u32) {
        let losses = vec![loss; devices];
        let at = |chance| frames_until(frag_algo, nb_frag, &losses, chance);
        (at(0.05), at(0.5), at(0.95))
    }

    /// Against computed bounds with perfect feedback: mean frames until all of so many devices are complete.
    #[test]
    fn forecast_brackets_the_computed_bound() {
        for (nb_frag, loss, devices, bound) in [
            (500, 0.01, 1, 507),
            (500, 0.01, 100, 516),
            (500, 0.1, 1, 557),
            (500, 0.1, 100, 579),
            (500, 0.1, 1000, 586),
            (500, 0.3, 100, 763),
            (500, 0.5, 1000, 1111),
            (5000, 0.1, 100, 5621),
        ] {
            let (low, middle, high) = range(FragAlgo::Ts004, nb_frag, loss, devices);
            // Where few are lost, the tail is longer than that of the normal distribution.
            let near = low <= bound && bound <= high + bound / 200;
            assert!(near, "{bound}: {low} {middle} {high}");
            assert!(
                middle.abs_diff(bound) <= 4 + bound / 100,
                "{bound}: {middle}"
            );
        }
        assert_eq!(range(FragAlgo::Ts004, 500, 0.0, 100), (500, 500, 500));
    }

    /// Against the figures that `docs/coding.md` has from simulated receivers.
    #[test]
    fn blocks_are_forecast_as_they_were_measured() {
        for (nb_frag, loss, measured) in [
            (100, 0.1, 111),
            (200, 0.3, 293),
            (500, 0.1, 571),
            (1000, 0.1, 1152),
            (1000, 0.3, 1525),
        ] {
            let (low, _, high) = range(FragAlgo::ReedSolomon, nb_frag, loss, 1);
            assert!(
                low <= measured && measured <= high,
                "{low} {measured} {high}"
            );
        }
    }

    #[test]
    fn blocks_are_repaired_in_whole_turns() {
        assert_eq!(turn(FragAlgo::Ts004, 1000), 1);
        assert_eq!(turn(FragAlgo::ReedSolomon, 1000), 8);
        // One block: exactly what it lacks.
        assert_eq!(repair_frames_in_turns(1, 5, 5, 0.0, 1.0), 5);
        assert_eq!(repair_frames_in_turns(1, 0, 0, 0.0, 1.0), 1);
        // A single missing fragment is in one of eight blocks.
        assert_eq!(repair_frames_in_turns(8, 1, 1, 0.0, 0.0), 8);
        // 100 lost over eight blocks: some block lost about 18 of them.
        assert_eq!(repair_frames_in_turns(8, 100, 100, 0.0, 0.0), 8 * 18);
        // By count nothing is missing, but the 100 lost fell unevenly.
        let by_count = repair_frames_in_turns(8, 0, 100, 0.0, 0.0);
        assert!((3 * 8..8 * 8).contains(&by_count), "{by_count}");
        // Many more came since: hardly any block can lack anything.
        assert_eq!(repair_frames_in_turns(8, -40, 100, 0.0, 0.0), 8);
        let most = repair_frames_in_turns(128, 65_535, 65_535, 0.9, 1.0);
        assert_eq!(most, u16::MAX);
    }
}
