//! `florelay send`, `recv`, `transfers` and `transfer …` over three nodes on loopback sockets: a folder of awkward names
//! and its tree at the receiver, many files, transfers that are paused and put before others, Ctrl-C.

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{A, B, Line, PATIENCE, RELAY};
use florelay_e2e::{Deadline, LinkPlan, Rate};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn line(rate_bps: u64) -> Line {
    Line::sockets(&LinkPlan { rate: Rate::Bps(rate_bps), ..LinkPlan::default() })
}

impl Line {
    /// A verb at a node; what it prints can be read.
    fn verb<S: AsRef<OsStr>>(&self, node: usize, arguments: &[S]) -> Child {
        let mut command = Command::new(self.program.path());
        command.args(arguments).arg("--config").arg(self.config(node)).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Its exit code, and what it printed and said. Neither is so long that the pipe would be full.
    fn end(&self, mut child: Child, what: &str) -> (i32, String, String) {
        let waited = Deadline::after(PATIENCE).wait(what, || Ok(child.try_wait()?));
        let code = waited.unwrap_or_else(|error| panic!("{error:#}\n{}", self.states())).code().unwrap();
        let (mut told, mut said) = (String::new(), String::new());
        child.stdout.take().unwrap().read_to_string(&mut told).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (code, told, said)
    }

    /// A transfer of station-a, by its name.
    fn transfer(&self, name: &str) -> Option<Value> {
        self.status(A).transfers().iter().find(|transfer| transfer["name"] == name).cloned()
    }

    fn until_transfer(&self, name: &str, what: &str, look: impl Fn(&Value) -> bool) -> Value {
        self.until(A, &format!("{name} to be {what}"), |status| {
            status.transfers().iter().any(|transfer| transfer["name"] == name && look(transfer))
        });
        self.transfer(name).unwrap()
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.topology.folder().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }
}

/// Every file below a folder, by its path in it.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(below) = folders.pop() {
        for entry in fs::read_dir(below).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let name = entry.path().strip_prefix(folder).unwrap().to_owned();
                found.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_folder_arrives_as_it_was_and_what_is_left_out_is_said() {
    let line = line(400_000_000);
    let photos = line.folder("photos");
    let names = ["Ünïcode 写真.jpg", "with space", "two\nlines", "-rf", "empty", "2024/a/same.raw", "2024/b/same.raw"];
    for name in names {
        fs::create_dir_all(photos.join(name).parent().unwrap()).unwrap();
        fs::write(photos.join(name), if name == "empty" { "" } else { name }).unwrap();
    }
    let sent = tree(&photos);
    fs::write(photos.join(".hidden"), "x").unwrap();
    symlink("/etc/passwd", photos.join("link")).unwrap();
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
    rustix::fs::mknodat(rustix::fs::CWD, photos.join("fifo"), kind, mode, 0).unwrap();

    let out = line.folder("out");
    let count = names.len().to_string();
    let recv = line.verb(B, &["recv", "--existing", "--count", &count, "--out", out.to_str().unwrap()]);
    let send = line.verb(A, &["send", "-r", photos.to_str().unwrap(), "--to", line.name(B)]);
    let (code, told, said) = line.end(send, "the folder to be sent");
    assert!(code == 1 && told.starts_with("7 files sent to") && told.contains("0 failed, 3 left out"), "{told} {said}");
    for part in [".hidden is not sent: hidden", "link is not sent: a symbolic link", "fifo is not sent"] {
        assert!(said.contains(part), "{said}");
    }
    let (code, told, said) = line.end(recv, "all to arrive");
    assert_eq!(code, 0, "{told} {said}");
    assert_eq!(tree(&out.join("photos")), sent);

    // Who may not read a file is told, and the others go. Root may read everything.
    let mixed = line.folder("mixed");
    fs::write(mixed.join("readable"), "x").unwrap();
    fs::write(mixed.join("locked"), "x").unwrap();
    fs::set_permissions(mixed.join("locked"), fs::Permissions::from_mode(0o000)).unwrap();
    if File::open(mixed.join("locked")).is_err() {
        let send = line.verb(A, &["send", "-r", mixed.to_str().unwrap(), "--to", line.name(B)]);
        let (code, told, said) = line.end(send, "the readable file to be sent");
        assert!(code == 1 && told.starts_with("1 file sent") && said.contains("Permission denied"), "{told} {said}");
    }
    line.stop();
}

#[test]
fn many_small_files_all_arrive() {
    let line = line(400_000_000);
    let many = line.folder("many");
    for number in 0..600 {
        fs::write(many.join(format!("{number}.raw")), number.to_string()).unwrap();
    }
    let out = line.folder("out");
    let recv = line.verb(B, &["recv", "--existing", "--count", "600", "--out", out.to_str().unwrap()]);
    let send = line.verb(A, &["send", "-r", many.to_str().unwrap(), "--to", line.name(B)]);
    let (code, told, said) = line.end(send, "600 files to be sent");
    assert!(code == 0 && told.starts_with("600 files sent"), "{told} {said}");
    let (code, _, said) = line.end(recv, "600 files to arrive");
    assert_eq!(code, 0, "{said}");
    assert_eq!(tree(&out.join("many")), tree(&many));
    line.stop();
}

#[test]
fn a_transfer_is_paused_resumed_put_first_and_outlives_its_command() {
    let line = line(8_000_000);
    let (large, small) = (line.file("large.raw", 6_000_000), line.file("small.raw", 100_000));
    let send = line.verb(A, &["send", large.to_str().unwrap(), "--to", line.name(B), "--priority", "3"]);
    let begun = line.until_transfer("large.raw", "under way", |t| t["confirmed"].as_u64() > Some(100_000));
    let id = begun["id"].as_str().unwrap().to_owned();
    // By the beginning of its id.
    let change = |arguments: &[&str]| {
        let (code, told, said) = line.end(line.verb(A, arguments), "the transfer to be changed");
        assert_eq!(code, 0, "{arguments:?}: {told} {said}");
        told
    };
    change(&["transfer", "pause", &id[..8]]);
    line.until_transfer("large.raw", "paused", |t| t["state"] == "paused");
    let listed: Value = serde_json::from_str(&change(&["transfers", "--json"])).unwrap();
    assert!(listed.as_array().unwrap().iter().any(|t| t["id"] == id.as_str() && t["state"] == "paused"), "{listed}");
    // Another one passes it.
    change(&["send", small.to_str().unwrap(), "--to", line.name(B), "--detach"]);
    line.until_transfer("small.raw", "done", |t| t["ended"] == true);
    change(&["transfer", "priority", "80", &id]);
    change(&["transfer", "resume", &id]);
    line.until_transfer("large.raw", "put first", |t| t["state"] == "running" && t["priority"] == 80);

    // Ctrl-C ends the command alone.
    kill_process(Pid::from_child(&send), Signal::INT).unwrap();
    let (code, _, said) = line.end(send, "the command to end");
    assert!(code == 130 && said.contains("The transfer goes on") && said.contains(&id), "{code} {said}");
    let watch = line.verb(A, &["watch", &id]);
    let (code, told, said) = line.end(watch, "the transfer to end");
    assert!(code == 0 && told.contains("6 MB"), "{told} {said}");
    assert!(line.topology.arrived_intact(&large).unwrap() && line.topology.arrived_intact(&small).unwrap());

    // But if it was told to take it along.
    let third = line.file("third.raw", 6_000_000);
    let send = line.verb(A, &["send", third.to_str().unwrap(), "--to", line.name(B), "--cancel-on-interrupt"]);
    line.until_transfer("third.raw", "under way", |t| t["confirmed"].as_u64() > Some(100_000));
    kill_process(Pid::from_child(&send), Signal::INT).unwrap();
    let (code, _, said) = line.end(send, "the command to end");
    assert!(code == 130 && said.contains("1 cancelled, 0 not ordered"), "{code} {said}");
    line.until_transfer("third.raw", "cancelled", |t| t["code"] == "cancelled");
    line.stop();
}

#[test]
fn what_is_cancelled_while_the_link_is_dark_stays_so_although_dataplanes_are_killed() {
    let line = line(8_000_000);
    let cancel = |node: usize, id: &str| {
        let (code, told, said) = line.end(line.verb(node, &["cancel", id]), "the transfer to be cancelled");
        assert_eq!(code, 0, "{told} {said}");
    };
    let ids = ["at-a.raw", "at-b.raw"].map(|name| {
        let file = line.file(name, 60_000_000);
        let send = line.verb(A, &["send", file.to_str().unwrap(), "--to", line.name(B), "--detach"]);
        assert_eq!(line.end(send, "the order").0, 0);
        let begun = line.until_transfer(name, "under way", |t| t["confirmed"].as_u64() > Some(100_000));
        begun["id"].as_str().unwrap().to_owned()
    });
    line.program.set_link(line.config(RELAY), "to-b", false).unwrap();
    line.until(A, "the path to be dark", |status| status.peers()[0]["state"] == "dark");
    for (node, id) in [A, B].into_iter().zip(&ids) {
        cancel(node, id);
        line.nodes[node].process("dataplane").unwrap().signal(Signal::KILL);
    }
    line.program.set_link(line.config(RELAY), "to-b", true).unwrap();
    // At both ends, by the words of who did it; what is sent then comes after it.
    let last = line.file("last.raw", 100_000);
    for node in [A, B] {
        for id in &ids {
            line.until(node, "the cancelled transfer to have ended", |status| {
                // One that an end had not heard of again when it was killed is not known there.
                status.transfers().iter().all(|t| t["id"] != id.as_str() || t["ended"] == true)
            });
        }
    }
    let send = line.verb(A, &["send", last.to_str().unwrap(), "--to", line.name(B)]);
    let (code, _, said) = line.end(send, "the last file to arrive");
    assert_eq!(code, 0, "{said}");
    for (node, known) in [(A, &ids[..]), (B, &ids[1..])] {
        let transfers = line.status(node).transfers().to_vec();
        for id in known {
            let states: Vec<_> = transfers.iter().filter(|t| t["id"] == id.as_str()).collect();
            assert!(states.len() == 1 && states[0]["code"] == "cancelled", "{} {id}: {transfers:?}", line.name(node));
        }
        assert!(transfers.iter().all(|t| t["ended"] == true), "{transfers:?}");
    }
    line.stop();
}
