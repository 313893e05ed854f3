//! A Python environment in the cache folder: the tests generate stubs of the programming interfaces and run clients with
//! them. Exact versions; made anew when they change.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use florelay_e2e::{PYTHON_PACKAGES, PYTHON_RECORD, Python};

use super::{Done, State, Step};
use crate::cmd;
use crate::context::{Context, find_program};

pub(super) struct PythonClients;

impl Step for PythonClients {
    fn name(&self) -> &'static str {
        "Python clients"
    }

    fn why(&self) -> &'static str {
        "clients of the Thrift and gRPC interfaces, as their users would write them, in the end-to-end tests"
    }

    fn check(&self, _: &Context) -> Result<State> {
        let place = place()?;
        if Python::find().is_some() {
            return Ok(State::Ready(format!("{} at {}", PYTHON_PACKAGES.join(" "), place.display())));
        }
        Ok(State::Missing(format!("{} in {}", PYTHON_PACKAGES.join(" "), place.display())))
    }

    fn install(&self, _: &Context) -> Result<Done> {
        ensure!(find_program("python3").is_some(), "there is no python3 (packages python3 and python3-venv)");
        let place = place()?;
        // Whatever is there is of other versions, or was interrupted.
        cmd::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&place))?;
        let mut pip = Command::new(place.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
            .args(PYTHON_PACKAGES);
        cmd::run(&mut pip)?;
        let mut import = Command::new(place.join("bin/python"));
        import.args([
            "-c",
            "import thrift.transport.TSocket, grpc, grpc_tools.protoc, grpc_reflection.v1alpha.reflection",
        ]);
        cmd::run(&mut import).context("what pip has installed cannot be used")?;
        fs::write(place.join(PYTHON_RECORD), PYTHON_PACKAGES.join("\n"))?;
        Ok(Done::Installed)
    }
}

fn place() -> Result<PathBuf> {
    Python::home().context("neither XDG_CACHE_HOME nor HOME is set: nowhere to put it")
}
