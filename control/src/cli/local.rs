//! The verbs that ask nobody: `check`, `up`, `control`, `pki`.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use anyhow::Context as _;
use florelay_dataplane::supervisor::drop_privileges;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::args::{ControlArgs, PkiVerb};
use super::out::print;
use super::table::terminal_columns;
use super::{EXIT_CONFIG, report};
use crate::config::{Diagnostic, Refusal};
use crate::process::broker::Timing;
use crate::process::server::{self, Dataplane};
use crate::seam::{self, SupervisorOptions};
use crate::{config, pki};

/// `florelay check`.
pub(super) fn check(path: &Path, strict: bool, as_json: bool) -> anyhow::Result<ExitCode> {
    let checked = config::load_here(path)
        .and_then(|(plan, lacks)| if strict && !lacks.is_empty() { Err(Refusal(lacks)) } else { Ok((plan, lacks)) });
    match (checked, as_json) {
        (Ok((plan, lacks)), false) => {
            report::warn(&lacks);
            print(report::plan(path, &plan, terminal_columns()))?;
        }
        (Ok((plan, lacks)), true) => {
            let (links, peers) = (plan.links.len(), plan.peers.len());
            let ok = json!({
                "ok": true, "node": plan.node, "realm": plan.realm, "links": links, "peers": peers,
                "transits": plan.transits.len(), "warnings": diagnostics(&lacks),
            });
            print(format_args!("{ok}\n"))?;
        }
        (Err(refusal), false) => return Err(refusal.into()),
        (Err(refusal), true) => {
            print(format_args!("{}\n", json!({ "ok": false, "errors": diagnostics(&refusal.0) })))?;
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn diagnostics(all: &[Diagnostic]) -> Vec<Value> {
    all.iter().map(report::diagnostic_json).collect()
}

/// `florelay up`.
pub(super) fn up(path: &Path) -> anyhow::Result<ExitCode> {
    let config::Compiled { plan, services, warnings } = config::load_whole(path)?;
    report::warn(&warnings);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&plan.state_dir)
        .with_context(|| format!("making the state directory {}", plan.state_dir.display()))?;
    let executable = std::env::current_exe().context("finding this executable")?;
    let control_arguments = seam::control_arguments(&plan, &services);
    seam::start(&SupervisorOptions { plan, executable, control_arguments })?;
    Ok(ExitCode::SUCCESS)
}

/// `florelay control`.
pub(super) fn control(args: ControlArgs) -> anyhow::Result<ExitCode> {
    drop_privileges()?;
    let dataplane = match args.dataplane {
        Some(path) => Dataplane::Path(path),
        None => {
            let stdin = std::io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
            let kind = rustix::net::sockopt::socket_domain(&stdin);
            anyhow::ensure!(
                kind == Ok(rustix::net::AddressFamily::UNIX),
                "standard input is not a unix socket; `florelay up` starts this process"
            );
            Dataplane::Passed(UnixStream::from(stdin))
        }
    };
    let (end, ended) = channel();
    // Before the socket: it must not stay behind if the supervisor gives up at once.
    on_terminate(end.clone())?;
    let listener = server::listen(&args.socket)?;
    tracing::info!("control process listens at {}", args.socket.display());
    let services = crate::services::start(args.services, &args.socket);
    thread::spawn(move || {
        server::serve(listener, dataplane, Timing::default());
        let _ = end.send(());
    });
    let _ = ended.recv();
    drop(services);
    // Still listening: a successor that is here already finds the place taken and tries again, so it is ours that goes.
    let _ = fs::remove_file(&args.socket);
    Ok(ExitCode::SUCCESS)
}

/// Says so once when the supervisor (or a person) asks this process to finish.
fn on_terminate(end: Sender<()>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut terminate = {
        let _inside = runtime.enter();
        signal(SignalKind::terminate())?
    };
    thread::spawn(move || {
        runtime.block_on(terminate.recv());
        let _ = end.send(());
    });
    Ok(())
}

/// `florelay pki`.
pub(super) fn pki(verb: PkiVerb) -> anyhow::Result<ExitCode> {
    let pair = match verb {
        PkiVerb::Init { realm, dir, days, force } => pki::init(&realm, &dir, days, force)?,
        PkiVerb::Issue { node, realm, dir, out, days, force } => {
            pki::issue(&node, realm.as_deref(), &dir, out.as_deref().unwrap_or(&dir), days, force)?
        }
        PkiVerb::LinkKey { file, force } => {
            pki::link_key(&file, force)?;
            print(format_args!("{} (keep it secret; the same file at both ends)\n", file.display()))?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let (certificate, key) = (pair.certificate.display(), pair.key.display());
    print(format_args!("{certificate} for {}\n{key} (keep it secret)\n", pair.spiffe_id))?;
    Ok(ExitCode::SUCCESS)
}
