//! The paths of a checkout.

use std::env;
use std::path::PathBuf;

#[derive(Debug)]
pub struct Checkout {
    pub root: PathBuf,
}

impl Checkout {
    /// The checkout where `cargo xtask` was called, which cargo passes at run time. The path at
    /// compile time is outdated when a checkout is moved.
    pub fn find() -> Self {
        let xtask =
            env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = xtask.parent().unwrap_or(&xtask).to_path_buf();
        Self { root }
    }

    /// The link to the installed libtorch.
    pub fn libtorch_link(&self) -> PathBuf {
        self.root.join(".libtorch")
    }

    /// The value of `LIBTORCH` in `.cargo/config.toml`.
    pub fn linked_libtorch(&self) -> PathBuf {
        self.libtorch_link().join("torch")
    }

    /// The folder for the results that `cargo xtask oracle` compares.
    pub fn oracle(&self) -> PathBuf {
        self.root.join("target").join("oracle")
    }

    /// The programs that commands start.
    pub fn programs(&self) -> PathBuf {
        self.root.join("xtask").join("programs")
    }

    /// The copies in which `cargo xtask pairs` tests other pairs of tch and libtorch.
    pub fn pairs(&self) -> PathBuf {
        self.root.join("target").join("pairs")
    }

    /// The folder for what `cargo xtask bench` builds and its contenders print.
    pub fn bench(&self) -> PathBuf {
        self.root.join("target").join("bench")
    }

    /// The folder for what `cargo xtask fixtures` writes, with a folder for each torch.
    pub fn torchs_schedules(&self) -> PathBuf {
        self.root.join("pipe-runtime/schedule/tests/pytorch")
    }

    /// The pages of the book.
    pub fn docs(&self) -> PathBuf {
        self.root.join("docs")
    }

    pub fn digits(&self) -> PathBuf {
        self.root.join("data").join("digits.csv.gz")
    }
}
