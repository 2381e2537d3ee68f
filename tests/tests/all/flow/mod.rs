//! Values at the input, between stages and at the output.

mod rows;
mod rows_that_differ;
mod several_values;
mod values;
