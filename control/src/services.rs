//! What the control process serves beside its own socket. The supervisor's command line brings it, as JSON: the control
//! process does not read the operator's configuration, which may have changed since the node was started.
//!
//! A service is a client of this process's own socket, like any program. One that cannot listen says so and tries again:
//! the node does not depend on it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::grpc::{self, GrpcPlan};
use crate::thrift::{self, ThriftPlan};

/// Between two attempts to listen where another still does: from, doubled up to.
const LISTEN_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// The services of a node; absent = not served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicesPlan {
    /// The gRPC API.
    pub grpc: Option<GrpcPlan>,
    /// Quelay's Thrift API.
    pub thrift: Option<ThriftPlan>,
}

impl ServicesPlan {
    /// Nothing is served.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// For the command line of the control process.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Text, numbers and lists of them: this cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From there.
    ///
    /// # Errors
    /// It is not what [`Self::to_json`] writes.
    pub fn from_json(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }
}

/// Those that run; dropped, those that have something to end do so in order.
#[derive(Debug)]
#[must_use]
pub struct Services {
    _grpc: Option<grpc::Serving>,
}

/// Starts them in threads of their own, as clients of the control socket at `socket`.
pub fn start(plan: ServicesPlan, socket: &Path) -> Services {
    if let Some(plan) = plan.thrift {
        let socket = socket.to_owned();
        thread::spawn(move || thrift::serve(plan, &socket));
    }
    let grpc = plan.grpc.and_then(|plan| {
        let serving = grpc::Serving::start(plan, socket);
        serving.inspect_err(|e| tracing::error!("gRPC cannot be started: {e}")).ok()
    });
    Services { _grpc: grpc }
}

/// Listens, sooner or later: a predecessor may still have the port.
pub(crate) fn listen(service: &str, at: SocketAddr) -> TcpListener {
    let mut pause = LISTEN_AGAIN.0;
    loop {
        match TcpListener::bind(at) {
            Ok(listener) => {
                tracing::info!("{service} at {at}");
                return listener;
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                tracing::warn!("{service} cannot listen at {at}, somebody else does; trying again");
            }
            Err(error) => tracing::error!("{service} cannot listen at {at}: {error}; trying again"),
        }
        // A port that is given up makes no sound.
        thread::sleep(pause);
        pause = (pause * 2).min(LISTEN_AGAIN.1);
    }
}
