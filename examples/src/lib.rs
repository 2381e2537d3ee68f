//! What several examples share.

#![forbid(unsafe_code)]

pub mod digits;
pub mod twin;
