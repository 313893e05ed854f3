//! What needs no privileges is shown without them: a test runs again as a user who has none.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::Program;

/// nobody (65534 on Debian).
const NOBODY: &str = "65534";

/// Run `test` of the calling test binary again as nobody, without capabilities, without a way back to them, and with as little locked
/// memory as old systems grant. Does nothing
/// for a caller who is not root: that test has just run so.
///
/// # Panics
/// It fails there, or cannot be started.
pub fn again_as_nobody(test: &str) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Copies, because the build's folder may be closed to others.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let [program, binary] = ["florelay", "test"].map(|name| folder.path().join(name));
    fs::copy(Program::for_tests().unwrap().path(), &program).unwrap();
    fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    let mut command = Command::new("prlimit");
    command.args([
        "--memlock=65536:65536",
        "setpriv",
        "--reuid",
        NOBODY,
        "--regid",
        NOBODY,
        "--clear-groups",
        "--inh-caps=-all",
        "--no-new-privs",
        "--",
    ]);
    command.arg(&binary).args(["--exact", test, "--nocapture"]);
    command.env("FLORELAY_BIN", &program).env("TMPDIR", "/tmp").current_dir("/");
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}
