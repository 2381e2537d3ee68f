//! Values at the input, between stages and at the output.

mod rows;
mod several_values;
mod values;
