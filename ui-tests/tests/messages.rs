//! The mock has the runtime's messages, so that the cases show what a user of the runtime reads.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Traits with a message that no generated code needs, so that they are not in the mock.
const NOT_IN_THE_MOCK: [&str; 2] = ["IntoFlow", "IntoSchedule"];

/// Functions that generated code calls in constants. What they say is in their bodies.
const CHECKS: [&str; 2] = ["as_many", "nests"];

const ATTRIBUTE: &str = "#[diagnostic::on_unimplemented(";

#[test]
fn the_mock_has_the_messages_of_the_runtime() {
    let (mock, runtime) = (mock_sources(), runtime_sources());
    let (mock, mut runtime) = (messages(&mock), messages(&runtime));
    for name in NOT_IN_THE_MOCK {
        assert!(runtime.remove(name).is_some(), "the runtime has no message for `{name}`");
    }
    assert_eq!(mock.keys().collect::<Vec<_>>(), runtime.keys().collect::<Vec<_>>(), "traits with a message");
    for (name, message) in &mock {
        assert_eq!(message, &runtime[name], "the message of `{name}`, in the mock and in the runtime");
    }
}

#[test]
fn the_mock_checks_constants_as_the_runtime_does() {
    let (mock, runtime) = (mock_sources(), runtime_sources());
    for name in CHECKS {
        assert_eq!(function(&mock, name), function(&runtime, name), "`{name}`, in the mock and in the runtime");
    }
}

/// Finds the arguments of each attribute in the sources, by the name of the trait below it.
fn messages(sources: &[String]) -> BTreeMap<&str, &str> {
    let mut messages = BTreeMap::new();
    for attribute in sources.iter().flat_map(|source| source.split(ATTRIBUTE).skip(1)) {
        let (arguments, below) = attribute.split_once("\n)]\n").expect("the attribute ends");
        let (_, of_trait) = below.split_once("pub trait ").expect("the attribute is on a trait");
        let name = of_trait.split(|character: char| !character.is_alphanumeric()).next().unwrap_or_default();
        assert!(messages.insert(name, arguments.trim()).is_none(), "`{name}` has two messages");
    }
    messages
}

/// Finds a constant function, with its attributes.
fn function<'s>(sources: &'s [String], name: &str) -> &'s str {
    let start = format!("#[track_caller]\npub const fn {name}(");
    let found = |source: &'s String| {
        let function = &source[source.find(&start)?..];
        function.split("\n}\n").next()
    };
    sources.iter().find_map(found).unwrap_or_else(|| panic!("there is no `{name}`"))
}

fn mock_sources() -> Vec<String> {
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("mock/src"))
}

fn runtime_sources() -> Vec<String> {
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipe-runtime/src"))
}

/// Reads all Rust files in a folder and below it.
fn sources(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder can be read");
    let paths: Vec<PathBuf> = entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    let of_path = |path: &PathBuf| match path.is_dir() {
        true => sources(path),
        false if path.extension().is_some_and(|kind| kind == "rs") => {
            vec![fs::read_to_string(path).expect("the file can be read")]
        }
        false => Vec::new(),
    };
    paths.iter().flat_map(of_path).collect()
}
