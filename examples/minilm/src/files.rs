//! The files of a folder in Hugging Face's layout.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use pipe_runtime::Devices;
use serde::Deserialize;

use crate::model::{MiniLm, MiniLmVars};

/// What `config.json` says of a model.
#[derive(Debug, Deserialize)]
pub struct Config {
    hidden_act: String,
    pub(crate) hidden_size: i64,
    pub(crate) intermediate_size: i64,
    pub(crate) layer_norm_eps: f64,
    pub(crate) max_position_embeddings: i64,
    pub(crate) num_attention_heads: i64,
    num_hidden_layers: usize,
    pub(crate) type_vocab_size: i64,
    pub(crate) vocab_size: i64,
}

impl Config {
    /// Reads `config.json` of a folder in Hugging Face's layout.
    ///
    /// # Errors
    ///
    /// Fails if the file is missing or is of a model of another kind.
    pub fn read(folder: &Path) -> Result<Self> {
        let file = folder.join("config.json");
        let config = File::open(&file).map_err(anyhow::Error::from).and_then(|open| {
            let config: Self = serde_json::from_reader(open)?;
            ensure!(config.num_hidden_layers == 6, "it has {} layers, not 6", config.num_hidden_layers);
            ensure!(config.hidden_act == "gelu", "its activation is {}, not gelu", config.hidden_act);
            Ok(config)
        });
        config.with_context(|| format!("cannot use {}", file.display()))
    }
}

impl MiniLm {
    /// Makes the model of a folder in Hugging Face's layout, on devices for its three stages.
    /// Adapters are not in the file: they begin as new ones.
    ///
    /// # Errors
    ///
    /// Fails if a file is missing, or if it does not have exactly the weights of this model.
    pub fn pretrained(folder: &Path, devices: &Devices) -> Result<(Self, MiniLmVars)> {
        let vars = Self::vars(devices)?;
        let model = Self::new(&vars, &Config::read(folder)?);
        load(&vars, folder)?;
        Ok((model, vars))
    }
}

// ANCHOR: load
fn load(vars: &MiniLmVars, folder: &Path) -> Result<()> {
    let report = vars
        .loader(folder.join("model.safetensors"))
        .rename_start("encoder.layer", "layers")
        // The pooler is for another task, and the positions are counted here.
        .rename(|name| (!name.starts_with("pooler.") && !name.ends_with("position_ids")).then(|| name.to_owned()))
        .partial()
        .load()?;
    let lacks = report.missing.iter().find(|name| !name.contains(".adapter."));
    ensure!(report.unknown.is_empty() && report.misfits.is_empty() && lacks.is_none(), "another model: {report}");
    Ok(())
}
// ANCHOR_END: load
