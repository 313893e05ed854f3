//! One child process: its standard input is a unix socket to the supervisor, its output is the supervisor's.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::SupervisorError;
use crate::ipc_codec::IpcStream;

pub(super) struct Child {
    pub(super) name: &'static str,
    pub(super) since: Instant,
    process: tokio::process::Child,
    stream: Option<IpcStream>,
}

impl Child {
    pub(super) fn start(
        name: &'static str,
        executable: &Path,
        arguments: &[OsString],
        stdin: UnixStream,
    ) -> Result<Self, SupervisorError> {
        let process = tokio::process::Command::new(executable)
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(stdin)))
            // Ctrl-C at a terminal is for the supervisor, which stops its children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| SupervisorError::Spawn { name, source })?;
        Ok(Self { name, since: Instant::now(), process, stream: None })
    }

    /// Keep our end of its standard input open for as long as it lives.
    pub(super) fn keep(&mut self, stream: IpcStream) {
        self.stream = Some(stream);
    }

    pub(super) fn stdin(&self) -> Option<&IpcStream> {
        self.stream.as_ref()
    }

    /// Until it ends. May be dropped and called again.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }

    /// Ask it to finish, wait, and kill it if it does not.
    pub(super) async fn stop(&mut self, patience: Duration) {
        let pid = self.process.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(patience, self.process.wait()).await.is_err() {
            tracing::warn!(process = self.name, "did not finish in time; killed");
            let _ = self.process.kill().await;
        }
    }
}
