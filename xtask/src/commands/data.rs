//! `cargo xtask data`: fetches the digits into `data/digits.csv.gz`.

use std::process::ExitCode;

use crate::tools::checkout::Checkout;
use crate::tools::digits;

pub fn run(checkout: &Checkout) -> anyhow::Result<ExitCode> {
    let path = digits::set_up(checkout)?;
    println!("the digits are ready: {}", path.display());
    Ok(ExitCode::SUCCESS)
}
