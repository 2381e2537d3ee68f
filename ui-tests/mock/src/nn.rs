//! A mock of `tch`: a tensor, parameter paths and modules.

use std::fmt::Debug;
use std::marker::PhantomData;

use crate::__rt::{Context, Layer};

#[derive(Debug)]
pub struct Tensor;

#[derive(Debug, Clone)]
pub struct Path<'a> {
    store: PhantomData<&'a ()>,
}

impl<'a> Path<'a> {
    pub fn sub(&self, name: &str) -> Path<'a> {
        self.clone()
    }
}

pub trait ModuleT: Debug + Send {
    fn forward_t(&self, x: &Tensor, train: bool) -> Tensor;
}

#[derive(Debug)]
pub struct Linear;

#[derive(Debug)]
pub struct Conv2D;

impl ModuleT for Linear {
    fn forward_t(&self, x: &Tensor, train: bool) -> Tensor {
        Tensor
    }
}

impl ModuleT for Conv2D {
    fn forward_t(&self, x: &Tensor, train: bool) -> Tensor {
        Tensor
    }
}

/// A layer that takes `(input, skip)`.
#[derive(Debug)]
pub struct Concat;

impl Layer<(Tensor, Tensor)> for Concat {
    type Out = Tensor;
    fn run(&self, input: (Tensor, Tensor), cx: &Context) -> Tensor {
        Tensor
    }
}

/// A layer that takes `(input, a, b)`, or `(input, skip, a, b)`.
#[derive(Debug)]
pub struct Reader;

impl Layer<(Tensor, Tensor, Tensor)> for Reader {
    type Out = Tensor;
    fn run(&self, input: (Tensor, Tensor, Tensor), cx: &Context) -> Tensor {
        Tensor
    }
}

impl Layer<(Tensor, Tensor, Tensor, Tensor)> for Reader {
    type Out = Tensor;
    fn run(&self, input: (Tensor, Tensor, Tensor, Tensor), cx: &Context) -> Tensor {
        Tensor
    }
}

/// A layer that returns `(output, skip)`.
#[derive(Debug)]
pub struct Split;

impl Layer<Tensor> for Split {
    type Out = (Tensor, Tensor);
    fn run(&self, input: Tensor, cx: &Context) -> (Tensor, Tensor) {
        (Tensor, Tensor)
    }
}
