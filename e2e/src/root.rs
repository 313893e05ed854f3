//! Tests that need root say so: they step aside on a desk and fail where CI has promised to run them.

/// `true` if the caller may make namespaces. Otherwise says which test is left out.
///
/// # Panics
/// Not root although `CI=true`: a suite that silently tests nothing is worse than a red one.
#[must_use]
pub fn root_or_skip(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!in_ci, "{test} needs root, and CI=true asks that it runs");
    eprintln!("left out: {test} needs root");
    false
}
