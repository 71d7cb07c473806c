//! Configuration of the server: defaults, then the file, then the environment, then flags. No file is needed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// `fuota serve`: everything has a default.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServeArgs {
    /// Configuration file (TOML); every key is the name of a flag with underscores.
    #[arg(long, env = "FUOTA_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it above the options")]
    pub options: Options,
    /// Print one JSON line with the ports and the process id once everything listens.
    #[arg(long)]
    pub print_ports: bool,
}

/// What can be configured, each given or not.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Where the gRPC API listens. Not a loopback address only with TLS and a token. [default: 127.0.0.1:50051]
    #[arg(long, env = "FUOTA_GRPC", value_name = "ADDR")]
    pub grpc: Option<SocketAddr>,
    /// Where gateways send to (Semtech UDP, version 2). [default: 0.0.0.0:1700]
    #[arg(long, env = "FUOTA_UDP", value_name = "ADDR")]
    pub udp: Option<SocketAddr>,
    /// Directory of the database and of master.key. [default: ./fuota-data]
    #[arg(long, env = "FUOTA_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// File with the 32-byte key (64 hex digits) that seals secrets at rest; made beside the database when absent.
    #[arg(long, env = "FUOTA_MASTER_KEY_FILE", value_name = "FILE")]
    pub master_key_file: Option<PathBuf>,
    /// NetID of the network, 6 hex digits. [default: 000000, the experimental one]
    #[arg(long, env = "FUOTA_NET_ID", value_name = "HEX")]
    pub net_id: Option<String>,
    /// PEM file with the certificate chain of the gRPC API.
    #[arg(long, env = "FUOTA_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the private key of the certificate.
    #[arg(long, env = "FUOTA_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// File with the bearer token clients have to present.
    #[arg(long, env = "FUOTA_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// What is logged, as in `info,lorawan_fuota::network=debug`. [default: info]
    #[arg(long, env = "FUOTA_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// Log one JSON object per line.
    #[arg(long, env = "FUOTA_LOG_JSON", num_args = 0..=1, default_missing_value = "true")]
    pub log_json: Option<bool>,
}

/// What the server runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// gRPC listen address.
    pub grpc: SocketAddr,
    /// UDP listen address.
    pub udp: SocketAddr,
    /// Directory of the database.
    pub data: PathBuf,
    /// File with the master key.
    pub master_key_file: PathBuf,
    /// The master key file was named by the operator: it is not made when absent.
    pub master_key_given: bool,
    /// NetID, 24 bits.
    pub net_id: u32,
    /// Certificate and key files.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// File with the bearer token.
    pub token_file: Option<PathBuf>,
    /// Log filter.
    pub log: String,
    /// Log as JSON.
    pub log_json: bool,
}

/// Why the configuration cannot be used; names the option.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration file is not what it should be.
    #[error("{path}: {source}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// An option has a bad value.
    #[error("{option}: {message}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// What is wrong.
        message: String,
    },
}

impl Config {
    /// Puts defaults, file, environment and flags together.
    ///
    /// # Errors
    /// A file that cannot be read or a value that makes no sense.
    pub fn load(args: &ServeArgs) -> Result<Self, ConfigError> {
        let file = args
            .config
            .as_deref()
            .map(read_file)
            .transpose()?
            .unwrap_or_default();
        let given = args.options.clone();
        let data = given
            .data
            .or(file.data)
            .unwrap_or_else(|| PathBuf::from("fuota-data"));
        let master_key_file = given.master_key_file.or(file.master_key_file);
        let tls_cert = given.tls_cert.or(file.tls_cert);
        let tls_key = given.tls_key.or(file.tls_key);
        let tls = match (tls_cert, tls_key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => {
                return Err(option_error(
                    "tls_cert",
                    "needs tls_key, and the other way round",
                ));
            }
        };
        let net_id = given
            .net_id
            .or(file.net_id)
            .map_or(Ok(0), |text| parse_net_id(&text))?;
        Ok(Self {
            grpc: given
                .grpc
                .or(file.grpc)
                .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 50_051))),
            udp: given
                .udp
                .or(file.udp)
                .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 1700))),
            master_key_given: master_key_file.is_some(),
            master_key_file: master_key_file.unwrap_or_else(|| data.join("master.key")),
            data,
            net_id,
            tls,
            token_file: given.token_file.or(file.token_file),
            log: given.log.or(file.log).unwrap_or_else(|| "info".to_owned()),
            log_json: given.log_json.or(file.log_json).unwrap_or(false),
        })
    }
}

fn read_file(path: &Path) -> Result<Options, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|source| ConfigError::Syntax {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

fn parse_net_id(text: &str) -> Result<u32, ConfigError> {
    let value = (text.len() == 6)
        .then(|| u32::from_str_radix(text, 16).ok())
        .flatten();
    value.ok_or_else(|| option_error("net_id", "must be 6 hex digits"))
}

fn option_error(option: &'static str, message: &str) -> ConfigError {
    ConfigError::Option {
        option,
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_needed() {
        let config = Config::load(&ServeArgs::default()).unwrap();
        assert!(config.grpc.ip().is_loopback());
        assert_eq!(
            config.master_key_file,
            PathBuf::from("fuota-data/master.key")
        );
    }

    #[test]
    fn flags_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fuota.toml");
        std::fs::write(&path, "net_id = \"000013\"\nlog = \"debug\"\n").unwrap();
        let options = Options {
            log: Some("warn".to_owned()),
            ..Options::default()
        };
        let config = Config::load(&ServeArgs {
            config: Some(path),
            options,
            print_ports: false,
        })
        .unwrap();
        assert_eq!((config.net_id, config.log.as_str()), (0x13, "warn"));
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fuota.toml");
        std::fs::write(&path, "grcp = \"127.0.0.1:1\"\n").unwrap();
        let error = Config::load(&ServeArgs {
            config: Some(path),
            ..ServeArgs::default()
        })
        .unwrap_err();
        assert!(error.to_string().contains("grcp"), "{error}");
    }
}
