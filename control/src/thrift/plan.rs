//! What is configured of this API.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Versions that Quelay's clients are known to compare with their own: 0.1.3, 0.3 and 0.4.
pub const VERSIONS: [&str; 3] = ["2026-Feb-20", "2026-Mar-02", "2026-Mar-05"];

/// `[thrift]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThriftPlan {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// What `get_version` answers.
    pub version: String,
    /// Whom streams are for that do not say it.
    pub peer: Option<String>,
    /// The address of data ports.
    pub data_bind: IpAddr,
    /// `link_enable`, `set_max_concurrent` and `set_chunk_size_bytes` are obeyed.
    pub test_hooks: bool,
    /// How long a client may take to connect to a data port.
    pub connect_timeout: Duration,
    /// How often a client is pinged.
    pub ping: Duration,
    /// The node's peers, and the first link to each.
    pub peers: Vec<(String, String)>,
}

impl Default for ThriftPlan {
    fn default() -> Self {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self {
            listen: SocketAddr::new(loopback, 9090),
            version: VERSIONS[2].to_owned(),
            peer: None,
            data_bind: loopback,
            test_hooks: false,
            connect_timeout: Duration::from_secs(60),
            ping: Duration::from_secs(60),
            peers: Vec::new(),
        }
    }
}

impl ThriftPlan {
    /// The peer of a stream that does not say whom it is for: the configured one, or the only one.
    pub(super) fn default_peer(&self) -> Option<&str> {
        let only = match &self.peers[..] {
            [(name, _)] => Some(name.as_str()),
            _ => None,
        };
        self.peer.as_deref().or(only)
    }

    /// The first link to a peer.
    pub(super) fn link_to(&self, peer: &str) -> Option<&str> {
        self.peers.iter().find(|(name, _)| name == peer).map(|(_, link)| link.as_str())
    }
}
