//! A tiny model in the layout of the real one: its embeddings are those of BERT by hand, its
//! adapters learn, and files of other models are refused.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pipe_minilm::files::Config;
use pipe_minilm::model::{MiniLm, MiniLmVars};
use pipe_minilm::twin::Weights;
use pipe_minilm::{adapters, text, twin};
use pipe_runtime::{Devices, Pipe};
use tch::{Device, Kind, Tensor};
use tokenizers::Tokenizer;

const WIDTH: i64 = 8;
const HEADS: i64 = 2;
const WIDE: i64 = 16;
const PLACES: i64 = 128;
/// Large, so that another one would show.
const EPSILON: f64 = 0.01;
/// Tokens are numbered in this order.
const WORDS: [&str; 9] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "pipe", "##line", "runs", "."];

/// The names and shapes that BERT's files have, with random numbers.
fn weights() -> Weights {
    tch::manual_seed(1);
    let mut weights = Weights::new();
    let mut add = |name: &str, shape: &[i64]| {
        // Norms that multiply by small numbers would make all sentences alike.
        let mean = if name.ends_with("LayerNorm.weight") { 1. } else { 0. };
        weights.insert(name.to_owned(), Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.5 + mean);
    };
    add("embeddings.word_embeddings.weight", &[WORDS.len() as i64, WIDTH]);
    add("embeddings.position_embeddings.weight", &[PLACES, WIDTH]);
    add("embeddings.token_type_embeddings.weight", &[2, WIDTH]);
    let mut both = |name: String, shape: &[i64]| {
        add(&format!("{name}.weight"), shape);
        add(&format!("{name}.bias"), &shape[..1]);
    };
    both("embeddings.LayerNorm".to_owned(), &[WIDTH]);
    both("pooler.dense".to_owned(), &[WIDTH, WIDTH]);
    for layer in (0..6).map(|number| format!("encoder.layer.{number}")) {
        for name in ["self.query", "self.key", "self.value", "output.dense"] {
            both(format!("{layer}.attention.{name}"), &[WIDTH, WIDTH]);
        }
        both(format!("{layer}.attention.output.LayerNorm"), &[WIDTH]);
        both(format!("{layer}.intermediate.dense"), &[WIDE, WIDTH]);
        both(format!("{layer}.output.dense"), &[WIDTH, WIDE]);
        both(format!("{layer}.output.LayerNorm"), &[WIDTH]);
    }
    weights.insert("embeddings.position_ids".to_owned(), Tensor::arange(PLACES, (Kind::Int64, Device::Cpu)));
    weights
}

