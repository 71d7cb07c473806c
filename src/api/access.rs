//! Who may call: the bearer token, and the addresses the server may listen on without one.

use std::net::SocketAddr;
use std::sync::Arc;

use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::firmware::sha256;

/// How the server is reached from other machines.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// Certificate chain and private key, PEM.
    pub tls: Option<TlsIdentity>,
    /// The token every call has to carry.
    pub token: Option<Token>,
}

/// Certificate chain and private key of the server, both PEM.
#[derive(Clone)]
pub struct TlsIdentity {
    /// Certificate chain, the server's own first.
    pub certificates: String,
    /// Its private key.
    pub private_key: String,
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsIdentity(..)")
    }
}

/// A bearer token. Only its SHA-256 is kept, which also makes comparing take the same time for every wrong token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    /// The token as clients send it after `Bearer `.
    pub fn new(text: &str) -> Self {
        Self(sha256(text.as_bytes()))
    }

    fn is(&self, other: &Self) -> bool {
        let difference = self
            .0
            .iter()
            .zip(other.0)
            .fold(0, |all, (a, b)| all | (a ^ b));
        difference == 0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Why the server may not listen somewhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Other machines could call without protection.
    #[error("{0} is no loopback address: listening there needs TLS and a bearer token")]
    Unprotected(SocketAddr),
}

/// Refuses every address but loopback ones unless both TLS and a token are configured.
pub fn check_listen(addr: SocketAddr, options: &ServerOptions) -> Result<(), ListenError> {
    let protected = options.tls.is_some() && options.token.is_some();
    if addr.ip().to_canonical().is_loopback() || protected {
        Ok(())
    } else {
        Err(ListenError::Unprotected(addr))
    }
}

/// Lets calls with the right token through, and every call if there is none.
#[derive(Clone, Debug)]
pub(super) struct Access(Option<Arc<Token>>);

impl Access {
    pub(super) fn new(token: Option<Token>) -> Self {
        Self(token.map(Arc::new))
    }
}

impl Interceptor for Access {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(token) = &self.0 else {
            return Ok(request);
        };
        let given = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| Token::new(token));
        match given {
            Some(given) if token.is(&given) => Ok(request),
            Some(_) => Err(Status::unauthenticated("wrong bearer token")),
            None => Err(Status::unauthenticated("bearer token missing")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_open_to_all() {
        let (loopback, any) = (
            ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"],
            ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[::ffff:192.0.2.1]:1"],
        );
        let tls = Some(TlsIdentity {
            certificates: String::new(),
            private_key: String::new(),
        });
        let token = Some(Token::new("t"));
        for (tls, token, open) in [
            (None, None, false),
            (tls.clone(), None, false),
            (None, token.clone(), false),
            (tls, token, true),
        ] {
            let options = ServerOptions { tls, token };
            for addr in loopback {
                assert_eq!(check_listen(addr.parse().unwrap(), &options), Ok(()));
            }
            for addr in any {
                assert_eq!(
                    check_listen(addr.parse().unwrap(), &options).is_ok(),
                    open,
                    "{addr}"
                );
            }
        }
    }
}
