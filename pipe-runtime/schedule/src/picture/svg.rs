use std::fmt::Write;

use crate::list::ActionKind;
use crate::simulate::Simulation;
use crate::timeline::{Span, Timeline};

/// For each kind of action, its colour and its text in the legend.
const KINDS: [(ActionKind, [u8; 3], &str); 5] = [
    (ActionKind::Forward, [0x2f, 0x6f, 0xb5], "F  forward"),
    (ActionKind::Recompute, [0x83, 0x6b, 0xb8], "R  recomputation"),
    (ActionKind::Backward, [0xc2, 0x4d, 0x3c], "B  backward"),
    (ActionKind::BackwardInput, [0xd9, 0x7b, 0x1f], "I  backward for the inputs"),
    (ActionKind::BackwardWeight, [0x3f, 0x93, 0x5f], "W  backward for the parameters"),
];

const ROW: f64 = 26.;
const GAP: f64 = 5.;
const LEFT: f64 = 74.;
const TOP: f64 = 64.;
const MARGIN: f64 = 18.;
/// Width of a cell that can hold a number with two digits.
const CELL: f64 = 20.;
/// Height of a panel's title and of the space above it.
const TITLE: f64 = 38.;
/// Replaces [`TOP`] if the panels have titles.
const TITLED_TOP: f64 = 30.;
/// Width of the columns on the right: idle times, and peaks.
const IDLE: f64 = 70.;
const PEAK: f64 = 120.;
const CHARACTER: f64 = 6.7;

impl Simulation {
    /// Draws the schedule in time: one row per rank, a colour for each kind of action, micro-batch
    /// numbers in the boxes, shades for a rank's stages, and gaps where the rank waits. The columns
    /// on the right have each rank's idle time as a part of the whole, and its peak number of
    /// micro-batches in flight (where a stage of a rank that has `v` of them counts as 1/v).
    pub fn to_svg(&self) -> String {
        let panel = Panel { title: None, timeline: &self.timeline, in_flight: Some(&self.peak_in_flight) };
        Picture::new(&[panel], "time", 2400.).draw()
    }
}

/// One timeline of a picture.
pub(super) struct Panel<'a> {
    /// The title.
    pub(super) title: Option<String>,
    pub(super) timeline: &'a Timeline,
    /// The peak in flight of each rank, if it is shown: [`Simulation::peak_in_flight`].
    pub(super) in_flight: Option<&'a [usize]>,
}

/// Timelines, one below the other, on one axis of time.
pub(super) struct Picture<'a> {
    panels: &'a [Panel<'a>],
    /// The label of the axis.
    axis: &'a str,
    kinds: Vec<ActionKind>,
    /// The greatest number of stages of a rank.
    most: usize,
    end: f64,
    /// Width of a unit of time.
    scale: f64,
    text: String,
}

