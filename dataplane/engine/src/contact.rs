//! The contact plan of a link: the intervals in which it may be used, each with its own rate and one-way delay.
//!
//! ```text
//!            start                          end − guard   end
//!   closed ────┤ open: probes at once, then commands, bulk ├─────┤ closed, until the next start
//!                                             nothing new ─┘     └─ the last frame has left
//! ```
//!
//! Times are the engine's own; who drives it maps the wall clock to them, and gives the plan anew when that clock is
//! stepped. [`Schedule`] says where in the plan a link stands and keeps account of how its contacts were used.
//!
//! Invariants: contacts are in order and do not overlap; between two that touch there is no gap, and no guard.

use std::sync::Arc;
use std::time::Duration;

use crate::config::RatePlan;
use crate::time::Nanos;

/// One contact (a *pass*).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// From here on frames may be sent.
    pub start: Nanos,
    /// From here on the last of them must have left; after `start`.
    pub end: Nanos,
    /// Rate plan while it lasts.
    pub rate: RatePlan,
    /// One-way delay while it lasts.
    pub delay: Duration,
    /// Names the contact when the same plan is given again with other times, e.g. its start on the wall clock.
    pub key: u64,
    /// Its start, for people.
    pub name: Arc<str>,
}

/// Why a list of contacts is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContactError {
    /// It ends before it begins, or when it does.
    #[error("the contact at {0} does not end after its start")]
    Empty(Arc<str>),
    /// It begins before the one before it has ended.
    #[error("the contact at {1} begins before the one at {0} has ended")]
    Overlap(Arc<str>, Arc<str>),
    /// It could not carry anything.
    #[error("the contact at {0} has rate 0")]
    NoRate(Arc<str>),
}

/// A link's contacts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactPlan {
    contacts: Arc<[Contact]>,
    guard: Option<Duration>,
}

impl ContactPlan {
    /// A plan of these contacts, in any order. `guard`: how long before the end of a contact the last frame is given to
    /// the adapter; `None` = the time that one largest frame, a full transmit ring and a burst take at the contact's rate.
    ///
    /// # Errors
    /// [`ContactError`].
    pub fn new(mut contacts: Vec<Contact>, guard: Option<Duration>) -> Result<Self, ContactError> {
        contacts.sort_by_key(|contact| contact.start);
        for contact in &contacts {
            if contact.end <= contact.start {
                return Err(ContactError::Empty(contact.name.clone()));
            }
            if contact.rate.rate_bps == Some(0) {
                return Err(ContactError::NoRate(contact.name.clone()));
            }
        }
        for pair in contacts.windows(2) {
            if pair[1].start < pair[0].end {
                return Err(ContactError::Overlap(pair[0].name.clone(), pair[1].name.clone()));
            }
        }
        Ok(Self { contacts: contacts.into(), guard })
    }

    /// The contacts in order.
    #[must_use]
    pub fn contacts(&self) -> &[Contact] {
        &self.contacts
    }
}

/// When a link may be used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Contacts {
    /// Always: it has no plan.
    #[default]
    Always,
    /// In these intervals.
    Planned(ContactPlan),
    /// There is a plan, and it cannot be followed for this reason: never.
    Refused(Arc<str>),
}

/// How a contact was used, so far or in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassUsage {
    /// The contact's key.
    pub key: u64,
    /// The contact's start, for people.
    pub name: Arc<str>,
    /// Bytes sent at layer 2.
    pub sent_bytes: u64,
    /// Bytes that its rate would have carried since it was opened; `None` if uncapped.
    pub carried_bytes: Option<u64>,
    /// Bytes that its rate carries in the whole of it; `None` if uncapped.
    pub capacity_bytes: Option<u64>,
}

/// Where in its plan a link stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactReport {
    /// Why the plan is not followed.
    pub refused: Option<Arc<str>>,
    /// The contact under way, its use, and the time left.
    pub present: Option<(Contact, PassUsage, Duration)>,
    /// The next contact, and the time until it begins.
    pub next: Option<(Contact, Duration)>,
    /// How the last contact was used.
    pub last: Option<PassUsage>,
}

