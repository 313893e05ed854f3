//! The `florelay` program and its verbs, as an operator calls them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::process::{output, quiet};

/// Where the program is.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
}

impl Program {
    /// A program at a known place.
    ///
    /// # Errors
    /// There is none.
    pub fn at(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        ensure!(path.is_file(), "there is no program {}", path.display());
        Ok(Self { path })
    }

    /// The one that belongs to a running test: `$FLORELAY_BIN`, or `florelay` in the folder of the test's profile.
    ///
    /// # Errors
    /// It was not built.
    pub fn for_tests() -> Result<Self> {
        if let Some(path) = env::var_os("FLORELAY_BIN") {
            return Self::at(path);
        }
        let test = env::current_exe()?;
        // target/<profile>/deps/<test>
        let profile = test.parent().and_then(Path::parent).context("the test has no target folder")?;
        Self::at(profile.join("florelay")).context("build it first: cargo build -p florelay (`cargo xtask test` does)")
    }

    /// A command line, to be completed.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(arguments);
        command
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a realm's CA in a folder.
    ///
    /// # Errors
    /// What the program said.
    pub fn pki_init(&self, realm: &str, folder: &Path) -> Result<()> {
        quiet(self.command(&["pki", "init", "--realm", realm, "--dir"]).arg(folder))
    }

    /// Issues a node's certificate and key into the CA's folder.
    ///
    /// # Errors
    /// What the program said.
    pub fn pki_issue(&self, node: &str, folder: &Path) -> Result<()> {
        quiet(self.command(&["pki", "issue", "--node", node, "--dir"]).arg(folder))
    }

    /// Makes a link's liveness key.
    ///
    /// # Errors
    /// What the program said.
    pub fn link_key(&self, file: &Path) -> Result<()> {
        quiet(self.command(&["pki", "link-key"]).arg(file))
    }

    /// Checks a configuration.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check(&self, config: &Path) -> Result<()> {
        quiet(self.command(&["check", "--config"]).arg(config))
    }

    /// `link set NAME --rate RATE` on a running node; `rate` as in a configuration.
    ///
    /// # Errors
    /// What the program said.
    pub fn set_rate(&self, config: &Path, link: &str, rate: crate::Rate) -> Result<()> {
        quiet(self.command(&["link", "set", link, "--rate", &rate.to_string(), "--config"]).arg(config))
    }

    /// `link up NAME` or `link down NAME` on a running node.
    ///
    /// # Errors
    /// What the program said.
    pub fn set_link(&self, config: &Path, link: &str, up: bool) -> Result<()> {
        quiet(self.command(&["link", if up { "up" } else { "down" }, link, "--config"]).arg(config))
    }

    /// `send FILE --to NODE --json`, to be started.
    #[must_use]
    pub fn send(&self, config: &Path, to: &str, file: &Path) -> Command {
        let mut command = self.command(&["send"]);
        command.arg(file).args(["--to", to, "--json", "--config"]).arg(config);
        command
    }

    /// `c2 --to NODE --count N --interval T --json MESSAGE`, to be started.
    #[must_use]
    pub fn c2(&self, config: &Path, to: &str, count: u32, interval_ms: u32, message: &str) -> Command {
        let (count, interval) = (count.to_string(), format!("{interval_ms} ms"));
        let mut command =
            self.command(&["c2", "--to", to, "--count", &count, "--interval", &interval, "--json", "--config"]);
        command.arg(config).arg(message);
        command
    }

    /// `status --json` of a running node.
    ///
    /// # Errors
    /// It does not answer (yet).
    pub fn status(&self, config: &Path) -> Result<crate::Status> {
        let said = output(self.command(&["status", "--json", "--config"]).arg(config))?;
        crate::Status::parse(&said)
    }
}
