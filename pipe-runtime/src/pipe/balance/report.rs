use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use pipe_schedule::support::bytes;
use pipe_schedule::support::table::Table;

use super::advise::Choice;
use super::annotations::annotations;
use super::file;
use super::traffic::{LayerKey, SkipTraffic};
use crate::error::{Error, Result};

/// The costs and stages of a model's layers. Prints as tables, with the annotations to paste.
#[derive(Clone, Debug)]
pub struct Profile {
    pub(super) model: &'static str,
    pub(super) measure: Measure,
    pub(super) passes: usize,
    pub(super) rows: i64,
    pub(super) layers: Vec<LayerProfile>,
    pub(super) stages: Vec<StageProfile>,
    pub(super) skips: Vec<SkipProfile>,
    /// Whether the stages' devices were set or annotated; otherwise they are assumed.
    pub(super) devices_known: bool,
    /// Whether layers were allowed to be recomputed.
    pub(super) recomputes: bool,
    /// The settings, if they were chosen too.
    pub(super) choice: Option<Choice>,
}

/// What the cost of a layer measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Measure {
    /// Seconds of its forward and backward.
    Time,
    /// Bytes of its variables and activations.
    Size,
}

/// One layer, or one element of a repeated one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerProfile {
    /// The layer's name, as in parameter paths.
    pub name: &'static str,
    /// The index in a repeated layer.
    pub index: Option<usize>,
    /// Median time of the forward of one micro-batch. It is zero if the model was divided by size.
    pub forward: Duration,
    /// Median time of the backward. It is zero if the model was divided by size.
    pub backward: Duration,
    /// Interquartile range of forward and backward together; zero if divided by size.
    pub spread: Duration,
    /// Bytes that the forward of one micro-batch allocates and keeps: what the backward needs, and
    /// the model's output. Memory counts for the layer that allocated it, even if a later layer
    /// keeps it.
    pub activation_bytes: u64,
    /// Bytes that stay of one micro-batch if the layer is recomputed, at most: what later layers
    /// keep as well, and its input, if nothing else keeps that.
    pub recomputed_bytes: u64,
    /// Bytes of trained variables.
    pub parameter_bytes: u64,
    /// Bytes of other variables: running statistics, frozen parameters.
    pub buffer_bytes: u64,
    /// Bytes that would cross a boundary right after the layer, for one micro-batch: values in the
    /// forward, and gradients, for values that have one, in the backward. Skips are not included.
    pub crossing_bytes: u64,
    /// The stage that runs the layer.
    pub stage: usize,
    /// Whether the backward recomputes the layer:
    /// [`Balance::recompute`](super::Balance::recompute).
    pub recomputed: bool,
    /// Whether the struct has `#[recompute]` on it.
    pub marked: bool,
}

/// One stage.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct StageProfile {
    /// The stage's device, as in annotations.
    pub device: String,
    /// The stage's process, if it was set or annotated.
    pub process: Option<usize>,
    /// Its layers, as indices into [`Profile::layers`].
    pub layers: Range<usize>,
    /// The cost of its layers and of what crosses its boundaries, in seconds or bytes.
    pub cost: f64,
    /// Bytes of its variables, scaled, and of the activations of one micro-batch; of all in flight
    /// if layers may be recomputed.
    pub memory_bytes: u64,
}

/// A skip that was observed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SkipProfile {
    /// The skip's name.
    pub name: &'static str,
    /// The layer that stashes it, as an index into [`Profile::layers`].
    pub from: usize,
    /// The layer that pops it.
    pub to: usize,
    /// Bytes that would cross if the two layers were in different stages, counted as
    /// [`LayerProfile::crossing_bytes`].
    pub bytes: u64,
}

impl SkipProfile {
    pub(super) fn of(skip: &SkipTraffic) -> Self {
        Self { name: skip.name, from: skip.from, to: skip.to, bytes: skip.crossed.total() }
    }
}

impl Profile {
    /// The layers, in order; repeated layers are listed one by one.
    pub fn layers(&self) -> &[LayerProfile] {
        &self.layers
    }

    /// Returns the stages, in order.
    pub fn stages(&self) -> &[StageProfile] {
        &self.stages
    }

    /// The skips that were observed.
    pub fn skips(&self) -> &[SkipProfile] {
        &self.skips
    }

    /// The settings that [`Balance::advise`](super::Balance::advise) has chosen.
    pub fn choice(&self) -> Option<&Choice> {
        self.choice.as_ref()
    }

