//! The command line, one argument a line.
//!
//! Invariant: any arguments are a command or an error that can be shown; control characters of an argument do not reach
//! the terminal through that error.

use clap::Parser as _;
use florelay::cli::args::Cli;

/// One input.
pub fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    // No process is given arguments with a NUL.
    let words = text.split('\n').map(|word| word.replace('\0', ""));
    if let Err(error) = Cli::try_parse_from(std::iter::once("florelay".to_owned()).chain(words)) {
        assert!(!error.to_string().is_empty());
    }
}

/// Every verb, with every kind of value.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let lines = [
        "check --config station-a.toml --json",
        "up --config x",
        "send image.raw --to station-b --priority 80 --name today.raw --json",
        "send f --to b --id 6b1f3f5e-8c64-4c43-9d0e-1f1a6f0c2d11 --socket s",
        "watch 6b1f3f5e-8c64-4c43-9d0e-1f1a6f0c2d11",
        "cancel 6b1f3f5e-8c64-4c43-9d0e-1f1a6f0c2d11 --config x",
        "status --json",
        "link set to-relay --rate 10Mbit/s --burst 15kB",
        "link up to-relay",
        "link down to-relay",
        "c2 --to station-b --count 100 --interval 1s ping",
        "trace station-b",
        "pki init --realm demo.rete --dir pki --days 3 --force",
        "pki issue --node station-a --dir pki --out o",
        "pki link-key k",
        "control --socket s --dataplane d",
        "help send",
    ];
    lines.map(|line| line.replace(' ', "\n").into_bytes()).into()
}
