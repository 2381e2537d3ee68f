//! Embeds sentences with the pretrained model, compares with Python's transformers, and trains
//! adapters to tell topics apart. Then it compares a step of this training with plain tch.
//!
//! `cargo xtask minilm` fetches the model and runs this.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use pipe_minilm::files::Config;
use pipe_minilm::model::MiniLm;
use pipe_minilm::{adapters, text, twin};
use pipe_runtime::Devices;
use tch::{Device, Tensor};

/// What `reference.py` reads.
const SENTENCES: &str = include_str!("../sentences.txt");
/// What it printed.
const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/reference.csv");
/// Tokens per sentence; the rest is cut off.
const LENGTH: usize = 128;

const TOPICS: [&str; 4] = ["weather", "cooking", "sport", "computers"];
/// Sentences of a topic, by its number.
const LABELLED: [(i64, &str); 16] = [
    (0, "It pours, take an umbrella."),
    (1, "Let the dough rest for an hour."),
    (2, "She scored in the last minute."),
    (3, "The compiler found a mistake."),
    (0, "A cold front comes from the north."),
    (1, "Add salt before it boils."),
    (2, "They lost the second set."),
    (3, "Restart it and try again."),
    (0, "No cloud in sight."),
    (1, "Chop the onions finely."),
    (2, "He trains for a marathon."),
    (3, "My screen stays black."),
    (0, "The roads are icy this morning."),
    (1, "This sauce is too thin."),
    (2, "The referee showed a red card."),
    (3, "Save the file under a new name."),
];

/// Embeds sentences with all-MiniLM-L6-v2, and trains adapters
#[derive(Parser)]
struct Args {
    /// The folder with `config.json`, `model.safetensors` and `tokenizer.json`
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The embeddings by transformers, a line of numbers for each sentence
    #[arg(long, value_name = "FILE", default_value = REFERENCE)]
    reference: PathBuf,
    /// Devices of the three stages; on fewer devices, stages are merged
    #[arg(long, default_value = "cpu,cpu,cpu")]
    devices: Devices,
    /// Training steps
    #[arg(long, default_value = "10")]
    steps: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    tch::manual_seed(1);
    println!("{}", MiniLm::PLAN);
    let (model, vars) = MiniLm::pretrained(&args.model, &args.devices)?;
    let devices = vars.devices();
    let (first, last) = (devices[0], devices[devices.len() - 1]);
    let tokenizer = text::tokenizer(&args.model, LENGTH)?;
    let batch = |sentences: &[&str]| -> Result<text::Batch> {
        let (tokens, mask) = text::batch(&tokenizer, sentences)?;
        Ok((tokens.to_device(first), mask.to_device(first)))
    };
    let mut pipe = model.pipe(&vars).build()?;

    let sentences: Vec<&str> = SENTENCES.lines().collect();
    let embeddings = pipe.predict(batch(&sentences)?)?.to_device(Device::Cpu);
    let expected = reference(&args.reference)?;
    ensure!(embeddings.size() == expected.size(), "embeddings {:?}, not {:?}", embeddings.size(), expected.size());
    let difference = f64::try_from((&embeddings - expected).abs().max())?;
    println!("{} sentences, largest difference from transformers: {difference:.1e}", sentences.len());
    ensure!(difference < 1e-5, "the embeddings are not those of transformers");
    let alike = embeddings.matmul(&embeddings.tr());
    for [a, b] in [[0, 1], [2, 3], [0, 3]] {
        println!("{:.3}  {} / {}", alike.double_value(&[a, b]), sentences[a as usize], sentences[b as usize]);
    }

    let topics = pipe.predict(batch(&TOPICS)?)?;
    let labels = Tensor::from_slice(&LABELLED.map(|(topic, _)| topic)).to_device(last);
    let trunk = adapters::trunk(&vars)?;
    let labelled = batch(&LABELLED.map(|(_, sentence)| sentence))?;
    let (mut pipe, losses) = adapters::train(pipe, &vars, &labelled, &labels, &topics, args.steps)?;
    for (number, loss) in losses.iter().enumerate() {
        println!("step {:2}: loss {loss:.3}", number + 1);
    }
    println!("the trunk is unchanged: {}", trunk == adapters::trunk(&vars)?);
    // With labels that it has not learned: the gradients of learned ones nearly cancel, and
    // rounding errors would show.
    let others = labels.flip([0]);
    twin::compare(&mut pipe, &vars, &Config::read(&args.model)?, &labelled, &others, &topics)
}

/// The embeddings of `SENTENCES` that a file has.
fn reference(file: &Path) -> Result<Tensor> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let numbers = |line: &str| line.split(',').map(str::parse).collect::<Result<Vec<f32>, _>>();
    let rows = text.lines().map(|line| Ok(Tensor::from_slice(&numbers(line)?)));
    Ok(Tensor::stack(&rows.collect::<Result<Vec<_>>>()?, 0))
}
