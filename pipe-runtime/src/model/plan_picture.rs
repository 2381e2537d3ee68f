//! A picture of a plan.

use std::fmt::{self, Write};

use super::plan::{LayerPlan, Plan, Recomputed, StagePlan, comma_separated};

const LINE: usize = 17;
const ROW: usize = 24;
const MARGIN: usize = 16;
/// Width of a character, or a little more.
const CHARACTER: usize = 7;
/// Space beside the text of a stage.
const INSET: usize = 12;
/// Space between two stages.
const BETWEEN: usize = 22;
/// Least width of a stage, so that a value's dots stand apart.
const NARROWEST: usize = 84;

const SKIP: &str = "#2f6fb5";
const LENT: &str = "#3f935f";
const SUM: &str = "#d97b1f";

/// A value that does not go from layer to layer: a row of the picture.
struct Row {
    kind: &'static str,
    colour: &'static str,
    name: &'static str,
    /// The layers at its ends, as text.
    route: String,
    /// The stages where it is made.
    made: Vec<usize>,
    /// The stages where it is used. What none uses goes on to the output.
    used: Vec<usize>,
}

impl Plan {
    /// Draws the plan as SVG: the stages with their layers, side by side, and below them a row for
    /// each skip, lent value and sum, from the stages where it is made (full dots) to those where
    /// it is used (rings).
    pub fn to_svg(&self) -> String {
        let (rows, stages) = (self.rows(), self.boxes());
        let label = |row: &Row| row.kind.len() + row.name.chars().count() + row.route.chars().count() + 4;
        let left = MARGIN + rows.iter().map(label).max().unwrap_or(0) * CHARACTER;
        let lines = stages.iter().map(Vec::len).max().unwrap_or(0);
        let bottom = MARGIN + lines * LINE + INSET;
        let mut edges = Vec::new();
        let mut x = left;
        for text in &stages {
            let characters = text.iter().map(|line| line.chars().count()).max().unwrap_or(0);
            let width = (characters * CHARACTER + 2 * INSET).max(NARROWEST);
            edges.push((x, width));
            x += width + BETWEEN;
        }
        let (width, height) = (x + MARGIN, bottom + rows.len() * ROW + MARGIN);
        let mut picture = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"Helvetica, Arial, DejaVu Sans, sans-serif\" \
             font-size=\"12\">\n<style>.b{{font-weight:bold}}.l{{fill:#3a4550}}.m{{fill:#717c87}}</style>\n\
             <rect width=\"{width}\" height=\"{height}\" rx=\"6\" fill=\"#fff\"/>\n"
        );
        for (text, &(x, width)) in stages.iter().zip(&edges) {
            draw_stage(&mut picture, text, x, width, bottom - MARGIN);
        }
        for (number, row) in rows.iter().enumerate() {
            row.draw(&mut picture, bottom + number * ROW + ROW / 2 + 4, &edges);
        }
        picture.push_str("</svg>\n");
        picture
    }

    /// The lines of text of each stage.
    fn boxes(&self) -> Vec<Vec<String>> {
        let text = |(number, stage): (usize, &StagePlan)| {
            let process = self.processes.get(number).map(|process| format!(", process {process}"));
            let device = if stage.device.is_empty() { "any device" } else { stage.device };
            let head = [format!("stage {number}"), format!("{device}{}", process.unwrap_or_default())];
            head.into_iter().chain(stage.layers.iter().map(|layer| self.text_of(layer))).collect()
        };
        self.stages.iter().enumerate().map(text).collect()
    }

    fn text_of(&self, layer: &LayerPlan) -> String {
        let marked = self.recomputed.iter().find(|marked| marked.layer == layer.name);
        match marked.map(|marked| marked.which) {
            None => layer.to_string(),
            Some(Recomputed::All) => format!("{layer}, recomputed"),
            Some(Recomputed::First(_) | Recomputed::Of(_)) => format!("{layer}, some recomputed"),
        }
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for skip in self.skips {
            // Those of an array have one name.
            match rows.iter_mut().find(|row| row.name == skip.name) {
                Some(row) => {
                    row.made.push(skip.from);
                    row.used.push(skip.to);
                }
                None => rows.push(Row {
                    kind: "skip",
                    colour: SKIP,
                    name: skip.name,
                    route: format!("{} to {}", skip.stash, skip.pop),
                    made: vec![skip.from],
                    used: vec![skip.to],
                }),
            }
        }
        rows.extend(self.lent.iter().map(|lent| {
            let (used, mut readers): (_, Vec<&str>) =
                self.readers(lent).map(|(stage, layer)| (stage, layer.name)).unzip();
            readers.dedup();
            Row {
                kind: "lent",
                colour: LENT,
                name: lent.name,
                route: format!("{} to {}", lent.lender, few(&readers)),
                made: vec![lent.from],
                used,
            }
        }));
        rows.extend(self.sums.iter().map(|sum| {
            let adds = |name: &str| sum.layers.contains(&name);
            let made = self.layers().filter(|(_, layer)| adds(layer.name)).map(|(stage, _)| stage);
            Row {
                kind: "sum",
                colour: SUM,
                name: sum.name,
                route: format!("{} to the output", few(sum.layers)),
                made: made.collect(),
                used: Vec::new(),
            }
        }));
        rows
    }
}

