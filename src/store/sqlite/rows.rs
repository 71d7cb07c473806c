//! Between records and columns: JSON bodies, sealed bodies, names of states.

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::store::seal::Seal;
use crate::store::{Result, StoreError};

/// The body of a record.
pub(super) fn body<T: Serialize>(record: &T) -> Result<String> {
    serde_json::to_string(record).map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// A record from its body.
pub(super) fn parse<T: DeserializeOwned>(table: &str, key: &str, body: &str) -> Result<T> {
    serde_json::from_str(body)
        .map_err(|error| StoreError::Corrupt(format!("{table} {key}: {error}")))
}

/// The sealed body of a record with secrets.
pub(super) fn sealed<T: Serialize>(
    seal: &Seal,
    table: &str,
    key: &str,
    record: &T,
) -> Result<Vec<u8>> {
    let plain = serde_json::to_vec(record)
        .map(Zeroizing::new)
        .map_err(|_| StoreError::Corrupt(format!("{table} {key}: not writable")))?;
    Ok(seal.seal(table, key, &plain))
}

/// A record with secrets from its sealed body. The error tells nothing of what is inside.
pub(super) fn unsealed<T: DeserializeOwned>(
    seal: &Seal,
    table: &str,
    key: &str,
    sealed: &[u8],
) -> Result<T> {
    let plain = seal
        .open(table, key, sealed)
        .map_err(|_| StoreError::Corrupt(format!("{table} {key}: seal broken")))?;
    serde_json::from_slice(&plain)
        .map_err(|_| StoreError::Corrupt(format!("{table} {key}: not readable")))
}

/// The name of a variant without fields, as its column holds it.
pub(super) fn name<T: Serialize>(variant: &T) -> Result<String> {
    match serde_json::to_value(variant) {
        Ok(serde_json::Value::String(name)) => Ok(name),
        _ => Err(StoreError::Corrupt("variant without a name".to_owned())),
    }
}

/// A variant from its name.
pub(super) fn variant<T: DeserializeOwned>(table: &str, name: String) -> Result<T> {
    serde_json::from_value(serde_json::Value::String(name))
        .map_err(|error| StoreError::Corrupt(format!("{table}: {error}")))
}

/// An identifier from its text.
pub(super) fn identifier<T: std::str::FromStr>(table: &str, text: &str) -> Result<T> {
    text.parse()
        .map_err(|_| StoreError::Corrupt(format!("{table}: key {text}")))
}

/// The store did not answer, or not as it should.
pub(super) fn unavailable(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
