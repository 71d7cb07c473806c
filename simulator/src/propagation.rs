//! From positions to links: path loss over distance, noise, and the share of frames lost at a signal-to-noise ratio.
//!
//! PURE. Three steps, each a textbook formula:
//!
//! 1. **Path loss** is log-distance with shadowing: `PL(d) = PL(d0) + 10 n log10(d / d0) + X`, X normal with mean 0,
//!    drawn once for each link (Rappaport, Wireless Communications, §4.9). The default numbers were measured for LoRa
//!    at 868 MHz in and around Oulu: 128.95 dB at 1 km, n = 2.32, sigma = 7.8 dB (Petäjäjärvi and others,
//!    "On the coverage of LPWANs", ITST 2015).
//! 2. **Noise** is thermal: `-174 dBm + 10 log10(bandwidth) + noise figure`. What comes in less noise is the
//!    signal-to-noise ratio.
//! 3. **Loss**: a LoRa demodulator needs [`demodulation_floor_db`]; the data sheets state it for 1 % of frames lost
//!    (Semtech SX1276 §3.5, AN1200.22). Beneath it loss rises within few dB. The curve is a logistic one with 1 % at
//!    the floor and one half 2 dB beneath; fading from frame to frame (sigma in dB) widens it as if the signal-to-noise
//!    ratio of each frame were drawn anew, with the logistic distribution in the place of the normal one.

use lorawan_fuota::lorawan::airtime::{DataRate, SpreadingFactor};

use crate::random::Random;

/// Thermal noise of one hertz at 290 K, in dBm.
const NOISE_DBM_PER_HZ: f64 = -174.0;
/// From the floor (1 % lost) down to where half of the frames are lost, in dB.
const HALF_LOST_BENEATH_DB: f64 = 2.0;
/// Scale of the curve without fading: `2 dB / ln 99`, which puts 1 % at the floor.
const STEEPNESS_DB: f64 = 0.435;
/// A logistic distribution of scale 1 is as wide as a normal one with this sigma: `pi / sqrt(3)`.
const LOGISTIC_SIGMA: f64 = 1.814;
/// More is lost than this: the receiver does not even notice the frame.
const INAUDIBLE: f64 = 0.99;
/// Receivers do not report more, in dB.
const SNR_REPORTED_MAX_DB: f64 = 12.0;
/// Nobody is nearer to an antenna, in metres.
const DISTANCE_MIN_M: f64 = 1.0;

/// How a signal weakens with distance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PathLoss {
    /// Loss at the reference distance, in dB.
    pub reference_db: f64,
    /// The reference distance, in metres.
    pub reference_m: f64,
    /// n: 2 in free space, 2.3 to 4 between houses.
    pub exponent: f64,
    /// Sigma of what obstacles add or take, in dB; drawn for each link.
    pub shadowing_db: f64,
}

impl Default for PathLoss {
    /// As measured at 868 MHz in and around Oulu.
    fn default() -> Self {
        Self {
            reference_db: 128.95,
            reference_m: 1000.0,
            exponent: 2.32,
            shadowing_db: 7.8,
        }
    }
}

impl PathLoss {
    /// The median loss over a distance in metres, in dB.
    pub fn median_db(&self, distance_m: f64) -> f64 {
        let ratio = distance_m.max(DISTANCE_MIN_M) / self.reference_m;
        self.reference_db + 10.0 * self.exponent * ratio.log10()
    }

    /// The loss of one link, with its own shadowing, in dB.
    pub fn drawn_db(&self, distance_m: f64, random: &mut Random) -> f64 {
        self.median_db(distance_m) + self.shadowing_db * normal(random)
    }
}

/// The budget of one link, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkBudget {
    /// From conducted power to received power: path, walls, shadowing, less the antennas' gains; dB.
    pub loss_db: f64,
    /// Noise figure of either receiver, dB.
    pub noise_figure_db: f64,
    /// Sigma of fading from frame to frame, dB.
    pub fading_db: f64,
}

impl LinkBudget {
    /// Strength at the receiver of what is sent with a conducted power in dBm, in dBm.
    pub fn rssi_dbm(&self, power_dbm: i8) -> f64 {
        f64::from(power_dbm) - self.loss_db
    }

    /// Signal-to-noise ratio at the receiver, in dB.
    pub fn snr_db(&self, power_dbm: i8, data_rate: DataRate) -> f64 {
        let noise = NOISE_DBM_PER_HZ
            + 10.0 * f64::from(data_rate.bandwidth_hz()).log10()
            + self.noise_figure_db;
        self.rssi_dbm(power_dbm) - noise
    }

    /// The signal-to-noise ratio as a receiver reports it: none reports very good ones.
    pub fn snr_reported_db(&self, power_dbm: i8, data_rate: DataRate) -> f64 {
        self.snr_db(power_dbm, data_rate).min(SNR_REPORTED_MAX_DB)
    }