fn draw_stage(picture: &mut String, text: &[String], x: usize, width: usize, height: usize) {
    let _ = writeln!(
        picture,
        "<rect x=\"{x}\" y=\"{MARGIN}\" width=\"{width}\" height=\"{height}\" rx=\"4\" fill=\"#eef0f2\" stroke=\"#b4bcc4\"/>"
    );
    for (number, line) in text.iter().enumerate() {
        let class = ["l b", "m"].get(number).unwrap_or(&"l");
        let (x, y) = (x + INSET, MARGIN + (number + 1) * LINE);
        let _ = writeln!(picture, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{}</text>", Escaped(line));
    }
}

impl Row {
    fn draw(&self, picture: &mut String, y: usize, stages: &[(usize, usize)]) {
        let Self { kind, colour, name, route, .. } = self;
        let _ = writeln!(
            picture,
            "<text x=\"{MARGIN}\" y=\"{}\"><tspan class=\"m\">{kind}</tspan> <tspan class=\"l b\">{}</tspan> \
             <tspan class=\"m\">{}</tspan></text>",
            y + 4,
            Escaped(name),
            Escaped(route),
        );
        // A stage gets values on its left, and makes its own further to the right.
        let at = |stage: usize, quarters: usize| stages.get(stage).map(|(x, width)| x + width * quarters / 4);
        let mut made: Vec<usize> = self.made.iter().filter_map(|&stage| at(stage, 2)).collect();
        let mut used: Vec<usize> =
            self.used.iter().filter_map(|&stage| at(stage, if self.made.contains(&stage) { 3 } else { 1 })).collect();
        made.dedup();
        used.dedup();
        let end = self.used.is_empty().then(|| stages.last().map(|(x, width)| x + width + BETWEEN)).flatten();
        let ends = || made.iter().chain(&used).copied().chain(end);
        if let (Some(from), Some(to)) = (ends().min(), ends().max()) {
            let _ = writeln!(picture, "<path d=\"M{from} {y}H{to}\" stroke=\"{colour}\" stroke-width=\"2\"/>");
        }
        for (x, fill) in made.into_iter().map(|x| (x, *colour)).chain(used.into_iter().map(|x| (x, "#fff"))) {
            let _ = writeln!(
                picture,
                "<circle cx=\"{x}\" cy=\"{y}\" r=\"4.5\" fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"2\"/>"
            );
        }
        if let Some(x) = end {
            let _ = writeln!(picture, "<path d=\"M{x} {}l8 5l-8 5z\" fill=\"{colour}\"/>", y - 5);
        }
    }
}

/// The first names, and how many more there are.
fn few(names: &[&str]) -> String {
    const SHOWN: usize = 3;
    match names.len().saturating_sub(SHOWN) {
        0 => comma_separated(names),
        more => format!("{} and {more} more", comma_separated(&names[..SHOWN])),
    }
}

/// Text within SVG.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            character => f.write_char(character),
        })
    }
}
