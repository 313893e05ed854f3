//! `[[link]]`: one link to a neighbour, from its table to a [`LinkPlan`].

use std::net::SocketAddr;
use std::path::PathBuf;

use florelay_dataplane::plan::{AdapterPlan, CongestionPlan, LinkPlan, MAX_MTU, Rung};
use toml::de::DeValue;

use super::diagnostic::Source;
use super::frame::{self, QUIC_MIN_BYTES};
use super::read::{Field, Table, Wrong, boolean, integer, string, unit, word};
use super::{contact, degraded, files, names, sim, units};

/// Default of `detect`, RFC 5880 in common practice.
const DETECT_DEFAULT: u64 = 3;
/// Default of `liveness.interval`, so that a loss is noticed in 300 ms.
const LIVENESS_INTERVAL_NS: u64 = 100_000_000;
/// Bounds of `liveness.interval`: below, liveness would be the load; above, nothing would be noticed.
const LIVENESS_INTERVAL_BOUNDS_NS: std::ops::RangeInclusive<u64> = 1_000_000..=60_000_000_000;
/// Default of `control-share`, percent.
const CONTROL_SHARE_DEFAULT: u64 = 50;
/// Default burst: this many frames, or the bytes of `BURST_MS_DEFAULT` at the link's rate if that is more.
const BURST_FRAMES_DEFAULT: u32 = 10;
/// Tokens beyond the burst are lost while a worker waits for its core; on a shared one that is milliseconds.
const BURST_MS_DEFAULT: u64 = 4;
/// Longest one-way delay that can be configured, seconds: an hour is beyond Mars.
pub(super) const MAX_DELAY_NS: u64 = 3_600_000_000_000;

/// The words of `adapter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Xdp,
    Udp,
    Sim,
}

const KINDS: &[(&str, Kind)] = &[("xdp", Kind::Xdp), ("udp", Kind::Udp), ("sim", Kind::Sim)];

const RUNGS: &[(&str, Rung)] = &[
    ("zero-copy", Rung::ZeroCopy),
    ("driver-copy", Rung::DriverCopy),
    ("generic", Rung::Generic),
    ("socket", Rung::Socket),
];

/// What other sections need of a link while it is checked, and the plan if the link itself is right.
#[derive(Debug)]
pub(super) struct LinkDraft {
    pub(super) name: Option<Field<String>>,
    pub(super) local: Option<Field<SocketAddr>>,
    pub(super) mtu: Option<Field<u16>>,
    pub(super) worker: Option<Field<usize>>,
    pub(super) plan: Option<LinkPlan>,
}

