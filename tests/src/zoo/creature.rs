//! The kinds of layers.

/// A kind of layer that maps `[rows, TOKENS, WIDTH]` floats to the same shape, so that all of them
/// stack in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Creature {
    /// A linear map and `tanh`.
    Mix,
    /// An LSTM over the tokens.
    Lstm,
    /// A GRU over the tokens.
    Gru,
    /// A weight divided by its largest singular value. The power iteration's vector is state.
    Spectral,
    /// As `Spectral`, but the vector is a trainable variable that was frozen.
    SpectralFrozenVector,
    /// Batch norm, directly under the layer's path.
    BatchNorm,
    /// Two batch norms, several names below the layer's path.
    NestedBatchNorm,
    /// Takes a running mean away that it updates first: its output depends on its state.
    Centre,
    /// Its output depends on how often it has run: an integer.
    Counting,
    /// A queue of means, written row by row.
    Queue,
    /// A weight that follows another one slowly.
    SlowWeight,
    /// A running mean that gets other memory each time (`set_data`).
    MovedMean,
    /// A table of vectors, with dense gradients.
    DenseEmbedding,
    /// A table of vectors, with sparse gradients.
    SparseEmbedding,
    /// A table with a sparse and a dense gradient at once.
    SparseAndDense,
    /// Forces: the gradient of an energy for a leaf that the layer makes, itself differentiable.
    Forces,
    /// The square of the slope for its own input, itself differentiable.
    SlopePenalty,
    /// Optimises a leaf of its own by `backward()`, and uses what it has found.
    InnerSteps,
    /// Takes a step on its own weight, and trains through that step.
    FastWeight,
    /// Goes on from a leaf that it makes of its input.
    OwnLeaf,
    /// A frozen weight plus a trained product of low rank, on the last token.
    LowRank,
    /// A weight with columns of length one, on the last token.
    NormalisedWeight,
    /// Attention with a bias made of parameters.
    BiasedAttention,
    /// Attention with a constant mask of floats.
    MaskedAttention,
    /// Pairs of numbers turned by a constant table of complex numbers.
    Rotary,
    /// A complex constant among the variables that are not trained, and a complex parameter.
    ComplexWeights,
    /// A mixture of experts with a capacity. One gets no token and is run on none, one gets no
    /// token and is left out; the others may get none.
    Experts,
    /// Adds what it keeps of the micro-batches before, also over calls.
    Cache,
    /// Adds what it keeps of the micro-batches before, from each call's first one on.
    CacheOfOneCall,
    /// A weight that is used twice.
    Twice,
    /// A view that is changed in place.
    InPlaceView,
    /// Lets no gradient through to its input.
    Cut,
    /// Gives what it takes.
    Identity,
    /// Dropout. It has no twin: its random numbers are the pipeline's own.
    Dropout,
}

impl Creature {
    /// All of them.
    pub const ALL: [Creature; 34] = [
        Creature::Mix,
        Creature::Lstm,
        Creature::Gru,
        Creature::Spectral,
        Creature::SpectralFrozenVector,
        Creature::BatchNorm,
        Creature::NestedBatchNorm,
        Creature::Centre,
        Creature::Counting,
        Creature::Queue,
        Creature::SlowWeight,
        Creature::MovedMean,
        Creature::DenseEmbedding,
        Creature::SparseEmbedding,
        Creature::SparseAndDense,
        Creature::Forces,
        Creature::SlopePenalty,
        Creature::InnerSteps,
        Creature::FastWeight,
        Creature::OwnLeaf,
        Creature::LowRank,
        Creature::NormalisedWeight,
        Creature::BiasedAttention,
        Creature::MaskedAttention,
        Creature::Rotary,
        Creature::ComplexWeights,
        Creature::Experts,
        Creature::Cache,
        Creature::CacheOfOneCall,
        Creature::Twice,
        Creature::InPlaceView,
        Creature::Cut,
        Creature::Identity,
        Creature::Dropout,
    ];

    /// Whether plain tch can give the same numbers.
    pub fn has_twin(self) -> bool {
        self != Creature::Dropout
    }

    /// Whether what a row becomes depends on no other row and on nothing that was before. Then the
    /// whole batch at once is right too.
    pub fn rows_are_independent(self) -> bool {
        !matches!(
            self,
            Creature::Spectral
                | Creature::SpectralFrozenVector
                | Creature::BatchNorm
                | Creature::NestedBatchNorm
                | Creature::Centre
                | Creature::Counting
                | Creature::Queue
                | Creature::SlowWeight
                | Creature::MovedMean
                | Creature::FastWeight
                | Creature::Experts
                | Creature::Cache
                | Creature::CacheOfOneCall
                | Creature::Dropout
        )
    }

    /// Whether it chooses by the values of its input. A rounding in the layers before may then
    /// change the choice.
    pub fn chooses(self) -> bool {
        matches!(
            self,
            Creature::DenseEmbedding | Creature::SparseEmbedding | Creature::SparseAndDense | Creature::Experts
        )
    }

    /// Whether each parameter's gradient comes in one piece per micro-batch. If not, plain tch
    /// adds the pieces of one backward first, and the pipeline adds each to its sum: equal, but
    /// for rounding.
    pub fn uses_parameters_once(self) -> bool {
        !matches!(
            self,
            Creature::Lstm
                | Creature::Gru
                | Creature::Spectral
                | Creature::SpectralFrozenVector
                | Creature::SparseAndDense
                | Creature::Forces
                | Creature::SlopePenalty
                | Creature::FastWeight
                | Creature::NormalisedWeight
                | Creature::Twice
        )
    }
}
