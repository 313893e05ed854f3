//! What happened at the API since the control process was started, by name.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a connection was not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// As many are there as may be.
    TooMany,
    /// The TLS handshake failed: a protocol, a cipher, an alert of the client.
    Handshake,
    /// No certificate of a trusted CA, or one that is not valid now.
    Certificate,
    /// A good certificate of somebody who may not come.
    Identity,
    /// It did not get to its first HTTP/2 bytes in time.
    Late,
    /// What came is not HTTP/2.
    NotHttp2,
}

impl Refused {
    const ALL: [(Self, &'static str); 6] = [
        (Self::TooMany, "refused_too_many"),
        (Self::Handshake, "refused_handshake"),
        (Self::Certificate, "refused_certificate"),
        (Self::Identity, "refused_identity"),
        (Self::Late, "refused_late"),
        (Self::NotHttp2, "refused_not_http2"),
    ];
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    connections: AtomicU64,
    calls: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
}

impl Counters {
    /// A connection is served.
    pub(super) fn connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A call came.
    pub(super) fn call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection is not served.
    pub(super) fn refused(&self, why: Refused) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// By name.
    #[must_use]
    pub(super) fn by_name(&self) -> BTreeMap<String, u64> {
        let all = [("connections", &self.connections), ("calls", &self.calls)];
        let refused = Refused::ALL.iter().map(|(why, name)| (*name, &self.refused[*why as usize]));
        all.into_iter().chain(refused).map(|(name, n)| (name.to_owned(), n.load(Ordering::Relaxed))).collect()
    }
}