/// A contact under way.
#[derive(Debug, Clone)]
struct Pass {
    contact: Contact,
    /// The link's bytes sent when it began.
    sent_before: u64,
    /// Accounted for until here, at this rate.
    since: Nanos,
    rate_bps: Option<u64>,
    /// (bit/s)·ns that the rate carried until `since`; `None` once uncapped.
    carried: Option<u128>,
}

impl Pass {
    fn account(&mut self, now: Nanos) {
        self.carried = self.carried_at(now);
        self.since = self.since.max(now);
    }

    fn carried_at(&self, now: Nanos) -> Option<u128> {
        let until = now.min(self.contact.end);
        let rate = u128::from(self.rate_bps?);
        Some(self.carried? + rate * u128::from(until.0.saturating_sub(self.since.0)))
    }

    fn usage(&self, now: Nanos, sent: u64) -> PassUsage {
        let bytes = |bit_ns: u128| u64::try_from(bit_ns / BIT_NS_PER_BYTE).unwrap_or(u64::MAX);
        PassUsage {
            key: self.contact.key,
            name: self.contact.name.clone(),
            sent_bytes: sent.saturating_sub(self.sent_before),
            carried_bytes: self.carried_at(now).map(bytes),
            capacity_bytes: self.carried_at(Nanos::MAX).map(bytes),
        }
    }
}

const BIT_NS_PER_BYTE: u128 = 8_000_000_000;

/// What following the plan has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// A contact began, or changed into another: its rate and delay hold.
    Opened {
        rate: RatePlan,
        delay: Duration,
    },
    /// Nothing may be sent any more.
    Closed,
    /// The link has no plan any more.
    Freed,
}

/// A link's plan and where it stands in it.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    plan: Contacts,
    pass: Option<Pass>,
    last: Option<PassUsage>,
    /// Frames may be sent in `[open.0, open.1)`.
    open: (Nanos, Nanos),
    edge: Nanos,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { plan: Contacts::Always, pass: None, last: None, open: (Nanos::ZERO, Nanos::MAX), edge: Nanos::MAX }
    }
}

impl Schedule {
    /// Another plan. [`follow`](Self::follow) must be called next.
    pub(crate) fn set(&mut self, plan: Contacts) {
        self.plan = plan;
    }

    /// Takes the place in the plan that belongs to `now`. `sent`: the link's bytes sent so far; `guard`: the time before
    /// the end of a contact of this rate, unless the plan says another.
    pub(crate) fn follow(&mut self, now: Nanos, sent: u64, guard: impl Fn(RatePlan) -> Duration) -> Change {
        let was_planned = self.open != (Nanos::ZERO, Nanos::MAX);
        let plan = match &self.plan {
            Contacts::Planned(plan) => plan.clone(),
            Contacts::Always => {
                self.finish(now, sent);
                (self.open, self.edge) = ((Nanos::ZERO, Nanos::MAX), Nanos::MAX);
                return if was_planned { Change::Freed } else { Change::None };
            }
            Contacts::Refused(_) => {
                self.finish(now, sent);
                return self.close(Nanos::MAX);
            }
        };
        let contacts = plan.contacts();
        let index = contacts.partition_point(|contact| contact.end <= now);
        let stop = |index: usize| {
            let contact = &contacts[index];
            let touches = contacts.get(index + 1).is_some_and(|next| next.start == contact.end);
            let guard = if touches { Duration::ZERO } else { plan.guard.unwrap_or_else(|| guard(contact.rate)) };
            Nanos(contact.end.0.saturating_sub(u64::try_from(guard.as_nanos()).unwrap_or(u64::MAX))).max(contact.start)
        };
        let current = contacts.get(index).filter(|contact| contact.start <= now);
        if self.pass.as_ref().is_some_and(|pass| current.is_none_or(|contact| contact.key != pass.contact.key)) {
            self.finish(now, sent);
        }
        let Some(contact) = current.filter(|_| now < stop(index)) else {
            if let (Some(pass), Some(contact)) = (&mut self.pass, current) {
                pass.contact = contact.clone();
            }
            let next = contacts[index..].iter().find(|contact| contact.start > now);
            // The account of a contact is closed at its very end, after the guard.
            let end = current.map_or(Nanos::MAX, |contact| contact.end);
            return self.close(next.map_or(Nanos::MAX, |next| next.start).min(end));
        };
        let stop = stop(index);
        let was_open = self.is_open();
        self.open = (contact.start, stop);
        self.edge = stop;
        if let Some(pass) = &mut self.pass {
            // The same one, perhaps at times that the wall clock has moved.
            let same = (pass.contact.rate, pass.contact.delay) == (contact.rate, contact.delay);
            pass.contact = contact.clone();
            if same && was_open {
                return Change::None;
            }
            pass.account(now);
            pass.rate_bps = contact.rate.rate_bps;
        } else {
            let contact = contact.clone();
            let (since, rate_bps) = (now, contact.rate.rate_bps);
            self.pass = Some(Pass { contact, sent_before: sent, since, rate_bps, carried: Some(0) });
        }
        Change::Opened { rate: contact.rate, delay: contact.delay }
    }

