//! Where things lie in a checkout.

use std::env;
use std::path::PathBuf;

#[derive(Debug)]
pub struct Checkout {
    pub root: PathBuf,
}

impl Checkout {
    /// The checkout that `cargo xtask` was called in. Cargo says so at run time; what was true at
    /// compile time goes stale when a checkout is moved.
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

    /// What `cargo xtask oracle` compares.
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

    /// What `cargo xtask bench` builds and what its contenders say.
    pub fn bench(&self) -> PathBuf {
        self.root.join("target").join("bench")
    }

    /// What `cargo xtask fixtures` writes, a folder for each torch.
    pub fn torchs_schedules(&self) -> PathBuf {
        self.root.join("pipe-runtime/schedule/tests/pytorch")
    }

    /// The pages of the book.
    pub fn docs(&self) -> PathBuf {
        self.root.join("docs")
    }

    pub fn performance(&self) -> PathBuf {
        self.docs().join("performance.md")
    }

    pub fn digits(&self) -> PathBuf {
        self.root.join("data").join("digits.csv.gz")
    }
}
