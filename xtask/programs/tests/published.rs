//! `published` runs to its end on small models: it makes, measures, simulates and searches.

use std::process::Command;

#[test]
fn small_models_have_all_tables() {
    let output = Command::new(env!("CARGO_BIN_EXE_published")).args(["--small", "--rows", "2"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // The program compares the numbers of parameters with the published ones.
    assert!(text.contains("| ResNet-101            | 44549160   | 44.5M     |\n"), "{text}");
    for (name, settings) in [("AmoebaNet-D (18, 256)", 9), ("ResNet-101", 4), ("U-Net (5, 64)", 4)] {
        let tables: Vec<_> = text.split(&format!("**{name}**, ")).skip(1).collect();
        let [layers, speed_ups, schedules] = tables[..] else { panic!("{name}: {text}") };
        assert!(layers.contains("\n| all "), "{layers}");
        let rows = |table: &str| table.lines().filter(|line| line.starts_with('|')).count() - 2;
        assert_eq!(rows(speed_ups), settings, "{speed_ups}");
        assert!(rows(schedules) >= 11, "{schedules}");
        // The same cuts in the same order are what torchgpipe's row has; the best is no slower.
        for line in speed_ups.lines().filter(|line| line.starts_with("| 8, 8")) {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let [same, cuts, fastest] = [4, 5, 7].map(|cell| cells[cell].parse::<f64>().unwrap());
            assert!(same <= cuts + 0.01 && same <= fastest + 0.01, "{line}");
        }
    }
}
