//! The same three nodes over loopback sockets: no namespaces, no AF_XDP, no privileges.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use common::{A, B, Line, PATIENCE, RELAY};
use florelay_e2e::{Deadline, Job, LinkPlan, Program, Rate, Status};

/// The user that the privileged run hands down to: nobody (65534 on Debian).
const NOBODY: &str = "65534";

#[test]
fn sockets_carry_files_commands_and_traces() {
    let line = Line::sockets(&LinkPlan { rate: Rate::Bps(200_000_000), ..LinkPlan::default() });
    for node in [A, RELAY, B] {
        for link in line.status(node).links() {
            assert_eq!(Status::rung(link).0, "socket");
        }
    }
    let file = line.file("image.raw", 16_000_000);
    let mut send = line.send(&file);
    let client = |client: Command, name: &str| {
        let mut job = Job::start(&client, line.topology.folder(), name).unwrap();
        job.wait(Deadline::after(PATIENCE)).unwrap();
        job.json_lines()
    };
    let acknowledged = client(line.program.c2(line.config(A), line.name(B), 20, 10, "antenna stow"), "c2");
    assert_eq!(acknowledged[0]["count"], 20);
    let mut trace = line.program.command(&["trace", line.name(B), "--json", "--config"]);
    trace.arg(line.config(A));
    let hops = client(trace, "trace");
    assert_eq!([&hops[0]["node"], &hops[1]["node"]], [line.name(RELAY), line.name(B)]);
    line.arrive(&mut send, &file, Deadline::after(PATIENCE));
    line.stop();
}

#[test]
fn an_unprivileged_user_can_run_all_of_it() {
    if !rustix::process::geteuid().is_root() {
        // Then the other test has just shown it.
        return;
    }
    // Copies, because the build's folder may be closed to others.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let [program, test] = ["florelay", "test"].map(|name| folder.path().join(name));
    fs::copy(Program::for_tests().unwrap().path(), &program).unwrap();
    fs::copy(std::env::current_exe().unwrap(), &test).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--inh-caps=-all", "--no-new-privs", "--"]);
    command.arg(&test).args(["--exact", "sockets_carry_files_commands_and_traces", "--nocapture"]);
    command.env("FLORELAY_BIN", &program).env("TMPDIR", "/tmp").current_dir("/");
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}
