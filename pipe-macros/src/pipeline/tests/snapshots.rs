//! Snapshots of generated code, to be read. `UPDATE_EXPECT=1 cargo test -p pipe-macros` writes the
//! files again.

use expect_test::{ExpectFile, expect_file};

use super::derived;

/// Returns the struct in `text` that begins with the line `first`.
fn structure(text: &'static str, first: &str) -> &'static str {
    let start = text.find(first).expect("the text has the struct");
    let end = text[start..].find("\n}\n").expect("the struct ends");
    &text[start..start + end + 2]
}

fn check(source: &str, expected: &ExpectFile) -> String {
    let generated = syn::parse2(derived(source)).expect("the expansion is items");
    let generated = prettyplease::unparse(&generated);
    let source = source.trim();
    expected.assert_eq(&format!("// What is written:\n\n{source}\n\n// What is generated beside it:\n\n{generated}"));
    generated
}

#[test]
fn the_readmes_first_example_expands_to_less_than_120_lines() {
    let source = structure(include_str!("../../../../README.md"), "#[pipeline(chunks");
    let generated = check(source, &expect_file!["../../../tests/snapshots/readme.rs"]);
    assert!(generated.lines().count() < 120);
}

#[test]
fn the_tutorials_unet_expands_to_less_than_250_lines() {
    let unet = include_str!("../../../../examples/src/bin/skips.rs");
    let source = structure(unet, "/// A small U-Net over two devices.");
    let generated = check(source, &expect_file!["../../../tests/snapshots/unet.rs"]);
    assert!(generated.lines().count() < 250);
}

#[test]
fn repeated_layers_are_spread_over_stages() {
    let source = r#"
#[pipeline]
struct Stack<B: ModuleT + 'static, const DEPTH: usize> {
    #[device("cuda:0")]
    embed: Embed,
    #[devices("cuda:0" = 3, "cuda:1" = 5)]
    blocks: [B; DEPTH],
    #[repeat]
    tail: Vec<B>,
    #[not_a_layer]
    config: Config,
}
"#;
    check(source, &expect_file!["../../../tests/snapshots/repeated.rs"]);
}

#[test]
fn lent_values_go_to_each_stage_once() {
    let source = r#"
#[pipeline(input = (Tensor, Mask))]
struct Lends {
    #[device("cpu")]
    #[lend(mask = input.1)]
    first: First,
    #[lend(memory = output)]
    encode: Encode,
    #[read(memory)]
    near: Decode,
    #[devices("cpu", "cpu")]
    #[read(memory, mask)]
    decode: [Decoder; 4],
    #[recompute]
    #[read(memory)]
    last: Decode,
}
"#;
    check(source, &expect_file!["../../../tests/snapshots/lends.rs"]);
}

#[test]
fn sums_flow_beside_the_value() {
    let source = r#"
#[pipeline(sum(balance: Mean, used: Sum))]
struct Sums {
    #[device("cpu")]
    first: First,
    #[sum(balance)]
    gate: Gate,
    #[devices("cpu", "cpu")]
    #[recompute(1)]
    #[sum(used, balance)]
    experts: [Expert; 4],
    #[device("cpu")]
    #[sum(used)]
    #[stash(skip)]
    split: Split,
    #[pop(skip)]
    join: Join,
}
"#;
    check(source, &expect_file!["../../../tests/snapshots/sums.rs"]);
}

#[test]
fn skips_are_ports_between_stages_and_locals_inside_one() {
    let source = r#"
#[pipeline(input = (Tensor, Mask), output = Logits)]
struct Skips {
    #[device("cpu")]
    #[stash(returned, taken = input, made = output)]
    one: One,
    #[pop(made)]
    two: Two,
    #[device("cpu")]
    #[pop(taken, returned)]
    three: Three,
}
"#;
    check(source, &expect_file!["../../../tests/snapshots/skips.rs"]);
}

#[test]
fn a_struct_without_devices_is_a_block() {
    let source = r#"
#[pipeline]
pub struct Block {
    #[stash(residual = input)]
    conv: nn::Conv2D,
    #[repeat]
    more: [nn::Conv2D; 2],
    #[pop(residual)]
    #[layer(name = "sum")]
    add: Add,
}
"#;
    check(source, &expect_file!["../../../tests/snapshots/block.rs"]);
}

#[test]
fn a_mistake_leaves_stubs() {
    let source = r#"
#[pipeline(chunks = 0)]
pub struct Broken {
    #[device("gpu:0")]
    one: Linear,
}
"#;
    check(source, &expect_file!["../../../tests/snapshots/stubs.rs"]);
}
