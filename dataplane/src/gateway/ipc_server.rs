//! The control process's conversations: each has a thread that reads requests and one that writes answers; the gateway
//! does the work. A control process that dies takes its conversation with it and nothing else.

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::{Input, Replies};
use crate::ipc::Request;
use crate::ipc_codec::{IpcError, IpcStream};
use crate::ring::GatewayBell;

/// Pause after a conversation that could not be started.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accept conversations until the listener goes away (at process end).
pub(crate) fn listen(listener: UnixListener, to_gateway: Sender<Input>, bell: GatewayBell) -> io::Result<()> {
    let accept = move || {
        for socket in listener.incoming() {
            let started = socket
                .map_err(IpcError::from)
                .and_then(IpcStream::new)
                .and_then(|stream| converse(stream, to_gateway.clone(), bell.clone()));
            if let Err(error) = started {
                tracing::warn!(%error, "conversation with the control process not started");
                // Without descriptors or threads, `accept` fails at once, and again.
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    };
    std::thread::Builder::new().name("ipc-accept".into()).spawn(accept).map(drop)
}

/// Start one conversation.
pub(crate) fn converse(stream: IpcStream, to_gateway: Sender<Input>, bell: GatewayBell) -> Result<(), IpcError> {
    let writer = stream.try_clone()?;
    let (replies, answers) = Replies::new();
    let read = move || {
        if let Err(error) = stream.greet() {
            tracing::warn!(%error, "the control process was not greeted");
            return;
        }
        let started = std::thread::Builder::new().name("ipc-write".into()).spawn(move || {
            while let Some(response) = answers.next() {
                if let Err(error) = writer.send(&response, None) {
                    if !error.is_disconnect() {
                        tracing::warn!(%error, "answer not sent");
                    }
                    break;
                }
            }
            writer.shutdown();
        });
        if let Err(error) = started {
            tracing::error!(%error, "no thread for answers");
            return;
        }
        loop {
            match stream.receive::<Request>() {
                Ok(Some((request, descriptor))) => {
                    if to_gateway.send(Input::Request(request, descriptor, replies.clone())).is_err() {
                        return;
                    }
                    bell.ring();
                }
                Ok(None) => return,
                Err(error) => {
                    if !error.is_disconnect() {
                        tracing::warn!(%error, "conversation with the control process ended");
                    }
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().name("ipc-read".into()).spawn(read)?;
    Ok(())
}
