//! Contact plans between the wall clock, in which operators write them, and the monotonic clock of the engines.
//!
//! ```text
//!   plan (wall clock) ── − offset ──► Contacts (engine's Nanos) ──► worker
//!                          ▲
//!      looked at each 100 ms: a step of the wall clock moves the offset, and every plan is given anew
//! ```
//!
//! Linux slews CLOCK_MONOTONIC together with the wall clock, so the offset changes only when somebody sets the clock, or
//! the machine was suspended. A contact keeps its start on the wall clock as its key, so a step moves a contact under way
//! and keeps its account.
//!
//! A plan is followed only by a clock that is set. One that is refused closes its link, with the reason, until the clock is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use florelay_engine::Command;
use florelay_engine::Nanos;
use florelay_engine::config::{LinkId, RatePlan};
use florelay_engine::contact::{Contact, ContactPlan as EnginePlan, Contacts as EngineContacts};

use crate::plan::{ContactPlan, LinkContacts, NodePlan};
use crate::wall;

/// A clock that says less has never been set: 2024-01-01T00:00:00Z.
pub const CLOCK_SET_UNIX_NS: u64 = 1_704_067_200_000_000_000;
/// Contacts of one link at most: two years of fourteen passes a day.
pub const MAX_CONTACTS: usize = 10_000;

/// A difference that is a step, and not the time between two readings.
const STEP_NS: u64 = 1_000_000;
/// Readings of the two clocks further apart than this say nothing; another is made.
const READING_NS: u64 = 100_000;
/// Readings at most.
const READINGS: usize = 8;
/// How often a refused plan's clock is asked again.
const SYNCHRONISED_EVERY: Duration = Duration::from_secs(1);

/// The contact plans of all links.
#[derive(Debug, Clone)]
pub(crate) struct Contacts {
    epoch: Instant,
    /// Wall clock at the epoch, Unix ns, as it was last published; negative if the clock is before 1970 + uptime.
    offset_ns: i128,
    links: Vec<Link>,
    synchronised_due: Instant,
    /// What the engines were last told of the wall clock, once they were.
    told_wall: Option<Option<u64>>,
}

#[derive(Debug, Clone)]
struct Link {
    name: String,
    rate: RatePlan,
    delay: Duration,
    settings: LinkContacts,
    refused: Option<Arc<str>>,
    /// The clock was good enough for this plan once.
    followed: bool,
}

impl Contacts {
    /// As configured. `epoch`: zero of the workers' clock.
    pub(crate) fn new(plan: &NodePlan, epoch: Instant) -> Self {
        let links = plan.links.iter().map(|link| Link {
            name: link.name.clone(),
            rate: crate::daemon::rate_plan(link),
            delay: Duration::from_nanos(link.delay_ns),
            settings: link.contacts.clone(),
            refused: None,
            followed: false,
        });
        let mut contacts = Self {
            epoch,
            offset_ns: offset_ns(epoch),
            links: links.collect(),
            synchronised_due: epoch,
            told_wall: None,
        };
        for link in 0..contacts.links.len() {
            contacts.judge(link);
        }
        contacts
    }

    /// What the engine of a link is told at first; `None` if it has no plan.
    pub(crate) fn first_command(&self, link: LinkId) -> Option<Command> {
        self.links.get(usize::from(link.0)).filter(|link| link.settings.plan.is_some())?;
        Some(self.command(link))
    }

    /// Another plan for a link, or none.
    ///
    /// # Errors
    /// For people: what is wrong with the plan, or with the clock.
    pub(crate) fn set(&mut self, link: LinkId, plan: Option<Vec<ContactPlan>>) -> Result<Command, String> {
        let index = usize::from(link.0);
        let entry = self.links.get_mut(index).ok_or("no such link")?;
        if let Some(plan) = &plan {
            check(plan)?;
            if let Some(reason) = refusal(self.epoch, self.offset_ns, entry.settings.require_synchronised_clock) {
                return Err(format!("the contact plan of link {} is refused: {reason}", entry.name));
            }
        }
        entry.settings.plan = plan.map(|mut plan| {
            plan.sort_by_key(|contact| contact.start_unix_ns);
            plan
        });
        (entry.refused, entry.followed) = (None, true);
        Ok(self.command(link))
    }

