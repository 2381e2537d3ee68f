//! What the book says about the tests is true.

use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// The last cells of the rows of all tables, without their headers.
fn last_cells(page: &str) -> impl Iterator<Item = &str> {
    let rows = page.lines().filter(|line| line.starts_with('|') && !line.starts_with("|---"));
    let cells = rows.filter_map(|row| row.trim_end_matches('|').rsplit('|').next().map(str::trim));
    cells.filter(|cell| !["test", "here"].contains(cell))
}

/// Whether a name stands for something: `ui-tests/cases/class/rule`, `path/file.rs::test` or
/// `subject::test`.
fn exists(name: &str) -> bool {
    let root = workspace();
    let Some((file, test)) = name.rsplit_once("::") else {
        return root.join(name).with_extension("rs").is_file();
    };
    let places = match file.ends_with(".rs") {
        true => vec![root.join(file)],
        false => ["tests/tests", "tests/src"].map(|folder| root.join(folder).join(file).with_extension("rs")).into(),
    };
    // A function; one that a macro makes of a name and a model; an example that must not compile.
    let marks = [format!("fn {test}("), format!("\n    {test}: "), format!("pub struct {test};")];
    places.iter().filter_map(|place| fs::read_to_string(place).ok()).any(|text| marks.iter().any(|m| text.contains(m)))
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
