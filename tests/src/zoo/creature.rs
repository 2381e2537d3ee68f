//! Kinds of layers.

/// A kind of layer. Each maps `[rows, TOKENS, WIDTH]` floats to the same shape, so that layers can
/// be stacked in any order.
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
    /// Like `Spectral`, but the vector is a trainable variable that is frozen.
    SpectralFrozenVector,
    /// Batch norm, directly under the layer's path.
    BatchNorm,
    /// Two batch norms, several names below the layer's path.
    NestedBatchNorm,
    /// Subtracts a running mean that it updates first, so its output depends on its state.
    Centre,
    /// Counts its runs in an integer, on which its output depends.
    Counting,
    /// A queue of means, written row by row.
    Queue,
    /// A weight with a second one that follows it slowly.
    SlowWeight,
    /// A running mean whose memory is replaced at each update (`set_data`).
    MovedMean,
    /// A table of vectors, with dense gradients.
    DenseEmbedding,
    /// A table of vectors, with sparse gradients.
    SparseEmbedding,
    /// A table with a sparse and a dense gradient at once.
    SparseAndDense,
    /// Forces: the gradient of an energy with respect to a leaf that the layer creates. The
    /// gradient is itself differentiable.
    Forces,
    /// The squared gradient with respect to its own input, which is itself differentiable.
    SlopePenalty,
    /// Optimises a leaf that it creates, by `backward()`, and uses the result.
    InnerSteps,
    /// Takes a step on its own weight, and trains through that step.
    FastWeight,
    /// Computes with a leaf that it creates from its input.
    OwnLeaf,
    /// A frozen weight plus a trained product of low rank, for the last token.
    LowRank,
    /// A weight with columns of length one, for the last token.
    NormalisedWeight,
    /// Attention with a bias of parameters.
    BiasedAttention,
    /// Attention with a constant mask of floats.
    MaskedAttention,
    /// Pairs of numbers, rotated by a constant table of complex numbers.
    Rotary,
    /// A complex parameter, and a complex constant that is a variable but not trained.
    ComplexWeights,
    /// A mixture of four experts with a capacity. Two may get tokens. The other two get none: one
    /// runs on an empty tensor, and the other is left out.
    Experts,
    /// Adds a value that it keeps from the micro-batches before, across calls.
    Cache,
    /// Adds a value that it keeps from the micro-batches before in the same call.
    CacheOfOneCall,
    /// Norms and activations in chains, one of them changed in place: outputs that are cheap to
    /// make again.
    Chains,
    /// A weight that is used twice.
    Twice,
    /// A sum of two weights, whose gradient is one tensor for both. It is scaled by the sum of a
    /// third weight, whose gradient has one number in memory for all of its places.
    SummedWeights,
    /// A view that is changed in place.
    InPlaceView,
    /// Passes no gradient to its input.
    Cut,
    /// Returns its input.
    Identity,
    /// Dropout. It has no twin, because plain tch draws other random numbers than the pipeline.
    Dropout,
}

impl Creature {
    /// All kinds.
    pub const ALL: [Creature; 36] = [
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
        Creature::Chains,
        Creature::Twice,
        Creature::SummedWeights,
        Creature::InPlaceView,
        Creature::Cut,
        Creature::Identity,
        Creature::Dropout,
    ];

    /// Whether plain tch can compute the same numbers.
    pub fn has_twin(self) -> bool {
        self != Creature::Dropout
    }

    /// Whether each row's output is independent of other rows and of earlier runs. If it is, the
    /// whole batch can also run at once.
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

    /// Whether the layer makes choices by the values of its input. A rounding in the layers before
    /// it may then change a choice.
    pub fn chooses(self) -> bool {
        matches!(
            self,
            Creature::DenseEmbedding | Creature::SparseEmbedding | Creature::SparseAndDense | Creature::Experts
        )
    }

    /// Whether each parameter's gradient comes in one piece per micro-batch. If not, plain tch adds
    /// the pieces of one backward first, whereas the pipeline adds each to its sum. The results are
    /// equal except for rounding.
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
                | Creature::Chains
                | Creature::Twice
        )
    }
}