    /// What must be told because the wall clock was set. To be called several times a second.
    pub(crate) fn poll(&mut self) -> Vec<(LinkId, Command)> {
        // Also while no link has a plan: one may be set at any time.
        let offset = offset_ns(self.epoch);
        let stepped = (offset - self.offset_ns).unsigned_abs() >= u128::from(STEP_NS);
        if stepped {
            let by = offset - self.offset_ns;
            tracing::info!(by_ms = (by / 1_000_000) as i64, "the wall clock was set; contact plans follow it");
            self.offset_ns = offset;
        }
        let now = Instant::now();
        let due = now >= self.synchronised_due;
        if due {
            self.synchronised_due = now + SYNCHRONISED_EVERY;
        }
        let mut told = Vec::new();
        for index in 0..self.links.len() {
            let link = &self.links[index];
            if link.settings.plan.is_none() || !(stepped || due && link.refused.is_some()) {
                continue;
            }
            if self.judge(index) || stepped {
                let link = LinkId(index as u16);
                told.push((link, self.command(link)));
            }
        }
        told
    }

    /// What every engine must be told of the wall clock, if that has changed; to be asked after [`poll`](Self::poll).
    /// A clock that is not set is not told: a wrong time is worse than none.
    pub(crate) fn wall_clock(&mut self) -> Option<Command> {
        let set = !offset_is_early(self.epoch, self.offset_ns);
        let at_zero_ns = u64::try_from(self.offset_ns).ok().filter(|_| set);
        (self.told_wall.replace(at_zero_ns) != Some(at_zero_ns)).then_some(Command::SetWallClock { at_zero_ns })
    }

    /// A link's plan and how it is handled.
    pub(crate) fn settings(&self, link: LinkId) -> Option<&LinkContacts> {
        self.links.get(usize::from(link.0)).map(|link| &link.settings)
    }

    /// Why a link's plan is not followed.
    pub(crate) fn refused(&self, link: LinkId) -> Option<String> {
        self.links.get(usize::from(link.0))?.refused.as_deref().map(str::to_owned)
    }

    /// Look whether a link's plan can be followed; says whether that has changed. A plan that is followed is not given up
    /// when the kernel has not heard of a time server for long: the clock is still the best there is.
    fn judge(&mut self, index: usize) -> bool {
        let (epoch, offset) = (self.epoch, self.offset_ns);
        let Some(link) = self.links.get_mut(index).filter(|link| link.settings.plan.is_some()) else { return false };
        let reason = refusal(epoch, offset, link.settings.require_synchronised_clock && !link.followed);
        link.followed = reason.is_none();
        let changed = reason.as_deref() != link.refused.as_deref();
        if changed {
            match &reason {
                Some(reason) => tracing::warn!(link = link.name, reason, "the contact plan is not followed"),
                None => tracing::info!(link = link.name, "the contact plan is followed"),
            }
            link.refused = reason.map(Into::into);
        }
        changed
    }

    fn command(&self, link: LinkId) -> Command {
        let contacts = self.links.get(usize::from(link.0)).map_or(EngineContacts::Always, |link| link.planned(self));
        Command::SetContacts { link, contacts }
    }

    /// An engine's time; `None` before the epoch.
    fn nanos(&self, unix_ns: u64) -> Option<Nanos> {
        u64::try_from(i128::from(unix_ns) - self.offset_ns).ok().map(Nanos)
    }
}

impl Link {
    fn planned(&self, clock: &Contacts) -> EngineContacts {
        if let Some(reason) = &self.refused {
            return EngineContacts::Refused(reason.clone());
        }
        let Some(plan) = &self.settings.plan else { return EngineContacts::Always };
        let contacts = plan.iter().filter_map(|contact| {
            Some(Contact {
                start: clock.nanos(contact.start_unix_ns).unwrap_or(Nanos::ZERO),
                // One that was over before the start is of no use.
                end: clock.nanos(contact.end_unix_ns).filter(|end| *end > Nanos::ZERO)?,
                rate: self.rate_of(contact),
                delay: contact.delay_ns.map_or(self.delay, Duration::from_nanos),
                key: contact.start_unix_ns,
                name: wall::show(contact.start_unix_ns).into(),
            })
        });
        match EnginePlan::new(contacts.collect(), self.settings.guard_ns.map(Duration::from_nanos)) {
            Ok(plan) => EngineContacts::Planned(plan),
            // `check` has been here before.
            Err(error) => EngineContacts::Refused(error.to_string().into()),
        }
    }