/// Reads one `[[link]]`.
pub(super) fn read(source: &mut Source<'_>, mut table: Table<'_>, checks: files::Checks) -> LinkDraft {
    let t = &mut table;
    let name = t.required(source, "name", "\"to-relay\"", |v| {
        let text = string(v)?;
        names::check_node(&text).map_err(|e| (e, "for example \"to-relay\"".to_owned()))?;
        Ok(text)
    });
    let kind = t.required(source, "adapter", "\"xdp\"", word(KINDS)).map(|kind| kind.value);
    let adapter = adapter(source, t, kind);
    let (local, remote) = if kind == Some(Kind::Sim) {
        sim::no_addresses(source, t)
    } else {
        let local = t.required(source, "local", "\"10.0.0.1:6635\"", address);
        let remote = t.required(source, "remote", "\"10.0.0.2:6635\"", address);
        addresses(source, local.as_ref(), remote.as_ref());
        (local, remote)
    };

    let mtu_given = t.required(source, "mtu", "1500", integer(1..=u64::from(MAX_MTU)));
    let mtu = mtu_given.map(|f| f.map(|n| u16::try_from(n).unwrap_or(u16::MAX)));
    if let (Some(mtu), Some(local)) = (&mtu, &local) {
        check_mtu(source, mtu, &local.value, "");
    }
    let overhead = small(source, t, "overhead", 0..=1024, 0);
    let rate = t.required(source, "rate", "\"10 Mbit/s\"", unit(units::rate, "\"10 Mbit/s\" or \"uncapped\""));
    if let Some(rate) = &rate
        && rate.value == Some(0)
    {
        rate.error(source, "a rate of 0 sends nothing", "to start with the link down, write: up = false");
    }
    let frame = mtu.as_ref().map(|m| frame::frame_bytes(m.value, overhead));
    let burst = burst(source, t, frame, rate.as_ref().and_then(|r| r.value));

    let share = t.optional(source, "control-share", integer(1..=100)).map_or(CONTROL_SHARE_DEFAULT, |f| f.value);
    let delay_ns = duration(source, t, "delay", "\"325 ms\"", 0..=MAX_DELAY_NS).unwrap_or(0);
    let congestion = congestion(source, t, rate.as_ref());
    let liveness = liveness(source, t, checks);
    let degraded = degraded::read(source, t);
    let worker = t.optional(source, "worker", integer(0..=255)).map(|f| f.map(|n| usize::try_from(n).unwrap_or(0)));
    let admin_up = t.optional(source, "up", boolean).is_none_or(|f| f.value);
    let contacts_at = ["contact", "contact-plan"].into_iter().find_map(|key| Some((t.get(key)?.span(), t.key(key))));
    let contacts = contact::read(source, t, checks);
    table.close(source);

    let rate_span = rate.clone();
    let plan = (|| {
        let (interval, detect, key) = liveness?;
        Some(LinkPlan {
            name: name.as_ref()?.value.clone(),
            worker: worker.as_ref().map_or(0, |w| w.value),
            adapter: adapter?,
            local: local.as_ref()?.value,
            remote: remote?.value,
            mtu: mtu.as_ref()?.value,
            extra_overhead: overhead,
            rate_bps: rate?.value,
            burst_bytes: burst?,
            control_percent: u8::try_from(share).ok()?,
            delay_ns,
            congestion,
            liveness_interval_ns: interval,
            detect_multiplier: detect,
            liveness_key: key,
            degraded,
            admin_up,
            contacts,
        })
    })();
    if let (Some(rate), Some(plan)) = (rate_span, &plan) {
        check_rate(source, &rate, plan);
    }
    if let (Some((span, key)), Some(plan)) = (contacts_at, &plan) {
        // One of rate 0, or that ends before it starts, has its own reason.
        let planned = plan.contacts.plan.iter().flatten();
        for contact in planned.filter(|c| c.rate_bps != Some(0) && c.start_unix_ns < c.end_unix_ns) {
            if let Err(reason) = plan.check_contact(contact) {
                source.error(&span, &key, reason, "leave out a contact that the link cannot use");
            }
        }
    }
    LinkDraft { name, local, mtu, worker, plan }
}

/// `congestion`, and `shared` beside it: with what the link is shared.
fn congestion(source: &mut Source<'_>, t: &mut Table<'_>, rate: Option<&Field<Option<u64>>>) -> CongestionPlan {
    let contracted = t.optional(source, "congestion", word(&[("contracted", true), ("shared", false)]));
    if let (Some(given), Some(rate)) = (&contracted, rate)
        && given.value
        && rate.value.is_none()
    {
        let hint = "give the link a rate, or write: congestion = \"shared\"";
        given.error(source, "\"contracted\" needs a rate to hold to, and this link is uncapped", hint);
    }
    let contracted = contracted.map_or_else(|| rate.is_some_and(|r| r.value.is_some()), |f| f.value);
    let shared = t.optional(source, "shared", word(&[("cubic", CongestionPlan::Cubic), ("bbr", CongestionPlan::Bbr)]));
    match shared {
        Some(given) if contracted => {
            let hint = "write: congestion = \"shared\", or leave this out";
            given.error(source, "this link is contracted, so nothing is shared on it", hint);
            CongestionPlan::Contracted
        }
        Some(given) => given.value,
        None if contracted => CongestionPlan::Contracted,
        None => CongestionPlan::Cubic,
    }
}

/// Refuses a rate at which the link would never be heard in time.
fn check_rate(source: &mut Source<'_>, rate: &Field<Option<u64>>, plan: &LinkPlan) {
    let least = plan.least_rate_bps();
    // A rate of 0 has its own reason.
    if rate.value.is_none_or(|bps| bps == 0 || bps >= least) {
        return;
    }
    let detect = plan.liveness_interval_ns.saturating_mul(plan.detect_multiplier.into());
    rate.error(
        source,
        format!(
            "a rate of {} cannot carry one liveness frame of {} bytes in the detection time, {}",
            units::show_rate(rate.value),
            plan.liveness_frame_bytes(),
            units::show_duration(detect),
        ),
        format!("at least \"{least} bit/s\", or a longer liveness.interval"),
    );
}

