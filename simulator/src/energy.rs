//! What a device spends: its radio time and a power for each thing it does.
//!
//! PURE. The powers of [`PowerProfile::STM32WL55`] are fitted to public measurements (`calibration`), others are for
//! who knows their own hardware.

use std::time::Duration;

use crate::device::RadioTime;

/// Powers of a device, milliwatts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PowerProfile {
    /// All the time: processor, regulators, sensors.
    pub base_mw: f64,
    /// More while the radio receives or listens.
    pub receiving_mw: f64,
    /// More while it sends.
    pub sending_mw: f64,
}

impl PowerProfile {
    /// An STM32WL55 evaluation board at 3.3 V that sends with 14 dBm and whose processor never sleeps deeply.
    pub const STM32WL55: Self = Self {
        base_mw: 10.3,
        receiving_mw: 13.7,
        sending_mw: 80.0,
    };

    /// The radio alone, as data sheets of common transceivers have it: 5.3 mA and 25.5 mA at 3.3 V.
    pub const RADIO: Self = Self {
        base_mw: 0.0,
        receiving_mw: 17.5,
        sending_mw: 84.0,
    };

    /// Joules spent in `total`, of which the radio was on for `radio`.
    pub fn joules(&self, total: Duration, radio: RadioTime) -> f64 {
        let parts = [
            (self.base_mw, total),
            (self.receiving_mw, radio.receiving),
            (self.sending_mw, radio.sending),
        ];
        parts
            .iter()
            .map(|(mw, time)| mw * time.as_secs_f64())
            .sum::<f64>()
            / 1000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joules_are_power_times_time() {
        let power = PowerProfile {
            base_mw: 1.0,
            receiving_mw: 10.0,
            sending_mw: 100.0,
        };
        let radio = RadioTime {
            sending: Duration::from_secs(2),
            receiving: Duration::from_secs(30),
        };
        let joules = power.joules(Duration::from_secs(1000), radio);
        assert!((joules - 1.5).abs() < 1e-9, "{joules}");
    }
}
