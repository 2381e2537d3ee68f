//! Values that go in, through and out.

mod rows;
mod several_values;
mod values;
