//! The table above each generator is what `to_string` draws. `UPDATE_EXPECT=1` draws them anew.

use std::path::Path;
use std::{env, fs};

use pipe_schedule::Method;

const DRAWN: [(Method, &str, usize, usize); 10] = [
    (Method::GPipe, "gpipe", 1, 4),
    (Method::OneFOneB, "one_f_one_b", 1, 6),
    (Method::Interleaved, "interleaved", 2, 4),
    (Method::LoopedBfs, "looped_bfs", 2, 4),
    (Method::ZbH1, "zb_h1", 1, 6),
    (Method::ZbH2, "zb_h2", 1, 8),
    (Method::Zbv, "zbv", 2, 7),
    (Method::DualPipeV, "dualpipe_v", 2, 8),
    (Method::VHalf, "v_half", 2, 6),
    (Method::VMin, "v_min", 2, 6),
];

#[test]
fn every_generator_has_its_table_for_four_ranks_above_it() {
    let mut wrong = Vec::new();
    for (method, file, chunks, micro_batches) in DRAWN {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/methods/published/{file}.rs"));
        let source = fs::read_to_string(&path).unwrap();
        let drawing = method.schedule(4, chunks, micro_batches).unwrap().to_string();
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