/// Refuses an MTU too small for QUIC, with the numbers.
pub(super) fn check_mtu(source: &mut Source<'_>, mtu: &Field<u16>, local: &SocketAddr, of: &str) {
    if frame::quic_mtu(mtu.value, local).is_some() {
        return;
    }
    let overhead = frame::quic_overhead(local);
    let (version, ip) = if local.is_ipv4() { ("IPv4", 20) } else { ("IPv6", 40) };
    mtu.error(
        source,
        format!(
            "{of}MTU {} leaves {} bytes for a QUIC packet; QUIC needs {QUIC_MIN_BYTES} ({version} takes {ip}, UDP 8, labels and control word 12)",
            mtu.value,
            mtu.value.saturating_sub(overhead),
        ),
        format!("at least {}; 1500 leaves {}", QUIC_MIN_BYTES + overhead, 1500 - overhead),
    );
}

/// The keys that only some adapters have.
fn adapter(source: &mut Source<'_>, t: &mut Table<'_>, kind: Option<Kind>) -> Option<AdapterPlan> {
    let sim = sim::read(source, t, kind);
    let interface = if kind == Some(Kind::Xdp) {
        t.required(source, "interface", "\"eth1\"", names::interface)
    } else {
        t.optional(source, "interface", names::interface)
    };
    let rung = t.optional(source, "highest-rung", word(RUNGS));
    let fallback = t.optional(source, "fallback", boolean);
    if kind? == Kind::Xdp {
        if let (Some(rung), Some(fallback)) = (&rung, &fallback)
            && rung.value == Rung::Socket
            && !fallback.value
        {
            fallback.error(
                source,
                "the highest rung is the socket, but falling back to the socket is forbidden",
                "remove one of highest-rung and fallback, or write: adapter = \"udp\"",
            );
        }
        return Some(AdapterPlan::Xdp {
            interface: interface?.value,
            highest_rung: rung.map_or(Rung::ZeroCopy, |r| r.value),
            fallback: fallback.is_none_or(|f| f.value),
        });
    }
    let spots = [interface.map(|f| f.map(|_| ())), rung.map(|f| f.map(|_| ())), fallback.map(|f| f.map(|_| ()))];
    for spot in spots.into_iter().flatten() {
        spot.error(source, "only a link with adapter = \"xdp\" has this", "remove it, or write: adapter = \"xdp\"");
    }
    if kind? == Kind::Sim { sim.map(|sim| AdapterPlan::Sim(sim.into())) } else { Some(AdapterPlan::Udp) }
}

/// An address with a port.
fn address(value: &DeValue<'_>) -> Result<SocketAddr, Wrong> {
    let text = string(value)?;
    let hint = "write for example \"10.0.0.1:6635\" or \"[fd00::1]:6635\"".to_owned();
    let address: SocketAddr = text.parse().map_err(|_| {
        let no_port = text.parse::<std::net::IpAddr>().is_ok();
        let what = if no_port { "has no port" } else { "is not an address with a port" };
        (format!("\"{text}\" {what}"), hint.clone())
    })?;
    let ip = address.ip();
    let wrong = if address.port() == 0 {
        "port 0 is not a port"
    } else if ip.is_unspecified() {
        "a link is between two definite addresses"
    } else if ip.is_multicast() || ip == std::net::Ipv4Addr::BROADCAST {
        "a link has one neighbour; this is a group address"
    } else {
        return Ok(address);
    };
    Err((format!("\"{text}\": {wrong}"), hint))
}

fn addresses(source: &mut Source<'_>, local: Option<&Field<SocketAddr>>, remote: Option<&Field<SocketAddr>>) {
    let (Some(local), Some(remote)) = (local, remote) else {
        return;
    };
    let family = |a: &SocketAddr| if a.is_ipv4() { "IPv4" } else { "IPv6" };
    if local.value.is_ipv4() != remote.value.is_ipv4() {
        let (l, r) = (family(&local.value), family(&remote.value));
        remote.error(source, format!("remote is {r}, local is {l}"), "both ends of a link have the same family");
    } else if local.value == remote.value {
        let message = format!("remote and local are the same, {}", local.value);
        remote.error(source, message, "remote is the neighbour's address");
    }
}

/// `burst`: at least one frame.
fn burst(source: &mut Source<'_>, t: &mut Table<'_>, frame: Option<u32>, rate_bps: Option<u64>) -> Option<u32> {
    let key_present = t.get("burst").is_some();
    let given = t.optional(source, "burst", |v| {
        let wide = unit(units::bytes, "\"15 kB\"")(v)?;
        u32::try_from(wide).map_err(|_| (format!("{wide} bytes are too many"), "at most 4 GB".to_owned()))
    });
    let frame = frame?;
    let Some(given) = given else {
        let wait = u32::try_from(rate_bps.unwrap_or(0) / 8 / 1000 * BURST_MS_DEFAULT).unwrap_or(u32::MAX);
        return (!key_present).then(|| wait.max(BURST_FRAMES_DEFAULT * frame));
    };
    if given.value < frame {
        let message = format!(
            "a burst of {} bytes is less than one frame of this link, {frame} bytes (mtu, Ethernet with VLAN tag {}, overhead)",
            given.value,
            frame::ETHERNET_VLAN_BYTES,
        );
        given.error(source, message, format!("at least \"{frame} B\""));
    }
    Some(given.value)
}

