//! The pages of the book, and those beside it.

use std::fs;
use std::path::{Path, PathBuf};

/// A page, and where it is in the checkout.
pub struct Page {
    /// The path from the root, with `/`.
    pub path: String,
    pub text: String,
}

impl Page {
    pub fn read(path: &str) -> Self {
        let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { path: path.to_owned(), text }
    }

    pub fn folder(&self) -> &Path {
        Path::new(&self.path).parent().expect("a page is in a folder")
    }
}

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace").to_owned()
}

/// README, CONTRIBUTING and everything in `docs`.
pub fn pages() -> Vec<Page> {
    let mut paths = vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned()];
    collect("docs", &mut paths);
    paths.iter().map(|path| Page::read(path)).collect()
}

fn collect(folder: &str, paths: &mut Vec<String>) {
    let entries = fs::read_dir(root().join(folder)).expect("the folder can be read");
    let mut names: Vec<_> = entries.map(|entry| entry.expect("the folder can be read")).collect();
    names.sort_by_key(fs::DirEntry::file_name);
    for entry in names {
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            collect(&path, paths);
        } else if path.ends_with(".md") {
            paths.push(path);
        }
    }
}

/// The lines of a page with their numbers from 1, without fenced blocks.
pub fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fence: Option<usize> = None;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let ticks = line.trim_start().chars().take_while(|&tick| tick == '`').count();
        match fence {
            None if ticks >= 3 => fence = Some(ticks),
            Some(open) if ticks >= open => fence = None,
            None => return Some((index + 1, line)),
            Some(_) => {}
        }
        None
    })
}