    /// The number of layers of each stage: what torchgpipe's `balance_by_time` and
    /// `balance_by_size` return.
    pub fn balance(&self) -> Vec<usize> {
        self.stages.iter().map(|stage| stage.layers.len()).collect()
    }

    /// The most expensive stage; the first one if several cost the same.
    pub fn bottleneck(&self) -> usize {
        let costs = self.stages.iter().map(|stage| stage.cost).enumerate();
        costs.reduce(|most, stage| if stage.1 > most.1 { stage } else { most }).map_or(0, |(stage, _)| stage)
    }

    /// The layers with the attributes that make these stages, to paste into the struct. Layers have
    /// their names in parameter paths.
    pub fn annotations(&self) -> String {
        annotations(self)
    }

    /// Writes the partition to a TOML file. An empty `Vec` of layers is not listed.
    ///
    /// ```toml
    /// format = 1
    /// model = "UNet"
    /// stages = 2
    /// devices = ["cuda:0", "cuda:1"]  # if they were set or annotated
    /// processes = [0, 1]              # if they were set or annotated
    /// costs = [1204411, 1198025]      # of each stage, in nanoseconds or bytes
    /// schedule = "1f1b"               # this and the next ones if `advise` has chosen them
    /// chunks = 8
    /// checkpoint = "never"
    /// cheap_outputs = "keep"
    ///
    /// [[layers]]                      # in order
    /// name = "encode"                 # as in parameter paths
    /// stage = 0                       # from 0
    ///
    /// [[layers]]
    /// name = "blocks"                 # an array or a `Vec`
    /// count = 3
    /// stage = [0, 1, 1]               # of each element
    /// recompute = [true, true, false] # of each element, if layers may be; `true` of a single one
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub fn write(&self, file: impl AsRef<Path>) -> Result<()> {
        let file = file.as_ref();
        std::fs::write(file, file::toml(self))
            .map_err(|error| Error::File(format!("cannot write {}: {error}", file.display())))
    }

    /// Groups the layers by field: single layers, and all elements of repeated layers.
    pub(super) fn fields(&self) -> impl Iterator<Item = &[LayerProfile]> {
        self.layers.chunk_by(|a, b| a.name == b.name && a.index.is_some() && b.index.is_some())
    }

    /// Repeated layers of equal sizes whose times differ by more than a tenth.
    fn told_apart(&self) -> impl Iterator<Item = Alike> {
        let sizes = |layer: &LayerProfile| (layer.activation_bytes, layer.parameter_bytes, layer.buffer_bytes);
        let alike = self.fields().flat_map(move |field| field.chunk_by(move |a, b| sizes(a) == sizes(b)));
        alike.filter_map(|layers| {
            let times = layers.iter().map(|layer| layer.forward + layer.backward);
            let (fastest, slowest) = (times.clone().min()?, times.max()?);
            let (first, last) = (layers.first()?.key(), layers.last()?.key());
            (slowest > fastest.mul_f64(1.1)).then_some(Alike { first, last, times: fastest..slowest })
        })
    }

    /// Layers that are marked to be recomputed, although that would free nothing. What this profile
    /// recommends takes the place of all marks, if it was free to recompute.
    fn marked_for_nothing(&self) -> impl Iterator<Item = &LayerProfile> {
        let frees_nothing = |layer: &&LayerProfile| layer.activation_bytes <= layer.recomputed_bytes;
        let marked = self.layers.iter().filter(|layer| layer.marked && !self.recomputes);
        marked.filter(frees_nothing)
    }

    fn cost(&self, cost: f64) -> String {
        match self.measure {
            Measure::Time => seconds(Duration::from_secs_f64(cost)),
            Measure::Size => bytes(cost),
        }
    }
}

/// Layers of equal sizes, which probably do the same work.
struct Alike {
    first: LayerKey,
    last: LayerKey,
    /// The times of the fastest and the slowest of them.
    times: Range<Duration>,
}

impl LayerProfile {
    fn key(&self) -> LayerKey {
        LayerKey { name: self.name, index: self.index }
    }
}

impl fmt::Display for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "{}[{index}]", self.name),
            None => f.write_str(self.name),
        }
    }
}