/// Interval, multiplier and key; `None` if something is wrong.
fn liveness(source: &mut Source<'_>, t: &mut Table<'_>, checks: files::Checks) -> Option<(u64, u8, [u8; 32])> {
    let example = "{ interval = \"100 ms\", detect = 3, key-file = \"link.key\" }";
    if t.get("liveness").is_none() {
        t.missing(source, "liveness", example);
        return None;
    }
    let mut t = t.table(source, "liveness")?;
    let interval = duration(source, &mut t, "interval", "\"100 ms\"", LIVENESS_INTERVAL_BOUNDS_NS);
    let detect = t.optional(source, "detect", integer(2..=255)).map_or(DETECT_DEFAULT, |f| f.value);
    let key_file = t.required(source, "key-file", "\"link.key\"", string).map(|f| f.map(PathBuf::from));
    t.close(source);
    let key = files::liveness_key(source, &key_file?, checks)?;
    Some((interval.unwrap_or(LIVENESS_INTERVAL_NS), u8::try_from(detect).ok()?, key))
}

/// An optional duration within bounds, in nanoseconds.
pub(super) fn duration(
    source: &mut Source<'_>,
    t: &mut Table<'_>,
    name: &'static str,
    example: &'static str,
    bounds: std::ops::RangeInclusive<u64>,
) -> Option<u64> {
    let field = t.optional(source, name, |v| {
        let duration = unit(units::duration, example)(v)?;
        u64::try_from(duration.as_nanos()).ok().filter(|n| bounds.contains(n)).ok_or_else(|| {
            let (low, high) = (units::show_duration(*bounds.start()), units::show_duration(*bounds.end()));
            (format!("{duration:?} is out of range"), format!("{low} to {high}"))
        })
    });
    field.map(|f| f.value)
}

/// An optional small integer with a default.
pub(super) fn small(
    source: &mut Source<'_>,
    t: &mut Table<'_>,
    name: &'static str,
    bounds: std::ops::RangeInclusive<u64>,
    default: u16,
) -> u16 {
    t.optional(source, name, integer(bounds)).map_or(default, |f| u16::try_from(f.value).unwrap_or(default))
}

/// Says where two links collide: the same name, or the same local address and port.
pub(super) fn check_together(source: &mut Source<'_>, links: &[LinkDraft], workers: usize) {
    for (index, link) in links.iter().enumerate() {
        let earlier = &links[..index];
        if let Some(name) = &link.name
            && let Some(first) = earlier.iter().filter_map(|l| l.name.as_ref()).find(|n| n.value == name.value)
        {
            let (line, _) = source.position(first.span.start);
            name.error(
                source,
                format!("link \"{}\" is defined already, in line {line}", name.value),
                "rename one of them",
            );
        }
        if let Some(local) = link.local.as_ref().filter(|local| local.value != sim::NO_ADDRESS)
            && let Some(first) = earlier.iter().filter_map(|l| l.local.as_ref()).find(|l| l.value == local.value)
        {
            let (line, _) = source.position(first.span.start);
            let message = format!("{} is another link's local address and port already, in line {line}", local.value);
            local.error(source, message, "give each link its own port");
        }
        if let Some(worker) = &link.worker
            && worker.value >= workers
        {
            let message = format!("worker {} does not exist", worker.value);
            worker.error(source, message, format!("node.workers has {workers}, numbered from 0"));
        }
    }
}

/// Where a section says which link it means.
pub(super) type LinkName = Field<String>;

/// Index and draft of the link of that name.
pub(super) fn find<'l>(
    source: &mut Source<'_>,
    links: &'l [LinkDraft],
    name: &LinkName,
) -> Option<(u16, &'l LinkDraft)> {
    let named = |l: &LinkDraft| l.name.as_ref().is_some_and(|n| n.value == name.value);
    if let Some(index) = links.iter().position(named) {
        return Some((u16::try_from(index).ok()?, &links[index]));
    }
    let names: Vec<_> = links.iter().filter_map(|l| l.name.as_ref()).map(|n| n.value.as_str()).collect();
    let hint = super::diagnostic::did_you_mean(&name.value, "link", &names);
    name.error(source, format!("there is no link \"{}\"", name.value), hint);
    None
}
