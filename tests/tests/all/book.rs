//! Checks that the tests that the book names exist, and that each test takes the lock.

use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// Returns the last cells of the rows of all tables, without the headers.
fn last_cells(page: &str) -> impl Iterator<Item = &str> {
    let rows = page.lines().filter(|line| line.starts_with('|') && !line.starts_with("|---"));
    let cells = rows.filter_map(|row| row.trim_end_matches('|').rsplit('|').next().map(str::trim));
    cells.filter(|cell| !["test", "here"].contains(cell))
}

/// Where tests lie that are named by their subject.
const FOLDERS: [&str; 3] = ["tests/tests", "tests/src", "tests/failing-libtorch/tests"];

/// Whether a name refers to an existing case or test. Its form is `ui-tests/cases/class/rule`,
/// `path/file.rs::test` or `subject::test`.
fn exists(name: &str) -> bool {
    let root = workspace();
    let Some((file, test)) = name.rsplit_once("::") else {
        return root.join(name).with_extension("rs").is_file();
    };
    let places = match file.ends_with(".rs") {
        true => vec![root.join(file)],
        false => FOLDERS.iter().flat_map(|folder| files_of(&root.join(folder), file)).collect(),
    };
    // These mark a function, a test that a macro makes from `name: Model`, and a `compile_fail`
    // example.
    let marks = [format!("fn {test}("), format!("\n    {test}: "), format!("pub struct {test};")];
    places.iter().filter_map(|place| fs::read_to_string(place).ok()).any(|text| marks.iter().any(|m| text.contains(m)))
}

/// Lists the files named after a subject, in this folder or below it.
fn files_of(folder: &Path, subject: &str) -> Vec<PathBuf> {
    let file = format!("{subject}.rs");
    files(folder).into_iter().filter(|path| path.file_name().is_some_and(|name| *name == *file)).collect()
}

/// Lists the Rust files in this folder and below it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let files = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files.chain(folders.iter().flat_map(|folder| self::files(folder))).collect()
}

#[test]
fn every_row_of_the_reference_has_a_test_that_exists() {
    let page = fs::read_to_string(workspace().join("docs/reference.md")).unwrap();
    let mut missing = Vec::new();
    let mut count = 0;
    for cell in last_cells(&page) {
        let names: Vec<_> = cell.split('`').skip(1).step_by(2).collect();
        let excused = cell.contains("*GPU*");
        assert!(excused || !names.is_empty(), "no test: {cell}");
        count += names.len();
        missing.extend(names.into_iter().filter(|name| !exists(name)));
    }
    assert!(count > 100, "the tables were not found");
    assert!(missing.is_empty(), "docs/reference.md names what is not there: {missing:#?}");
}

/// Names of tests that create no tensors.
const WITHOUT_TENSORS: [&str; 5] = [
    "every_row_of_the_reference_has_a_test_that_exists",
    "every_test_with_tensors_is_alone_with_libtorch",
    "a_panic_that_comes_back_as_an_error_is_not_printed_as_well",
    "no_creature_is_left_out",
    "stages_layers_and_skips_are_counted_found_by_name_and_gone_through_in_order",
];

/// The text of a function, up to the closing brace with the indentation of the function.
struct Function<'a> {
    name: &'a str,
    is_test: bool,
    text: String,
}

fn functions(source: &str) -> Vec<Function<'_>> {
    let lines: Vec<&str> = source.lines().collect();
    let function = |at: usize| {
        let (before, after) = lines[at].split_once("fn ")?;
        let indent = before.trim_end_matches("pub ");
        let end = format!("{indent}}}");
        // A declaration in a trait has no body.
        let is_written = indent.trim().is_empty() && !after.ends_with(';');
        is_written.then(|| Function {
            name: after.split(['(', '<']).next().unwrap_or_default(),
            is_test: at > 0 && lines[at - 1].trim() == "#[test]",
            text: lines[at..].iter().take_while(|line| **line != end).map(|line| format!("{line}\n")).collect(),
        })
    };
    (0..lines.len()).filter_map(function).collect()
}

/// Whether the text calls the free function of this name, not a method or an associated function.
fn calls(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let other = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | ':');
        let after = &text[at + name.len()..];
        !text[..at].ends_with(other) && (after.starts_with('(') || after.starts_with("::<"))
    })
}

/// All tests of this binary share libtorch's default generator and number of threads, so each takes
/// the lock, or calls a function that does.
#[test]
fn every_test_with_tensors_is_alone_with_libtorch() {
    let read = |path: PathBuf| fs::read_to_string(path).unwrap();
    let takes = |text: &str, known: &[String]| text.contains("serial();") || known.iter().any(|name| calls(text, name));
    let known_after = |source: &str, known: &[String]| -> Vec<String> {
        let functions = functions(source).into_iter().filter(|function| takes(&function.text, known));
        functions.map(|function| function.name.to_owned()).chain(known.iter().cloned()).collect()
    };
    // These functions take the lock themselves. The functions that they call have it already.
    let mut shared = Vec::new();
    for source in files(&workspace().join("tests/src")).into_iter().map(read) {
        shared.extend(known_after(&source, &[]));
    }
    let mut missing = Vec::new();
    let mut count = 0;
    for path in files(&workspace().join("tests/tests/all")) {
        // Tests may call the helpers of their folder, too. Each search runs twice, because one
        // helper may call another.
        let folder = fs::read_to_string(path.with_file_name("mod.rs")).unwrap_or_default();
        let source = read(path);
        let known = [&folder, &source]
            .into_iter()
            .fold(shared.clone(), |known, source| known_after(source, &known_after(source, &known)));
        for test in functions(&source).into_iter().filter(|function| function.is_test) {
            count += 1;
            if !WITHOUT_TENSORS.contains(&test.name) && !takes(&test.text, &known) {
                missing.push(test.name.to_owned());
            }
        }
    }
    assert!(count > 150, "the tests were not found");
    assert!(missing.is_empty(), "these do not call `pipe_tests::serial()` first: {missing:#?}");
}