/// Prints tables of layers, stages and skips, and the annotations.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (measured, passes) = match self.measure {
            Measure::Time => ("time", format!("medians of {} passes", self.passes)),
            Measure::Size => ("size", "one pass".to_owned()),
        };
        let Self { model, rows, .. } = self;
        writeln!(f, "{model}: {} stages by {measured}, {passes} over a micro-batch of {rows} rows", self.stages.len())?;

        let times = |time: Duration| if self.measure == Measure::Time { seconds(time) } else { "-".to_owned() };
        let some_recomputed = self.layers.iter().any(|layer| layer.recomputed);
        let recomputed = |layer: &LayerProfile| if layer.recomputed { "recomputed" } else { "" }.to_owned();
        let layer = |layer: &LayerProfile| {
            let mut row = vec![
                layer.stage.to_string(),
                layer.key().to_string(),
                times(layer.forward),
                times(layer.backward),
                times(layer.spread),
                bytes(layer.activation_bytes as f64),
                bytes(layer.parameter_bytes as f64),
                bytes(layer.buffer_bytes as f64),
                bytes(layer.crossing_bytes as f64),
            ];
            row.extend(some_recomputed.then(|| recomputed(layer)));
            row
        };
        let heads =
            ["stage", "layer", "forward", "backward", "spread", "activations", "parameters", "buffers", "crossing"];
        let heads = [&heads[..], if some_recomputed { &[""][..] } else { &[] }].concat();
        table(f, &heads, self.layers.iter().map(layer))?;

        let bottleneck = self.bottleneck();
        let mean = self.stages.iter().map(|stage| stage.cost).sum::<f64>() / self.stages.len() as f64;
        let stage = |(index, stage): (usize, &StageProfile)| {
            let note = match index == bottleneck {
                true if mean > 0. => format!("bottleneck, {:.2} x the mean", stage.cost / mean),
                true => "bottleneck".to_owned(),
                false => String::new(),
            };
            let layers = stage.layers.len().to_string();
            let mut row = vec![index.to_string()];
            row.extend(stage.process.map(|process| process.to_string()));
            row.extend([stage.device.clone(), layers, self.cost(stage.cost), bytes(stage.memory_bytes as f64), note]);
            row
        };
        let process: &[&str] = if self.stages.iter().any(|stage| stage.process.is_some()) { &["process"] } else { &[] };
        let heads = [&["stage"], process, &["device", "layers", "cost", "memory", ""]].concat();
        table(f, &heads, self.stages.iter().enumerate().map(stage))?;

        if !self.skips.is_empty() {
            let name = |layer: usize| self.layers[layer].key().to_string();
            let skip = |skip: &SkipProfile| {
                vec![skip.name.to_owned(), name(skip.from), name(skip.to), bytes(skip.bytes as f64)]
            };
            table(f, &["skip", "from", "to", "crossing"], self.skips.iter().map(skip))?;
        }
        if let Some(choice) = &self.choice {
            writeln!(f, "  {choice}\n")?;
        }
        for line in self.annotations().lines() {
            writeln!(f, "  {line}")?;
        }
        if self.recomputes && self.choice.is_none() && !self.layers.iter().any(|layer| layer.recomputed) {
            writeln!(f, "\n  note: it all fits without recomputing, so annotate `#[pipeline(checkpoint = never)]`")?;
        }
        for layer in self.marked_for_nothing() {
            let why = match layer.activation_bytes {
                0 => "it keeps nothing for its backward".to_owned(),
                kept => format!("all that it keeps ({}) stays for other layers, or as its input", bytes(kept as f64)),
            };
            let costs = if self.measure == Measure::Time { times(layer.forward) } else { "its forward".to_owned() };
            writeln!(
                f,
                "\n  note: `#[recompute]` on {} costs {costs} more per micro-batch and frees nothing: {why};\n  \
                 remove it",
                layer.key()
            )?;
        }
        for alike in self.told_apart() {
            let (fastest, slowest) = (seconds(alike.times.start), seconds(alike.times.end));
            writeln!(
                f,
                "\n  note: {} to {} have equal sizes and took {fastest} to {slowest}: if they do the same work, that is \
                 noise, and so is\n  a cut that rests on it; measure longer (`timeout`), on a machine that does nothing else",
                alike.first, alike.last
            )?;
        }
        Ok(())
    }
}

/// Writes a table and an empty line.
fn table(f: &mut fmt::Formatter<'_>, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) -> fmt::Result {
    let mut table = Table::left(heads);
    rows.for_each(|row| table.push(row));
    table.lines().iter().try_for_each(|line| writeln!(f, "{}", format!("  {line}").trim_end()))?;
    writeln!(f)
}

