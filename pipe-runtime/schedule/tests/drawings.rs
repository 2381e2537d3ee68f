//! Tests that the drawing above each generator is what `to_string` draws. `UPDATE_EXPECT=1` redraws
//! them.

use std::path::Path;
use std::{env, fs};

use pipe_schedule::ScheduleKind;

const DRAWN: [(ScheduleKind, &str, usize, usize); 10] = [
    (ScheduleKind::GPipe, "gpipe", 1, 4),
    (ScheduleKind::OneFOneB, "one_f_one_b", 1, 6),
    (ScheduleKind::Interleaved, "interleaved", 2, 4),
    (ScheduleKind::LoopedBfs, "looped_bfs", 2, 4),
    (ScheduleKind::ZbH1, "zb_h1", 1, 6),
    (ScheduleKind::ZbH2, "zb_h2", 1, 8),
    (ScheduleKind::Zbv, "zbv", 2, 7),
    (ScheduleKind::DualPipeV, "dualpipe_v", 2, 8),
    (ScheduleKind::VHalf, "v_half", 2, 6),
    (ScheduleKind::VMin, "v_min", 2, 6),
];

#[test]
fn every_generator_has_its_table_for_four_ranks_above_it() {
    let mut wrong = Vec::new();
    for (kind, file, stages_per_rank, micro_batches) in DRAWN {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/methods/published/{file}.rs"));
        let source = fs::read_to_string(&path).unwrap();
        let drawing = kind.schedule(4, stages_per_rank, micro_batches).unwrap().to_string();
        let expected: String = drawing.lines().map(|line| format!("/// {line}\n")).collect();
        let (before, rest) = source.split_once("/// ```text\n").expect("a table");
        let (table, after) = rest.split_once("/// ```\n").expect("the table's end");
        if table != expected {
            wrong.push(file);
            if env::var_os("UPDATE_EXPECT").is_some() {
                fs::write(&path, format!("{before}/// ```text\n{expected}/// ```\n{after}")).unwrap();
            }
        }
    }
    assert!(
        wrong.is_empty() || env::var_os("UPDATE_EXPECT").is_some(),
        "not as drawn: {wrong:?}; UPDATE_EXPECT=1 draws them"
    );
}
