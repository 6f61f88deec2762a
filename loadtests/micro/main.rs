//! Counts the instructions that the data path's steps take.
//!
//!     cargo bench --bench micro
//!
//! Each step runs under valgrind's callgrind with two numbers of rounds, and the difference is what a
//! round takes: start-up falls out, and nothing depends on how busy the machine is. What is counted is
//! compared with `baseline.txt` beside this file, and a step that takes 10 % more fails. Counts of one
//! binary repeat to a few instructions in ten thousand; the room is for processors on which the
//! libraries choose other ways to copy and to search. After a change that is meant, and after one
//! that makes a step cheaper, write the baseline anew: `UPDATE_EXPECTED=1 cargo bench --bench micro`.

mod cases;
mod talk;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

use cases::CASES;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let done = match &arguments[..] {
        [word, name, rounds] if word == "rounds" => run(name, rounds),
        // Cargo itself passes `--bench`.
        _ => compare(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One step, in the process that is counted.
fn run(name: &str, rounds: &str) -> Result<()> {
    let case = CASES.iter().find(|case| case.name == name);
    let case = case.with_context(|| format!("there is no step {name}"))?;
    (case.run)(rounds.parse()?);
    Ok(())
}

fn compare() -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("loadtests/micro/baseline.txt");
    let update = env::var_os("UPDATE_EXPECTED").is_some();
    let mut baseline = match update {
        true => BTreeMap::new(),
        false => read(&file)?,
    };
    let program = env::current_exe()?;
    let mut counted = BTreeMap::new();
    let mut faults = Vec::new();
    println!(
        "{:<24}{:>14}{:>14}",
        "instructions a round", "now", "baseline"
    );
    for case in CASES {
        let now = instructions(&program, case.name)?;
        counted.insert(case.name, now);
        let Some(before) = baseline.remove(case.name) else {
            println!("{:<24}{now:>14}{:>14}", case.name, "-");
            if !update {
                faults.push(format!("{} has no baseline", case.name));
            }
            continue;
        };
        let percent = 100.0 * (now as f64 / before as f64 - 1.0);
        println!("{:<24}{now:>14}{before:>14}{percent:>+8.1} %", case.name);
        if percent > TOLERANCE {
            faults.push(format!("{} takes {percent:+.1} %", case.name));
        }
    }
    faults.extend(
        baseline
            .keys()
            .map(|name| format!("{name} is no step any more")),
    );
    if update {
        let lines = counted
            .iter()
            .map(|(name, count)| format!("{name} {count}\n"));
        fs::write(&file, lines.collect::<String>())?;
        println!("written to {}", file.display());
    }
    if !faults.is_empty() {
        bail!(
            "{}; if that is meant: UPDATE_EXPECTED=1 cargo bench --bench micro",
            faults.join("; ")
        );
    }
    Ok(())
}

fn read(file: &Path) -> Result<BTreeMap<String, u64>> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let lines = text.lines().map(|line| {
        let (name, count) = line.split_once(' ').context("a line is `step count`")?;
        Ok((name.to_owned(), count.parse()?))
    });
    lines.collect()
}

/// What one round takes.
fn instructions(program: &PathBuf, name: &str) -> Result<u64> {
    let few = counted(program, name, FEW)?;
    let many = counted(program, name, MANY)?;
    Ok(many.saturating_sub(few) / (MANY - FEW))
}

fn counted(program: &PathBuf, name: &str, rounds: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["rounds", name, &rounds.to_string()])
        .output()
        .context("valgrind cannot be started: install the package valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!("{name}: {}\n{said}", output.status);
    }
    let collected = said
        .lines()
        .find_map(|line| line.split("Collected :").nth(1));
    let collected = collected.with_context(|| format!("valgrind counted nothing:\n{said}"))?;
    Ok(collected.trim().parse()?)
}

const FEW: u64 = 200;
const MANY: u64 = 2_200;
/// In percent.
const TOLERANCE: f64 = 10.0;
