//! Tests `cargo xtask book`.

use crate::workbench::{Workbench, fails, succeeds};

#[test]
fn mdbook_builds_the_pages() {
    let bench = Workbench::new("book");
    bench.program("mdbook");
    let output = succeeds(&mut bench.xtask(&["book"]));
    assert!(output.contains(&format!("mdbook build {}", bench.path("checkout/docs").display())), "{output}");
    assert!(output.contains("the book is in ") && output.contains("book/index.html"), "{output}");
}

#[test]
fn without_mdbook_the_error_says_how_to_get_it() {
    let bench = Workbench::new("book-without");
    let error = fails(&mut bench.xtask(&["book"]));
    assert_eq!(error, "mdbook is not on the PATH: install it with `cargo install mdbook --locked`\n");
}
