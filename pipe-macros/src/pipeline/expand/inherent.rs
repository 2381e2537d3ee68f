//! The methods and constants that the struct gains: `UNet::PLAN`, `UNet::vars(..)`, `net.pipe(..)`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};

use super::types::{static_bound, vars_ident, vars_type};
use super::{here, plan_constant};
use crate::pipeline::model::Model;
use crate::pipeline::plan::Plan;

/// The inherent `impl` of a model with devices, or of a block.
pub fn methods(model: &Model, plan: &Plan) -> TokenStream {
    let ident = &model.ident;
    let (generics, arguments, bounds) = model.generics.split_for_impl();
    let constant = plan_constant::plan_constant(model, plan);
    let of_kind = match model.has_devices {
        true => of_a_pipeline(model, plan),
        false => of_a_block(model),
    };
    quote_spanned! {on_name(model)=>
        #[allow(dead_code)]
        impl #generics #ident #arguments #bounds {
            /// Layers and device of each stage, and route of each skip. Prints as a table.
            pub const PLAN: __rt::Plan = #constant;
            #of_kind
            /// Prepares the unpipelined run: all layers on one device, one micro-batch at a time.
            pub fn unpipelined(&self) -> __rt::Unpipelined<'_, Self> {
                __rt::Unpipelined::new(self)
            }
        }
    }
}

fn of_a_pipeline(model: &Model, plan: &Plan) -> TokenStream {
    let stages = proc_macro2::Literal::usize_unsuffixed(plan.stages.len());
    let (vars_ident, vars) = (vars_ident(model), vars_type(model, None));
    let params = model.generics.type_params().map(|param| static_bound(&param.ident));
    let owned = model.generics.type_params().next().is_some().then(|| quote!(where #(#params),*));
    quote_spanned! {on_name(model)=>
        /// Number of stages.
        pub const STAGES: ::core::primitive::usize = #stages;
        /// The annotated devices, one per stage, with their processes if they are annotated.
        pub fn devices() -> __rt::Devices {
            __rt::Devices::annotated::<Self>()
        }
        /// Makes the variable stores, one per stage. Fails if a device is not on this machine.
        pub fn vars(devices: &__rt::Devices) -> __rt::Result<#vars> {
            __rt::Vars::new(&Self::PLAN, devices).map(|vars| #vars_ident { vars })
        }
        /// Prepares the pipelined run. The builder's settings override the annotations.
        pub fn pipe(self, vars: &#vars) -> __rt::PipeBuilder<'_, Self> #owned {
            __rt::PipeBuilder::new(self, vars)
        }
    }
}

fn of_a_block(model: &Model) -> TokenStream {
    let lifetime = super::vars::lifetime(model);
    let (vars_ident, vars) = (vars_ident(model), vars_type(model, Some(lifetime.clone())));
    let path = super::vars::unused_parameter(model, "Path");
    quote_spanned! {on_name(model)=>
        /// The parameter paths of the layers below `path`.
        pub fn vars_at<#lifetime, #path: ::core::borrow::Borrow<__rt::Path<#lifetime>>>(path: #path) -> #vars {
            #vars_ident { path: ::core::clone::Clone::clone(path.borrow()) }
        }
    }
}

/// rustc reports a method of the user's with the same name at both places, so this must be a place
/// in the source.
fn on_name(model: &Model) -> Span {
    here().located_at(model.ident.span())
}
