//! `docs/rules.md`: a section for every rule, with an example, its message, and what other
//! libraries do with the same mistake. It is generated from the cases, so its messages are the
//! compiler's. `UPDATE_EXPECT=1 cargo test -p pipe-ui-tests --test rules` rewrites it.

mod case;
mod peers;
mod sections;

use std::fs;
use std::path::{Path, PathBuf};

use case::Case;
use expect_test::expect_file;
use peers::Peers;

/// Classes of rules, in the order of the page: folder and title.
const CLASSES: [(&str, &str); 11] = [
    ("children", "Layers as children"),
    ("skips", "Skips"),
    ("lends", "Lent values"),
    ("sums", "Sums"),
    ("devices", "Devices and stages"),
    ("processes", "Processes"),
    ("recompute", "Recomputed layers"),
    ("types", "Types"),
    ("settings", "Settings"),
    ("form", "Form"),
    ("warnings", "Warnings"),
];

/// Names of the cases that are about all rules of a class.
const ABOUT_ALL: [&str; 2] = ["item_still_emitted", "several_errors"];

#[test]
fn the_book_lists_every_rule() {
    expect_file!["../../../docs/rules.md"].assert_eq(&sections::page(&classes(), &Peers::read(&folder())));
}

#[test]
fn every_rule_of_the_macro_has_a_case_of_its_name() {
    let list = include_str!("../../../pipe-macros/src/pipeline/check/mod.rs");
    let called = list.lines().filter_map(|line| line.trim().strip_suffix("(model, errors);"));
    let rules: Vec<(&str, &str)> = called.filter_map(|call| call.split_once("::")).collect();
    assert!(!rules.is_empty());
    for (class, rule) in rules {
        assert!(cases_of(class).join(rule).with_extension("rs").is_file(), "{class}/{rule}.rs is missing");
    }
}

#[test]
fn every_class_has_its_cases_about_all_rules() {
    for (class, _) in CLASSES {
        for case in ABOUT_ALL {
            assert!(cases_of(class).join(case).with_extension("rs").is_file(), "{class}/{case}.rs is missing");
        }
    }
}

#[test]
fn the_peers_are_asked_about_rules_that_exist() {
    let classes = classes();
    let rules = || classes.iter().flat_map(|(_, cases)| cases).map(|case| case.rule.as_str());
    for rule in Peers::read(&folder()).rules() {
        assert!(rules().any(|known| known == rule), "peers.toml: there is no rule `{rule}`");
    }
}

/// Reads the cases of each class, with its title. Cases are sorted by name.
fn classes() -> Vec<(&'static str, Vec<Case>)> {
    CLASSES.iter().map(|(class, title)| (*title, cases(class))).collect()
}

fn cases(class: &str) -> Vec<Case> {
    let entries = fs::read_dir(cases_of(class)).expect("the class has a folder");
    let files = entries.map(|entry| entry.expect("the folder can be read").path());
    let mut files: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|kind| kind == "rs")).collect();
    files.sort();
    let about_all = |file: &PathBuf| ABOUT_ALL.iter().any(|case| file.file_stem().is_some_and(|stem| stem == *case));
    files.iter().filter(|file| !about_all(file)).map(|file| Case::read(class, file)).collect()
}

/// Folder of a class's cases.
fn cases_of(class: &str) -> PathBuf {
    folder().join("cases").join(class)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
