//! Writes what `#[pipeline]` generates. Plain calls of run-time functions, short enough to read.
//!
//! All paths start at the runtime crate, and all locals are `mixed_site`, so nothing that the user
//! has in scope gets in the way.

mod body;
mod in_place;
mod inherent;
mod plain;
mod plan;
mod settings;
mod stages;
mod stubs;
mod types;
mod vars;

pub use stubs::stubs;

use proc_macro2::{Span, TokenStream};
use quote::quote;

use crate::model::Model;
use crate::plan::Plan;

/// All items beside the struct.
pub fn expand(model: &Model, plan: &Plan) -> TokenStream {
    let in_place_plan = crate::plan::in_place(model);
    let vars_struct = vars::definition(model);
    let runtime = runtime(model);
    let inherent = inherent::methods(model, plan);
    let vars_impl = vars::accessors(model, plan);
    let model_impl = in_place::model_impl(model);
    let layer_impl = in_place::layer_impl(model, &in_place_plan);
    let staged = model.has_devices().then(|| {
        let plain = plain::definition(model);
        let pipeline = stages::pipeline_impl(model, plan);
        quote!(#plain #pipeline)
    });
    quote! {
        #vars_struct
        const _: () = {
            #runtime
            #inherent
            #vars_impl
            #model_impl
            #staged
            #layer_impl
        };
    }
}

/// `use ::pipe_runtime::__rt;`
fn runtime(model: &Model) -> TokenStream {
    let krate = &model.settings.krate;
    quote!(use #krate::__rt;)
}

/// Where generated code that belongs to no layer stands.
fn here() -> Span {
    Span::mixed_site()
}
