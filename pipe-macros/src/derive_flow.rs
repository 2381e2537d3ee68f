//! `#[derive(Flow)]`: a struct is `Flow` if all its fields are.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Fields, Ident, Member, Path, Type, parse_quote, parse_quote_spanned};

use crate::support::depth;
use crate::support::errors::with_help;

/// Generates the impls of `Flow` and `IntoFlow`.
pub fn derive(item: TokenStream) -> TokenStream {
    match depth::parse::<DeriveInput>(item).and_then(|item| expand(&item)) {
        Ok(tokens) => tokens,
        Err(error) => error.into_compile_error(),
    }
}

fn expand(item: &DeriveInput) -> syn::Result<TokenStream> {
    let fields = fields(item)?;
    let krate = krate(item)?;
    let ident = &item.ident;
    let here = Span::mixed_site();
    let members: Vec<Member> = fields.members().collect();
    let locals: Vec<Ident> = (0..members.len()).map(|index| Ident::new(&format!("part_{index}"), here)).collect();
    let lists: Vec<Ident> = (0..members.len()).map(|index| Ident::new(&format!("list_{index}"), here)).collect();

    let mut generics = item.generics.clone();
    let where_clause = generics.make_where_clause();
    for field in fields {
        let ty = &field.ty;
        // The bound has the span of the field's type, so that rustc reports a type that is not
        // `Flow` there.
        where_clause.predicates.push(parse_quote_spanned!(Span::mixed_site().located_at(ty.span())=> #ty: __rt::Flow));
    }
    let types: Vec<&Type> = fields.iter().map(|field| &field.ty).collect();
    let mut portable = generics.clone();
    for ty in &types {
        // A bound without a lifetime or a parameter would have to hold at once.
        portable.make_where_clause().predicates.push(parse_quote!(for<'portable> #ty: __rt::Portable));
    }
    let (.., portable) = portable.split_for_impl();
    let (params, arguments, bounds) = generics.split_for_impl();
    let mut by_reference = generics.clone();
    let lifetime = syn::Lifetime::new("'shared", here);
    by_reference.params.insert(0, parse_quote!(#lifetime));
    let (reference_params, ..) = by_reference.split_for_impl();

    Ok(quote_spanned! {here=>
        const _: () = {
            use #krate::__rt;

            impl #params __rt::Portable for #ident #arguments #portable {}

            impl #params __rt::Flow for #ident #arguments #bounds {
                const PORTABLE: bool = true #(&& __rt::is_portable::<#types>())*;

                fn pack(self, packer: &mut __rt::Packer) {
                    let Self { #(#members: #locals),* } = self;
                    #(__rt::Flow::pack(#locals, packer);)*
                }

                fn unpack(unpacker: &mut __rt::Unpacker) -> Self {
                    Self { #(#members: __rt::Flow::unpack(unpacker)),* }
                }

                fn share(&self) -> Self {
                    let Self { #(#members: #locals),* } = self;
                    Self { #(#members: __rt::Flow::share(#locals)),* }
                }

                fn join(parts: ::std::vec::Vec<Self>, batch: &__rt::MiniBatch) -> __rt::Result<Self> {
                    #(let mut #lists = ::std::vec::Vec::with_capacity(parts.len());)*
                    for part in parts {
                        let Self { #(#members: #locals),* } = part;
                        #(#lists.push(#locals);)*
                    }
                    ::core::result::Result::Ok(Self { #(#members: __rt::Flow::join(#lists, batch)?),* })
                }
            }

            impl #params __rt::IntoFlow<#ident #arguments> for #ident #arguments #bounds {
                fn into_flow(self) -> Self {
                    self
                }
            }

            impl #reference_params __rt::IntoFlow<#ident #arguments> for &#lifetime #ident #arguments #bounds {
                fn into_flow(self) -> #ident #arguments {
                    __rt::Flow::share(self)
                }
            }
        };
    })
}

fn fields(item: &DeriveInput) -> syn::Result<&Fields> {
    let (keyword, what) = match &item.data {
        Data::Struct(data) => return Ok(&data.fields),
        Data::Enum(data) => (data.enum_token.span, "an enum"),
        Data::Union(data) => (data.union_token.span, "a union"),
    };
    Err(syn::Error::new(
        keyword,
        with_help(
            format!("`{}` is {what}: `Flow` can be derived for structs", item.ident),
            "make it a struct of tensors and `Option`s, or implement `Flow` by hand",
        ),
    ))
}

/// Reads the path in `#[flow(crate = path)]`; `::pipe_runtime` if there is none.
fn krate(item: &DeriveInput) -> syn::Result<Path> {
    let mut krate = parse_quote!(::pipe_runtime);
    for attribute in item.attrs.iter().filter(|attribute| attribute.path().is_ident("flow")) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("crate") {
                return Err(meta.error(with_help("unknown setting", "`#[flow(crate = path)]` is the only one")));
            }
            krate = meta.value()?.call(Path::parse_mod_style)?;
            Ok(())
        })?;
    }
    Ok(krate)
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    fn expansion(item: TokenStream) -> String {
        derive(item).to_string()
    }

    #[test]
    fn structs_of_all_forms_and_generics() {
        let items = [
            quote!(
                struct Unit;
            ),
            quote!(
                struct Tuple(Tensor, Vec<i64>);
            ),
            quote!(
                pub struct Named<T: Flow, const N: usize>
                where
                    T: Clone,
                {
                    a: T,
                    r#type: [Tensor; N],
                }
            ),
        ];
        for item in items {
            let tokens = derive(item);
            assert!(!tokens.to_string().contains("compile_error"), "{tokens}");
            syn::parse2::<syn::File>(tokens).expect("items");
        }
    }

    /// The compiler says that it is not `Flow`, and nothing else.
    #[test]
    fn a_type_that_does_not_end_before_as_is_a_bound_like_any_other() {
        let tokens = derive("struct Unsized(Tensor, dyn Send +);".parse().expect("tokens"));
        syn::parse2::<syn::File>(tokens).expect("items");
    }

    #[test]
    fn other_items_are_errors() {
        assert!(
            expansion(quote!(
                enum E {
                    A,
                }
            ))
            .contains("`E` is an enum: `Flow` can be derived for structs")
        );
        assert!(expansion(quote!(union U { a: u8 })).contains("is a union"));
        assert!(
            expansion(quote!(
                #[flow(krate = a)]
                struct S;
            ))
            .contains("unknown setting")
        );
        assert!(
            expansion(quote!(
                fn f() {}
            ))
            .contains("compile_error")
        );
    }
}
