//! The struct as it is written. `parse` and `balance_file` fill it in, and `model` takes it apart.

use proc_macro2::Ident;
use syn::{Expr, Generics, LitInt, LitStr, Member, Path, Type, Visibility};

/// The whole struct. Fields are in source order.
pub struct Declaration {
    pub ident: Ident,
    pub vis: Visibility,
    pub generics: Generics,
    pub settings: Settings,
    /// Whether a field has an attribute for devices, readable or not.
    pub has_devices: bool,
    pub fields: Vec<Field>,
    /// The stages of the balance file, if there is one.
    pub assigned: Option<Assigned>,
}

/// All settings as they are written. `check::settings` checks their values.
pub struct Settings {
    pub input: Option<Type>,
    pub output: Option<Type>,
    pub chunks: Option<Expr>,
    pub checkpoint: Option<Expr>,
    pub cheap_outputs: Option<Expr>,
    pub schedule: Option<Expr>,
    /// The balance file, which lists the stage of each layer.
    pub balance: Option<LitStr>,
    /// What a block reads from outside, and the word `read`.
    pub reads: Option<Mark<Vec<Outer>>>,
    /// Where what layers add up arrives, and the word `sum`.
    pub sums: Option<Mark<Vec<Outer>>>,
    /// The warnings in `allow(..)`.
    pub allowed: Vec<Ident>,
    /// The path of the runtime crate.
    pub krate: Path,
    /// The names of settings whose values cannot be read.
    pub unreadable: Vec<Ident>,
    /// Names that are not settings.
    pub unknown: Vec<Ident>,
}

/// One field and its attributes.
pub struct Field {
    pub ident: Ident,
    pub vis: Visibility,
    pub ty: Type,
    pub shape: Shape,
    pub marks: Marks,
}

/// How many layers a field holds.
pub enum Shape {
    Single,
    /// An array, `[L; N]`.
    Array {
        layer: Box<Type>,
        len: Box<Expr>,
    },
    /// A `Vec<L>`.
    List {
        layer: Box<Type>,
    },
    /// `Option<L>`
    Optional {
        layer: Box<Type>,
    },
}

impl Shape {
    /// The type of the layers inside an array, a `Vec` or an `Option`.
    pub fn layer(&self) -> Option<&Type> {
        match self {
            Shape::Single => None,
            Shape::Array { layer, .. } | Shape::List { layer } | Shape::Optional { layer } => Some(layer),
        }
    }

    /// Whether the field can hold several layers.
    pub fn is_repeated(&self) -> bool {
        matches!(self, Shape::Array { .. } | Shape::List { .. })
    }
}

/// All attributes of one field that belong to this crate.
#[derive(Default)]
pub struct Marks {
    pub device: Option<Mark<LitStr>>,
    pub devices: Option<Mark<Vec<Part>>>,
    /// The processes in `#[device(..)]` or `#[devices(..)]`. The word is `process`.
    pub processes: Option<Mark<Processes>>,
    pub stage: Option<Mark<()>>,
    pub repeat: Option<Mark<()>>,
    pub recompute: Option<Mark<Recomputed>>,
    pub stash: Option<Mark<Vec<Stash>>>,
    pub pop: Option<Mark<Vec<Pop>>>,
    pub lend: Option<Mark<Vec<Stash>>>,
    pub read: Option<Mark<Vec<Ident>>>,
    /// Whether `#[read(..)]` stands before `#[pop(..)]`.
    pub reads_first: bool,
    pub sum: Option<Mark<Vec<Ident>>>,
    /// Whether `#[sum(..)]` stands before `#[stash(..)]`.
    pub sums_first: bool,
    pub layer: Option<Mark<LitStr>>,
    pub not_a_layer: Option<Mark<()>>,
    /// The names of attributes that could not be read completely.
    pub unreadable: Vec<Ident>,
}