    /// The link's plan with the contact's rate; a contact faster than the link has a burst larger by as much.
    fn rate_of(&self, contact: &ContactPlan) -> RatePlan {
        let burst = match (self.rate.rate_bps, contact.rate_bps) {
            (Some(link), Some(contact)) if contact > link && link > 0 => {
                let burst = u128::from(self.rate.burst_bytes) * u128::from(contact) / u128::from(link);
                u32::try_from(burst).unwrap_or(u32::MAX)
            }
            _ => self.rate.burst_bytes,
        };
        RatePlan { rate_bps: contact.rate_bps, burst_bytes: burst, ..self.rate }
    }
}

/// What is wrong with a plan, if anything, whatever the link (for that,
/// [`LinkPlan::check_contact`](crate::plan::LinkPlan::check_contact)).
///
/// # Errors
/// For people.
pub fn check(plan: &[ContactPlan]) -> Result<(), String> {
    if plan.len() > MAX_CONTACTS {
        return Err(format!("{} contacts are too many; at most {MAX_CONTACTS}", plan.len()));
    }
    let mut order: Vec<_> = plan.iter().collect();
    order.sort_by_key(|contact| contact.start_unix_ns);
    for contact in &order {
        if contact.end_unix_ns <= contact.start_unix_ns {
            let (start, end) = (wall::show(contact.start_unix_ns), wall::show(contact.end_unix_ns));
            return Err(format!("the contact at {start} ends at {end}, which is not after its start"));
        }
        if contact.rate_bps == Some(0) {
            return Err(format!("the contact at {} has rate 0", wall::show(contact.start_unix_ns)));
        }
    }
    for pair in order.windows(2) {
        if pair[1].start_unix_ns < pair[0].end_unix_ns {
            let (second, first) = (wall::show(pair[1].start_unix_ns), wall::show(pair[0].end_unix_ns));
            return Err(format!("the contact at {second} begins before the one before it ends, at {first}"));
        }
    }
    Ok(())
}

/// Why this clock may not follow a plan.
fn refusal(epoch: Instant, offset_ns: i128, require_synchronised: bool) -> Option<String> {
    if offset_is_early(epoch, offset_ns) {
        return Some(format!("the clock is not set, it says {}", wall::show(wall::now_unix_ns())));
    }
    if !require_synchronised {
        return None;
    }
    let hint = "let chrony, systemd-timesyncd or ptp4l set it, or write: require-synchronised-clock = false";
    match florelay_xsk::clock::synchronised() {
        Ok(true) => None,
        Ok(false) => Some(format!("the kernel says that the clock is not synchronised ({hint})")),
        Err(error) => Some(format!("the kernel does not say whether the clock is synchronised: {error} ({hint})")),
    }
}

fn offset_is_early(epoch: Instant, offset_ns: i128) -> bool {
    let now = offset_ns + i128::try_from(epoch.elapsed().as_nanos()).unwrap_or(i128::MAX);
    now < i128::from(CLOCK_SET_UNIX_NS)
}

