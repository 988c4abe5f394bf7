//! A good recipe, damaged at random: never a panic, and an error always names the file.

use taper_base::rng::{self, Rng, RngExt};

use super::*;

/// One to three damages: a byte flipped, bytes put in, bytes cut out, the end cut off, a line gone, doubled or moved.
fn damaged(random: &mut impl Rng) -> Vec<u8> {
    let mut bytes = FULL.as_bytes().to_vec();
    for _ in 0..random.random_range(1..=3) {
        let at = random.random_range(0..bytes.len().max(1)).min(bytes.len().saturating_sub(1));
        let mut lines: Vec<Vec<u8>> = bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        let (line, other) = (random.random_range(0..lines.len()), random.random_range(0..lines.len()));
        match random.random_range(0..8) {
            _ if bytes.is_empty() => {}
            0 | 1 => bytes[at] ^= 1 << random.random_range(0..8),
            2 => bytes[at] = b"{}[]:,#&*!|>'\"%@`-? \t\n"[random.random_range(0..22)],
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..(at + random.random_range(1..20)).min(bytes.len()))),
            5 => {
                lines.remove(line);
                bytes = lines.join(&b'\n');
            }
            6 => {
                lines.insert(other, lines[line].clone());
                bytes = lines.join(&b'\n');
            }
            _ => {
                lines.swap(line, other);
                bytes = lines.join(&b'\n');
            }
        }
    }
    bytes
}

#[test]
fn no_damage_panics_and_every_error_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mutant.yaml");
    let (mut good, mut placed) = (0, 0);
    for case in 0..1500 {
        let bytes = damaged(&mut rng::stream(case, "mutant", 0, 0));
        files::write(&path, &bytes).unwrap();
        match Recipe::read(&path, &methods()) {
            Ok(_) => good += 1,
            Err(error) => {
                let shown = chain(&error);
                assert!(shown.starts_with(&path.display().to_string()), "case {case}: {shown}");
                assert!(shown.lines().count() >= 2, "case {case} says what is wrong: {shown}");
                let lines = bytes.iter().filter(|b| **b == b'\n').count() + 1;
                let place = error.place().unwrap_or_else(|| panic!("case {case} has no place: {shown}"));
                assert!((1..=lines + 1).contains(&place.line), "case {case}: {shown}");
                placed += 1;
            }
        }
    }
    assert!(good > 50 && placed > 500, "{good} read, {placed} refused");
}
