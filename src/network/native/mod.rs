//! Our own small network server: LoRaWAN 1.0.x behind plain gateways. PURE core; the transports are beside it.

mod gateway_message;

pub use gateway_message::{GatewayCommand, GatewayMessage, ReceivedFrame, TransmissionId, When};
