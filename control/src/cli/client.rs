//! A client's end of the control socket.

use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use florelay_dataplane::ipc::{Answer, Request, RequestBody, Response};
use florelay_dataplane::ipc_codec::IpcStream;
use tokio::signal::unix::{SignalKind, signal};

use super::Exit;
use super::args::Target;

/// How long a node that went away may take to come back before what waits for it is given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two attempts.
pub(super) const RETRY: Duration = Duration::from_millis(200);

/// Ctrl-C came: whoever does not look at what happens just now can see it here.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A greeted connection to the control process.
pub(super) struct Client {
    stream: IpcStream,
    next_tag: u64,
}

/// What a command waits for.
pub(super) enum Happening {
    /// An answer.
    Answer(Answer),
    /// Ctrl-C.
    Interrupt,
    /// The control process is gone, for this reason.
    Gone(String),
}

impl Client {
    pub(super) fn connect(target: &Target) -> anyhow::Result<Self> {
        let path = match &target.socket {
            Some(path) => path.clone(),
            None => crate::config::control_socket(&target.config)?,
        };
        let socket = UnixStream::connect(&path).map_err(|e| {
            let hint = match e.kind() {
                ErrorKind::PermissionDenied => "only root and the user that runs the node may ask it",
                _ => "is `florelay up` running? (--socket PATH, or --config FILE of the node, say which)",
            };
            Exit::unavailable(format!("no control process at {}: {e}\n    hint: {hint}", path.display()))
        })?;
        let stream = IpcStream::new(socket)?;
        stream.greet().map_err(|e| Exit::unavailable(format!("the control process at {}: {e}", path.display())))?;
        Ok(Self { stream, next_tag: 1 })
    }

    #[cfg(test)]
    pub(super) fn over(socket: UnixStream) -> anyhow::Result<Self> {
        Ok(Self { stream: IpcStream::new(socket)?, next_tag: 1 })
    }

    /// Asks, and leaves the answers to [`Self::answer`] or [`Self::happenings`].
    pub(super) fn ask(&mut self, body: RequestBody, fd: Option<BorrowedFd<'_>>) -> anyhow::Result<()> {
        self.next_tag += 1;
        self.stream
            .send(&Request { tag: self.next_tag, body }, fd)
            .map_err(|e| Exit::unavailable(format!("asking the control process: {e}")))
    }

    /// The next answer to the last request; a refusal is an error.
    pub(super) fn answer(&self) -> anyhow::Result<Answer> {
        match receive(&self.stream, Some(self.next_tag)) {
            Happening::Answer(Answer::Failed(reason)) => Err(Exit::failed(reason)),
            Happening::Answer(Answer::Unavailable(reason)) => Err(Exit::unavailable(reason)),
            Happening::Answer(answer) => Ok(answer),
            Happening::Gone(reason) => Err(Exit::unavailable(reason)),
            Happening::Interrupt => Err(Exit::failed("interrupted")),
        }
    }

    /// Answers to all requests, and Ctrl-C, as they come. Nothing else may read afterwards.
    pub(super) fn happenings(&self) -> anyhow::Result<Receiver<Happening>> {
        let (sender, receiver) = sync_channel(16);
        on_interrupt(sender.clone())?;
        self.report_to(&sender)?;
        Ok(receiver)
    }

    /// Send answers to all requests to `sender` as they come, to the end of the connection. Nothing else may read
    /// afterwards.
    pub(super) fn report_to<T: From<Happening> + Send + 'static>(&self, sender: &SyncSender<T>) -> anyhow::Result<()> {
        let (stream, sender) = (self.stream.try_clone()?, sender.clone());
        thread::spawn(move || {
            loop {
                let happening = receive(&stream, None);
                let gone = matches!(happening, Happening::Gone(_));
                if sender.send(happening.into()).is_err() || gone {
                    break;
                }
            }
        });
        Ok(())
    }
}

fn receive(stream: &IpcStream, tag: Option<u64>) -> Happening {
    loop {
        match stream.receive::<Response>() {
            // Late answers to an earlier request are nobody's business.
            Ok(Some((response, _))) if tag.is_some_and(|t| t != response.tag) => {}
            // For a person, one refusal is as good as another.
            Ok(Some((Response { body: Answer::Refused { reason, .. }, .. }, _))) => {
                return Happening::Answer(Answer::Failed(reason));
            }
            Ok(Some((response, _))) => return Happening::Answer(response.body),
            Ok(None) => {
                return Happening::Gone("the control process has closed the connection".to_owned());
            }
            Err(e) => return Happening::Gone(format!("the control process: {e}")),
        }
    }
}

/// Connects again to a control process that has gone, and has it report to `sender`. `None`: Ctrl-C came meanwhile.
///
/// # Errors
/// It is not back after `patience`.
pub(super) fn reconnect<T: From<Happening> + Send + 'static>(
    target: &Target,
    sender: &SyncSender<T>,
    patience: Duration,
) -> anyhow::Result<Option<Client>> {
    let begun = Instant::now();
    loop {
        match Client::connect(target) {
            Ok(client) => {
                client.report_to(sender)?;
                return Ok(Some(client));
            }
            Err(_) if INTERRUPTED.load(Ordering::Relaxed) => return Ok(None),
            Err(error) if begun.elapsed() >= patience => return Err(error),
            Err(_) => thread::sleep(RETRY),
        }
    }
}

/// Sends one `Interrupt` per Ctrl-C, from the return of this function on.
pub(super) fn on_interrupt<T: From<Happening> + Send + 'static>(sender: SyncSender<T>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut interrupts = {
        let _inside = runtime.enter();
        signal(SignalKind::interrupt())?
    };
    thread::spawn(move || {
        runtime.block_on(async {
            while interrupts.recv().await.is_some() {
                INTERRUPTED.store(true, Ordering::Relaxed);
                if sender.send(Happening::Interrupt.into()).is_err() {
                    break;
                }
            }
        });
    });
    Ok(())
}
