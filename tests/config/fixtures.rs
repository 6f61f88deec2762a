//! `valid/*.toml` load without a word; of each `invalid/*.toml` the faults stand in a `.txt` next
//! to it.

use std::fs;

use ddp_gateway::config;

use crate::support::{environment, expect_file, files};

#[test]
fn valid_files_load() {
    for file in files("tests/config/valid") {
        match config::load(&file, &environment()) {
            Ok(loaded) => assert!(loaded.warnings.is_empty(), "{}", loaded.warnings[0]),
            Err(faults) => panic!("{}", faults[0]),
        }
    }
}

#[test]
fn every_fault_of_an_invalid_file_is_shown() {
    for file in files("tests/config/invalid") {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy();
        let said = match config::from_str(&name, &text, &environment()) {
            Ok(loaded) => loaded.warnings,
            Err(faults) => faults,
        };
        assert!(!said.is_empty(), "{name} has no fault");
        let said: Vec<String> = said.iter().map(|fault| format!("{fault}\n")).collect();
        expect_file(&file.with_extension("txt"), &said.join("\n"));
    }
}

/// The number of faults that the file itself announces in its first line, as `# 3 faults`, so that
/// nobody commits an expected text that has lost one.
#[test]
fn as_many_faults_as_the_file_says() {
    for file in files("tests/config/invalid") {
        let text = fs::read_to_string(&file).unwrap();
        let announced = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# "))
            .and_then(|line| line.split(' ').next())
            .and_then(|count| count.parse::<usize>().ok());
        let found = match config::from_str("x", &text, &environment()) {
            Ok(loaded) => loaded.warnings.len(),
            Err(faults) => faults.len(),
        };
        assert_eq!(Some(found), announced, "{}", file.display());
    }
}
