//! Checks the imports between the modules of `src`: a phase of `#[pipeline]` imports only from
//! earlier phases.

use std::fs;
use std::mem::replace;
use std::path::{Path, PathBuf};

use proc_macro2::{Spacing, TokenStream, TokenTree};

/// Phases, in the order of the list in `src/pipeline/mod.rs`.
const PHASES: [&str; 9] =
    ["attribute", "declaration", "parse", "balance_file", "model", "plan", "prove", "check", "expand"];

/// Whether `user` may import from `used`. `pipeline` and `lib` combine the others, so they may
/// import from them.
fn may_import(user: &str, used: &str) -> bool {
    let place = |part: &str| PHASES.iter().position(|phase| *phase == part);
    match (place(user), place(used)) {
        (Some(user), Some(used)) => used <= user,
        (None, Some(_)) if user == "pipeline" => true,
        _ => used == user || used == "support" || user == "lib",
    }
}

/// Part of the crate that a path from its root is in.
fn part(path: &[String]) -> &str {
    match path {
        [first, phase, ..] if first == "pipeline" && PHASES.contains(&phase.as_str()) => phase,
        [first, ..] => first,
        [] => "lib",
    }
}

/// Finds the imports in a file of `src` that violate the order. Unit tests may import anything.
fn against(file: &str, source: &str) -> Vec<String> {
    let module = file.trim_end_matches(".rs").trim_end_matches("/mod").split('/');
    let module: Vec<String> = module.map(str::to_owned).collect();
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut found = Vec::new();
    paths(code.parse().expect("the source is Rust"), &[], &mut found);
    let from_root = |(line, path): (usize, Vec<String>)| match path[0].as_str() {
        "crate" => Some((line, path[1..].to_vec())),
        "super" => {
            let ups = path.iter().take_while(|name| *name == "super").count();
            Some((line, [&module[..module.len().saturating_sub(ups)], &path[ups..]].concat()))
        }
        _ => None,
    };
    let user = part(&module);
    let wrong = found.into_iter().filter_map(from_root).filter(|(_, path)| !may_import(user, part(path)));
    wrong.map(|(line, path)| format!("src/{file}:{line}: `{user}` imports `crate::{}`", path.join("::"))).collect()
}

/// Finds all paths of at least two names, with their lines. `prefix` is the path before a group.
fn paths(tokens: TokenStream, prefix: &[String], found: &mut Vec<(usize, Vec<String>)>) {
    let mut path = prefix.to_vec();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let line = token.span().start().line;
        match token {
            TokenTree::Group(group) => {
                paths(group.stream(), &path, found);
                path = prefix.to_vec();
                continue;
            }
            // `as` renames the path before it, so its name is skipped.
            TokenTree::Ident(name) if name == "as" => drop(tokens.next()),
            TokenTree::Ident(name) => path.push(name.to_string()),
            TokenTree::Punct(all) if all.as_char() == '*' && path.len() > prefix.len() => path.push("*".to_owned()),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
        if tokens.next_if(opens_colons).is_some() {
            tokens.next();
            continue;
        }
        let ended = replace(&mut path, prefix.to_vec());
        if ended.len() > 1 && ended.len() > prefix.len() {
            found.push((line, ended));
        }
    }
}

/// Whether the token is the first half of `::`.
fn opens_colons(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(colon) if colon.as_char() == ':' && colon.spacing() == Spacing::Joint)
}

/// Lists all files of a folder, except those of tests.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder can be read");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    paths.retain(|path| !path.ends_with("tests"));
    paths.sort();
    paths.into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn phases_import_only_from_earlier_ones() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for path in files(&src) {
        let file = path.strip_prefix(&src).expect("it is in the folder").display().to_string();
        wrong.extend(against(&file, &fs::read_to_string(&path).expect("the file can be read")));
    }
    assert!(wrong.is_empty(), "these imports go against the order of {PHASES:?}:\n{}", wrong.join("\n"));
}

#[test]
fn every_module_of_the_pipeline_is_a_phase() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pipeline");
    let entries = fs::read_dir(folder).expect("the folder can be read").map(|entry| entry.expect("so can this").path());
    let names = entries.map(|path| path.file_stem().expect("it has a name").to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name != "mod" && name != "tests").collect();
    let mut phases = PHASES.to_vec();
    names.sort();
    phases.sort();
    assert_eq!(names, phases);
}

#[test]
fn an_import_of_a_later_phase_is_named_with_its_place() {
    for (file, line, wrong) in [
        ("pipeline/model.rs", "use crate::pipeline::plan::Plan;", "`model` imports `crate::pipeline::plan::Plan`"),
        (
            "pipeline/model.rs",
            "use crate::{pipeline::{parse::a, check::*}};",
            "`model` imports `crate::pipeline::check::*`",
        ),
        ("pipeline/model.rs", "fn f() { g(&[super::plan::new()]); }", "`model` imports `crate::pipeline::plan::new`"),
        ("pipeline/model.rs", "use super::*;", "`model` imports `crate::pipeline::*`"),
        ("pipeline/model.rs", "use crate::derive_flow::derive;", "`model` imports `crate::derive_flow::derive`"),
        ("pipeline/check/skips.rs", "use super::super::expand as other;", "`check` imports `crate::pipeline::expand`"),
        ("support/errors.rs", "use crate::pipeline::model as other;", "`support` imports `crate::pipeline::model`"),
        ("derive_flow.rs", "use crate::pipeline::derive;", "`derive_flow` imports `crate::pipeline::derive`"),
    ] {
        let expected = format!("src/{file}:2: {wrong}");
        assert_eq!(against(file, &format!("// The first line.\n{line}\n")), [expected]);
    }
}

#[test]
fn other_imports_are_right() {
    for (file, source) in [
        (
            "pipeline/plan.rs",
            "use crate::pipeline::{declaration::{Kept, Part}, model as m};\nuse crate::support::names;",
        ),
        ("pipeline/check/skips.rs", "use super::settings::of;\npub(crate) use crate::pipeline::prove::Scheduled;"),
        (
            "pipeline/model.rs",
            "/// As crate::pipeline::plan::Plan.\nconst TEXT: &str = \"crate::pipeline::plan::Plan\";",
        ),
        ("pipeline/model.rs", "use std::fmt;\n#[cfg(test)]\nmod tests {\n    use crate::pipeline::plan::plan;\n}\n"),
        ("pipeline/mod.rs", "use crate::pipeline::expand::stubs;\nuse crate::support::errors::Errors;"),
        ("lib.rs", "fn f() { crate::pipeline::derive(); }"),
    ] {
        assert_eq!(against(file, source), Vec::<String>::new());
    }
}
