//! The way to the server: address, TLS, bearer token, page by page reading.
//!
//! Connects when the first call is made. The token is never printed and never leaves this machine in
//! the clear.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use super::output::Failure;
use crate::proto::v1;

/// Items asked for at a time.
const PAGE_SIZE: i32 = 500;
/// Largest answer taken: thousands of devices in one.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Options that every command of the client takes.
#[derive(Args, Clone)]
pub struct Options {
    /// The server: HOST:PORT, or a URL with http:// or https://.
    #[arg(
        long,
        global = true,
        env = "FUOTA_SERVER",
        default_value = "127.0.0.1:50051",
        help_heading = "Connection"
    )]
    pub server: String,

    /// Bearer token. Better given in FUOTA_TOKEN: arguments can be seen by every user of the machine.
    #[arg(
        long,
        global = true,
        env = "FUOTA_TOKEN",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    pub token: Option<String>,

    /// File with the certificates (PEM) to trust; turns TLS on.
    #[arg(
        long,
        global = true,
        env = "FUOTA_CA",
        value_name = "FILE",
        help_heading = "Connection"
    )]
    pub ca: Option<PathBuf>,

    /// Print JSON: one document, or one object a line where results come as a stream.
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,

    /// Makes a changing call idempotent: repeated with the same id within 24 hours it gets the first
    /// answer again. 1 to 50 printable ASCII characters. A command that makes several calls adds a
    /// suffix for each.
    #[arg(long, global = true, value_name = "ID", help_heading = "Connection")]
    pub request_id: Option<String>,
}

/// A channel that adds the token.
type Service = InterceptedService<Channel, Bearer>;

/// Adds the bearer token to each call.
#[derive(Clone)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// The clients of one server.
pub(super) struct Connection {
    service: Service,
    request_id: String,
}

