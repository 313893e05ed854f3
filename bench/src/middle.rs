//! Two stations with the link emulator between them, in three namespaces.
//!
//! ```text
//!   <bed>-a                      <bed>-e                       <bed>-b
//!   station ─────── veth ─────── left · emulator · right ───── veth ─────── station
//!   10.79.0.1/24, fd79::1/64                                   10.79.0.2/24, fd79::2/64
//! ```
//!
//! Owner: [`Middle`]; dropping it deletes the namespaces. What was killed is swept as beds are ([`crate::bed`]).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::bed::{self, Place, Side, run};

/// The emulator's interfaces.
pub const LEFT: &str = "left";
/// See [`LEFT`].
pub const RIGHT: &str = "right";
/// Each station's interface.
pub const STATION: &str = "station";

/// See the module.
#[derive(Debug)]
pub struct Middle {
    place: Place,
}

impl Middle {
    /// Makes the namespaces and wires; the emulator is not started. Stations send finished checksums.
    ///
    /// # Errors
    /// No root, or no iproute2 or ethtool.
    pub fn new() -> Result<Self> {
        let place = Place::claim()?;
        let middle = Self { place };
        let emulator = middle.namespace_of_emulator();
        run("ip", &["netns", "add", &emulator])?;
        for (side, end) in [(Side::A, LEFT), (Side::B, RIGHT)] {
            let station = middle.namespace(side);
            run("ip", &["netns", "add", &station])?;
            let ip = |rest: &[&str]| run("ip", &[&["-n", station.as_str()], rest].concat());
            ip(&["link", "set", "lo", "up"])?;
            ip(&["link", "add", STATION, "type", "veth", "peer", "name", end, "netns", &emulator])?;
            // Nothing but what the stations are told to send.
            ip(&["link", "set", STATION, "addrgenmode", "none"])?;
            run("ip", &["-n", &emulator, "link", "set", end, "addrgenmode", "none"])?;
            let host = 1 + side as u8;
            ip(&["address", "add", &format!("10.79.0.{host}/24"), "dev", STATION])?;
            ip(&["address", "add", &format!("fd79::{host}/64"), "dev", STATION, "nodad"])?;
            let net = format!("--net={}", middle.path(&station).display());
            run("nsenter", &[&net, "ethtool", "-K", STATION, "tx", "off"])?;
            ip(&["link", "set", STATION, "up"])?;
            run("ip", &["-n", &emulator, "link", "set", end, "up"])?;
        }
        Ok(middle)
    }

    /// Name of a station's namespace.
    #[must_use]
    pub fn namespace(&self, side: Side) -> String {
        self.place.namespace(side.letter())
    }

    /// The emulator's namespace, as a path.
    #[must_use]
    pub fn emulator(&self) -> PathBuf {
        self.path(&self.namespace_of_emulator())
    }

    /// A station's IPv4 address.
    #[must_use]
    pub fn address(&self, side: Side) -> std::net::Ipv4Addr {
        std::net::Ipv4Addr::new(10, 79, 0, 1 + side as u8)
    }

    /// Runs `inside` on a thread in a station's namespace.
    ///
    /// # Errors
    /// The namespace is gone, or what `inside` says.
    ///
    /// # Panics
    /// If `inside` does.
    pub fn inside<T: Send>(&self, side: Side, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = self.namespace(side);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                bed::enter(&namespace)?;
                inside()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Lets nothing pass but what is sent: tells both stations each other's Ethernet address for good, so that there is no
    /// ARP, and takes IPv6 away, whose multicast reports come when they like.
    ///
    /// # Errors
    /// What iproute2 says.
    pub fn quiet(&self) -> Result<()> {
        for (side, other) in [(Side::A, Side::B), (Side::B, Side::A)] {
            let shown = run("ip", &["-n", &self.namespace(other), "-json", "link", "show", "dev", STATION])?;
            let shown: serde_json::Value = serde_json::from_str(&shown)?;
            let mac = shown[0]["address"].as_str().context("ip -json shows no address")?.to_owned();
            let address = self.address(other).to_string();
            let namespace = self.namespace(side);
            let switch = format!("/proc/sys/net/ipv6/conf/{STATION}/disable_ipv6");
            self.inside(side, || std::fs::write(&switch, "1").with_context(|| switch.clone()))?;
            run(
                "ip",
                &["-n", &namespace, "neigh", "replace", &address, "lladdr", &mac, "dev", STATION, "nud", "permanent"],
            )?;
        }
        Ok(())
    }

    fn namespace_of_emulator(&self) -> String {
        self.place.namespace("e")
    }

    fn path(&self, namespace: &str) -> PathBuf {
        Path::new(bed::NETNS_FOLDER).join(namespace)
    }
}