fn seconds(time: Duration) -> String {
    format!("{time:.2?}")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Layers `(name, index, stage)`, each with one millisecond for the forward and two for the
    /// backward.
    pub(in super::super) fn profile(layers: &[(&'static str, Option<usize>, usize)], devices: &[&str]) -> Profile {
        let layer = |&(name, index, stage): &(&'static str, Option<usize>, usize)| LayerProfile {
            name,
            index,
            forward: Duration::from_millis(1),
            backward: Duration::from_millis(2),
            spread: Duration::from_micros(40),
            activation_bytes: 1000,
            parameter_bytes: 3 << 20,
            buffer_bytes: 0,
            recomputed_bytes: 100,
            crossing_bytes: 2048,
            stage,
            recomputed: false,
            marked: false,
        };
        let layers: Vec<_> = layers.iter().map(layer).collect();
        let stage = |(stage, device): (usize, &&str)| {
            let first = layers.iter().position(|layer| layer.stage == stage).unwrap();
            let count = layers.iter().filter(|layer| layer.stage == stage).count();
            StageProfile {
                device: (*device).to_owned(),
                process: None,
                layers: first..first + count,
                cost: 0.003 * count as f64,
                memory_bytes: (6 << 20) * count as u64,
            }
        };
        Profile {
            model: "Net",
            measure: Measure::Time,
            passes: 17,
            rows: 4,
            stages: devices.iter().enumerate().map(stage).collect(),
            skips: vec![SkipProfile { name: "level", from: 0, to: layers.len() - 1, bytes: 512 }],
            layers,
            devices_known: true,
            recomputes: false,
            choice: None,
        }
    }

    #[test]
    fn prints_layers_stages_skips_and_annotations() {
        let profile = profile(&[("a", None, 0), ("b", Some(0), 0), ("b", Some(1), 1)], &["cuda:0", "cuda:1"]);
        let expected = r#"Net: 2 stages by time, medians of 17 passes over a micro-batch of 4 rows
  stage  layer  forward  backward  spread   activations  parameters  buffers  crossing
  -----  -----  -------  --------  -------  -----------  ----------  -------  --------
  0      a      1.00ms   2.00ms    40.00µs  1000 B       3 MiB       0 B      2 KiB
  0      b[0]   1.00ms   2.00ms    40.00µs  1000 B       3 MiB       0 B      2 KiB
  1      b[1]   1.00ms   2.00ms    40.00µs  1000 B       3 MiB       0 B      2 KiB

  stage  device  layers  cost    memory
  -----  ------  ------  ------  ------
  0      cuda:0  2       6.00ms  12 MiB  bottleneck, 1.33 x the mean
  1      cuda:1  1       3.00ms  6 MiB

  skip   from  to    crossing
  -----  ----  ----  --------
  level  a     b[1]  512 B

  #[device("cuda:0")]
  a,
  #[devices("cuda:0" = 1, "cuda:1" = 1)]
  b,
"#;
        assert_eq!(profile.to_string(), expected);
    }

    #[test]
    fn a_mark_that_frees_nothing_is_noted() {
        let mut profile = profile(&[("a", None, 0), ("b", Some(0), 0), ("b", Some(1), 1)], &["cpu", "cpu"]);
        profile.layers.iter_mut().for_each(|layer| layer.marked = true);
        assert!(!profile.to_string().contains("note:"));
        profile.layers[0].activation_bytes = 0;
        profile.layers[2].recomputed_bytes = 1000;
        let text = profile.to_string();
        let notes: Vec<_> = text.split("\n  note: ").skip(1).collect();
        assert_eq!(
            notes,
            [
                "`#[recompute]` on a costs 1.00ms more per micro-batch and frees nothing: it keeps nothing for its \
                 backward;\n  remove it\n",
                "`#[recompute]` on b[1] costs 1.00ms more per micro-batch and frees nothing: all that it keeps (1000 B) \
                 stays for other layers, or as its input;\n  remove it\n"
            ]
        );
        profile.recomputes = true;
        assert!(!profile.to_string().contains("`#[recompute]`"));
    }

    #[test]
    fn equal_layers_that_came_out_apart_are_noted() {
        let mut profile =
            profile(&[("a", None, 0), ("b", Some(0), 0), ("b", Some(1), 1), ("b", Some(2), 1)], &["cpu", "cpu"]);
        assert!(!profile.to_string().contains("note:"));
        profile.layers[2].backward = Duration::from_micros(2400);
        let text = profile.to_string();
        let note = text.split_once("note: ").expect("a note").1;
        assert!(
            note.starts_with("b[0] to b[2] have equal sizes and took 3.00ms to 3.40ms: if they do the same work"),
            "{note}"
        );
        // Layers of other sizes may take other times, and so may other fields.
        profile.layers[2].parameter_bytes += 4;
        profile.layers[0].backward = Duration::from_millis(9);
        assert!(!profile.to_string().contains("note:"));
    }
}
