//! What stands between the control process and the workers, on a thread of its own: the gateway; or, to be measured against,
//! one that has no files.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::DaemonError;
use crate::bare::Bare;
use crate::broker::SharedBroker;
use crate::contacts::Contacts;
use crate::gateway::{Gateway, Input, KnownPaths};
use crate::plan::NodePlan;
use crate::ring::{GatewayBell, Rings};

/// See the module.
pub(crate) enum Front {
    Gateway,
    Bare(Bare),
}

/// What a gateway is made of.
pub(super) struct Surroundings {
    pub(super) plan: Arc<NodePlan>,
    pub(super) contacts: Contacts,
    pub(super) paths: KnownPaths,
    pub(super) rings: Vec<Arc<Rings>>,
    pub(super) inputs: Receiver<Input>,
    pub(super) to_self: Sender<Input>,
    pub(super) boot_id: u64,
    pub(super) broker: SharedBroker,
}

impl Front {
    /// Starts the thread, and returns when it is ready.
    pub(super) fn start(self, around: Surroundings) -> Result<(JoinHandle<()>, GatewayBell), DaemonError> {
        let (started, bell) = channel();
        let thread = std::thread::Builder::new().name("gateway".into()).spawn(move || {
            let bell = GatewayBell::of_this_thread();
            let Surroundings { plan, contacts, paths, rings, inputs, to_self, boot_id, broker } = around;
            let bare = match self {
                Self::Bare(bare) => bare,
                Self::Gateway => {
                    match Gateway::new(plan, contacts, paths, rings, inputs, to_self, bell.clone(), boot_id, broker) {
                        Ok(mut gateway) => {
                            let _ = started.send(Ok(bell));
                            gateway.run();
                        }
                        Err(error) => {
                            let _ = started.send(Err(error));
                        }
                    }
                    return;
                }
            };
            let _ = started.send(Ok(bell.clone()));
            bare.run(&rings, &inputs, &bell);
        });
        let failed = |source| DaemonError::System { what: "the gateway", source };
        let thread = thread.map_err(failed)?;
        let bell = bell.recv().unwrap_or_else(|_| Err(std::io::Error::other("its thread ended"))).map_err(failed)?;
        Ok((thread, bell))
    }
}
