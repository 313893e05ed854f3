//! Every target over its seeds and seeded mutations of them: what CI runs of the fuzzer, without one.

use crate::mutate::{Rng, mutant};
use crate::{TARGETS, Target};

fn exercise(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty());
    for (index, seed) in seeds.iter().enumerate() {
        attempt(target, seed, &format!("seed {index}"));
    }
    let mut rng = Rng::new(0xf1_0e1a_7000 + name.len() as u64);
    for index in 0..target.mutants {
        attempt(target, &mutant(&mut rng, &seeds), &format!("mutant {index}"));
    }
}

/// Runs one input, and says which one it was if that panics.
fn attempt(target: &Target, bytes: &[u8], what: &str) {
    struct Tell<'a>(&'a str, &'a str, &'a [u8]);
    impl Drop for Tell<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("target {}, {}: {}", self.0, self.1, florelay::hex::encode(self.2));
            }
        }
    }
    let _tell = Tell(target.name, what, bytes);
    (target.run)(bytes);
}

macro_rules! exercised {
    ($($name:ident)*) => {
        $(#[test] fn $name() { exercise(stringify!($name)); })*

        #[test]
        fn every_target_is_tested_and_has_a_binary() {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
            let manifest = include_str!("../../Cargo.toml");
            let bins: Vec<_> =
                manifest.split("[[bin]]\nname = \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
            assert_eq!(bins, names);
        }
    };
}

exercised! {
    command_line config control engine gro grpc ipc link netlink oam outer peer pki session spool thrift units xsk
}
