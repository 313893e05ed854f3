//! A node's configuration as an operator would write it (`docs/src/configuration.md`).

use std::fmt::{self, Write as _};
use std::net::SocketAddr;

/// How links move frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adapter {
    /// AF_XDP, the highest rung that the interface allows; `fallback` to a socket is off, so that a test knows.
    Xdp,
    /// A UDP socket.
    Udp,
}

/// Rate of a link at layer 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// CIR in bit/s.
    Bps(u64),
    /// No cap.
    Uncapped,
}

impl Rate {
    /// bit/s; `None` if uncapped.
    #[must_use]
    pub fn bps(self) -> Option<u64> {
        match self {
            Self::Bps(bps) => Some(bps),
            Self::Uncapped => None,
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bps(bps) if bps % 1_000_000 == 0 => write!(f, "{} Mbit/s", bps / 1_000_000),
            Self::Bps(bps) => write!(f, "{bps} bit/s"),
            Self::Uncapped => f.write_str("uncapped"),
        }
    }
}

/// What all links of a topology have in common.
#[derive(Debug, Clone)]
pub struct LinkPlan {
    /// Rate of each link, in both directions.
    pub rate: Rate,
    /// Burst in bytes; `None` = the program's default.
    pub burst_bytes: Option<u32>,
    /// MTU of the IP packet.
    pub mtu: u16,
    /// Liveness interval in milliseconds; a link is down after three silent ones.
    pub liveness_ms: u32,
    /// More lines of each `[[link]]`.
    pub extra: String,
}

impl Default for LinkPlan {
    fn default() -> Self {
        Self { rate: Rate::Uncapped, burst_bytes: None, mtu: 1500, liveness_ms: 100, extra: String::new() }
    }
}

/// One link of one node.
pub(crate) struct Link<'t> {
    pub(crate) name: &'t str,
    pub(crate) adapter: Adapter,
    pub(crate) interface: &'t str,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) key_file: &'t str,
}

/// Where a path ends or passes. Labels are those of RFC 3032, from 16 up.
pub(crate) enum Path<'t> {
    Peer {
        name: &'t str,
        link: &'t str,
        out_label: u32,
        in_label: u32,
        originator: bool,
    },
    /// Per side: link, label on arrival, label on departure.
    Transit {
        a: (&'t str, u32, u32),
        b: (&'t str, u32, u32),
    },
}

/// A whole node.
pub(crate) struct Node<'t> {
    pub(crate) name: &'t str,
    pub(crate) realm: &'t str,
    pub(crate) core: Option<usize>,
    pub(crate) links: Vec<Link<'t>>,
    pub(crate) paths: Vec<Path<'t>>,
}

impl Node<'_> {
    /// The TOML. Paths in it are relative to the file: `pki/` beside the node's folder, `inbox` and `state` in it.
    pub(crate) fn toml(&self, plan: &LinkPlan) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text, plan);
        text
    }

    fn write(&self, out: &mut String, plan: &LinkPlan) -> fmt::Result {
        let core = self.core.map(|core| format!("core = {core}, ")).unwrap_or_default();
        writeln!(out, "version = \"1.0\"\n\n[node]\nname = \"{0}\"\nrealm = \"{1}\"", self.name, self.realm)?;
        writeln!(out, "certificate = \"../pki/{0}.crt\"\nkey = \"../pki/{0}.key\"", self.name)?;
        writeln!(out, "trust = \"../pki/ca.crt\"\ninbox = \"inbox\"\nstate-dir = \"state\"")?;
        writeln!(out, "workers = [{{ {core}poll = \"adaptive\" }}]")?;
        for link in &self.links {
            write_link(out, link, plan)?;
        }
        for path in &self.paths {
            match *path {
                Path::Peer { name, link, out_label, in_label, originator } => {
                    let role = if originator { "originator" } else { "acceptor" };
                    writeln!(out, "\n[[peer]]\nname = \"{name}\"\nlink = \"{link}\"\nrole = \"{role}\"")?;
                    writeln!(out, "out-label = {out_label}\nin-label = {in_label}\nrtt = \"5 ms\"")?;
                }
                Path::Transit { a, b } => {
                    writeln!(out, "\n[[transit]]")?;
                    for (side, (link, in_label, out_label)) in [("a", a), ("b", b)] {
                        writeln!(
                            out,
                            "{side} = {{ link = \"{link}\", in-label = {in_label}, out-label = {out_label} }}"
                        )?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn write_link(out: &mut String, link: &Link<'_>, plan: &LinkPlan) -> fmt::Result {
    writeln!(out, "\n[[link]]\nname = \"{}\"", link.name)?;
    match link.adapter {
        Adapter::Xdp => writeln!(out, "adapter = \"xdp\"\ninterface = \"{}\"\nfallback = false", link.interface)?,
        Adapter::Udp => writeln!(out, "adapter = \"udp\"")?,
    }
    writeln!(out, "local = \"{}\"\nremote = \"{}\"\nmtu = {}", link.local, link.remote, plan.mtu)?;
    writeln!(out, "rate = \"{}\"", plan.rate)?;
    if let Some(burst) = plan.burst_bytes {
        writeln!(out, "burst = \"{burst} B\"")?;
    }
    let congestion = if plan.rate == Rate::Uncapped { "shared" } else { "contracted" };
    writeln!(out, "congestion = \"{congestion}\"")?;
    if !plan.extra.is_empty() {
        writeln!(out, "{}", plan.extra)?;
    }
    let (interval, key) = (plan.liveness_ms, link.key_file);
    writeln!(out, "liveness = {{ interval = \"{interval} ms\", detect = 3, key-file = \"../pki/{key}\" }}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_what_was_asked() {
        let address = |text: &str| text.parse().unwrap();
        let node = Node {
            name: "station-a",
            realm: "demo.rete",
            core: Some(1),
            links: vec![Link {
                name: "to-relay",
                adapter: Adapter::Xdp,
                interface: "w0",
                local: address("10.0.0.1:6635"),
                remote: address("10.0.0.2:6635"),
                key_file: "ab.key",
            }],
            paths: vec![Path::Peer { name: "b", link: "to-relay", out_label: 100, in_label: 101, originator: true }],
        };
        let plan = LinkPlan { rate: Rate::Bps(10_000_000), burst_bytes: Some(15_000), ..LinkPlan::default() };
        let text = node.toml(&plan);
        for line in [
            "workers = [{ core = 1, poll = \"adaptive\" }]",
            "rate = \"10 Mbit/s\"",
            "burst = \"15000 B\"",
            "congestion = \"contracted\"",
            "interface = \"w0\"",
            "role = \"originator\"",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(node.toml(&LinkPlan::default()).contains("rate = \"uncapped\""));
    }
}
