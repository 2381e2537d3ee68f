//! What a script has measured in PyTorch: a file with numbers by their names.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

pub struct Results {
    file: PathBuf,
    numbers: Value,
}

impl Results {
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let numbers = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
        Ok(Self { file: file.to_owned(), numbers })
    }

    pub fn number(&self, name: &str) -> Result<f64> {
        self.numbers[name].as_f64().with_context(|| format!("{} has no number `{name}`", self.file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_missing_ones_are_named() {
        let file = std::env::temp_dir().join(format!("gpu-check-results-{}.json", std::process::id()));
        std::fs::write(&file, "{\"update_host_ms\": 1.5}").unwrap();
        let results = Results::read(&file).unwrap();
        assert!((results.number("update_host_ms").unwrap() - 1.5).abs() < 1e-9);
        let error = results.number("iteration_ms").unwrap_err().to_string();
        assert!(error.ends_with("has no number `iteration_ms`"), "{error}");
        std::fs::write(&file, "not JSON").unwrap();
        assert!(Results::read(&file).is_err());
        std::fs::remove_file(&file).unwrap();
    }
}
