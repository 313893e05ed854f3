//! The operator's TOML, compiled to a [`NodePlan`] or refused whole.
//!
//! ```text
//! text ─ toml (spans) ─► read (closed schema) ─► node · link · path (values) ─► together (names, labels) ─► NodePlan
//!                             └───────────────── diagnostic: file, line, column, key, hint ────────────► Refusal
//! ```
//!
//! Invariants: an unknown key is an error; nothing is guessed from what is wrong; a plan comes out only if nothing was
//! recorded; no text, however broken, makes this panic. The format is described in `docs/src/configuration.md`.

pub mod contact;
mod degraded;
mod diagnostic;
mod files;
pub mod frame;
mod grpc;
pub mod hdtn;
mod impair;
mod link;
mod machine;
pub mod names;
mod node;
mod path;
pub mod profile;
mod read;
mod sim;
#[cfg(test)]
mod tests;
mod thrift;
pub mod units;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use florelay_dataplane::plan::NodePlan;
use toml::Spanned;
use toml::de::DeTable;

use diagnostic::Source;
pub use diagnostic::{Diagnostic, Refusal};
pub use files::Checks;
use read::{Table, string};

use crate::services::ServicesPlan;

/// Major version of the format; a configuration must have the same.
pub const FORMAT_MAJOR: u32 = 1;
/// Minor version of the format; a configuration may have this or an older one.
pub const FORMAT_MINOR: u32 = 0;
/// Most links, peers and transit rows each: indices have 16 bits.
const MAX_ROWS: usize = 65_536;

/// Reads, checks and compiles a configuration file, and the files that it names.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<NodePlan, Refusal> {
    load_with_warnings(path).map(|(plan, _)| plan)
}

/// The same, and what is doubtful though not wrong.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_with_warnings(path: &Path) -> Result<(NodePlan, Vec<Diagnostic>), Refusal> {
    compile_with_warnings(path, &read_text(path)?, Checks::Full)
}

/// What a configuration says, for who starts the node.
#[derive(Debug, Clone, PartialEq)]
pub struct Compiled {
    /// For the supervisor and the dataplane.
    pub plan: NodePlan,
    /// For the control process.
    pub services: ServicesPlan,
    /// What is doubtful though not wrong.
    pub warnings: Vec<Diagnostic>,
}

/// [`load_with_warnings`], and what the control process serves.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_whole(path: &Path) -> Result<Compiled, Refusal> {
    compile_whole(path, &read_text(path)?, Checks::Full)
}

/// [`load_with_warnings`], and what this machine lacks of what the plan names: cores, interfaces, addresses. Each has its place in the
/// file like an error.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_here(path: &Path) -> Result<(NodePlan, Vec<Diagnostic>), Refusal> {
    let text = read_text(path)?;
    let (plan, mut warnings) = compile_with_warnings(path, &text, Checks::Full)?;
    warnings.extend(machine::lacks(path, &text, &plan));
    Ok((plan, warnings))
}

/// Compiles a configuration text. `path` is where it came from; paths inside are relative to it.
///
/// # Errors
/// Everything that is wrong with it.
pub fn compile(path: &Path, text: &str, checks: Checks) -> Result<NodePlan, Refusal> {
    compile_with_warnings(path, text, checks).map(|(plan, _)| plan)
}

fn compile_with_warnings(path: &Path, text: &str, checks: Checks) -> Result<(NodePlan, Vec<Diagnostic>), Refusal> {
    compile_whole(path, text, checks).map(|Compiled { plan, warnings, .. }| (plan, warnings))
}

fn compile_whole(path: &Path, text: &str, checks: Checks) -> Result<Compiled, Refusal> {
    let mut source = Source::new(path, text);
    let Some(document) = parse(&mut source, text) else { return source.refuse() };
    // Where a whole section is missing, line 1 is as good as any.
    let mut root = Table::new(document.get_ref(), 0..0, "");
    version(&mut source, &mut root);
    if root.get("node").is_none() {
        source.error(
            &(0..0),
            "node",
            "section [node] is missing",
            "begin with [node] and its name, realm, certificate, …",
        );
    }
    let node = root.table(&mut source, "node").map(|t| node::read(&mut source, t, checks));

    let tables = root.tables(&mut source, "link", Some("name"));
    let links: Vec<_> = tables.into_iter().map(|t| link::read(&mut source, t, checks)).collect();
    link::check_together(&mut source, &links, node.as_ref().map_or(1, |n| n.workers.len()));

    let home = path::Home {
        node: node.as_ref().and_then(|n| n.name.as_deref()),
        realm: node.as_ref().and_then(|n| n.realm.as_deref()),
        links: &links,
    };
    let mut labels = path::Labels::default();
    let mut seen = HashMap::new();
    let tables = root.tables(&mut source, "peer", Some("name"));
    let peers: Vec<_> =
        tables.into_iter().map(|t| path::read_peer(&mut source, t, &home, &mut labels, &mut seen)).collect();
    let tables = root.tables(&mut source, "transit", None);
    let transits: Vec<_> =
        tables.into_iter().map(|t| path::read_transit(&mut source, t, &links, &mut labels)).collect();
    for (key, rows) in [("link", links.len()), ("peer", peers.len()), ("transit", transits.len())] {
        if rows > MAX_ROWS {
            source.error(&(0..0), key, format!("{rows} of them are too many"), format!("at most {MAX_ROWS}"));
        }
    }
    let realm = node.as_ref().and_then(|n| n.realm.as_deref());
    let grpc = root.table(&mut source, "grpc").and_then(|t| grpc::read(&mut source, t, realm, checks));
    let thrift = root.table(&mut source, "thrift").map(|t| thrift::read(&mut source, t));
    root.close(&mut source);
    let plan = node.and_then(|n| {
        Some(NodePlan {
            snapshot: 1,
            node: n.name?,
            realm: n.realm?,
            certificate: n.certificate?,
            key: n.key?,
            trust: n.trust?,
            inbox: n.inbox?,
            state_dir: n.state_dir?,
            spool: n.spool,
            workers: n.workers,
            links: links.into_iter().map(|l| l.plan).collect::<Option<_>>()?,
            peers: peers.into_iter().collect::<Option<_>>()?,
            transits: transits.into_iter().collect::<Option<_>>()?,
        })
    });
    let services = plan
        .as_ref()
        .map(|plan| ServicesPlan { grpc, thrift: thrift.map(|draft| thrift::finish(&mut source, draft, plan)) });
    match plan.zip(services) {
        Some((plan, services)) if !source.has_errors() => {
            Ok(Compiled { plan, services, warnings: source.into_warnings() })
        }
        Some(_) => source.refuse(),
        None => {
            incomplete(&mut source);
            source.refuse()
        }
    }
}