/// The wall clock at `epoch`, by its present reading.
fn offset_ns(epoch: Instant) -> i128 {
    let mut best = (u64::MAX, 0);
    for _ in 0..READINGS {
        let before = epoch.elapsed();
        let wall = wall::now_unix_ns();
        let after = epoch.elapsed();
        let apart = u64::try_from((after - before).as_nanos()).unwrap_or(u64::MAX);
        if apart < best.0 {
            best = (apart, i128::from(wall) - i128::try_from(before.as_nanos()).unwrap_or(0));
        }
        if apart <= READING_NS {
            break;
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(start: u64, end: u64, rate_bps: Option<u64>) -> ContactPlan {
        let ns = |seconds: u64| CLOCK_SET_UNIX_NS + seconds * 1_000_000_000;
        ContactPlan { start_unix_ns: ns(start), end_unix_ns: ns(end), rate_bps, delay_ns: None }
    }

    fn link(settings: LinkContacts) -> Link {
        let rate = RatePlan { rate_bps: Some(1_000_000), burst_bytes: 15_000, control_percent: 50 };
        Link { name: "up".into(), rate, delay: Duration::from_millis(20), settings, refused: None, followed: false }
    }

    fn contacts(settings: LinkContacts, wall_at_epoch: i128) -> Contacts {
        let epoch = Instant::now();
        Contacts {
            epoch,
            offset_ns: wall_at_epoch,
            links: vec![link(settings)],
            synchronised_due: epoch,
            told_wall: None,
        }
    }

    fn plan(contacts: Vec<ContactPlan>) -> LinkContacts {
        LinkContacts { plan: Some(contacts), guard_ns: None, require_synchronised_clock: false }
    }

    #[test]
    fn wall_times_become_the_engines() {
        let ten = 10_000_000_000;
        let settings = plan(vec![contact(0, 5, None), contact(8, 12, Some(4_000_000)), contact(20, 30, Some(9_000))]);
        let contacts = contacts(settings, i128::from(CLOCK_SET_UNIX_NS) + ten);
        let Some(Command::SetContacts { contacts: EngineContacts::Planned(plan), .. }) =
            contacts.first_command(LinkId(0))
        else {
            panic!("no plan")
        };
        let [running, next] = plan.contacts() else { panic!("{plan:?}") };
        // The first one was over before the epoch, the second is under way at it.
        assert_eq!((running.start, running.end), (Nanos::ZERO, Nanos(2_000_000_000)));
        assert_eq!((next.start, next.end), (Nanos(10_000_000_000), Nanos(20_000_000_000)));
        assert_eq!((running.rate.rate_bps, running.rate.burst_bytes), (Some(4_000_000), 60_000));
        assert_eq!((next.rate.rate_bps, next.rate.burst_bytes), (Some(9_000), 15_000));
        assert_eq!((&*running.name, running.delay), ("2024-01-01T00:00:08Z", Duration::from_millis(20)));
        assert_eq!(running.key, CLOCK_SET_UNIX_NS + 8_000_000_000);
    }

    #[test]
    fn a_clock_that_is_not_set_refuses_by_name() {
        let mut contacts = contacts(plan(vec![contact(0, 5, None)]), 3_000_000_000);
        assert!(contacts.judge(0));
        let Some(Command::SetContacts { contacts: EngineContacts::Refused(why), .. }) =
            contacts.first_command(LinkId(0))
        else {
            panic!("followed by a clock of 1970")
        };
        assert!(why.starts_with("the clock is not set"), "{why}");
        let refused = contacts.set(LinkId(0), Some(vec![contact(7, 8, None)])).unwrap_err();
        assert!(refused.contains("link up is refused: the clock is not set"), "{refused}");
        // The wall clock of this machine is set: the next look takes the plan up, and again only after a step.
        let told = contacts.poll();
        assert!(matches!(&told[..], [(_, Command::SetContacts { contacts: EngineContacts::Planned(_), .. })]));
        assert!(contacts.poll().is_empty());
        contacts.offset_ns -= 2 * i128::from(STEP_NS);
        assert_eq!(contacts.poll().len(), 1);
        assert!(contacts.set(LinkId(0), None).is_ok() && contacts.first_command(LinkId(0)).is_none());
        // A step is noticed also while there is no plan.
        contacts.offset_ns = 3_000_000_000;
        assert!(contacts.poll().is_empty());
        assert!(contacts.set(LinkId(0), Some(vec![contact(7, 8, None)])).is_ok());
    }

    #[test]
    fn engines_are_told_of_the_wall_clock_only_when_it_is_set() {
        let mut contacts = contacts(LinkContacts::default(), 3_000_000_000);
        let told = |contacts: &mut Contacts| match contacts.wall_clock() {
            Some(Command::SetWallClock { at_zero_ns }) => Some(at_zero_ns),
            _ => None,
        };
        assert_eq!(told(&mut contacts), Some(None), "it says 1970");
        assert_eq!(told(&mut contacts), None, "once");
        // The clock of this machine is set: the next look finds a step.
        contacts.poll();
        let offset = told(&mut contacts).flatten().expect("a clock that is set");
        assert_eq!(i128::from(offset), contacts.offset_ns);
        contacts.poll();
        assert_eq!(told(&mut contacts), None);
    }

    #[test]
    fn what_is_no_plan_is_refused_with_its_times() {
        for (plan, part) in [
            (vec![contact(5, 5, None)], "not after its start"),
            (vec![contact(5, 6, Some(0))], "rate 0"),
            (vec![contact(5, 8, None), contact(1, 6, None)], "at 2024-01-01T00:00:05Z begins before"),
            (vec![contact(5, 8, None); MAX_CONTACTS + 1], "too many"),
        ] {
            let error = check(&plan).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert!(check(&[contact(5, 8, None), contact(1, 5, None)]).is_ok());
    }
}
