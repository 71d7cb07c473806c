//! How a stack reads the commands of a downlink: in order, and what it makes of one it cannot read.

use lorawan_fuota::lorawan::{DecodeError, Decoded};

use super::stack::Unreadable;

/// What was read of a downlink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Commands<T> {
    pub(super) commands: Vec<T>,
    /// Nothing in the frame is answered, though the commands are carried out.
    pub(super) loses_answers: bool,
    /// Why the rest was not read.
    pub(super) rest: Option<DecodeError>,
}

/// Reads `payload`. `decode` reads commands from the front of bytes, `encode` writes one back, which tells its length.
/// An identifier `skipped` is passed over without its payload.
pub(super) fn read_commands<T>(
    payload: &[u8],
    unreadable: Unreadable,
    skipped: Option<u8>,
    decode: impl Fn(&[u8]) -> Decoded<T>,
    encode: impl Fn(&T, &mut Vec<u8>),
) -> Commands<T> {
    let mut read = Commands {
        commands: Vec::new(),
        loses_answers: false,
        rest: None,
    };
    let mut left = payload;
    while let Some((&cid, behind)) = left.split_first() {
        if skipped == Some(cid) {
            left = behind;
            continue;
        }
        let decoded = decode(left);
        if let Some(command) = decoded.commands.into_iter().next() {
            let mut bytes = Vec::new();
            encode(&command, &mut bytes);
            left = left.get(bytes.len().max(1)..).unwrap_or_default();
            read.commands.push(command);
            continue;
        }
        match (unreadable, decoded.rest) {
            (Unreadable::SkipsByte, Some(DecodeError::UnknownCommand { .. })) => left = behind,
            (_, rest) => {
                read.loses_answers = unreadable == Unreadable::LosesAnswers;
                read.rest = rest;
                break;
            }
        }
    }
    read
}
