//! Prints the table of scenarios with a measured figure in each row: `cargo xtask bench scenarios [--cut] [--seeds N]
//! [NUMBER …]`. Virtual time: the figures depend on seeds, not on this machine.

use std::process::ExitCode;

use florelay_sim::suite::{Size, numbers, run};

fn main() -> ExitCode {
    let (mut size, mut seeds, mut wanted) = (Size::Whole, 3, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--cut" => size = Size::Cut,
            "--seeds" => match arguments.next().and_then(|n| n.parse().ok()) {
                Some(n) => seeds = n,
                None => return usage(),
            },
            number => match number.parse() {
                Ok(number) if numbers().any(|of| of == number) => wanted.push(number),
                _ => return usage(),
            },
        }
    }
    if wanted.is_empty() {
        wanted.extend(numbers());
    }
    println!("| # | scenario | figure | measured (bar) | |");
    println!("|---|---|---|---|---|");
    let mut missed = false;
    for number in wanted {
        let Some(row) = run(number, size, 1..seeds + 1) else { continue };
        for figure in &row.figures {
            let verdict = if figure.met() { "" } else { "**missed**" };
            println!("| {} | {} | {} | {figure} | {verdict} |", row.number, row.name, figure.name);
        }
        missed |= !row.misses().is_empty();
    }
    if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn usage() -> ExitCode {
    let known: Vec<_> = numbers().map(|number| number.to_string()).collect();
    eprintln!("scenarios [--cut] [--seeds N] [NUMBER …]; there are {}", known.join(", "));
    ExitCode::from(2)
}
