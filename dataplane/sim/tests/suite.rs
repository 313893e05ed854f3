//! Every scenario of the project's table, held against its bars; see `florelay_sim::suite`.
//!
//! `FLORELAY_SEED=17` runs one seed; the figures are printed (`--nocapture`, or the example `scenarios`).

use florelay_sim::seeds::for_seeds;
use florelay_sim::suite::{Size, run};

/// Fewer seeds where one run moves hundreds of megabytes.
fn hold(number: u8, seeds: u64) {
    let mut first = 0;
    // Seeds are pooled, so that percentiles have enough behind them; a single one is asked for by name.
    let mut last = 0;
    for_seeds(1..seeds + 1, |seed| {
        first = if first == 0 { seed } else { first };
        last = seed;
    });
    let row = run(number, Size::Cut, first..last + 1).expect("a scenario of this number");
    for figure in &row.figures {
        println!("{} {}: {} {figure}", row.number, row.name, figure.name);
    }
    assert!(row.misses().is_empty(), "seeds {first} to {last}:\n{}", row.misses());
}

macro_rules! scenarios {
    ($($name:ident = $number:literal over $seeds:literal;)*) => {
        $(#[test]
        fn $name() {
            hold($number, $seeds);
        })*
    };
}

scenarios! {
    blos_clean = 1 over 5;
    los = 2 over 3;
    degraded_blos = 3 over 8;
    geo_small = 4 over 2;
    geo_large = 5 over 1;
    geo_large_lossy = 6 over 1;
    congested_return = 7 over 1;
    rain_fade = 8 over 1;
    burst_loss = 9 over 5;
    leo_hand_over = 10 over 1;
    outage = 11 over 1;
    idle_then_burst = 15 over 5;
    cap_proof = 16 over 1;
    gap_stress = 17 over 1;
    label_hops = 18 over 2;
}
