//! Reads what torch.distributed.pipelining writes: all its schedules, in all forms, of two
//! versions. `cargo xtask fixtures` writes the files.

mod any_schedule;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use any_schedule::schedule;
use pipe_schedule::{Action, ActionKind, Fault, Limits, Missing, Schedule, ScheduleKind};
use proptest::prelude::*;
use proptest::sample::Index;

const VERSIONS: [&str; 2] = ["2.11", "2.15"];

/// The entries that are dropped, and whether they belong to one micro-batch.
const COMMUNICATION: [(&str, bool); 10] = [
    ("UNSHARD", false),
    ("RESHARD", false),
    ("REDUCE_GRAD", false),
    ("WAIT_REDUCE_GRAD", false),
    ("SEND_F", true),
    ("RECV_F", true),
    ("SEND_B", true),
    ("RECV_B", true),
    ("WAIT_SEND_F", true),
    ("WAIT_SEND_B", true),
];

/// A file, and the settings in its name.
struct Dump {
    path: String,
    text: String,
    schedule: Schedule,
    name: String,
    ranks: usize,
    stages_per_rank: usize,
    micro_batches: usize,
    form: String,
}

fn dumps(version: &str) -> Vec<Dump> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pytorch").join(version);
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let dump = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let words: Vec<_> = stem.split('-').collect();
        let number = |place: usize| words[place].parse().unwrap();
        Dump {
            path: path.display().to_string(),
            schedule: text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display())),
            text,
            name: words[0].to_owned(),
            ranks: number(1),
            stages_per_rank: number(2),
            micro_batches: number(3),
            form: words[4].to_owned(),
        }
    };
    let dumps: Vec<_> = paths.map(|path| dump(&path)).collect();
    assert!(dumps.len() >= 30, "only {} files of {version}", dumps.len());
    dumps
}

fn all() -> impl Iterator<Item = Dump> {
    VERSIONS.into_iter().flat_map(dumps)
}

impl Dump {
    /// Our schedule of the same name in the literature.
    fn kind(&self) -> ScheduleKind {
        match &*self.name {
            "GPipe" => ScheduleKind::GPipe,
            "1F1B" => ScheduleKind::OneFOneB,
            "Interleaved1F1B" => ScheduleKind::Interleaved,
            "LoopedBFS" => ScheduleKind::LoopedBfs,
            "InterleavedZeroBubble" => ScheduleKind::ZbH1,
            "ZBVZeroBubble" => ScheduleKind::Zbv,
            "DualPipeV" => ScheduleKind::DualPipeV,
            other => panic!("{}: no kind is {other}", self.path),
        }
    }

    fn ours(&self) -> (Schedule, Limits) {
        let kind = self.kind();
        let schedule = kind.schedule(self.ranks, self.stages_per_rank, self.micro_batches).unwrap();
        (schedule, Limits::of(kind, self.ranks, self.stages_per_rank, self.micro_batches).unwrap())
    }
}

#[test]
fn every_schedule_is_there_in_every_form() {
    for version in VERSIONS {
        let found: BTreeSet<_> = dumps(version).iter().map(|dump| format!("{} {}", dump.name, dump.form)).collect();
        let mut expected = BTreeSet::from(["GPipe order", "1F1B order"].map(str::to_owned));
        for name in ["Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"] {
            expected.extend(["compute_only", "compute_comms"].map(|form| format!("{name} {form}")));
            // 2.11 has no settings that change the file.
            expected.extend((version != "2.11").then(|| format!("{name} settings")));
        }
        assert_eq!(found, expected, "{version}");
    }
}

#[test]
fn the_files_have_all_that_is_dropped_and_split() {
    for version in VERSIONS {
        let texts: String = dumps(version).into_iter().map(|dump| dump.text.replace("\r\n", ",")).collect();
        let words: BTreeSet<_> = texts
            .split(',')
            .map(|cell| cell.trim_matches(|c: char| c.is_ascii_digit()))
            .filter(|word| word.len() > 1 && !word.starts_with('('))
            .collect();
        let known = COMMUNICATION.into_iter().map(|(word, _)| word);
        assert_eq!(words, known.filter(|word| version != "2.11" || !word.starts_with("WAIT")).collect(), "{version}");
        assert!(texts.matches(")OVERLAP_F_B").count() > 100, "{version}");
    }
}

/// Compares with a second reader, which is written independently.
#[test]
fn the_actions_are_those_of_the_text() {
    for dump in all() {
        let is_dropped = |cell: &&str| cell.is_empty() || COMMUNICATION.iter().any(|(word, _)| cell.contains(word));
        let by_hand = dump.text.lines().map(|line| {
            let line = line.replace(['(', ')'], "").replace("OVERLAP_F_B", "").replace(';', ",");
            line.split(',').filter(|cell| !is_dropped(cell)).collect::<Vec<_>>().join(",") + "\n"
        });
        assert_eq!(dump.schedule.to_csv(), by_hand.collect::<String>(), "{}", dump.path);
    }
}

#[test]
fn a_damaged_cell_is_refused_with_its_place_and_text() {
    for dump in all() {
        let rows: Vec<Vec<_>> = dump.text.lines().map(|line| line.split(',').collect()).collect();
        let columns = |(row, cells): (usize, &Vec<_>)| (0..cells.len()).map(move |column| (row, column));
        for (row, column) in rows.iter().enumerate().flat_map(columns) {
            let damaged = format!("{}x", rows[row][column]);
            let mut rows = rows.clone();
            rows[row][column] = &damaged;
            let text = rows.iter().map(|cells| cells.join(",")).collect::<Vec<_>>().join("\r\n");
            let error = text.parse::<Schedule>().unwrap_err();
            assert_eq!((error.row, error.column), (row + 1, column + 1), "{}", dump.path);
            assert!(error.to_string().contains(&format!("`{damaged}`")), "{}: {error}", dump.path);
        }
    }
}

