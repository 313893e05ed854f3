//! The machinery of the scenarios in real time: figures come out, files and commands arrive, nothing is left. Needs root.
//! Not how fast: machines that run tests are busy.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use florelay_bench::scenarios::{Options, RESULTS, TABLE, run};
use florelay_e2e::{Program, root_or_skip};

fn names(folder: &str, part: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains(part)).collect()
}

#[test]
fn a_scenario_measures_files_commands_and_rates_and_leaves_nothing() {
    if !root_or_skip("a_scenario_measures_files_commands_and_rates_and_leaves_nothing") {
        return;
    }
    let results = tempfile::tempdir().unwrap();
    let report = run(&Options {
        only: vec!["smoke".to_owned()],
        long: false,
        florelay: Program::for_tests().unwrap().path().to_owned(),
        emulator: PathBuf::from(env!("CARGO_BIN_EXE_florelay-bench")),
        folder: results.path().to_owned(),
    })
    .unwrap();
    let [row] = &report.rows[..] else { panic!("{report:?}") };
    assert_eq!(row.failure, None);
    // Nothing lost, nothing twice, no file that differs; shown figures are there and are numbers.
    let bad: Vec<_> = row.figures.iter().filter(|f| f.met == Some(false) || !f.value.is_finite()).collect();
    assert!(bad.is_empty() && row.figures.len() >= 7, "{bad:?}");
    let commands = &row.latencies[0].sorted_ms;
    assert!(commands.len() == 5 && commands[0] >= 20.0, "the link alone takes 20 ms: {commands:?}");
    assert_eq!(row.goodput.len(), 2);
    assert!(row.goodput.iter().all(|(_, curve)| curve.last() > 0.0), "{:?}", row.goodput);
    assert!(row.rates[0].curve.0.iter().any(|(_, bps)| *bps > 0.0));
    // One emulator for the nodes, one for plain quinn.
    assert_eq!(row.emulators.len(), 2);

    let read = |name: &str| std::fs::read_to_string(results.path().join(name)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&read(RESULTS)).unwrap();
    assert_eq!(json["rows"][0]["key"], "smoke");
    assert!(json["machine"]["kernel"].as_str().is_some_and(|kernel| !kernel.is_empty()));
    assert!(read(TABLE).contains("| smoke | commands lost, saturated | 0  (≤ 0) | met"), "{}", read(TABLE));
    for plot in ["smoke-goodput.svg", "smoke-commands.svg", "smoke-rate-4000000.svg"] {
        assert!(read(plot).contains("</svg>"), "{plot}");
    }

    let own = format!("-{}-", std::process::id());
    for folder in ["/run/netns", "/dev/shm", "/sys/fs/bpf/florelay"] {
        let left = names(folder, &own);
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
}

#[test]
fn an_unknown_scenario_is_refused_by_name() {
    if !root_or_skip("an_unknown_scenario_is_refused_by_name") {
        return;
    }
    let options = Options {
        only: vec!["99".to_owned()],
        long: false,
        florelay: PathBuf::from("florelay"),
        emulator: PathBuf::from("florelay-bench"),
        folder: Path::new("nowhere").to_owned(),
    };
    let said = run(&options).unwrap_err().to_string();
    assert!(said.contains("`99`") && said.contains("lossy"), "{said}");
}
