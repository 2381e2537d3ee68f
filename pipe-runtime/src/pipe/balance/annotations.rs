//! A profile's stages and recomputed layers as annotations to paste.

use std::fmt::Write;
use std::ops::Range;

use super::report::{LayerProfile, Profile, StageProfile};

/// The layers with the attributes that make these stages.
pub(super) fn annotations(profile: &Profile) -> String {
    let device = |stage: usize| profile.stages[stage].device.as_str();
    let site = |stage: usize| (device(stage), profile.stages[stage].process);
    let process = |stages: &[usize]| {
        let numbers: Vec<_> = stages.iter().filter_map(|&stage| profile.stages[stage].process).collect();
        match numbers.as_slice() {
            [] => String::new(),
            [number] => format!(", process = {number}"),
            several => format!(", process = {several:?}"),
        }
    };
    let mut text = String::new();
    if let Some(choice) = &profile.choice {
        if choice.ranks < profile.stages.len() && profile.stages.iter().all(|stage| stage.device == "cpu") {
            let _ = writeln!(text, "// on a CPU, with `.ranks({})` of the builder", choice.ranks);
        }
        let _ = writeln!(text, "#[pipeline({})]", choice.settings());
    }
    let mut running: Option<usize> = None;
    for field in profile.fields() {
        let (first, last) = (&field[0], &field[field.len() - 1]);
        let repeated = first.index.is_some();
        let opens = running != Some(first.stage);
        let same = running.is_some_and(|running| site(running) == site(first.stage));
        // `cpu` always opens a stage; the same accelerator again does not.
        let forced = opens && same && device(first.stage) != "cpu";
        if forced {
            text.push_str("#[stage]\n");
        }
        if first.stage != last.stage {
            let (mut counts, mut stages) = (Vec::new(), Vec::new());
            for part in field.chunk_by(|a, b| a.stage == b.stage) {
                counts.push(format!("\"{}\" = {}", device(part[0].stage), part.len()));
                stages.push(part[0].stage);
            }
            if let Some(why) = inexpressible(profile, first.stage..last.stage + 1, opens) {
                let _ = writeln!(text, "// {why}: use `#[pipeline(balance = \"...\")]`, or other devices");
            }
            let _ = writeln!(text, "#[devices({}{})]", counts.join(", "), process(&stages));
        } else {
            match (opens && !forced, repeated) {
                (true, false) => writeln!(text, "#[device(\"{}\"{})]", device(first.stage), process(&[first.stage])),
                (true, true) => writeln!(text, "#[devices(\"{}\"{})]", device(first.stage), process(&[first.stage])),
                (false, true) => writeln!(text, "#[repeat]"),
                (false, false) => Ok(()),
            }
            .unwrap_or_default();
        }
        match recomputed(field) {
            Recomputed::None => Ok(()),
            Recomputed::All => writeln!(text, "#[recompute]"),
            Recomputed::First(count) => writeln!(text, "#[recompute({count})]"),
            Recomputed::Others(numbers) => writeln!(
                text,
                "// these are recomputed: {numbers}; `#[recompute(N)]` can say the first ones: use `#[pipeline(balance = \"...\")]`"
            ),
        }
        // Writing to a `String` cannot fail.
        .unwrap_or_default();
        let _ = writeln!(text, "{},", first.name);
        running = Some(last.stage);
    }
    text
}

/// The reason why `#[devices]` cannot cut a repeated layer into these stages; `None` if it can.
fn inexpressible(profile: &Profile, stages: Range<usize>, opens: bool) -> Option<String> {
    let stages = &profile.stages[stages];
    if stages[0].device == "cpu" && !opens {
        return Some(
            "`cpu` opens a new stage here, although the first of these layers belong to the stage above".into(),
        );
    }
    let is_one = |pair: &[StageProfile]| {
        pair[0].device == pair[1].device && pair[0].process == pair[1].process && pair[0].device != "cpu"
    };
    let merged = stages.windows(2).find(|pair| is_one(pair))?;
    Some(format!("`{}` twice in a row is one stage here", merged[0].device))
}

