//! What an editor knows about the names of values in an annotated struct, by rust-analyzer.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use expect_test::expect;
use serde_json::{Value, json};

const MODEL: &str = r#"use pipe_runtime::nn::{Linear, Reader, Split, Tensor};
use pipe_runtime::Mean;

#[pipe_runtime::pipeline(read(time: Tensor))]
pub struct Block {
    #[stash(inner = input)]
    first: Linear,
    #[pop(inner)]
    #[read(time)]
    second: Reader,
}

#[pipe_runtime::pipeline(chunks = 4, sum(kl: Mean))]
pub struct Net {
    #[device("cuda:0")]
    #[lend(memory = output, time = output)]
    encode: Linear,
    #[stash(skip = output)]
    middle: Linear,
    #[device("cuda:1")]
    #[read(memory, time)]
    decode: Reader,
    #[read(time)]
    block: Block,
    #[sum(kl)]
    code: Split,
    #[read(memory)]
    #[pop(skip)]
    last: Reader,
}
"#;

/// A place in [`MODEL`]: line and column, from 0.
type Place = (u64, u64);

/// A language server with one file open.
struct Editor {
    server: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    file: String,
    asked: u64,
}

impl Editor {
    /// Starts the server in a crate with this source, and waits until it has read everything.
    fn open(source: &str) -> Self {
        let folder = package(source);
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "300", "rust-analyzer"]).current_dir(&folder);
        let target = root().join("target");
        command.env("CARGO_TARGET_DIR", target).env("CARGO_NET_OFFLINE", "true");
        let mut server =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let (input, output) = (server.stdin.take().expect("piped"), server.stdout.take().expect("piped"));
        let file = format!("file://{}", folder.join("src/lib.rs").display());
        let mut editor = Self { server, input, output: BufReader::new(output), file, asked: 0 };
        editor.ask(
            "initialize",
            json!({
                "processId": null,
                "rootUri": format!("file://{}", folder.display()),
                "capabilities": { "experimental": { "serverStatusNotification": true } },
                "initializationOptions": { "checkOnSave": false, "cachePriming": { "enable": false } },
            }),
        );
        editor.send(&json!({ "method": "initialized", "params": {} }));
        let document = json!({ "uri": editor.file, "languageId": "rust", "version": 1, "text": source });
        editor.send(&json!({ "method": "textDocument/didOpen", "params": { "textDocument": document } }));
        let is_done = |message: &Value| {
            message["method"] == "experimental/serverStatus" && message["params"]["quiescent"] == true
        };
        while !is_done(&editor.receive()) {}
        editor
    }

    fn send(&mut self, message: &Value) {
        let mut message = message.clone();
        message["jsonrpc"] = json!("2.0");
        let text = message.to_string();
        write!(self.input, "Content-Length: {}\r\n\r\n{text}", text.len()).expect("the server listens");
        self.input.flush().expect("the server listens");
    }

    fn receive(&mut self) -> Value {
        let mut length = 0;
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).expect("text") > 0, "the server has ended");
            match line.trim().strip_prefix("Content-Length: ") {
                Some(number) => length = number.parse().expect("a length"),
                None if line.trim().is_empty() => break,
                None => {}
            }
        }
        let mut text = vec![0; length];
        self.output.read_exact(&mut text).expect("a whole message");
        serde_json::from_slice(&text).expect("JSON")
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.asked += 1;
        let id = self.asked;
        self.send(&json!({ "id": id, "method": method, "params": params }));
        loop {
            let mut answer = self.receive();
            if answer["id"] == id && answer["method"].is_null() {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
        }
    }

    fn at(&mut self, method: &str, (line, character): Place, more: Value) -> Value {
        let mut params = json!({
            "textDocument": { "uri": self.file },
            "position": { "line": line, "character": character },
        });
        params.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        self.ask(&format!("textDocument/{method}"), params)
    }

    fn definition(&mut self, place: Place) -> Vec<Place> {
        places(&self.at("definition", place, json!({})))
    }

    fn references(&mut self, place: Place) -> Vec<Place> {
        places(&self.at("references", place, json!({ "context": { "includeDeclaration": true } })))
    }

    fn renamed(&mut self, place: Place) -> Vec<Place> {
        let edits = self.at("rename", place, json!({ "newName": "other" }));
        assert_eq!(edits["documentChanges"].as_array().map(Vec::len), Some(1), "{edits}");
        places(&edits["documentChanges"][0]["edits"])
    }

    /// The line that a reader sees of a name's documentation.
    fn sentence(&mut self, place: Place) -> String {
        let shown = self.at("hover", place, json!({}));
        let text = shown["contents"]["value"].as_str().unwrap_or_default().to_owned();
        let sentence = text.lines().find(|line| line.contains(" by "));
        sentence.unwrap_or_else(|| panic!("no sentence: {shown}")).to_owned()
    }
}

