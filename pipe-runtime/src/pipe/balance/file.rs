//! The file format of a partition, described at [`Profile::write`].

use std::fmt::Write;

use super::advise::Choice;
use super::report::{Measure, Profile};

/// The version of the format; raised when its meaning changes.
const FORMAT: u32 = 1;

pub(super) fn toml(profile: &Profile) -> String {
    let mut text = format!(
        "# Which layer runs in which stage, as `pipe_runtime::balance` found it.\n\
         format = {FORMAT}\nmodel = \"{}\"\nstages = {}\n",
        profile.model,
        profile.stages.len()
    );
    let list = |items: Vec<String>| format!("[{}]", items.join(", "));
    // Names are identifiers and devices are device strings, so nothing needs escaping. Writing to a
    // `String` cannot fail.
    if profile.devices_known {
        let devices = profile.stages.iter().map(|stage| format!("\"{}\"", stage.device)).collect();
        let _ = writeln!(text, "devices = {}", list(devices));
    }
    let processes = profile.stages.iter().filter_map(|stage| stage.process);
    let processes: Vec<_> = processes.map(|process| process.to_string()).collect();
    if !processes.is_empty() {
        let _ = writeln!(text, "processes = {}", list(processes));
    }
    let scale = if profile.measure == Measure::Time { 1e9 } else { 1. };
    let costs = profile.stages.iter().map(|stage| ((stage.cost * scale).round() as u64).to_string());
    let _ = writeln!(text, "costs = {}", list(costs.collect()));
    if let Some(choice) = &profile.choice {
        let Choice { schedule, chunks, checkpoint, cheap_outputs, .. } = choice;
        let _ = writeln!(
            text,
            "schedule = \"{schedule}\"\nchunks = {chunks}\ncheckpoint = \"{checkpoint}\"\ncheap_outputs = \"{cheap_outputs}\""
        );
    }
    for field in profile.fields() {
        let _ = writeln!(text, "\n[[layers]]\nname = \"{}\"", field[0].name);
        let _ = match field[0].index {
            None => writeln!(text, "stage = {}", field[0].stage),
            Some(_) => {
                let stages = field.iter().map(|layer| layer.stage.to_string()).collect();
                writeln!(text, "count = {}\nstage = {}", field.len(), list(stages))
            }
        };
        if profile.recomputes {
            let _ = match field[0].index {
                None => writeln!(text, "recompute = {}", field[0].recomputed),
                Some(_) => {
                    let each = field.iter().map(|layer| layer.recomputed.to_string()).collect();
                    writeln!(text, "recompute = {}", list(each))
                }
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipe::balance::report::tests::profile;

    #[test]
    fn names_every_layer_and_its_stage() {
        let mut profile =
            profile(&[("a", None, 0), ("b", Some(0), 0), ("b", Some(1), 1), ("c", None, 1)], &["cuda:0", "cpu"]);
        let expected = r#"# Which layer runs in which stage, as `pipe_runtime::balance` found it.
format = 1
model = "Net"
stages = 2
devices = ["cuda:0", "cpu"]
costs = [6000000, 6000000]

[[layers]]
name = "a"
stage = 0

[[layers]]
name = "b"
count = 2
stage = [0, 1]

[[layers]]
name = "c"
stage = 1
"#;
        assert_eq!(toml(&profile), expected);
        profile.devices_known = false;
        assert!(!toml(&profile).contains("devices"));
        for (stage, process) in profile.stages.iter_mut().zip([0, 1]) {
            stage.process = Some(process);
        }
        assert!(toml(&profile).contains("stages = 2\nprocesses = [0, 1]\n"));
        assert!(!toml(&profile).contains("recompute"));
        profile.recomputes = true;
        profile.layers[0].recomputed = true;
        profile.layers[2].recomputed = true;
        let text = toml(&profile);
        assert!(text.contains("stage = 0\nrecompute = true\n\n"), "{text}");
        assert!(text.contains("stage = [0, 1]\nrecompute = [false, true]\n\n"), "{text}");
        assert!(text.contains("stage = 1\nrecompute = false\n"), "{text}");
    }
}