/// Where the control socket of the node with this configuration is, without checking the rest of it.
///
/// # Errors
/// When the file cannot be read, or does not say where its state is.
pub fn control_socket(path: &Path) -> Result<PathBuf, Refusal> {
    let text = read_text(path)?;
    let mut source = Source::new(path, &text);
    let (document, _) = DeTable::parse_recoverable(&text);
    let mut root = Table::new(document.get_ref(), 0..0, "");
    let node = root.table(&mut source, "node");
    let dir = node.and_then(|mut t| t.optional(&mut source, "state-dir", string));
    if let Some(dir) = dir {
        return Ok(files::resolve(&source, Path::new(&dir.value)).join(CONTROL_SOCKET));
    }
    source.error(
        &(0..0),
        "node.state-dir",
        "it does not say where the node's state is",
        "or name the socket: --socket PATH",
    );
    source.refuse()
}

/// File name of the control socket in the state directory.
pub const CONTROL_SOCKET: &str = "control.sock";

fn read_text(path: &Path) -> Result<String, Refusal> {
    let refusal = |line, message, hint: &str| {
        let (file, hint) = (path.to_owned(), hint.to_owned());
        Refusal(vec![Diagnostic { file, line, column: line.min(1), key: String::new(), message, hint }])
    };
    let bytes = files::read_bounded(path, files::MAX_FILE_BYTES)
        .map_err(|e| refusal(0, format!("cannot be read: {e}"), "name the configuration with --config FILE"))?;
    String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        refusal(line, "this line is not UTF-8 text".to_owned(), "save the file as UTF-8")
    })
}

/// The document, or what of it is not TOML is recorded.
fn parse<'t>(source: &mut Source<'_>, text: &'t str) -> Option<Spanned<DeTable<'t>>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        let key = key_in_line(text, span.start);
        let message = error.message().trim();
        if message == "duplicate key" {
            source.error(&span, key, "this key is in its section already", "remove one of the two");
            continue;
        }
        source.error(&span, key, format!("not TOML: {message}"), "TOML's syntax: https://toml.io");
    }
    errors.is_empty().then_some(document)
}

fn version(source: &mut Source<'_>, root: &mut Table<'_>) {
    let Some(version) = root.required(source, "version", "\"1.0\"", string) else {
        return;
    };
    let parsed = version.value.split_once('.').and_then(|(major, minor)| {
        let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse::<u32>().ok()).flatten();
        Some((number(major)?, number(minor)?))
    });
    let own = format!("this florelay reads \"{FORMAT_MAJOR}.0\" to \"{FORMAT_MAJOR}.{FORMAT_MINOR}\"");
    match parsed {
        Some((FORMAT_MAJOR, 0..=FORMAT_MINOR)) => {}
        Some((FORMAT_MAJOR, minor)) => {
            let message = format!("minor version {minor} is newer than this florelay knows");
            version.error(source, message, own);
        }
        Some((major, _)) => version.error(source, format!("major version {major} is another format"), own),
        None => version.error(source, format!("\"{}\" is not a version", version.value), own),
    }
}

/// A plan that is incomplete without a recorded reason would be a mistake of ours; say so instead of accepting it.
fn incomplete(source: &mut Source<'_>) {
    if !source.has_errors() {
        source.error(
            &(0..0),
            "",
            "the configuration is incomplete",
            "compare it with the example in the documentation",
        );
    }
}

/// The key that a line assigns, for a person who looks for a syntax error.
fn key_in_line(text: &str, offset: usize) -> String {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let start = text[..offset].rfind('\n').map_or(0, |at| at + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    let key = line.split('=').next().unwrap_or_default().trim();
    let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if line.contains('=') && plain { key.to_owned() } else { String::new() }
}