impl<'a> Picture<'a> {
    /// Makes a picture that is about `widest` pixels wide or less.
    pub(super) fn new(panels: &'a [Panel<'a>], axis: &'a str, widest: f64) -> Self {
        let spans = || panels.iter().flat_map(|panel| panel.timeline.ranks.iter().flatten());
        let makespan = panels.iter().map(|panel| panel.timeline.makespan).fold(0., f64::max);
        let end = spans().map(|span| span.end).filter(|end| end.is_finite()).fold(makespan, f64::max);
        let end = if end.is_finite() && end > 0. { end } else { 1. };
        let lengths = || spans().map(|span| span.end - span.start).filter(|&length| length > 0.);
        let shortest = lengths().fold(end, f64::min);
        let known = KINDS.iter().map(|kind| kind.0);
        Self {
            panels,
            axis,
            kinds: known.filter(|&kind| spans().any(|span| span.action.kind == kind)).collect(),
            most: panels.iter().flat_map(|panel| panel.timeline.stages()).map(|stages| stages.len()).max().unwrap_or(0),
            end,
            scale: (CELL / shortest).min(widest / end).max(320. / end),
            text: String::new(),
        }
    }

    pub(super) fn draw(mut self) -> String {
        let right = LEFT + self.end * self.scale;
        let columns = if self.panels.iter().any(|panel| panel.in_flight.is_some()) { IDLE + PEAK } else { IDLE };
        let width = (right + columns).max(LEFT + self.legend_width() + MARGIN);
        let top = if self.panels.iter().any(|panel| panel.title.is_some()) { TITLED_TOP } else { TOP };
        let title = |panel: &Panel<'_>| if panel.title.is_some() { TITLE } else { 0. };
        let rows = |panel: &Panel<'_>| title(panel) + panel.timeline.ranks.len() as f64 * (ROW + GAP);
        let axis = top + self.panels.iter().map(rows).sum::<f64>();
        self.head(width, axis + 38.);
        self.legend();
        let mut y = top;
        for panel in self.panels {
            self.panel(panel, y + title(panel), right);
            y += rows(panel);
        }
        self.axis(axis);
        self.text.push_str("</svg>\n");
        self.text
    }

    fn panel(&mut self, panel: &Panel<'_>, y: f64, right: f64) {
        if let Some(title) = &panel.title {
            let _ = writeln!(
                self.text,
                "<text class=\"l\" font-weight=\"bold\" x=\"{LEFT}\" y=\"{}\">{title}</text>",
                number(y - 9.)
            );
        }
        self.columns(panel.in_flight.is_some(), y, right);
        let stages = panel.timeline.stages();
        for rank in 0..panel.timeline.ranks.len() {
            self.row(panel, &stages, rank, y + rank as f64 * (ROW + GAP), right);
        }
    }

    fn head(&mut self, width: f64, height: f64) {
        let (width, height) = (number(width.ceil()), number(height.ceil()));
        let _ = write!(
            self.text,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"Helvetica, Arial, DejaVu Sans, sans-serif\" font-size=\"12\">\n<style>\n\
             .n{{font-size:11px;text-anchor:middle;fill:#fff}}.d{{fill:#1c2733}}.l{{fill:#3a4550}}.m{{fill:#717c87;font-size:11px}}\
             .e{{text-anchor:end}}.c{{text-anchor:middle}}\n"
        );
        for &kind in &self.kinds.clone() {
            for stage in 0..self.most {
                let _ =
                    write!(self.text, ".{}{stage}{{fill:{}}}", kind.letter(), colour(shade(kind, stage, self.most)));
            }
        }
        let _ = write!(self.text, "\n</style>\n<rect width=\"{width}\" height=\"{height}\" rx=\"6\" fill=\"#fff\"/>\n");
    }

    fn legend_width(&self) -> f64 {
        let names = self.kinds.iter().map(|&kind| entry_width(name(kind))).sum::<f64>();
        names
            + self.shades().iter().map(|text| entry_width(text)).sum::<f64>()
            + if self.shades().is_empty() { 0. } else { 16. }
    }

    /// The text about shades in the legend, if there are any.
    fn shades(&self) -> Vec<String> {
        let ordinal = |number: usize| match number {
            1 => "a rank's first stage".to_owned(),
            2 => "second".to_owned(),
            3 => "third".to_owned(),
            number => format!("{number}th"),
        };
        if self.most > 1 { (1..=self.most.min(6)).map(ordinal).collect() } else { Vec::new() }
    }

    fn legend(&mut self) {
        let mut x = LEFT;
        for kind in self.kinds.clone() {
            let fill = colour(base(kind));
            self.entry(x, &fill, name(kind));
            x += entry_width(name(kind));
        }
        x += 16.;
        for (stage, text) in self.shades().into_iter().enumerate() {
            let fill = colour(tint([0x4a, 0x55, 0x60], stage, self.most));
            self.entry(x, &fill, &text);
            x += entry_width(&text);
        }
    }

    fn entry(&mut self, x: f64, fill: &str, text: &str) {
        let (x, text_x) = (number(x), number(x + 17.));
        let _ = writeln!(
            self.text,
            "<rect x=\"{x}\" y=\"14\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{fill}\"/><text class=\"l\" x=\"{text_x}\" y=\"24\">{text}</text>"
        );
    }

    fn columns(&mut self, in_flight: bool, top: f64, right: f64) {
        let (y, idle, peak) = (number(top - 9.), number(right + 52.), number(right + 72.));
        let _ = write!(self.text, "<text class=\"m e\" x=\"{idle}\" y=\"{y}\">idle</text>");
        if in_flight {
            let _ = write!(self.text, "<text class=\"m\" x=\"{peak}\" y=\"{y}\">peak in flight</text>");
        }
        self.text.push('\n');
    }

    fn row(&mut self, panel: &Panel<'_>, stages: &[Vec<usize>], rank: usize, y: f64, right: f64) {
        let middle = number(y + ROW / 2. + 4.);
        let (track, name_x) = (number(self.end * self.scale), number(LEFT - 12.));
        let _ = writeln!(
            self.text,
            "<g><text class=\"l e\" x=\"{name_x}\" y=\"{middle}\">rank {rank}</text>\
             <rect x=\"{LEFT}\" y=\"{}\" width=\"{track}\" height=\"{ROW}\" fill=\"#eef0f2\"/>",
            number(y)
        );
        for span in &panel.timeline.ranks[rank] {
            let stage = stages[rank].iter().position(|&stage| stage == span.action.stage).unwrap_or(0);
            self.cell(stage, span, y);
        }
        self.summary(panel, stages, rank, y, right);
        self.text.push_str("</g>\n");
    }

    fn cell(&mut self, stage: usize, span: &Span, y: f64) {
        let width = (span.end - span.start) * self.scale;
        // Measured times may have any value.
        if !(width > 0. && width.is_finite() && span.start.is_finite()) {
            return;
        }
        let x = LEFT + span.start * self.scale;
        let kind = span.action.kind;
        // A thin gap between neighbours, unless the box is too narrow.
        let inset = if width > 6. { 0.5 } else { 0. };
        let _ = write!(
            self.text,
            "<rect class=\"{}{stage}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{ROW}\" rx=\"{}\"><title>{}: {} to {}</title></rect>",
            kind.letter(),
            number(x + inset),
            number(y),
            number(width - 2. * inset),
            if width > 6. { 2 } else { 0 },
            span.action,
            number(span.start),
            number(span.end),
        );
        let label = span.action.micro_batch.to_string();
        if label.len() as f64 * CHARACTER + 2. <= width {
            let dark = if is_light(shade(kind, stage, self.most)) { " d" } else { "" };
            let (x, y) = (number(x + width / 2.), number(y + ROW / 2. + 4.));
            let _ = write!(self.text, "<text class=\"n{dark}\" x=\"{x}\" y=\"{y}\">{label}</text>");
        }
        self.text.push('\n');
    }

    /// Draws the idle time, and the peak with a bar to compare ranks.
    fn summary(&mut self, panel: &Panel<'_>, stages: &[Vec<usize>], rank: usize, y: f64, right: f64) {
        let idle = (100. * (1. - panel.timeline.busy(rank) / self.end_of(panel))).clamp(0., 100.).round();
        let middle = number(y + ROW / 2. + 4.);
        let _ = write!(self.text, "<text class=\"l e\" x=\"{}\" y=\"{middle}\">{idle}%</text>", number(right + 52.));
        let Some(in_flight) = panel.in_flight else { return };
        let share = |rank: usize| in_flight.get(rank).copied().unwrap_or(0) as f64 / stages[rank].len().max(1) as f64;
        let most = (0..stages.len()).map(share).fold(1., f64::max);
        let bar = 64. * share(rank) / most;
        let _ = write!(
            self.text,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"8\" rx=\"2\" fill=\"#9aa5b1\"/>\
             <text class=\"l\" x=\"{}\" y=\"{middle}\">{}</text>",
            number(right + 72.),
            number(y + ROW / 2. - 4.),
            number(bar),
            number(right + 72. + bar + 7.),
            number(share(rank)),
        );
    }

    /// The end of a panel's last action, which may be before the end of the axis. If it is not a
    /// positive number, the end of the axis.
    fn end_of(&self, panel: &Panel<'_>) -> f64 {
        let makespan = panel.timeline.makespan;
        if makespan.is_finite() && makespan > 0. { makespan } else { self.end }
    }

    fn axis(&mut self, y: f64) {
        let right = number(LEFT + self.end * self.scale);
        let _ = writeln!(
            self.text,
            "<path d=\"M{LEFT} {0}H{right}\" stroke=\"#b4bcc4\"/><text class=\"m e\" x=\"{1}\" y=\"{2}\">{3}</text>",
            number(y + 3.),
            number(LEFT - 12.),
            number(y + 19.),
            self.axis,
        );
        let step = round_step(self.end / (self.end * self.scale / 90.).max(1.));
        let mut tick = 0.;
        while tick <= self.end * (1. + 1e-9) {
            let x = number(LEFT + tick * self.scale);
            let _ = writeln!(
                self.text,
                "<path d=\"M{x} {}v5\" stroke=\"#b4bcc4\"/><text class=\"m c\" x=\"{x}\" y=\"{}\">{}</text>",
                number(y + 3.),
                number(y + 19.),
                number(tick)
            );
            tick += step;
        }
    }
}