/// Which layers of a field are recomputed.
enum Recomputed {
    None,
    All,
    First(usize),
    /// Others, by their numbers.
    Others(String),
}

fn recomputed(field: &[LayerProfile]) -> Recomputed {
    let numbers = field.iter().enumerate().filter(|(_, layer)| layer.recomputed).map(|(number, _)| number);
    let numbers: Vec<_> = numbers.collect();
    match numbers.len() {
        0 => Recomputed::None,
        count if count == field.len() => Recomputed::All,
        count if numbers[count - 1] + 1 == count => Recomputed::First(count),
        _ => Recomputed::Others(format!("{numbers:?}")),
    }
}

#[cfg(test)]
mod tests {
    use crate::pipe::balance::report::tests::profile;

    #[test]
    fn annotations_open_stages_as_the_macro_reads_them() {
        let layers =
            [("a", None, 0), ("b", Some(0), 0), ("b", Some(1), 0), ("c", None, 1), ("d", Some(0), 2), ("e", None, 2)];
        let annotated = |devices: [&str; 3]| profile(&layers, &devices).annotations().replace('\n', " ");
        assert_eq!(
            annotated(["cuda:0", "cuda:0", "cuda:1"]),
            "#[device(\"cuda:0\")] a, #[repeat] b, #[stage] c, #[devices(\"cuda:1\")] d, e, "
        );
        assert_eq!(
            annotated(["cpu", "cpu", "cpu"]),
            "#[device(\"cpu\")] a, #[repeat] b, #[device(\"cpu\")] c, #[devices(\"cpu\")] d, e, "
        );
    }

    #[test]
    fn annotations_name_the_processes() {
        let layers = [("a", None, 0), ("b", Some(0), 0), ("b", Some(1), 1), ("c", None, 1), ("d", Some(0), 2)];
        let mut profile = profile(&layers, &["cuda:0", "cuda:0", "cuda:0"]);
        for (stage, process) in profile.stages.iter_mut().zip([0, 1, 1]) {
            stage.process = Some(process);
        }
        let expected = "#[device(\"cuda:0\", process = 0)] a, #[devices(\"cuda:0\" = 1, \"cuda:0\" = 1, process = [0, 1])] b, c, \
                        #[stage] #[repeat] d, ";
        assert_eq!(profile.annotations().replace('\n', " "), expected);
        assert!(profile.to_string().contains("stage  process  device  layers"), "{profile}");
    }

    #[test]
    fn what_annotations_cannot_say_is_said() {
        let layers = [("a", None, 0), ("b", Some(0), 0), ("b", Some(1), 1)];
        let annotated = |devices: [&str; 2]| profile(&layers, &devices).annotations();
        assert!(annotated(["cpu", "cpu"]).contains("// `cpu` opens a new stage here"));
        assert!(annotated(["cuda:0", "cuda:0"]).contains("// `cuda:0` twice in a row is one stage here"));
        assert!(!annotated(["cuda:0", "cpu"]).contains("//"));
    }

    #[test]
    fn recomputed_layers_are_marked() {
        let layers = [("a", None, 0), ("b", Some(0), 0), ("b", Some(1), 1), ("b", Some(2), 1)];
        let mut profile = profile(&layers, &["cuda:0", "cuda:1"]);
        let mut annotated = |recomputed: [bool; 4]| {
            for (layer, recomputed) in profile.layers.iter_mut().zip(recomputed) {
                layer.recomputed = recomputed;
            }
            profile.annotations().replace('\n', " ")
        };
        let devices = "#[devices(\"cuda:0\" = 1, \"cuda:1\" = 2)]";
        let expected = format!("#[device(\"cuda:0\")] #[recompute] a, {devices} #[recompute(2)] b, ");
        assert_eq!(annotated([true, true, true, false]), expected);
        assert!(annotated([false, true, true, true]).contains("#[recompute] b"));
        let others = annotated([false, false, true, false]);
        assert!(others.contains("// these are recomputed: [1]; ") && !others.contains(" #[recompute"), "{others}");
        let text = profile.to_string();
        assert!(text.contains("crossing\n") && text.contains("recomputed\n"), "{text}");
    }
}