fn write(folder: &Path, weights: &Weights, layers: usize) {
    let named: Vec<_> = weights.iter().collect();
    Tensor::write_safetensors(&named, folder.join("model.safetensors")).unwrap();
    let config = format!(
        r#"{{"hidden_act": "gelu", "hidden_size": {WIDTH}, "intermediate_size": {WIDE}, "layer_norm_eps": {EPSILON},
        "max_position_embeddings": {PLACES}, "num_attention_heads": {HEADS}, "num_hidden_layers": {layers},
        "type_vocab_size": 2, "vocab_size": {}}}"#,
        WORDS.len()
    );
    fs::write(folder.join("config.json"), config).unwrap();
    let words: Vec<_> = WORDS.iter().enumerate().map(|(number, word)| format!("{word:?}: {number}")).collect();
    let tokenizer = format!(
        r###"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {{"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true}},
        "pre_tokenizer": {{"type": "BertPreTokenizer"}},
        "post_processor": {{"type": "TemplateProcessing",
            "single": [{{"SpecialToken": {{"id": "[CLS]", "type_id": 0}}}},
                {{"Sequence": {{"id": "A", "type_id": 0}}}}, {{"SpecialToken": {{"id": "[SEP]", "type_id": 0}}}}],
            "pair": [{{"Sequence": {{"id": "A", "type_id": 0}}}}, {{"Sequence": {{"id": "B", "type_id": 1}}}}],
            "special_tokens": {{"[CLS]": {{"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}},
                "[SEP]": {{"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}}}}},
        "decoder": null,
        "model": {{"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {{{}}}}}}}"###,
        words.join(", ")
    );
    fs::write(folder.join("tokenizer.json"), tokenizer).unwrap();
}

/// The embedding of one sentence, which has no padding, by the plain twin.
fn by_hand(weights: &Weights, tokens: &[i64]) -> Tensor {
    twin::embedding(weights, HEADS, EPSILON, tokens)
}

/// libtorch has one random number generator, and each test seeds it.
fn serial() -> MutexGuard<'static, ()> {
    static SERIAL: Mutex<()> = Mutex::new(());
    SERIAL.lock().unwrap_or_else(PoisonError::into_inner)
}

fn devices() -> Devices {
    Devices::cpu(MiniLm::STAGES)
}

#[test]
fn padded_and_truncated_rows_are_embedded_as_bert_by_hand_embeds_them_alone() {
    let _serial = serial();
    let folder = tempfile::tempdir().unwrap();
    let weights = weights();
    write(folder.path(), &weights, 6);
    let (model, vars) = MiniLm::pretrained(folder.path(), &devices()).unwrap();
    let mut pipe = model.pipe(&vars).build().unwrap();
    let tokenizer = text::tokenizer(folder.path(), 7).unwrap();
    let sentences = ["Pipeline", "a pipe runs.", "", "a a a a a pipe pipe pipe", "Ä?", "runs runs runs"];
    let tokens: [&[i64]; 6] =
        [&[2, 5, 6, 3], &[2, 4, 5, 7, 8, 3], &[2, 3], &[2, 4, 4, 4, 4, 4, 3], &[2, 4, 1, 3], &[2, 7, 7, 7, 3]];
    let (ids, mask) = text::batch(&tokenizer, &sentences).unwrap();
    assert_eq!(ids.size(), [6, 7]);
    for (row, tokens) in tokens.iter().enumerate() {
        let mut ones = vec![1; tokens.len()];
        let mut tokens = tokens.to_vec();
        for (row_of, expected) in [(&ids, &mut tokens), (&mask, &mut ones)] {
            expected.resize(7, 0);
            assert_eq!(Vec::<i64>::try_from(row_of.get(row as i64)).unwrap(), *expected, "{}", sentences[row]);
        }
    }
    let found = pipe.predict((ids, mask)).unwrap();
    let expected = Tensor::stack(&tokens.map(|tokens| by_hand(&weights, tokens)), 0);
    let difference = (found - &expected).abs().max().double_value(&[]);
    assert!(difference < 1e-5, "{difference}");
    let apart = Tensor::cdist(&expected, &expected, 2., None::<i64>) + Tensor::eye(6, (Kind::Float, Device::Cpu));
    assert!(apart.min().double_value(&[]) > 0.01, "sentences that are alike prove little: {apart}");
}

/// The model, made of files in this folder, and the embeddings of two topics.
fn pretrained(folder: &Path) -> (Pipe<MiniLm>, MiniLmVars, Tokenizer, Tensor) {
    write(folder, &weights(), 6);
    let (model, vars) = MiniLm::pretrained(folder, &devices()).unwrap();
    let mut pipe = model.pipe(&vars).build().unwrap();
    let tokenizer = text::tokenizer(folder, 7).unwrap();
    let topics = pipe.predict(text::batch(&tokenizer, &["a", "runs"]).unwrap()).unwrap();
    (pipe, vars, tokenizer, topics)
}

#[test]
fn adapters_learn_and_the_trunk_stays() {
    let _serial = serial();
    let folder = tempfile::tempdir().unwrap();
    let (pipe, vars, tokenizer, topics) = pretrained(folder.path());
    let batch = text::batch(&tokenizer, &["pipe", "a pipe", ". .", "pipeline", "runs a", "pipe."]).unwrap();
    let adapters =
        || vars.select("*.adapter").unwrap().into_iter().map(|(_, weight)| weight.copy()).collect::<Vec<_>>();
    let (trunk, new) = (adapters::trunk(&vars).unwrap(), adapters());
    assert_eq!((trunk.len(), new.len()), (5 + 6 * 16, 6 * 2 * 4));
    let labels = Tensor::from_slice(&[0_i64, 0, 0, 1, 1, 1]);
    let (_, losses) = adapters::train(pipe, &vars, &batch, &labels, &topics, 30).unwrap();
    assert!(losses[29] < losses[0] / 2., "{losses:?}");
    assert!(trunk == adapters::trunk(&vars).unwrap());
    assert!(new.iter().zip(&adapters()).all(|(new, trained)| new != trained));
}

#[test]
fn a_step_of_fine_tuning_is_that_of_the_plain_twin() {
    let _serial = serial();
    let folder = tempfile::tempdir().unwrap();
    let (pipe, vars, tokenizer, topics) = pretrained(folder.path());
    // Four micro-batches, of 2, 2, 2 and 1 sentences.
    let sentences = ["pipe", "a pipe", ". .", "pipeline", "runs a", "pipe.", "a a"];
    let batch = text::batch(&tokenizer, &sentences).unwrap();
    let labels = Tensor::from_slice(&[0_i64, 0, 0, 1, 1, 1, 0]);
    // Two steps before, because the first weights of new adapters have no gradient.
    let (mut pipe, _) = adapters::train(pipe, &vars, &batch, &labels, &topics, 2).unwrap();
    let config = Config::read(folder.path()).unwrap();
    twin::compare(&mut pipe, &vars, &config, &batch, &labels, &topics).unwrap();
    // With another epsilon, it is the twin of another model.
    fs::write(
        folder.path().join("config.json"),
        fs::read_to_string(folder.path().join("config.json")).unwrap().replace(&EPSILON.to_string(), "0.02"),
    )
    .unwrap();
    let other = Config::read(folder.path()).unwrap();
    let error = twin::compare(&mut pipe, &vars, &other, &batch, &labels, &topics).unwrap_err().to_string();
    assert!(error.starts_with("the loss is "), "{error}");
}

#[test]
fn files_of_other_models_are_refused_by_what_they_lack_or_have() {
    let _serial = serial();
    let folder = tempfile::tempdir().unwrap();
    let refusal = || format!("{:#}", MiniLm::pretrained(folder.path(), &devices()).err().expect("a refusal"));
    assert!(refusal().contains("config.json"), "{}", refusal());

    write(folder.path(), &weights(), 12);
    assert!(refusal().ends_with("it has 12 layers, not 6"), "{}", refusal());

    let mut lacks = weights();
    lacks.remove("encoder.layer.5.output.dense.bias");
    write(folder.path(), &lacks, 6);
    assert!(refusal().contains("`layers.5.output.dense.bias` is missing"), "{}", refusal());

    let mut has = weights();
    has.insert("encoder.layer.6.output.dense.bias".to_owned(), Tensor::from(1.));
    write(folder.path(), &has, 6);
    assert!(refusal().contains("the model has no `layers.6.output.dense.bias`"), "{}", refusal());
}

#[test]
fn the_program_compares_with_a_reference_and_trains() {
    let _serial = serial();
    let folder = tempfile::tempdir().unwrap();
    let weights = weights();
    write(folder.path(), &weights, 6);
    let tokenizer = text::tokenizer(folder.path(), PLACES as usize).unwrap();
    let embedding = |sentence| {
        let (tokens, _) = text::batch(&tokenizer, &[sentence]).unwrap();
        by_hand(&weights, &Vec::<i64>::try_from(tokens.get(0)).unwrap())
    };
    let line = |sentence| {
        Vec::<f32>::try_from(embedding(sentence)).unwrap().iter().map(f32::to_string).collect::<Vec<_>>().join(",")
    };
    let lines: Vec<String> = include_str!("../sentences.txt").lines().map(line).collect();
    let reference = folder.path().join("reference.csv");
    let run = |lines: &[String]| {
        fs::write(&reference, lines.join("\n")).unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_pipe-minilm"));
        program.args(["--steps", "2", "--model"]).arg(folder.path()).arg("--reference").arg(&reference);
        let output = program.output().unwrap();
        let printed = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        (output.status.success(), printed)
    };
    let (success, printed) = run(&lines);
    assert!(success && printed.contains("\nthe trunk is unchanged: true\ntwin: loss within "), "{printed}");
    let (success, printed) = run(&lines[1..]);
    assert!(!success && printed.contains("Error: embeddings [7, 8], not [6, 8]\n"), "{printed}");
    let (success, printed) = run(&[&lines[..6], &lines[..1]].concat());
    assert!(!success && printed.contains("Error: the embeddings are not those of transformers\n"), "{printed}");
}