#[test]
fn what_follows_the_same_paper_is_ours_to_the_last_action() {
    let mut same = 0;
    for dump in all().filter(|dump| dump.form != "order") {
        let (ours, limits) = dump.ours();
        assert_eq!(dump.schedule, ours, "{}", dump.path);
        dump.schedule.validate(&limits).unwrap_or_else(|faults| panic!("{}: {faults}", dump.path));
        let order = dump.schedule.order().unwrap();
        assert_eq!(order.steps.len(), ours.actions().count(), "{}", dump.path);
        same += 1;
    }
    assert_eq!(same, 28 + 33, "all but GPipe and 1F1B");
}

/// In torch, the backward starts with the first micro-batch; in torchgpipe and here, with the last
/// one.
#[test]
fn gpipe_has_our_actions_in_another_order() {
    for dump in all().filter(|dump| dump.name == "GPipe") {
        let (ours, limits) = dump.ours();
        dump.schedule.validate(&limits).unwrap();
        assert_eq!(dump.schedule.forward(), ours.forward());
        let mut backward = dump.schedule.backward();
        backward.ranks.iter_mut().for_each(|list| list.reverse());
        assert_eq!(backward, ours.backward());
    }
}

/// In this list, which torch draws but never runs, the last rank's forwards are numbered from 1.
#[test]
fn the_last_rank_of_1f1b_is_wrong_and_that_is_said() {
    for dump in all().filter(|dump| dump.name == "1F1B") {
        let (ours, limits) = dump.ours();
        let last = dump.ranks - 1;
        assert_eq!(dump.schedule.ranks[..last], ours.ranks[..last]);
        let faults = dump.schedule.validate(&limits).unwrap_err().faults;
        let missing = Action::forward(last, 0);
        let is_named =
            |fault: &Fault| matches!(fault, Fault::Missing { action, why: Missing::Forward } if *action == missing);
        assert!(faults.iter().any(is_named), "{faults:?}");
        let mut repaired = dump.schedule;
        for action in repaired.ranks[last].iter_mut().filter(|action| action.kind == ActionKind::Forward) {
            action.micro_batch -= 1;
        }
        repaired.micro_batches -= 1;
        assert_eq!(repaired, ours);
    }
}

fn any_schedule() -> impl Strategy<Value = Schedule> {
    let rank_of = prop::collection::vec(0..4_usize, 1..7);
    let styles = prop::collection::vec(0..4_u8, 1..12);
    let choices = prop::collection::vec(any::<Index>(), 1..60);
    (rank_of, 1..5_usize, styles, choices)
        .prop_map(|(rank_of, m, styles, choices)| schedule(&rank_of, m, &styles, &choices))
}

proptest! {
    #[test]
    fn communication_overlaps_and_gaps_put_anywhere_change_nothing(
        schedule in any_schedule(),
        dice in prop::collection::vec((0..16_usize, any::<Index>(), any::<Index>()), 1..80),
    ) {
        let mut dice = dice.iter().cycle();
        let mut text = String::new();
        for list in &schedule.ranks {
            let mut cells = Vec::new();
            let mut rest = list.as_slice();
            while let Some((&first, others)) = rest.split_first() {
                let (roll, stage, i) = dice.next().unwrap();
                match (COMMUNICATION.get(*roll), others.first()) {
                    (Some((word, of_micro_batch)), _) => {
                        let i = if *of_micro_batch { i.index(schedule.micro_batches).to_string() } else { String::new() };
                        cells.push(format!("{}{word}{i}", stage.index(schedule.stages)));
                    }
                    (None, Some(second))
                        if *roll < 14
                            && first.kind == ActionKind::Forward
                            && !matches!(second.kind, ActionKind::Forward | ActionKind::Recompute) =>
                    {
                        cells.push(format!("({first};{second})OVERLAP_F_B"));
                        rest = &others[1..];
                        continue;
                    }
                    (None, _) if *roll == 15 => cells.push(String::new()),
                    (None, _) => {}
                }
                cells.push(first.to_string());
                rest = others;
            }
            text += &cells.join(",");
            text += "\r\n";
        }
        prop_assert_eq!(text.parse::<Schedule>(), Ok(schedule), "{}", text);
    }

    /// A text that consists of words of the format and can be read is written back unchanged.
    #[test]
    fn nothing_is_read_that_would_not_be_written(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "1", "2", "F", "B", "R", "SEND_F", "WAIT_SEND_B", "UNSHARD", "WAIT_", "OVERLAP_F_B", "(", ")", ";", "_", "-",
                "1F2", "2B1", "(1F2;2B1)", "(1F2;2B1)OVERLAP_F_B",
            ]),
            1..6,
        ),
    ) {
        let text = words.concat();
        if let Ok(schedule) = text.parse::<Schedule>() {
            let actions: Vec<_> = schedule.actions().map(|action| action.to_string()).collect();
            let written = match &actions[..] {
                [] => {
                    let (stage, micro_batch) = (schedule.stages - 1, schedule.micro_batches.checked_sub(1));
                    let micro_batch = micro_batch.map_or(String::new(), |i| i.to_string());
                    let cells = COMMUNICATION.map(|(word, _)| format!("{stage}{word}{micro_batch}"));
                    cells.into_iter().find(|cell| *cell == text).unwrap_or_default()
                }
                [one] => one.clone(),
                both => format!("({})OVERLAP_F_B", both.join(";")),
            };
            prop_assert_eq!(written, text);
        }
    }
}
