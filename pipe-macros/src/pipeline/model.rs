//! The meaning of the struct: layers, plain fields and skips, each with its place in the source.

use std::collections::HashMap;

use proc_macro2::{Ident, Span, TokenStream};
use quote::ToTokens;
use syn::spanned::Spanned;
use syn::{Expr, Generics, LitStr, Type, Visibility};

use crate::pipeline::declaration::{
    Assigned, Declaration, Field, Kept, Mark, Marks, Outer, Part, Pop, Settings, Shape, Stash,
};
use crate::pipeline::parse::{bare, whole_number};
use crate::support::names::plain;

/// The whole struct. Layers and skips are in source order.
pub struct Model {
    pub ident: Ident,
    pub vis: Visibility,
    pub generics: Generics,
    pub settings: Settings,
    /// A struct without devices is a block: it nests as one layer of another model.
    pub has_devices: bool,
    pub layers: Vec<Layer>,
    pub plain_fields: Vec<Field>,
    pub skips: Vec<Skip>,
    pub lent: Vec<Lent>,
    /// The stages of the balance file, if there is one.
    pub assigned: Option<Assigned>,
}

/// A field that is a layer or holds several.
pub struct Layer {
    pub ident: Ident,
    pub ty: Type,
    pub shape: Shape,
    pub marks: Marks,
    /// The lent values that it reads, in the order in which it takes them.
    pub reads: Vec<Read>,
}

/// A lent value that a layer reads: the name as it is written there, and the index of the value in
/// [`Model::lent`]. Indices are compared in no time, names are not: rustc holds their text.
pub struct Read {
    pub name: Ident,
    pub lent: usize,
}

/// All places that name one skip. A valid skip has one stash and one pop.
pub struct Skip {
    pub name: String,
    pub stashes: Vec<End<Kept>>,
    pub pops: Vec<End<()>>,
}

/// All places that name one lent value. A valid one is lent by one layer, or comes from outside,
/// and has at least one reader.
pub struct Lent {
    pub name: String,
    pub lends: Vec<End<Kept>>,
    pub reads: Vec<End<()>>,
}

/// One end of a skip or of a lent value: the layer, and the name as it is written there.
pub struct End<What> {
    pub layer: usize,
    pub name: Ident,
    pub what: What,
    /// Whether it is one of each layer of an array: `level[..]`.
    pub each: bool,
}

pub fn model(declaration: Declaration) -> Model {
    let Declaration { ident, vis, generics, settings, has_devices, fields, assigned } = declaration;
    let (plain_fields, layers): (Vec<_>, Vec<_>) =
        fields.into_iter().partition(|field| field.marks.not_a_layer.is_some());
    let mut layers: Vec<Layer> = layers.into_iter().map(layer).collect();
    let skips = skips(&layers);
    let lent = lent(&mut layers, settings.outer_values());
    Model { ident, vis, generics, settings, has_devices, layers, plain_fields, skips, lent, assigned }
}

fn layer(field: Field) -> Layer {
    let Field { ident, vis: _, ty, shape, marks } = field;
    Layer { ident, ty, shape, marks, reads: Vec::new() }
}

fn skips(layers: &[Layer]) -> Vec<Skip> {
    let mut skips = ByName::new(|name| Skip { name, stashes: Vec::new(), pops: Vec::new() });
    for (index, layer) in layers.iter().enumerate() {
        for pop in layer.pops() {
            let end = End { layer: index, name: pop.name.clone(), what: (), each: pop.each };
            skips.named(&pop.name).pops.push(end);
        }
        for stash in layer.stashes() {
            let end = End { layer: index, name: stash.name.clone(), what: stash.kept, each: stash.each };
            skips.named(&stash.name).stashes.push(end);
        }
    }
    skips.in_order
}

/// Sorts what is lent by its name, and tells each layer which values it reads.
fn lent(layers: &mut [Layer], outer: &[Outer]) -> Vec<Lent> {
    let mut lent = ByName::new(|name| Lent { name, lends: Vec::new(), reads: Vec::new() });
    for value in outer {
        lent.named(&value.name);
    }
    for (index, layer) in layers.iter_mut().enumerate() {
        for name in layer.marks.read.iter().flat_map(|mark| &mark.value) {
            let value = lent.index(name);
            lent.in_order[value].reads.push(End { layer: index, name: name.clone(), what: (), each: false });
            layer.reads.push(Read { name: name.clone(), lent: value });
        }
        for lend in layer.lends() {
            let end = End { layer: index, name: lend.name.clone(), what: lend.kept, each: false };
            lent.named(&lend.name).lends.push(end);
        }
    }
    lent.in_order
}

/// Items in the order of their first occurrence, with a lookup by name.
struct ByName<T> {
    new: fn(String) -> T,
    in_order: Vec<T>,
    by_name: HashMap<String, usize>,
}

impl<T> ByName<T> {
    fn new(new: fn(String) -> T) -> Self {
        Self { new, in_order: Vec::new(), by_name: HashMap::new() }
    }

    fn named(&mut self, name: &Ident) -> &mut T {
        let index = self.index(name);
        &mut self.in_order[index]
    }

