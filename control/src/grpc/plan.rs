//! `[grpc]` of the configuration, compiled.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Port of a listener on loopback when the configuration names none.
pub const DEFAULT_PORT: u16 = 50_051;
/// Connections at once unless configured.
pub const DEFAULT_CONNECTIONS: u32 = 64;
/// Streams of bytes at once unless configured.
pub const DEFAULT_STREAMS: u32 = 64;

/// What the API serves, where and whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrpcPlan {
    /// Where it listens; not empty.
    pub listen: Vec<Address>,
    /// On all TCP addresses; `None` = plain, which is for loopback alone.
    pub tls: Option<TlsPlan>,
    /// `Transfers.SendFile` opens paths of this machine.
    pub allow_paths: bool,
    /// Connections at once.
    pub connections: u32,
    /// Streams of bytes at once, over all connections; bounds memory.
    pub streams: u32,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket, mode 0600.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Who the node is and who may come, by TLS 1.3 with certificates at both ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsPlan {
    /// PEM chain.
    pub certificate: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
    /// PEM certificates of the CAs of clients.
    pub client_ca: PathBuf,
    /// SPIFFE URIs of the clients that may come; not empty.
    pub allow: Vec<String>,
}
