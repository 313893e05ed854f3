//! What needs privileges beyond the dataplane's: the XDP program of an interface and its maps.
//!
//! The supervisor keeps those privileges and answers over a unix socket; [`LocalBroker`] does the same in this process,
//! for tests and for a dataplane that runs without a supervisor. Called at start and when something is recycled or a
//! next hop moves to another VLAN: never on the packet path.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use florelay_wire::maps::{SteerKey, SteerValue};

use crate::attach::{Attachment, Mode, OBJECT};

/// Does what the dataplane may not. Errors are texts for a person: they end up as the reason of a rung.
pub trait Broker: Send {
    /// Run the steering program on `interface` in this mode, in place of one of ours in the other mode. Nothing to do
    /// if it runs already. A change of mode forgets sockets and steering.
    ///
    /// # Errors
    /// The driver or the kernel refuses, or somebody else's program runs there.
    fn attach(&mut self, interface: &str, mode: Mode) -> Result<(), String>;

    /// Link frames that arrive on RX queue `queue` go into this AF_XDP socket, bound to the same queue.
    ///
    /// # Errors
    /// The interface is not attached, or the kernel refuses.
    fn register(&mut self, interface: &str, queue: u32, socket: BorrowedFd<'_>) -> Result<(), String>;

    /// These entries become the whole steering table of `interface`.
    ///
    /// # Errors
    /// The interface is not attached, or the kernel refuses.
    fn steer(&mut self, interface: &str, entries: Vec<(SteerKey, SteerValue)>) -> Result<(), String>;

    /// What the program has counted since it was loaded: frames by outcome, and malformed ones by reason
    /// (`malformed_…`), the latter only where there were any.
    ///
    /// # Errors
    /// The interface is not attached, or the kernel refuses.
    fn counters(&mut self, interface: &str) -> Result<Vec<(String, u64)>, String>;

    /// Take the program away; no error if there is none.
    ///
    /// # Errors
    /// The kernel keeps it.
    fn detach(&mut self, interface: &str) -> Result<(), String>;
}

/// The one broker of a dataplane, shared by its workers. The lock is held for one call.
#[derive(Clone)]
pub(crate) struct SharedBroker(Arc<Mutex<Box<dyn Broker>>>);

impl SharedBroker {
    pub(crate) fn new(broker: Box<dyn Broker>) -> Self {
        Self(Arc::new(Mutex::new(broker)))
    }

    /// [`Broker::counters`], unless a worker is having something recycled: a status does not wait for that.
    pub(crate) fn counters(&self, interface: &str) -> Option<Vec<(String, u64)>> {
        self.0.try_lock().ok()?.counters(interface).ok()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Box<dyn Broker>> {
        // A panic of another worker ends the daemon anyway; what the broker holds is still to be detached.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Attaches in this process, which must have the privileges.
pub struct LocalBroker {
    node: String,
    attached: HashMap<String, Attachment>,
}

impl LocalBroker {
    /// For the node of this name, under which its programs are pinned.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self { node: node.to_owned(), attached: HashMap::new() }
    }

    /// Pass on what the programs have logged.
    pub(crate) fn drain_logs(&mut self) {
        self.attached.values_mut().for_each(Attachment::drain_log);
    }

    /// Leave nothing behind: all are tried, the errors are joined.
    pub(crate) fn detach_all(&mut self) -> Result<(), String> {
        let detach = |(interface, attachment): (String, Attachment)| {
            attachment.detach().err().map(|error| format!("{interface}: {error}"))
        };
        let errors: Vec<_> = self.attached.drain().filter_map(detach).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }

    fn attachment(&mut self, interface: &str) -> Result<&mut Attachment, String> {
        self.attached.get_mut(interface).ok_or_else(|| format!("no program is attached to {interface}"))
    }
}

impl Broker for LocalBroker {
    fn attach(&mut self, interface: &str, mode: Mode) -> Result<(), String> {
        if self.attached.get(interface).is_some_and(|attachment| attachment.mode() == mode) {
            return Ok(());
        }
        self.detach(interface)?;
        let attachment = Attachment::attach(interface, &self.node, mode, OBJECT).map_err(|error| error.to_string())?;
        self.attached.insert(interface.to_owned(), attachment);
        Ok(())
    }

    fn register(&mut self, interface: &str, queue: u32, socket: BorrowedFd<'_>) -> Result<(), String> {
        self.attachment(interface)?.register_socket(queue, socket).map_err(|error| error.to_string())
    }

    fn steer(&mut self, interface: &str, entries: Vec<(SteerKey, SteerValue)>) -> Result<(), String> {
        self.attachment(interface)?.set_steering(&entries).map_err(|error| error.to_string())
    }

    fn counters(&mut self, interface: &str) -> Result<Vec<(String, u64)>, String> {
        let attachment = self.attachment(interface)?;
        let counted = attachment.counters().and_then(|outcomes| Ok((outcomes, attachment.malformed()?)));
        let (outcomes, malformed) = counted.map_err(|error| error.to_string())?;
        let outcomes = outcomes.into_iter().map(|(name, count)| (name.to_owned(), count));
        let malformed = malformed.into_iter().filter(|(_, count)| *count > 0);
        Ok(outcomes.chain(malformed.map(|(reason, count)| (format!("malformed_{reason}"), count))).collect())
    }

    fn detach(&mut self, interface: &str) -> Result<(), String> {
        match self.attached.remove(interface) {
            Some(attachment) => attachment.detach().map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }
}
