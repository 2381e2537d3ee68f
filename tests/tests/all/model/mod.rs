//! The annotated struct, its skips and its variables: `docs/language.md`.

mod balance_file;
mod language;
mod skips;
mod tied;
mod vars;
