//! Sentences to batches of tokens.

use std::path::Path;

use anyhow::{Result, anyhow};
use tch::Tensor;
use tokenizers::{PaddingParams, Tokenizer, TruncationParams};

/// Tokens `[rows, length]`, and a mask of the same size that is 1 for tokens and 0 for padding.
pub type Batch = (Tensor, Tensor);

/// Reads the tokenizer of a folder in Hugging Face's layout. It cuts sentences off after
/// `max_length` tokens, and pads those of a batch to the longest.
///
/// # Errors
///
/// Fails if `tokenizer.json` is missing or not a tokenizer, or if `max_length` is too small for the
/// tokens that begin and end every sentence.
pub fn tokenizer(folder: &Path, max_length: usize) -> Result<Tokenizer> {
    let file = folder.join("tokenizer.json");
    let read = || {
        let mut tokenizer = Tokenizer::from_file(&file)?;
        tokenizer.with_truncation(Some(TruncationParams { max_length, ..Default::default() }))?;
        // Its defaults are BERT's `[PAD]`, number 0, on the right, up to the longest of the batch.
        tokenizer.with_padding(Some(PaddingParams::default()));
        Ok(tokenizer)
    };
    read().map_err(|error: tokenizers::Error| anyhow!("cannot use {}: {error}", file.display()))
}

/// Makes a batch of sentences, one per row.
///
/// # Errors
///
/// Fails if the tokenizer does.
pub fn batch(tokenizer: &Tokenizer, sentences: &[&str]) -> Result<Batch> {
    let rows = tokenizer.encode_batch(sentences.to_vec(), true).map_err(|error| anyhow!("cannot tokenize: {error}"))?;
    let numbers = |of: fn(&tokenizers::Encoding) -> &[u32]| {
        let numbers: Vec<i64> = rows.iter().flat_map(of).map(|&number| i64::from(number)).collect();
        Tensor::from_slice(&numbers).view([rows.len() as i64, -1])
    };
    Ok((numbers(tokenizers::Encoding::get_ids), numbers(tokenizers::Encoding::get_attention_mask)))
}
