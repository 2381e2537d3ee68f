//! `peers.toml`: what other libraries do with the same mistakes, as found by running them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Peers: the key in the file, and the name in the table.
pub const PEERS: [(&str, &str); 3] = [
    ("torchgpipe", "torchgpipe"),
    ("pipe", "`torch.distributed.pipeline.sync`"),
    ("pipelining", "`torch.distributed.pipelining`"),
];

/// Reactions by rule and peer.
pub struct Peers(BTreeMap<String, BTreeMap<String, Reaction>>);

/// A peer's reaction to a mistake: when it notices, and what it says.
pub struct Reaction {
    pub when: String,
    pub says: String,
}

impl Peers {
    /// Reads `peers.toml` in `folder`.
    ///
    /// # Panics
    ///
    /// If the file cannot be read, is not TOML, names an unknown peer or lacks a key.
    pub fn read(folder: &Path) -> Self {
        let text = fs::read_to_string(folder.join("peers.toml")).expect("peers.toml can be read");
        let file: toml::Table = text.parse().expect("peers.toml is TOML");
        Self(file.iter().map(|(rule, peers)| (rule.clone(), reactions(rule, peers))).collect())
    }

    pub fn rules(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn reaction(&self, rule: &str, peer: &str) -> Option<&Reaction> {
        self.0.get(rule)?.get(peer)
    }
}

fn reactions(rule: &str, peers: &toml::Value) -> BTreeMap<String, Reaction> {
    let peers = peers.as_table().unwrap_or_else(|| panic!("peers.toml: `{rule}` is not a table"));
    let known = |peer: &str| PEERS.iter().any(|(known, _)| *known == peer);
    let reaction = |(peer, reaction): (&String, &toml::Value)| {
        assert!(known(peer), "peers.toml: `{rule}` names an unknown peer `{peer}`");
        let text = |key: &str| match reaction.get(key).and_then(toml::Value::as_str) {
            Some(text) => text.to_owned(),
            None => panic!("peers.toml: `{rule}`, `{peer}`: `{key}` is missing"),
        };
        (peer.clone(), Reaction { when: text("when"), says: text("says") })
    };
    peers.iter().map(reaction).collect()
}
