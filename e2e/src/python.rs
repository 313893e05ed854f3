//! Python, for clients whose stubs are generated when a test runs: a virtual environment in the cache folder, made by
//! `cargo xtask setup`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::process::quiet;

/// What is installed into the environment, by exact version: the runtime of Thrift's stubs, gRPC's with its compiler and its
/// reflection client.
pub const PYTHON_PACKAGES: [&str; 4] =
    ["thrift==0.25.0", "grpcio==1.80.0", "grpcio-tools==1.80.0", "grpcio-reflection==1.80.0"];
/// In the environment: what was installed, one a line. Written last.
pub const PYTHON_RECORD: &str = "florelay-packages.txt";

/// The environment.
#[derive(Debug, Clone)]
pub struct Python {
    home: PathBuf,
}

impl Python {
    /// Where it is, or will be: `python` in `$XDG_CACHE_HOME/florelay`, else in `~/.cache/florelay`. `None`: there is no such
    /// folder.
    #[must_use]
    pub fn home() -> Option<PathBuf> {
        let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let base = base.or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
        Some(base.join("florelay").join("python"))
    }

    /// It is there with everything in it.
    #[must_use]
    pub fn find() -> Option<Self> {
        let home = Self::home()?;
        let record = std::fs::read_to_string(home.join(PYTHON_RECORD)).unwrap_or_default();
        (record == PYTHON_PACKAGES.join("\n") && home.join("bin/python").exists()).then_some(Self { home })
    }

    /// It, or says which test is left out without it.
    ///
    /// # Panics
    /// It is not there although `CI=true`: a suite that silently tests nothing is worse than a red one.
    #[must_use]
    pub fn find_or_skip(test: &str) -> Option<Self> {
        let found = Self::find();
        let in_ci = env::var("CI").is_ok_and(|value| value == "true");
        assert!(
            found.is_some() || !in_ci,
            "{test} needs Python clients (`cargo xtask setup`), and CI=true asks that it runs"
        );
        if found.is_none() {
            eprintln!("left out: {test} needs Python clients (`cargo xtask setup`)");
        }
        found
    }

    /// A command line of its interpreter, to be completed.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.home.join("bin/python"));
        // Nothing is left beside the sources.
        command.env("PYTHONDONTWRITEBYTECODE", "1").env_remove("PYTHONPATH").env_remove("PYTHONHOME");
        command
    }

    /// Generates Thrift stubs of an IDL text into a folder, with the `thrift` compiler.
    ///
    /// # Errors
    /// It is not there, or what it said.
    pub fn thrift_stubs(&self, idl: &Path, into: &Path) -> Result<()> {
        std::fs::create_dir_all(into)?;
        ensure!(idl.is_file(), "there is no {}", idl.display());
        let mut thrift = Command::new("thrift");
        thrift.args(["--gen", "py", "--out"]).arg(into).arg(idl);
        quiet(&mut thrift).context("the package thrift-compiler has it")
    }
}
