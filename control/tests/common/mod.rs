//! The executable, a control process, and the test's end of its dataplane socket: the test stands in for the dataplane.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Output, Stdio};

use florelay_dataplane::ipc::{Answer, Failure, Request, RequestBody, Response, TransferStatus};
use florelay_dataplane::ipc_codec::IpcStream;

pub(crate) const ID: &str = "6b1f3f5e-8c64-4c43-9d0e-1f1a6f0c2d11";

pub(crate) fn florelay(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_florelay"));
    command.args(args).env_remove("FLORELAY_SOCKET").env_remove("FLORELAY_CONFIG");
    command
}

pub(crate) fn run(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = florelay(args).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A child that does not outlive its test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A control process, and the test's end of its dataplane socket, greeted.
pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) dataplane: IpcStream,
    /// Where the dataplane listens.
    listener: UnixListener,
    pub(crate) control: Running,
}

impl Node {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dataplane.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let control = Self::control(&dir);
        let dataplane = Self::greeted(&listener);
        let node = Self { dir, dataplane, listener, control };
        assert_eq!(node.request().1, RequestBody::Status);
        node
    }

    pub(crate) fn control(dir: &tempfile::TempDir) -> Running {
        let [socket, dataplane] = ["control.sock", "dataplane.sock"].map(|name| dir.path().join(name));
        Running(florelay(&["control", "--socket"]).arg(socket).arg("--dataplane").arg(dataplane).spawn().unwrap())
    }

    /// Control listens for clients before it looks for the dataplane.
    pub(crate) fn greeted(listener: &UnixListener) -> IpcStream {
        let dataplane = IpcStream::new(listener.accept().unwrap().0).unwrap();
        dataplane.greet().unwrap();
        dataplane
    }

    /// kill -9 of the control process. The next one is there, and has not been met by the dataplane.
    pub(crate) fn replace_control(&mut self) {
        self.control.0.kill().unwrap();
        self.control.0.wait().unwrap();
        self.control = Self::control(&self.dir);
    }

    pub(crate) fn meet_control(&mut self) {
        self.dataplane = Self::greeted(&self.listener);
        assert_eq!(self.request().1, RequestBody::Status);
    }

    /// That nobody wants certain answers any more may come between.
    pub(crate) fn request(&self) -> (u64, RequestBody, Option<OwnedFd>) {
        loop {
            let (request, fd) = self.dataplane.receive::<Request>().unwrap().unwrap();
            if !matches!(request.body, RequestBody::Forget { .. }) {
                return (request.tag, request.body, fd);
            }
        }
    }

    pub(crate) fn answer(&self, tag: u64, confirmed: u64, stalled: bool, ended: Option<Result<[u8; 32], Failure>>) {
        let body = Answer::Transfer(Box::new(TransferStatus {
            id: uuid::Uuid::parse_str(ID).unwrap().as_u128(),
            peer: "station-b".into(),
            name: "f.raw".into(),
            outgoing: true,
            priority: 7,
            kind: florelay_dataplane::ipc::TransferKind::File,
            spooled: 0,
            size: Some(5),
            confirmed,
            age_ns: 1_000_000,
            stalled,
            ended,
            ..TransferStatus::default()
        }));
        self.dataplane.send(&Response { tag, body }, None).unwrap();
    }

    pub(crate) fn spawn(&self, args: &[&str]) -> Running {
        let mut command = florelay(args);
        command.arg("--socket").arg(self.dir.path().join("control.sock"));
        Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    pub(crate) fn file(&self) -> String {
        let path = self.dir.path().join("f.raw");
        fs::write(&path, "hello").unwrap();
        path.to_str().unwrap().to_owned()
    }
}

pub(crate) fn finish(mut child: Running) -> (i32, String, String) {
    let mut text = (String::new(), String::new());
    child.0.stdout.take().unwrap().read_to_string(&mut text.0).unwrap();
    child.0.stderr.take().unwrap().read_to_string(&mut text.1).unwrap();
    (child.0.wait().unwrap().code().unwrap(), text.0, text.1)
}
