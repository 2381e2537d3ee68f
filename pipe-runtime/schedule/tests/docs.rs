//! Tests the pictures and the tables of `docs/schedules.md`. `UPDATE_EXPECT=1` rewrites them.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use pipe_schedule::{Costs, ScheduleKind, Simulation, simulate};

const RANKS: usize = 4;
const MICRO_BATCHES: usize = 8;

/// Simulates a schedule. All pictures are of one model, so that they can be compared: a rank's
/// forward and each part of its backward take two units of time.
fn run(kind: ScheduleKind, [forward, backward_input, backward_weight]: [f64; 3]) -> (usize, Simulation) {
    let stages_per_rank = kind.stages_per_rank().unwrap_or(if loops(kind) { 2 } else { 1 });
    let schedule = kind.schedule(RANKS, stages_per_rank, MICRO_BATCHES).unwrap();
    let of_stage = |time: f64| time / stages_per_rank as f64;
    let costs =
        Costs::equal(RANKS * stages_per_rank, of_stage(forward), of_stage(backward_input), of_stage(backward_weight));
    (stages_per_rank, simulate(&schedule, &costs).unwrap())
}

fn loops(kind: ScheduleKind) -> bool {
    matches!(kind, ScheduleKind::Interleaved | ScheduleKind::LoopedBfs)
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// Compares `expected` with the file, or writes the file.
fn expect(path: &Path, expected: &str) -> bool {
    if fs::read_to_string(path).is_ok_and(|found| found == expected) {
        return true;
    }
    let update = env::var_os("UPDATE_EXPECT").is_some();
    if update {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, expected).unwrap();
    }
    update
}

#[test]
fn every_method_has_its_picture() {
    for kind in ScheduleKind::ALL {
        let path = docs().join(format!("schedules/{kind}.svg"));
        let (_, simulation) = run(kind, [2., 2., 2.]);
        assert!(expect(&path, &simulation.to_svg()), "{}: UPDATE_EXPECT=1 draws it again", path.display());
    }
}

#[test]
fn the_table_is_what_the_simulator_says() {
    let mut table = "| schedule | stages per rank | idle at 1 : 1 : 1 | idle at 1 : 1.2 : 0.8 | length of a single step at 1 : 1 : 1 | peak in flight |\n\
                     | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for kind in ScheduleKind::ALL {
        let work = 6. * MICRO_BATCHES as f64;
        let idle = |costs| {
            let (_, simulation) = run(kind, costs);
            let share = 100. * (1. - work / simulation.period());
            format!("{:.1} F ({share:.0} %)", (simulation.period() - work) / 2.)
        };
        let (stages_per_rank, simulation) = run(kind, [2., 2., 2.]);
        let shares = simulation.peak_in_flight.iter().map(|&peak| peak as f64 / stages_per_rank as f64);
        let (least, most) =
            shares.fold((f64::INFINITY, 0_f64), |(least, most), peak| (least.min(peak), most.max(peak)));
        let peak = if least == most { most.to_string() } else { format!("{least} to {most}") };
        let (equal, other) = (idle([2., 2., 2.]), idle([2., 2.4, 1.6]));
        let length = format!("{:.1} F", simulation.makespan / 2.);
        let _ = writeln!(
            table,
            "| [`{kind}`](#{}) | {stages_per_rank} | {equal} | {other} | {length} | {peak} |",
            anchor(kind)
        );
    }
    assert_table("simulated", &table);
}

#[test]
fn the_names_are_those_of_settings_and_of_rust() {
    let mut table = "| setting | Rust | stages per rank |\n| --- | --- | --- |\n".to_owned();
    for kind in ScheduleKind::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
        let stages = kind.stages_per_rank().map_or("any".to_owned(), |stages| stages.to_string());
        let setting = if kind == ScheduleKind::OneFOneB { format!("\"{kind}\"") } else { kind.to_string() };
        let _ = writeln!(table, "| [`{setting}`](#{}) | `ScheduleKind::{kind:?}` | {stages} |", anchor(kind));
    }
    assert_table("names", &table);
}

/// Compares the table with the page, between the marks of this name, or writes it there.
fn assert_table(name: &str, table: &str) {
    let path = docs().join("schedules.md");
    let text = fs::read_to_string(&path).unwrap();
    let [begin, end] = ["begin", "end"].map(|mark| format!("<!-- {name}: {mark} -->\n"));
    let (before, rest) = text.split_once(&begin).expect("the table's beginning");
    let (_, after) = rest.split_once(&end).expect("the table's end");
    let expected = format!("{before}{begin}{table}{end}{after}");
    assert!(expect(&path, &expected), "{}: UPDATE_EXPECT=1 writes the table again", path.display());
}

#[test]
fn every_method_has_its_section() {
    let text = fs::read_to_string(docs().join("schedules.md")).unwrap();
    for kind in ScheduleKind::ALL {
        assert!(text.contains(&format!("(schedules/{kind}.svg)")), "no picture of {kind}");
        assert!(text.contains(&format!("\n### `{kind}`\n")), "no section on {kind}");
    }
}

/// The anchor that GitHub makes from a heading.
fn anchor(kind: ScheduleKind) -> String {
    kind.to_string()
}
