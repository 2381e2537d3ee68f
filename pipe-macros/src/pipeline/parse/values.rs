//! The meaning of the values of settings.

use pipe_schedule::{CheapOutputs, Checkpoint, ScheduleKind};
use proc_macro2::Ident;
use syn::{Expr, ExprLit, Lit};

/// The checkpoint mode that a value names by a word.
pub fn checkpoint(value: &Expr) -> Option<Checkpoint> {
    word(value)?.to_string().parse().ok()
}

/// What a value says of cheap outputs, by a word.
pub fn cheap_outputs(value: &Expr) -> Option<CheapOutputs> {
    word(value)?.to_string().parse().ok()
}

/// The schedule that a value names. All names are words, except `1f1b`, which is in quotes.
pub fn schedule_kind(value: &Expr) -> Option<ScheduleKind> {
    match quoted(value) {
        Some(text) => text.parse().ok().filter(|&kind| kind == ScheduleKind::OneFOneB),
        None => word(value)?.to_string().parse().ok(),
    }
}

/// Word that a value consists of, such as `never` in `checkpoint = never`.
pub fn word(value: &Expr) -> Option<&Ident> {
    match value {
        Expr::Path(path) => path.path.get_ident(),
        Expr::Group(group) => word(&group.expr),
        _ => None,
    }
}

/// Text of a string literal.
pub fn quoted(value: &Expr) -> Option<String> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
        Expr::Group(group) => quoted(&group.expr),
        _ => None,
    }
}

/// The number, if the value is a literal.
pub fn whole_number(value: &Expr) -> Option<usize> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) => number.base10_parse().ok(),
        Expr::Group(group) => whole_number(&group.expr),
        _ => None,
    }
}
