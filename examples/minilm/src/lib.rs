//! The pretrained sentence encoder all-MiniLM-L6-v2 as a pipeline of three stages: embeddings of
//! sentences, and training of small adapters in a model that is otherwise frozen. Its plain twin
//! says what both should give.

#![forbid(unsafe_code)]

pub mod adapters;
pub mod files;
pub mod model;
pub mod text;
pub mod twin;
