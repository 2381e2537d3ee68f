//! The programs of the tutorial run, and print the output that its pages show.
//!
//! A block after `<!-- output NAME -->` is compared with what the program `NAME` prints, but for
//! the numbers, which differ between machines.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

const PROGRAMS: [(&str, &str); 14] = [
    ("balance", env!("CARGO_BIN_EXE_balance")),
    ("checkpointing", env!("CARGO_BIN_EXE_checkpointing")),
    ("devices", env!("CARGO_BIN_EXE_devices")),
    ("experts", env!("CARGO_BIN_EXE_experts")),
    ("first_pipeline", env!("CARGO_BIN_EXE_first_pipeline")),
    ("gpt", env!("CARGO_BIN_EXE_gpt")),
    ("resnet", env!("CARGO_BIN_EXE_resnet")),
    ("resume", env!("CARGO_BIN_EXE_resume")),
    ("save_and_load", env!("CARGO_BIN_EXE_save_and_load")),
    ("skips", env!("CARGO_BIN_EXE_skips")),
    ("trace", env!("CARGO_BIN_EXE_trace")),
    ("train_step", env!("CARGO_BIN_EXE_train_step")),
    ("translate", env!("CARGO_BIN_EXE_translate")),
    ("unet", env!("CARGO_BIN_EXE_unet")),
];

#[test]
fn the_programs_print_what_the_pages_show() {
    let pages = pages();
    let mut shown = BTreeSet::new();
    for (name, program) in PROGRAMS {
        let output = Command::new(program).args(arguments(name)).output().expect("the program starts");
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{name}: {printed}{}", String::from_utf8_lossy(&output.stderr));
        for (page, block) in pages.iter().flat_map(|(page, text)| blocks(text, name).map(move |block| (page, block))) {
            let (expected, found) = (without_numbers(block), without_numbers(&printed));
            assert!(found.contains(&expected), "{page} shows\n{block}\nand `{name}` prints\n{printed}");
            shown.insert(name);
        }
    }
    // The other programs print times, which differ from run to run.
    let timed = ["balance", "trace"];
    assert!(PROGRAMS.iter().all(|(name, _)| timed.contains(name) != shown.contains(name)), "{shown:?}");
}

#[test]
fn every_program_of_the_tutorial_is_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin");
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: BTreeSet<String> = names.filter_map(|name| Some(name.strip_suffix(".rs")?.to_owned())).collect();
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), PROGRAMS.map(|(name, _)| name));
}

/// What makes a program shorter than it is by default.
fn arguments(name: &str) -> &'static [&'static str] {
    match name {
        "gpt" | "resnet" | "unet" => &["--steps", "8"],
        _ => &[],
    }
}

/// Reads the pages of the tutorial, with their names.
fn pages() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tutorial");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|file| (file.display().to_string(), fs::read_to_string(&file).unwrap())).collect()
}

/// Finds the blocks that show the program's output.
fn blocks<'a>(page: &'a str, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let mark = format!("<!-- output {name} -->\n\n```text\n");
    let starts: Vec<usize> = page.match_indices(&mark).map(|(start, _)| start + mark.len()).collect();
    starts.into_iter().filter_map(|start| page[start..].split_once("```").map(|(block, _)| block))
}

/// Replaces each number by `0`, and collapses runs of spaces and dashes, so that the widths of
/// tables do not matter.
fn without_numbers(text: &str) -> String {
    let mut result = String::new();
    for letter in text.chars() {
        let is_number = letter.is_ascii_digit() || (letter == '.' && result.ends_with('0'));
        let repeats = [' ', '-'].contains(&letter) && result.ends_with(letter);
        match letter {
            _ if repeats || (is_number && result.ends_with('0')) => {}
            _ if is_number => result.push('0'),
            _ => result.push(letter),
        }
    }
    result
}