    /// The rate was changed by hand for the rest of the contact.
    pub(crate) fn rate_changed(&mut self, now: Nanos, rate_bps: Option<u64>) {
        if let Some(pass) = &mut self.pass {
            pass.account(now);
            pass.rate_bps = rate_bps;
        }
    }

    /// Whether a frame may be sent.
    pub(crate) fn may_send(&self, now: Nanos) -> bool {
        self.open.0 <= now && now < self.open.1
    }

    /// Whether the link is usable as of the last [`follow`](Self::follow).
    pub(crate) fn is_open(&self) -> bool {
        self.open.1 > self.open.0
    }

    /// When to call [`follow`](Self::follow) next; `MAX` = not before another plan comes.
    pub(crate) fn next_edge(&self) -> Nanos {
        self.edge
    }

    /// Why the link is closed, for people.
    pub(crate) fn reason(&self, now: Nanos) -> Arc<str> {
        match &self.plan {
            Contacts::Refused(reason) => format!("the contact plan is not followed: {reason}").into(),
            _ => match self.next(now) {
                Some(next) => format!("outside contact; next at {}", next.name).into(),
                None => "outside contact; the plan has no further one".into(),
            },
        }
    }

    pub(crate) fn report(&self, now: Nanos, sent: u64) -> Option<ContactReport> {
        let refused = match &self.plan {
            Contacts::Always => return None,
            Contacts::Planned(_) => None,
            Contacts::Refused(reason) => Some(reason.clone()),
        };
        let present = self.pass.as_ref().filter(|pass| now < pass.contact.end);
        Some(ContactReport {
            refused,
            present: present.map(|pass| (pass.contact.clone(), pass.usage(now, sent), pass.contact.end.since(now))),
            next: self.next(now).map(|next| (next.clone(), next.start.since(now))),
            last: self.last.clone(),
        })
    }

    fn next(&self, now: Nanos) -> Option<&Contact> {
        let Contacts::Planned(plan) = &self.plan else { return None };
        plan.contacts().get(plan.contacts().partition_point(|contact| contact.start <= now))
    }

    fn close(&mut self, edge: Nanos) -> Change {
        let was_open = self.is_open();
        (self.open, self.edge) = ((Nanos::MAX, Nanos::ZERO), edge);
        if was_open { Change::Closed } else { Change::None }
    }

    fn finish(&mut self, now: Nanos, sent: u64) {
        if let Some(pass) = self.pass.take() {
            self.last = Some(pass.usage(now, sent));
        }
    }
}

#[cfg(test)]
#[path = "contact_tests.rs"]
mod tests;
