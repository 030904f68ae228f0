//! `docs/sip-musts.md` names tests: each must exist, and no demand may be left out.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Demands in the table.
const DEMANDS: usize = 70;

/// Folders with tests.
const FOLDERS: [&str; 5] = ["control/src", "control/tests", "engine/src", "engine/tests", "tests"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Names of functions that stand right behind a test attribute, and of those in a table of `proptest!`.
fn tests_of_the_repository() -> BTreeSet<String> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        sources(&root().join(folder), &mut files);
    }
    let mut names = BTreeSet::new();
    for file in files {
        let mut is_test = false;
        for line in fs::read_to_string(file).unwrap().lines() {
            let line = line.trim();
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some(rest) = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn ")) {
                if is_test {
                    names.extend(rest.split('(').next().map(str::to_owned));
                }
                is_test = false;
            }
        }
    }
    names
}

#[test]
fn every_test_that_the_table_of_demands_names_exists_and_every_demand_has_a_row() {
    let table = fs::read_to_string(root().join("docs/sip-musts.md")).unwrap();
    let tests = tests_of_the_repository();
    let mut rows = BTreeSet::new();
    for line in table.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let Ok(number) = cells[0].parse::<usize>() else { continue };
        assert!(rows.insert(number), "row {number} stands there twice");
        let named: Vec<&str> = cells[3].split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty() || cells[3].contains("*not proven*"), "row {number} names no test");
        for name in named {
            assert!(tests.contains(name), "row {number} names {name}, which is no test of this repository");
        }
    }
    assert_eq!(rows, (1..=DEMANDS).collect());
    for name in table.lines().filter(|line| !line.starts_with('|')).flat_map(|line| line.split('`').skip(1).step_by(2))
    {
        assert!(name.contains('/') || tests.contains(name), "{name} is no test of this repository");
    }
}
