//! The UCI handwritten digits: 1,797 grey images of 8x8 pixels, in ten classes.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;
use tch::{Device, Kind, Tensor};

/// Height and width of an image.
pub const SIDE: i64 = 8;
/// Number of classes.
pub const CLASSES: i64 = 10;

const PIXELS: usize = 64;
const BRIGHTEST: u8 = 16;
const TRAIN_ROWS: i64 = 1_437;
const SPLIT_SEED: i64 = 0;
/// File that `cargo xtask data` writes, relative to the repository's root.
const FILE: &str = "data/digits.csv.gz";

/// Images `[N, 1, 8, 8]` with values from 0 to 1, and labels `[N]`.
#[derive(Debug)]
pub struct Dataset {
    pub images: Tensor,
    pub labels: Tensor,
}

impl Dataset {
    /// Number of images.
    pub fn rows(&self) -> i64 {
        self.labels.size1().unwrap_or(0)
    }

    /// Selects the rows at `indices`, in that order.
    pub fn select(&self, indices: &Tensor) -> Self {
        let indices = indices.to_device(self.images.device());
        Self { images: self.images.index_select(0, &indices), labels: self.labels.index_select(0, &indices) }
    }

    /// Copies the data to `device`.
    pub fn to_device(&self, device: Device) -> Self {
        Self { images: self.images.to_device(device), labels: self.labels.to_device(device) }
    }

    /// Selects the first `count` rows, or all if there are fewer.
    pub fn first(&self, count: i64) -> Self {
        self.rows_from(0, count.min(self.rows()))
    }

    fn rows_from(&self, start: i64, length: i64) -> Self {
        Self { images: self.images.narrow(0, start, length), labels: self.labels.narrow(0, start, length) }
    }
}

/// Splits the images into 1,437 to train on and 360 to test with. The split is random, because the
/// last images of the file are harder than the first ones, but it is always the same.
///
/// # Errors
///
/// Fails if there are too few images.
pub fn split(digits: &Dataset) -> Result<(Dataset, Dataset)> {
    let rows = digits.rows();
    ensure!(rows > TRAIN_ROWS, "the data has {rows} images, too few to train on {TRAIN_ROWS} and test on the rest");
    tch::manual_seed(SPLIT_SEED);
    let shuffled = digits.select(&Tensor::randperm(rows, (Kind::Int64, Device::Cpu)));
    Ok((shuffled.first(TRAIN_ROWS), shuffled.rows_from(TRAIN_ROWS, rows - TRAIN_ROWS)))
}

/// Reads the digits from `file`, or from the file that `cargo xtask data` writes.
///
/// # Errors
///
/// Fails if there is no such file, or if it is not one of digits.
pub fn load(file: Option<&Path>) -> Result<Dataset> {
    let file = match file {
        Some(file) => file.to_owned(),
        None => find()?,
    };
    let open = || -> Result<Rows> { parse(BufReader::new(GzDecoder::new(File::open(&file)?))) };
    let Rows { pixels, labels } = open().with_context(|| format!("cannot read {}", file.display()))?;
    let images = Tensor::from_slice(&pixels).view([labels.len() as i64, 1, SIDE, SIDE]).to_kind(Kind::Float)
        / f64::from(BRIGHTEST);
    Ok(Dataset { images, labels: Tensor::from_slice(&labels) })
}

fn find() -> Result<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let places = [PathBuf::from(FILE), repository.join(FILE)];
    let found = places.into_iter().find(|place| place.exists());
    found.with_context(|| format!("there is no {FILE}: run `cargo xtask data`"))
}

/// Contents of the file, with 64 pixels for each label.
#[derive(Debug, Default, PartialEq)]
struct Rows {
    pixels: Vec<u8>,
    labels: Vec<i64>,
}

/// Parses lines of 64 pixels from 0 to 16 and a label from 0 to 9, separated by commas.
fn parse(text: impl BufRead) -> Result<Rows> {
    let mut rows = Rows::default();
    for (index, line) in text.lines().enumerate() {
        let line = line?;
        add_row(&line, &mut rows).with_context(|| format!("line {}", index + 1))?;
    }
    Ok(rows)
}

fn add_row(line: &str, rows: &mut Rows) -> Result<()> {
    let number =
        |text: &str| text.trim().parse::<u8>().with_context(|| format!("`{text}` is not a number from 0 to 255"));
    let numbers = line.split(',').map(number).collect::<Result<Vec<_>>>()?;
    let Some((&label, pixels)) = numbers.split_last().filter(|(_, pixels)| pixels.len() == PIXELS) else {
        bail!("{} numbers instead of {PIXELS} pixels and a label", numbers.len());
    };
    ensure!(i64::from(label) < CLASSES, "the label {label} is not a digit");
    if let Some(pixel) = pixels.iter().find(|&&pixel| pixel > BRIGHTEST) {
        bail!("the pixel {pixel} is brighter than {BRIGHTEST}");
    }
    rows.pixels.extend(pixels);
    rows.labels.push(label.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(pixel: &str, pixels: usize, label: &str) -> String {
        let mut numbers = vec![pixel; pixels];
        numbers.push(label);
        numbers.join(",")
    }

    #[test]
    fn a_line_is_an_image_and_its_label() {
        let text = format!("{}\n{}\n", line("0", 64, "3"), line("16", 64, "9"));
        let rows = parse(text.as_bytes()).unwrap();
        assert_eq!(rows.labels, [3, 9]);
        assert_eq!(rows.pixels, [[0; 64], [16; 64]].concat());
    }

    #[test]
    fn a_wrong_line_is_named_with_what_is_wrong() {
        let cases = [
            (line("0", 63, "3"), "64 numbers instead of 64 pixels and a label"),
            (line("0", 65, "3"), "66 numbers instead of 64 pixels and a label"),
            (line("0", 64, "10"), "the label 10 is not a digit"),
            (line("17", 64, "1"), "the pixel 17 is brighter than 16"),
            (line("x", 64, "1"), "`x` is not a number from 0 to 255"),
            (String::new(), "`` is not a number from 0 to 255"),
        ];
        for (wrong, reason) in cases {
            let text = format!("{}\n{wrong}\n", line("0", 64, "3"));
            let error = format!("{:#}", parse(text.as_bytes()).unwrap_err());
            assert!(error.starts_with(&format!("line 2: {reason}")), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = format!("{:#}", load(Some(Path::new("no/such.csv.gz"))).unwrap_err());
        assert!(error.starts_with("cannot read no/such.csv.gz: "), "{error}");
    }
}