impl Drop for Editor {
    fn drop(&mut self) {
        // What is asked of a test is done.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in a workspace")
}

/// Writes a package with this source, and a copy of this workspace's lock file.
fn package(source: &str) -> PathBuf {
    let folder = root().join("target/editor");
    let mock = Path::new(env!("CARGO_MANIFEST_DIR")).join("mock").display().to_string();
    let manifest = format!(
        "[package]\nname = \"editor\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n\
         pipe-runtime = {{ package = \"pipe-mock\", path = {mock:?} }}\n"
    );
    fs::create_dir_all(folder.join("src")).expect("the folder can be made");
    fs::write(folder.join("Cargo.toml"), manifest).expect("the file can be written");
    fs::write(folder.join("src/lib.rs"), source).expect("the file can be written");
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).expect("the lock file can be copied");
    folder
}

/// The beginnings of the ranges of locations or edits, in order.
fn places(locations: &Value) -> Vec<Place> {
    let start = |location: &Value| {
        let start = &location["range"]["start"];
        (start["line"].as_u64().expect("a number"), start["character"].as_u64().expect("a number"))
    };
    let mut places: Vec<Place> = locations.as_array().into_iter().flatten().map(start).collect();
    places.sort_unstable();
    places
}

/// All places of a word in [`MODEL`], after its line `first`.
fn places_of(word: &str, first: usize) -> Vec<Place> {
    let is_part = |character: char| character.is_alphanumeric() || character == '_';
    let lines = MODEL.lines().enumerate().skip(first);
    let of_line = |(number, line): (usize, &str)| {
        let found = line
            .match_indices(word)
            .map(|(column, _)| column)
            .filter(|&column| !line[..column].ends_with(is_part) && !line[column + word.len()..].starts_with(is_part));
        found.map(|column| (number as u64, column as u64)).collect::<Vec<_>>()
    };
    lines.flat_map(of_line).collect()
}

/// Whether rust-analyzer is there, and the source of the standard library, without which it knows
/// no macros.
fn is_installed() -> bool {
    let printed = |program: &str, argument: &[&str]| {
        let output = Command::new(program).args(argument).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let sysroot = printed("rustc", &["--print", "sysroot"]);
    let source = |sysroot: String| Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").is_dir();
    printed("rust-analyzer", &["--version"]).is_some() && sysroot.is_some_and(source)
}

#[test]
fn names_of_values_are_known_to_editors() {
    if !is_installed() {
        // `println!` would show nothing, because the output of a test that passes is captured.
        let skipped = b"skipped: rust-analyzer and rust-src are not both installed\n";
        return std::io::stdout().write_all(skipped).expect("there is a standard output");
    }
    let mut editor = Editor::open(MODEL);
    let net = MODEL.lines().position(|line| line.contains("struct Net")).expect("the model has it") - 1;
    let mut sentences = Vec::new();
    for (word, first) in [("memory", net), ("time", net), ("skip", net), ("kl", net), ("inner", 0)] {
        let all = places_of(word, first);
        assert!(all.len() > 1, "{word}");
        for &place in &all {
            assert_eq!(editor.definition(place), [all[0]], "definition of {word} from {place:?}");
            assert_eq!(editor.references(place), all, "references of {word} from {place:?}");
            assert_eq!(editor.renamed(place), all, "places of {word} from {place:?}");
        }
        sentences.push(format!("{word}: {}\n", editor.sentence(all[1])));
    }
    // The block's own name for what it reads from outside.
    let of_block: Vec<Place> = places_of("time", 0).into_iter().filter(|(line, _)| *line < net as u64).collect();
    assert_eq!(editor.references(of_block[1]), of_block);
    sentences.push(format!("time of the block: {}\n", editor.sentence(of_block[1])));
    expect![[r#"
        memory: Lent by encode (stage 0) to decode (stage 1), last (stage 1).
        time: Lent by encode (stage 0) to decode (stage 1), block (stage 1).
        skip: Stashed by middle (stage 0), popped by last (stage 1).
        kl: Added up by code (stage 1).
        inner: Stashed by first, popped by second.
        time of the block: Lent by a layer outside of the block to second.
    "#]]
    .assert_eq(&sentences.concat());
}
