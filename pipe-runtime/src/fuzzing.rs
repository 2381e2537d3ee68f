//! What `cargo xtask fuzz` gives inputs to, besides the public items. It is compiled for that
//! alone.

/// Reads bytes as a message of another process.
pub fn message(bytes: &[u8]) {
    crate::run::message(bytes);
}