    fn index(&mut self, name: &Ident) -> usize {
        let name = plain(name);
        if let Some(index) = self.by_name.get(&name) {
            return *index;
        }
        self.in_order.push((self.new)(name.clone()));
        self.by_name.insert(name, self.in_order.len() - 1);
        self.in_order.len() - 1
    }
}

/// A value that a layer takes beside its input.
pub enum Taken<'l> {
    Popped(&'l Ident),
    Read(&'l Ident),
}

impl Model {
    /// The names of the fields: layers first, then plain fields.
    pub fn field_names(&self) -> impl Iterator<Item = &Ident> {
        let layers = self.layers.iter().map(|layer| &layer.ident);
        layers.chain(self.plain_fields.iter().map(|field| &field.ident))
    }
}

impl Settings {
    /// Whether the value of a setting could not be read.
    pub fn is_unreadable(&self, name: &str) -> bool {
        self.unreadable.iter().any(|unreadable| unreadable == name)
    }

    /// The values that the block reads from outside.
    pub fn outer_values(&self) -> &[Outer] {
        self.reads.as_ref().map_or(&[], |mark| &mark.value)
    }

    /// What layers add up, in the order in which it stands beside the output.
    pub fn sums(&self) -> &[Outer] {
        self.sums.as_ref().map_or(&[], |mark| &mark.value)
    }
}

impl Layer {
    /// Name of the layer in parameter paths.
    pub fn child(&self) -> String {
        match &self.marks.layer {
            Some(name) => name.value.value(),
            None => plain(&self.ident),
        }
    }

    /// The tokens of the child's name, for the place of an error.
    pub fn child_tokens(&self) -> TokenStream {
        match &self.marks.layer {
            Some(name) => name.value.to_token_stream(),
            None => self.ident.to_token_stream(),
        }
    }

    /// The place for type errors of this layer: the name of its type.
    pub fn span(&self) -> Span {
        match bare(self.shape.layer().unwrap_or(&self.ty)) {
            Type::Path(path) => path.path.segments.last().map_or_else(|| path.span(), |last| last.ident.span()),
            ty => ty.span(),
        }
    }

    pub fn is_repeated(&self) -> bool {
        self.shape.is_repeated()
    }

    /// The length of an array and its place, if the length is a literal.
    pub fn literal_len(&self) -> Option<(usize, &Expr)> {
        match &self.shape {
            Shape::Array { len, .. } => Some((whole_number(len)?, len)),
            _ => None,
        }
    }

    pub fn pops(&self) -> &[Pop] {
        self.marks.pop.as_ref().map_or(&[], |mark| &mark.value)
    }

    pub fn stashes(&self) -> &[Stash] {
        self.marks.stash.as_ref().map_or(&[], |mark| &mark.value)
    }

    /// The values that each layer of an array stashes.
    pub fn stashes_of_each(&self) -> impl Iterator<Item = &Stash> {
        self.stashes().iter().filter(|stash| stash.each)
    }

    /// The values that each layer of an array pops.
    pub fn pops_of_each(&self) -> impl Iterator<Item = &Ident> {
        self.pops().iter().filter(|pop| pop.each).map(|pop| &pop.name)
    }

    pub fn lends(&self) -> &[Stash] {
        self.marks.lend.as_ref().map_or(&[], |mark| &mark.value)
    }

    /// What the layer adds to.
    pub fn sums(&self) -> &[Ident] {
        self.marks.sum.as_ref().map_or(&[], |mark| &mark.value)
    }

    /// What the layer takes beside its input, in the order in which it takes them.
    pub fn taken(&self) -> Vec<Taken<'_>> {
        let popped = self.pops().iter().map(|pop| Taken::Popped(&pop.name));
        let read = self.reads.iter().map(|read| Taken::Read(&read.name));
        if self.marks.reads_first { read.chain(popped).collect() } else { popped.chain(read).collect() }
    }

    /// The parts over which repeated layers are spread; empty if they run as one layer.
    pub fn parts(&self) -> &[Part] {
        self.marks.devices.as_ref().map_or(&[], |mark| &mark.value)
    }

    /// The device of the stage that this field opens, or of the first one.
    pub fn first_device(&self) -> Option<&LitStr> {
        let single = self.marks.device.as_ref().map(|Mark { value, .. }| value);
        single.or_else(|| self.parts().first().map(|part| &part.device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::model;

    #[test]
    fn plain_fields_are_kept_apart_from_layers() {
        let model = model("struct M { #[not_a_layer] a: u8, b: B, #[not_a_layer] c: u8, d: D }");
        let names: Vec<String> = model.field_names().map(ToString::to_string).collect();
        assert_eq!(names, ["b", "d", "a", "c"]);
    }

    #[test]
    fn a_skip_knows_the_layers_at_both_ends() {
        let model = model("struct M { #[stash(s = input)] a: A, b: B, #[pop(s)] c: C }");
        let [skip] = model.skips.as_slice() else { panic!("one skip") };
        assert_eq!((skip.stashes[0].layer, skip.stashes[0].what, skip.pops[0].layer), (0, Kept::Input, 2));
    }

    #[test]
    fn a_child_is_named_as_its_field_unless_it_says_otherwise() {
        let model = model("struct M { r#match: A, #[layer(name = \"down\")] b: B }");
        let children: Vec<String> = model.layers.iter().map(Layer::child).collect();
        assert_eq!(children, ["match", "down"]);
    }
}
