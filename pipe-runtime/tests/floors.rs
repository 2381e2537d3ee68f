//! Checks the floors of `src`, which docs/how-it-works.md describes: a group of modules imports
//! only from lower floors, never sideways, and never through the crate's root.

use std::fs;
use std::path::{Path, PathBuf};

/// The groups, each with its floor and its modules at the crate's root.
const GROUPS: [(usize, &[&str]); 11] = [
    (0, &["torch"]),
    (1, &["autocast", "error", "lock", "quiet", "threads", "world"]),
    (2, &["files"]),
    (2, &["flow"]),
    (3, &["model"]),
    (4, &["nn"]),
    (4, &["optim"]),
    (4, &["stages"]),
    (5, &["run"]),
    (6, &["pipe"]),
    (7, &["rt", "fuzzing"]),
];

fn group(module: &str) -> Option<&'static (usize, &'static [&'static str])> {
    GROUPS.iter().find(|(_, modules)| modules.contains(&module))
}

/// Returns the names and paths in a line of code, such as `crate::error::Error`, or `crate::`
/// before a brace.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split("//").next().unwrap_or_default();
    code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).filter(|word| !word.is_empty())
}

/// The reason why a module may not use a path; `None` if it may.
fn judge(module: &[&str], path: &str) -> Option<&'static str> {
    let mut segments = path.split("::").skip_while(|&segment| segment == "self").peekable();
    let supers = segments.clone().take_while(|&segment| segment == "super").count();
    let is_absolute = segments.next_if_eq(&"crate").is_some() && segments.peek().is_some();
    if !is_absolute {
        return (supers >= module.len()).then_some("goes through the crate's root");
    }
    let (own, used) = (group(module[0])?, segments.next().and_then(group));
    match used {
        None => Some("goes through the crate's root"),
        Some(used) if used == own || used.0 < own.0 => None,
        Some(used) if used.0 == own.0 => Some("goes sideways"),
        Some(_) => Some("goes up"),
    }
}

/// The paths in a module's text that it may not use, with their line numbers.
fn faults(module: &[&str], text: &str) -> Vec<String> {
    let mut module = module.to_vec();
    let mut inline = Vec::new(); // The indents of the inline modules around the line.
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let indent = &line[..line.len() - line.trim_start().len()];
        if line.ends_with('{') && words(line).any(|word| word == "mod") {
            inline.push(indent);
            module.push("inline");
        } else if line.trim() == "}" && inline.last() == Some(&indent) {
            inline.pop();
            module.pop();
        }
        let judged = words(line).filter_map(|path| Some((path, judge(&module, path)?)));
        faults.extend(judged.map(|(path, why)| format!("{}: `{path}` {why}", number + 1)));
    }
    faults
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let all = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    all.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

#[test]
fn each_group_imports_only_from_floors_below_its_own() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for file in files(&src) {
        let (name, text) = (file.strip_prefix(&src).unwrap().to_str().unwrap(), fs::read_to_string(&file).unwrap());
        let module: Vec<_> = name.trim_end_matches(".rs").split('/').filter(|&segment| segment != "mod").collect();
        if ["lib", "rt"].contains(&module[0]) {
            let items = ["fn", "struct", "enum", "trait", "impl", "const", "static", "type", "macro_rules"];
            let item = text.lines().flat_map(words).find(|word| items.contains(word));
            found.extend(item.map(|item| format!("src/{name}: holds re-exports alone, but has a `{item}`")));
        } else if group(module[0]).is_none() {
            found.push(format!("src/{name}: stands on no floor"));
        }
        if module[0] != "lib" {
            found.extend(faults(&module, &text).iter().map(|fault| format!("src/{name}:{fault}")));
        }
    }
    assert!(found.is_empty(), "what the floors forbid:\n{}", found.join("\n"));
}

#[test]
fn paths_that_go_up_sideways_or_through_the_root_are_found() {
    let flow = |line: &str| faults(&["flow", "batch"], line);
    for fine in ["use crate::flow::Flow;", "use crate::error::Error;", "use super::Flow;", "pub(crate) fn f() {}"] {
        assert_eq!(flow(fine), [""; 0], "{fine}");
    }
    assert_eq!(flow("// See [`Pipe`](crate::Pipe)."), [""; 0], "a comment imports nothing");
    assert_eq!(flow("\nuse crate::run::{Network, Runner};"), ["2: `crate::run::` goes up"]);
    assert_eq!(flow("    let x = crate::model::unique();"), ["1: `crate::model::unique` goes up"]);
    assert_eq!(flow("use crate::{"), ["1: `crate::` goes through the crate's root"]);
    assert_eq!(flow("use crate::Error;"), ["1: `crate::Error` goes through the crate's root"]);
    assert_eq!(flow("use super::super::f;"), ["1: `super::super::f` goes through the crate's root"]);
    assert_eq!(faults(&["nn"], "use crate::stages::keep;"), ["1: `crate::stages::keep` goes sideways"]);
    assert_eq!(faults(&["autocast"], "use crate::error::Error;"), [""; 0], "the ground is one group");
    let tests = "mod tests {\n    use super::*;\n}\nuse super::f;";
    assert_eq!(faults(&["error"], tests), ["4: `super::f` goes through the crate's root"]);
}
