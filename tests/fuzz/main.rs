//! Targets for random input: whatever the bytes, certain things stay true.
//!
//! Each target replays its corpus (`tests/fuzz/corpus/<target>`) and then mutations of it, the same ones each time;
//! `FUZZ_MUTATIONS` and `FUZZ_SEED` make more and others. `make fuzz` has libFuzzer mutate, led by the code that inputs
//! reach. An input that breaks a target belongs in its corpus.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod configuration;
mod manifests;
mod numbers;
mod rows;
mod triggers;

#[cfg(not(fuzzing_libfuzzer))]
use std::{env, fs, panic::catch_unwind, path::Path};

#[cfg(not(fuzzing_libfuzzer))]
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Gives a target to libFuzzer, whose arguments come from `scripts/fuzz`. Does not return.
#[cfg(fuzzing_libfuzzer)]
fn hunt(_target: &str, check: fn(&[u8])) {
    bolero::check!().for_each(check);
}

/// Runs a target over its corpus and over what the corpus mutates into.
#[cfg(not(fuzzing_libfuzzer))]
fn hunt(target: &str, check: fn(&[u8])) {
    let mutations: usize = env::var("FUZZ_MUTATIONS").map_or(3_000, |number| number.parse().unwrap());
    let seed: u64 = env::var("FUZZ_SEED").map_or(2026, |number| number.parse().unwrap());
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let corpus: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(corpus.len() >= 4, "{target} has a corpus of {}", corpus.len());
    for input in &corpus {
        check(input);
    }
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..mutations {
        let mut input = corpus[random.random_range(0..corpus.len())].clone();
        for _ in 0..random.random_range(1..8) {
            let at = random.random_range(0..=input.len());
            let until = random.random_range(at..=input.len().min(at + 12));
            match random.random_range(0..4) {
                0 => _ = input.drain(at..until),
                1 => input.insert(at, random.random()),
                2 => {
                    let other = &corpus[random.random_range(0..corpus.len())];
                    let from = random.random_range(0..=other.len());
                    let to = random.random_range(from..=other.len().min(from + 40));
                    _ = input.splice(at..until, other[from..to].iter().copied());
                }
                _ => {
                    if let Some(byte) = input.get_mut(at) {
                        *byte ^= 1 << random.random_range(0..8);
                    }
                }
            }
        }
        if catch_unwind(|| check(&input)).is_err() {
            panic!("{target} with seed {seed} breaks on {:?}", String::from_utf8_lossy(&input));
        }
    }
    println!("{target}: {} inputs of the corpus and {mutations} mutations, seed {seed}", corpus.len());
}

#[test]
fn configuration() {
    hunt("configuration", configuration::check);
}

#[test]
fn sql() {
    hunt("sql", configuration::check_sql);
}

#[test]
fn manifests() {
    hunt("manifests", manifests::check);
}

#[test]
fn metadata() {
    hunt("metadata", triggers::check_text);
}

#[test]
fn wire() {
    hunt("wire", triggers::check_bytes);
}

#[test]
fn parameters() {
    hunt("parameters", numbers::check_parameter);
}

#[test]
fn division() {
    hunt("division", numbers::check_division);
}

#[test]
fn rows() {
    hunt("rows", rows::check);
}

#[test]
#[should_panic(expected = "division with seed")]
fn an_input_that_breaks_a_target_is_told() {
    hunt("division", |input| assert!(input.len() <= 16, "no input of the corpus is longer"));
}