macro_rules! clients {
    ($($name:ident $module:ident $client:ident;)*) => {$(
        /// A client of this service.
        pub(super) fn $name(&self) -> v1::$module::$client<Service> {
            v1::$module::$client::new(self.service.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
        }
    )*};
}

impl Connection {
    /// Prepares the connection; nothing is sent yet.
    ///
    /// # Errors
    /// The address, the token or the certificate file is no good.
    pub(super) fn new(options: &Options) -> Result<Self, Failure> {
        let usage = |text: String| Failure::Usage(text);
        let url = url(&options.server, options.ca.is_some()).map_err(usage)?;
        let mut endpoint = Endpoint::from_shared(url)
            .map_err(|_| Failure::Usage(format!("--server {}: no address", options.server)))?
            .connect_timeout(Duration::from_secs(10))
            .http2_keep_alive_interval(Duration::from_secs(15))
            .keep_alive_timeout(Duration::from_secs(10));
        if let Some(path) = &options.ca {
            let pem = std::fs::read(path)
                .map_err(|error| Failure::Usage(format!("--ca {}: {error}", path.display())))?;
            endpoint = endpoint
                .tls_config(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
                .map_err(|error| Failure::Usage(format!("--ca {}: {error}", path.display())))?;
        }
        let token = options
            .token
            .as_deref()
            .filter(|token| !token.is_empty())
            .map(|token| bearer(token, &endpoint))
            .transpose()
            .map_err(usage)?;
        Ok(Self {
            service: InterceptedService::new(endpoint.connect_lazy(), Bearer(token)),
            request_id: options.request_id.clone().unwrap_or_default(),
        })
    }

    /// The id for the first changing call of a command.
    pub(super) fn request_id(&self) -> String {
        self.request_id.clone()
    }

    /// The id for a further call of the same command.
    pub(super) fn request_id_for(&self, step: &str) -> String {
        if self.request_id.is_empty() {
            String::new()
        } else {
            format!("{}.{step}", self.request_id)
        }
    }

    clients! {
        images image_service_client ImageServiceClient;
        profiles device_profile_service_client DeviceProfileServiceClient;
        devices device_service_client DeviceServiceClient;
        groups multicast_group_service_client MulticastGroupServiceClient;
        gateways gateway_service_client GatewayServiceClient;
        tasks task_service_client TaskServiceClient;
        network network_service_client NetworkServiceClient;
        trust trust_service_client TrustServiceClient;
        rollouts rollout_service_client RolloutServiceClient;
    }
}

/// A server address as a URL.
fn url(server: &str, tls: bool) -> Result<String, String> {
    match server.split_once("://") {
        None if tls => Ok(format!("https://{server}")),
        None => Ok(format!("http://{server}")),
        Some(("https", _)) if !tls => Err("https needs --ca FILE".into()),
        Some(("http", _)) if tls => Err("--ca needs an https address".into()),
        Some(("http" | "https", _)) => Ok(server.into()),
        Some((scheme, _)) => Err(format!("--server: {scheme} is neither http nor https")),
    }
}

/// The header with the token; refused where others could read it on the wire.
fn bearer(token: &str, endpoint: &Endpoint) -> Result<MetadataValue<Ascii>, String> {
    let uri = endpoint.uri();
    let host = uri.host().unwrap_or("").trim_matches(['[', ']']);
    let loopback = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    if uri.scheme_str() != Some("https") && !loopback {
        return Err("a token is sent over TLS only, except to this machine: give --ca FILE".into());
    }
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
        .parse()
        .map_err(|_| "the token holds characters that no header can carry")?;
    value.set_sensitive(true);
    Ok(value)
}

/// Which items a list command shows.
#[derive(Args)]
pub struct ListArgs {
    /// Only items for which all terms hold, such as 'state = FAILED AND tags.site = "north gate"'.
    /// Enum values are written in capitals without prefix.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(super) filter: String,

    /// Most items to show; 0 shows all.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub(super) limit: usize,
}

/// One page as a list call answers it: items, token of the next page, items on all pages.
pub(super) type Page<T> = (Vec<T>, String, i32);

/// The items of a list.
pub(super) struct Listing<T> {
    /// As many as were asked for.
    pub(super) items: Vec<T>,
    /// How many there are.
    pub(super) total: u64,
}

impl<T> Listing<T> {
    /// There are more items than asked for.
    pub(super) fn is_cut(&self) -> bool {
        u64::try_from(self.items.len()).is_ok_and(|shown| shown < self.total)
    }
}

/// Reads page after page until `limit` items are there (0: all). `fetch` gets page size and page token.
///
/// # Errors
/// The first that `fetch` answers.
pub(super) async fn pages<T>(
    limit: usize,
    mut fetch: impl AsyncFnMut(i32, String) -> Result<Page<T>, Status>,
) -> Result<Listing<T>, Status> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let mut items = Vec::new();
    let mut token = String::new();
    loop {
        let size = i32::try_from(limit - items.len()).map_or(PAGE_SIZE, |left| left.min(PAGE_SIZE));
        let (page, next, total) = fetch(size, token.clone()).await?;
        let stuck = page.is_empty() || next == token;
        items.extend(page);
        items.truncate(limit);
        if next.is_empty() || stuck || items.len() == limit {
            let total = u64::try_from(total).unwrap_or(0);
            return Ok(Listing { items, total });
        }
        token = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_urls() {
        assert_eq!(url("a:1", false).unwrap(), "http://a:1");
        assert_eq!(url("a:1", true).unwrap(), "https://a:1");
        assert_eq!(url("http://a:1", false).unwrap(), "http://a:1");
        assert!(url("https://a:1", false).is_err());
        assert!(url("http://a:1", true).is_err());
        assert!(url("ftp://a:1", false).is_err());
    }

    #[test]
    fn a_token_stays_off_open_networks() {
        let header = |url: &'static str| bearer("t0k", &Endpoint::from_static(url));
        assert!(header("http://127.0.0.1:1").is_ok());
        assert!(header("http://[::1]:1").is_ok());
        assert!(header("http://localhost:1").is_ok());
        assert!(header("https://fuota.example:1").is_ok());
        assert!(!header("http://10.0.0.1:1").unwrap_err().contains("t0k"));
        assert!(!format!("{:?}", header("http://127.0.0.1:1")).contains("t0k"));
    }

    #[tokio::test]
    async fn all_pages_are_read_up_to_the_limit() {
        let source: Vec<u32> = (0..1234).collect();
        for (limit, expected) in [(0, 1234), (700, 700), (500, 500), (5000, 1234)] {
            let listing = pages(limit, async |size, token| {
                let start: usize = token.parse().unwrap_or(0);
                let end = (start + usize::try_from(size).unwrap()).min(source.len());
                let next = if end < source.len() {
                    end.to_string()
                } else {
                    String::new()
                };
                Ok((source[start..end].to_vec(), next, 1234))
            })
            .await
            .unwrap();
            assert_eq!(listing.items, source[..expected]);
            assert_eq!(listing.total, 1234);
        }
    }

    #[tokio::test]
    async fn a_server_that_repeats_its_token_cannot_trap_us() {
        let listing = pages(0, async |_, _| Ok((vec![1], "same".into(), 9)))
            .await
            .unwrap();
        assert_eq!(listing.items, [1, 1]);
    }
}