impl Marks {
    /// The names of all attributes that have a meaning only on layers.
    pub fn words_for_layers(&self) -> Vec<&Ident> {
        let Self {
            device,
            devices,
            processes: _,
            stage,
            repeat,
            recompute,
            stash,
            pop,
            lend,
            read,
            reads_first: _,
            sum,
            sums_first: _,
            layer,
            not_a_layer: _,
            unreadable: _,
        } = self;
        let words = [
            device.as_ref().map(|mark| &mark.word),
            devices.as_ref().map(|mark| &mark.word),
            stage.as_ref().map(|mark| &mark.word),
            repeat.as_ref().map(|mark| &mark.word),
            recompute.as_ref().map(|mark| &mark.word),
            stash.as_ref().map(|mark| &mark.word),
            pop.as_ref().map(|mark| &mark.word),
            lend.as_ref().map(|mark| &mark.word),
            read.as_ref().map(|mark| &mark.word),
            sum.as_ref().map(|mark| &mark.word),
            layer.as_ref().map(|mark| &mark.word),
        ];
        words.into_iter().flatten().collect()
    }

    /// Whether `#[word(..)]` could not be read completely. Then rules cannot tell what it lacks.
    pub fn is_unreadable(&self, word: &str) -> bool {
        self.unreadable.iter().any(|unreadable| unreadable == word)
    }

    /// Whether a device is given, readable or not.
    pub fn asks_for_a_device(&self) -> bool {
        let unreadable = self.is_unreadable("device") || self.is_unreadable("devices");
        self.device.is_some() || self.devices.is_some() || unreadable
    }
}

/// The value of an attribute, and its name, for the place of an error.
pub struct Mark<T> {
    pub word: Ident,
    pub value: T,
}

/// Which layers of a field the backward recomputes.
pub enum Recomputed {
    All,
    /// So many, from the first one on.
    First(LitInt),
    /// Those with these numbers, of a balance file.
    Numbers(Vec<usize>),
}

impl Recomputed {
    /// The number of layers, if it is given.
    pub fn count(&self) -> Option<&LitInt> {
        match self {
            Self::First(count) => Some(count),
            Self::All | Self::Numbers(_) => None,
        }
    }
}

/// One device of `#[devices(..)]`, with its number of layers if it has one.
pub struct Part {
    pub device: LitStr,
    pub count: Option<LitInt>,
}

impl Part {
    /// The number of layers, if it is given and readable.
    pub fn count(&self) -> Option<usize> {
        self.count.as_ref()?.base10_parse().ok()
    }
}

/// The processes of a field's devices.
pub enum Processes {
    /// `process = 1`: that of all of them.
    All(LitInt),
    /// `process = [0, 1]`: one for each.
    Each(Vec<LitInt>),
}

impl Processes {
    pub fn numbers(&self) -> &[LitInt] {
        match self {
            Self::All(number) => std::slice::from_ref(number),
            Self::Each(numbers) => numbers,
        }
    }

    /// The process of part `part`, if it is given and readable.
    pub fn of_part(&self, part: usize) -> Option<usize> {
        let number = match self {
            Self::All(number) => Some(number),
            Self::Each(numbers) => numbers.get(part),
        };
        number?.base10_parse().ok()
    }
}

/// A value that comes from outside of the struct or goes there: one name of `read(memory: Tensor)`
/// or `sum(balance: Mean)`.
pub struct Outer {
    pub name: Ident,
    pub ty: Type,
}

/// One name of `#[pop(..)]`.
pub struct Pop {
    pub name: Ident,
    /// Whether each layer of an array pops one: `level[..]`.
    pub each: bool,
}

/// One name of `#[stash(..)]` or `#[lend(..)]`.
pub struct Stash {
    pub name: Ident,
    /// Whether each layer of an array stashes one: `level[..]`.
    pub each: bool,
    pub kept: Kept,
    /// The path to a part of that value: `1` for `input.1`.
    pub part: Vec<Member>,
}

/// The value that is stashed or lent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// A value that the layer returns beside its output.
    Returned,
    Input,
    Output,
    /// The layer's weight, for layers that are tied to it.
    Tied,
}

/// The stages of a balance file. An array without layers is in no stage.
pub struct Assigned {
    /// Stage of each part of each layer, by layer and part.
    pub stages: Vec<Vec<usize>>,
    /// Device of each stage.
    pub devices: Vec<String>,
    /// Process of each stage; empty if the file has none.
    pub processes: Vec<usize>,
    /// Cost of each stage; empty if the file has none.
    pub costs: Vec<u64>,
    /// Whether the file says which layers are recomputed.
    pub recomputes: bool,
}
