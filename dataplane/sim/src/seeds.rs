//! Runs a test over many seeds and names the one that fails.

use std::ops::Range;

/// Environment variable that reruns one seed alone: `FLORELAY_SEED=17 cargo test …`.
pub const SEED_VARIABLE: &str = "FLORELAY_SEED";

/// Environment variable for more seeds than a test usually has: `FLORELAY_SEEDS=5000` runs so many, from its first on.
pub const SEEDS_VARIABLE: &str = "FLORELAY_SEEDS";

/// Call `run` with each seed of `seeds`, or as many as [`SEEDS_VARIABLE`] says, or only with the one in [`SEED_VARIABLE`].
///
/// # Panics
/// With the first seed whose run panics; the seed and how to repeat it are on standard error. Also if
/// one of the variables is set and not a number.
pub fn for_seeds(seeds: Range<u64>, run: impl FnMut(u64)) {
    let many = number(SEEDS_VARIABLE).map_or(seeds.clone(), |many| seeds.start..seeds.start.saturating_add(many));
    run_seeds(number(SEED_VARIABLE), many, run);
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

fn run_seeds(only: Option<u64>, seeds: Range<u64>, mut run: impl FnMut(u64)) {
    for seed in only.map_or(seeds, |seed| seed..seed + 1) {
        let named = NameOnPanic(seed);
        run(seed);
        drop(named);
    }
}

/// Says which seed was running when a panic passes by.
struct NameOnPanic(u64);

impl Drop for NameOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {seed}; repeat with {SEED_VARIABLE}={seed}", seed = self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_runs_or_only_the_chosen_one() {
        let ran = |only| {
            let mut ran = Vec::new();
            run_seeds(only, 3..6, |seed| ran.push(seed));
            ran
        };
        assert_eq!(ran(None), [3, 4, 5]);
        assert_eq!(ran(Some(99)), [99]);
    }

    #[test]
    fn the_first_failure_ends_the_run() {
        let mut ran = Vec::new();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run_seeds(None, 0..10, |seed| {
                ran.push(seed);
                assert!(seed < 4, "seed {seed} fails");
            });
        }));
        assert!(result.is_err());
        assert_eq!(ran, [0, 1, 2, 3, 4]);
    }
}