    /// How far the signal is above what the demodulator needs, in dB.
    pub fn margin_db(&self, power_dbm: i8, data_rate: DataRate) -> f64 {
        self.snr_db(power_dbm, data_rate) - demodulation_floor_db(data_rate)
    }

    /// Share of frames lost, 0 to 1.
    pub fn frame_loss(&self, power_dbm: i8, data_rate: DataRate) -> f64 {
        let above_half = self.margin_db(power_dbm, data_rate) + HALF_LOST_BENEATH_DB;
        let scale = STEEPNESS_DB.hypot(self.fading_db / LOGISTIC_SIGMA);
        1.0 / (1.0 + (above_half / scale).exp())
    }

    /// The receiver notices such a frame, whether or not it can read it.
    pub fn is_audible(&self, power_dbm: i8, data_rate: DataRate) -> bool {
        self.frame_loss(power_dbm, data_rate) < INAUDIBLE
    }
}

/// The least signal-to-noise ratio a demodulator works at, in dB (Semtech SX1276 data sheet, table 13; SX126x for SF5).
pub fn demodulation_floor_db(data_rate: DataRate) -> f64 {
    let DataRate::Lora {
        spreading_factor, ..
    } = data_rate
    else {
        return 10.0;
    };
    match spreading_factor {
        SpreadingFactor::Sf5 => -2.5,
        SpreadingFactor::Sf6 => -5.0,
        SpreadingFactor::Sf7 => -7.5,
        SpreadingFactor::Sf8 => -10.0,
        SpreadingFactor::Sf9 => -12.5,
        SpreadingFactor::Sf10 => -15.0,
        SpreadingFactor::Sf11 => -17.5,
        SpreadingFactor::Sf12 => -20.0,
    }
}

/// A number from the standard normal distribution (Box and Muller 1958).
fn normal(random: &mut Random) -> f64 {
    let radius = (-2.0 * (1.0 - uniform(random)).ln()).sqrt();
    radius * (std::f64::consts::TAU * uniform(random)).cos()
}

/// A number from 0 to 1, 1 itself excluded.
pub fn uniform(random: &mut Random) -> f64 {
    let bits = u32::try_from(random.next_u64() >> 32).unwrap_or(u32::MAX);
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lorawan_fuota::lorawan::airtime::Bandwidth;

    const SF7: DataRate = DataRate::lora(SpreadingFactor::Sf7, Bandwidth::Khz125);
    const SF12: DataRate = DataRate::lora(SpreadingFactor::Sf12, Bandwidth::Khz125);

    /// A budget whose signal is so far above the floor of SF7, at 14 dBm.
    fn budget(margin_db: f64, fading_db: f64) -> LinkBudget {
        let noise_dbm = -174.0 + 10.0 * 125_000_f64.log10() + 6.0;
        LinkBudget {
            loss_db: 14.0 - (noise_dbm - 7.5 + margin_db),
            noise_figure_db: 6.0,
            fading_db,
        }
    }

    #[test]
    fn the_loss_at_the_floor_is_that_of_the_data_sheet() {
        let loss = |margin| budget(margin, 0.0).frame_loss(14, SF7);
        assert!((loss(0.0) - 0.01).abs() < 0.001, "{}", loss(0.0));
        assert!((loss(-2.0) - 0.5).abs() < 1e-9);
        assert!(loss(-5.0) > 0.99 && loss(3.0) < 1e-4);
        let faded = |margin| budget(margin, 4.0).frame_loss(14, SF7);
        assert!((0.2..0.35).contains(&faded(0.0)), "{}", faded(0.0));
        assert!((faded(-2.0) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn slow_rates_reach_further_and_wide_ones_less_far() {
        let link = budget(-8.0, 0.0);
        assert!(link.frame_loss(14, SF7) > 0.99);
        assert!(link.frame_loss(14, SF12) < 0.01);
        assert!(!link.is_audible(14, SF7) && link.is_audible(27, SF7));
        let wide = DataRate::lora(SpreadingFactor::Sf7, Bandwidth::Khz500);
        let lost = link.snr_db(14, SF7) - link.snr_db(14, wide);
        assert!((lost - 6.02).abs() < 0.01, "{lost}");
    }

    #[test]
    fn path_loss_grows_with_distance_and_shadowing_has_its_sigma() {
        let path = PathLoss::default();
        assert!((path.median_db(1000.0) - 128.95).abs() < 1e-9);
        let decade = path.median_db(10_000.0) - path.median_db(1000.0);
        assert!((decade - 23.2).abs() < 1e-9);
        let mut random = Random::new(1);
        let drawn: Vec<f64> = (0..20_000)
            .map(|_| path.drawn_db(1000.0, &mut random) - 128.95)
            .collect();
        let mean = drawn.iter().sum::<f64>() / 20_000.0;
        let sigma = (drawn.iter().map(|x| x * x).sum::<f64>() / 20_000.0).sqrt();
        assert!(
            mean.abs() < 0.2 && (sigma - 7.8).abs() < 0.2,
            "{mean} {sigma}"
        );
    }
}