fn base(kind: ActionKind) -> [u8; 3] {
    KINDS.iter().find(|other| other.0 == kind).map_or([0; 3], |kind| kind.1)
}

fn name(kind: ActionKind) -> &'static str {
    KINDS.iter().find(|other| other.0 == kind).map_or("", |kind| kind.2)
}

fn entry_width(text: &str) -> f64 {
    17. + text.chars().count() as f64 * 6.3 + 18.
}

fn shade(kind: ActionKind, stage: usize, stages: usize) -> [u8; 3] {
    tint(base(kind), stage, stages)
}

/// The colour of a stage: a rank's later stages are lighter.
fn tint(colour: [u8; 3], stage: usize, stages: usize) -> [u8; 3] {
    let lighter = if stages > 1 { 0.55 * stage as f64 / (stages - 1) as f64 } else { 0. };
    colour.map(|part| (f64::from(part) + (255. - f64::from(part)) * lighter).round() as u8)
}

fn is_light([r, g, b]: [u8; 3]) -> bool {
    0.3 * f64::from(r) + 0.59 * f64::from(g) + 0.11 * f64::from(b) > 160.
}

fn colour([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// The smallest of 1, 2 and 5 times a power of ten that is not less than `least`.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    [1., 2., 5., 10.].into_iter().map(|factor| factor * power).find(|&step| step >= least * 0.999).unwrap_or(power)
}

/// Formats with at most two digits after the point, without trailing zeros.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::Action;
    use crate::methods::ScheduleKind;
    use crate::simulate::{Costs, simulate};

    #[test]
    fn a_picture_has_a_box_per_action() {
        let schedule = ScheduleKind::Zbv.schedule(3, 2, 6).unwrap();
        let picture = simulate(&schedule, &Costs::equal(6, 1., 1., 1.)).unwrap().to_svg();
        assert_eq!(picture.matches("<title>").count(), schedule.actions().count());
        assert!(picture.contains("<title>5I2: ") && picture.contains("rank 2") && picture.contains("peak in flight"));
    }

    #[test]
    fn any_times_can_be_drawn() {
        for times in [(f64::NAN, 1.), (0., 0.), (f64::INFINITY, f64::INFINITY), (-1e300, 1e300), (5., 1.)] {
            let span = Span { action: Action::forward(3, 1), start: times.0, end: times.1 };
            let simulation = Simulation {
                stages: 1,
                micro_batches: 1,
                timeline: Timeline { ranks: vec![vec![span], vec![]], makespan: times.1 },
                memory: vec![],
                peak_in_flight: vec![],
                in_transit: vec![],
            };
            assert!(simulation.to_svg().ends_with("</svg>\n"));
        }
    }
}
