//! Next hops of both links, from the dataplane's rtnetlink follower: what it publishes, and the probe it asks for to provoke resolution.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use florelay_dataplane::netlink::{Follower, LinkSpec, NextHop, Options};
use florelay_engine::config::LinkId;

use crate::topology::{LINKS, PORT};

/// Twice as often as usual: the NICs lose their first frames after a reset.
const RETRY: Duration = Duration::from_millis(500);

/// The follower and what it has published so far.
pub(crate) struct NextHops {
    _follower: Follower,
    changes: Receiver<(usize, Result<NextHop, Arc<str>>)>,
}

impl NextHops {
    /// Follows both links; `held` are the kernel's sockets on their ports.
    pub(crate) fn follow(held: [UdpSocket; 2]) -> Result<Self> {
        let spec = |link: usize| {
            let LinkEnds { interface, local, remote } = ends(link);
            (LinkId(u16::try_from(link).unwrap_or(0)), LinkSpec { interface, local, remote })
        };
        let (publish, changes) = mpsc::channel();
        let follower = Follower::start(
            vec![spec(0), spec(1)],
            Options { retry: RETRY, ..Options::default() },
            move |link, hop| {
                let _ = publish.send((usize::from(link.0), hop));
            },
            move |link| {
                let link = usize::from(link.0);
                // An empty datagram is no link frame; a failure shows as a next hop that never comes.
                let _ = held[link].send_to(&[], SocketAddr::new(ends(link).remote, PORT));
            },
        )
        .context("cannot follow rtnetlink")?;
        Ok(Self { _follower: follower, changes })
    }

    /// Waits until both links have a next hop.
    ///
    /// # Errors
    /// The last reason why one has none.
    pub(crate) fn both(&self, patience: Duration) -> Result<[NextHop; 2]> {
        let deadline = Instant::now() + patience;
        let mut known: [Option<Result<NextHop, Arc<str>>>; 2] = [None, None];
        loop {
            if let [Some(Ok(left)), Some(Ok(right))] = &known {
                return Ok([left.clone(), right.clone()]);
            }
            match self.changes.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((link, hop)) => known[link] = Some(hop),
                Err(_) => bail!("no next hop within {patience:?}: {known:?}"),
            }
        }
    }
}

struct LinkEnds {
    interface: String,
    local: IpAddr,
    remote: IpAddr,
}

fn ends(link: usize) -> LinkEnds {
    let link = &LINKS[link];
    LinkEnds { interface: link.interface.to_owned(), local: link.local.into(), remote: link.peer.into() }
}
