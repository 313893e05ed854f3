use std::time::Duration;

use florelay_impair::{Loss, Nanos};

use super::*;

const GOOD: &str = r#"version = "1.0"
name = "geo-small"
about = "4: GEO, 10/2 Mbit/s, RTT 650 ms"
seed = 4

[left-to-right]
rate = "10 Mbit/s"
queue = "812 kB"
delay = "325 ms"

[right-to-left]
rate = "2 Mbit/s"
delay = "325 ms"
corrupt = "1 %"
"#;

fn read(text: &str) -> Result<Profile, Refusal> {
    compile(Path::new("profiles/04.toml"), text)
}

#[test]
fn directions_are_read_apart_or_together() {
    let profile = read(GOOD).unwrap();
    assert_eq!((profile.name.as_str(), profile.seed), ("geo-small", 4));
    assert_eq!((profile.left_to_right.rate_bps, profile.left_to_right.queue_bytes), (Some(10_000_000), 812_000));
    assert_eq!((profile.right_to_left.rate_bps, profile.right_to_left.queue_bytes), (Some(2_000_000), 50_000));
    assert_eq!(profile.right_to_left.corrupt_mode, CorruptMode::Deliver, "the receiver is to find out");
    let both =
        read("version = \"1.0\"\nname = \"x\"\n[both]\nloss = \"5 %\"\noutages = [{ from = \"0 s\", to = \"1 s\" }]\n");
    let both = both.unwrap();
    assert_eq!(both.left_to_right, both.right_to_left);
    assert_eq!(both.left_to_right.loss, Loss::Bernoulli(0.05));
    assert_eq!(both.left_to_right.outages, [(Nanos(0), Nanos(1_000_000_000))]);
    assert_eq!(both.left_to_right.delay, Duration::ZERO);
}

#[test]
fn every_error_names_line_key_and_hint() {
    for (from, to, line, key, part) in [
        ("version = \"1.0\"", "version = \"2.0\"", 1, "version", "another format"),
        ("name = \"geo-small\"", "", 0, "name", "is missing"),
        ("seed = 4", "sead = 4", 4, "sead", "did you mean \"seed\"?"),
        ("[right-to-left]", "[right-to-lefft]", 11, "right-to-lefft", "did you mean \"right-to-left\"?"),
        ("[right-to-left]", "[both]", 6, "both", "already"),
        ("rate = \"2 Mbit/s\"", "rate = \"fast\"", 12, "right-to-left.rate", "begin with a number"),
        ("queue = \"812 kB\"", "queue = \"812 kB", 8, "queue", "not TOML"),
        ("corrupt = \"1 %\"", "corupt = \"1 %\"", 14, "right-to-left.corupt", "did you mean \"corrupt\"?"),
    ] {
        let refusal = read(&GOOD.replacen(from, to, 1)).expect_err(to);
        let found = refusal.0.iter().find(|d| d.key == key).unwrap_or_else(|| panic!("{to}: {refusal}"));
        let said = format!("{} {}", found.message, found.hint);
        assert!(said.contains(part) && (line == 0 || found.line == line), "{to}: {refusal}");
        assert!(refusal.0.len() == 1 || from.starts_with("queue"), "{refusal}");
    }
    let one = GOOD.find("[right-to-left]").unwrap();
    assert_eq!(read(&GOOD[..one]).unwrap_err().0[0].key, "right-to-left");
    assert_eq!(read("version = \"1.0\"\nname = \"x\"\n").unwrap_err().0[0].key, "left-to-right");
}

/// Those that are shipped.
#[test]
fn shipped_profiles_are_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/profiles");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let profile = load(&path).unwrap_or_else(|refusal| panic!("{refusal}"));
        for model in [&profile.left_to_right, &profile.right_to_left] {
            assert_eq!(model.check(), Ok(()), "{}", path.display());
        }
        let stem = path.file_stem().unwrap().to_str().unwrap();
        assert!(
            stem.split_once('-').is_some_and(|(_, name)| name == profile.name),
            "{stem} is called {}",
            profile.name
        );
        assert!(!profile.about.is_empty(), "{stem} says nothing about itself");
        count += 1;
    }
    assert!(count >= 20, "{count} profiles");
}
