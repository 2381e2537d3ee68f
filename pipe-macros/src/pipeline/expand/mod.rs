//! Generates the code of `#[pipeline]`: calls of functions of the runtime, short enough to read.
//!
//! All paths start at the runtime crate, and all local variables are `mixed_site`, so that no name
//! in the user's scope interferes.

mod body;
mod each;
mod inherent;
mod lends;
mod lengths;
mod names;
mod nesting;
mod plain;
mod plan_constant;
mod settings;
mod stages;
mod sums;
mod types;
mod unpipelined;
mod vars;
mod warnings;

use proc_macro2::{Span, TokenStream};
use quote::quote;

use crate::pipeline::balance_file;
use crate::pipeline::check;
use crate::pipeline::model::Model;
use crate::pipeline::plan::{Plan, plan};

/// Generates all items beside the struct, and the warnings about it.
pub fn expand(model: &Model) -> TokenStream {
    let plan = plan(model);
    let items = items(model, &plan, Bodies::Written);
    let warnings = warnings::uses(&check::warnings(model, &plan));
    quote!(#items #warnings)
}

/// Generates stubs for a model with errors: the same names and types without a body, so that other
/// code that uses the model causes no errors.
pub fn stubs(mut model: Model) -> TokenStream {
    // Stages own their layers, so `impl Pipeline` would cause another error here.
    model.has_devices &= model.generics.lifetimes().next().is_none();
    items(&model, &plan(&model), Bodies::Empty)
}

/// Whether bodies run the layers or are stubs.
#[derive(Clone, Copy)]
enum Bodies {
    Written,
    Empty,
}

fn items(model: &Model, plan: &Plan, bodies: Bodies) -> TokenStream {
    let vars_struct = vars::definition(model);
    let runtime = runtime(model);
    let inherent = inherent::methods(model, plan);
    let vars_impl = vars::accessors(model);
    let model_impl = unpipelined::model_impl(model);
    let plain = model.has_devices.then(|| plain::definition(model));
    let pipeline_impl = model.has_devices.then(|| stages::pipeline_impl(model, plan, bodies));
    let layer_impl = unpipelined::layer_impl(model, bodies);
    let watched = model.settings.balance.as_ref().filter(|_| matches!(bodies, Bodies::Written)).map(watched);
    let names = names::values(model, plan);
    let nesting = matches!(bodies, Bodies::Written).then(|| nesting::questions(model));
    let lengths = matches!(bodies, Bodies::Written).then(|| lengths::of_constants(model));
    quote! {
        #vars_struct
        const _: () = {
            #runtime
            #inherent
            #vars_impl
            #model_impl
            #plain
            #pipeline_impl
            #layer_impl
            #nesting
            #lengths
            #watched
        };
        #names
    }
}

/// Makes rustc compile the crate again if the balance file changes.
fn watched(file: &syn::LitStr) -> TokenStream {
    let path = balance_file::path(file).display().to_string();
    quote!(
        const _: &[u8] = ::core::include_bytes!(#path);
    )
}

/// Generates `use ::pipe_runtime::__rt;`.
fn runtime(model: &Model) -> TokenStream {
    let krate = &model.settings.krate;
    quote!(use #krate::__rt;)
}

/// The span of generated code that belongs to no layer.
fn here() -> Span {
    Span::mixed_site()
}
