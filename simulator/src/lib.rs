//! Simulated LoRaWAN gateways and end-devices.
