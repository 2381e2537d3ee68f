//! Sums and means over replicas.
//!
//! Each large tensor is cut into as many segments as there are replicas, and each replica owns one.
//! All send their parts to the owner, which adds them in the order of the replicas and sends the
//! sum back: so it has the same bits everywhere, and each time. Segments go in blocks: while one is
//! added, the next one is on its way.

use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;
use std::sync::atomic::Ordering;

use tch::{Device, Kind, Tensor};

use super::Remote;
use super::channel::Delivered;
use super::remote_call::RemoteCall;
use super::wire::{Envelope, Message, spans};
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::model::Split;
use crate::torch::{GradMode, Variable, divide, duplicate, with_bytes};

/// What replicas do with the tensors that each of them has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// The gradients: their sum. A replica that has none counts as zeros.
    Sum,
    /// The statistics: their mean. Integers are those of the first replica.
    Mean,
}

/// The number of elements below which a tensor is not cut.
const SMALL: usize = 1 << 12;

/// The greatest number of elements of a block.
const BLOCK: usize = 1 << 20;

/// A part of a tensor, of which one replica owns the result.
#[derive(Debug)]
struct Segment {
    tensor: usize,
    range: Range<usize>,
}

/// The segments that a replica owns, of tensors with so many elements, in blocks. There is at least
/// one, which may be empty.
fn blocks(elements: &[usize], replicas: usize, owner: usize) -> Vec<Vec<Segment>> {
    let range = |tensor: usize, elements: usize| match elements < SMALL {
        true if tensor % replicas == owner => 0..elements,
        true => 0..0,
        false => Split::Evenly(replicas).range(owner, elements),
    };
    let mut blocks = vec![Vec::new()];
    let mut free = BLOCK;
    for (tensor, &elements) in elements.iter().enumerate() {
        let Range { mut start, end } = range(tensor, elements);
        while start < end {
            if free == 0 {
                blocks.push(Vec::new());
                free = BLOCK;
            }
            let length = free.min(end - start);
            let last = blocks.last_mut().expect("there is one");
            last.push(Segment { tensor, range: start..start + length });
            (start, free) = (start + length, free - length);
        }
    }
    blocks
}

/// A message of another replica.
struct Received {
    replica: usize,
    /// Which tensors it has, in its first message.
    present: Vec<bool>,
    names: u64,
    tensors: Vec<Tensor>,
}

impl RemoteCall {
    /// Combines the tensors of all replicas, for as many numbers as there are in `like`, which has
    /// tensors of the same shapes and kinds. `names` is a digest of what they are called. Returns
    /// new ones, or those of `own`, changed.
    ///
    /// # Errors
    ///
    /// Fails if a tensor is sparse, if the replicas do not have the same tensors, or if a step
    /// fails elsewhere.
    pub(crate) fn combine(
        &self,
        operation: Operation,
        own: Vec<Option<Tensor>>,
        like: &[Tensor],
        names: u64,
    ) -> Result<Vec<Option<Tensor>>> {
        let twins = self.remote.world.twins();
        let _constant = GradMode::set(false);
        let combined = Combining::new(self, operation, twins, own, like, names)?.run();
        combined.map_err(|error| match error {
            Error::Connection(_) => self.remote.lost(error),
            other => other,
        })
    }
}

impl Remote {
    /// Checks that all replicas have the same values of their variables, which `own` are.
    ///
    /// # Errors
    ///
    /// Fails on all processes if a value differs.
    pub(crate) fn check_values(&self, own: Result<Vec<Variable>>) -> Result<()> {
        let digests = own.and_then(|own| own.iter().map(|v| Ok((v.name.clone(), digest(&v.tensor)?))).collect());
        let all = self.agree("the first step of replicas", digests.as_ref())?;
        let all: &Vec<Vec<(String, u64)>> = &all;
        for (process, found) in all.iter().enumerate() {
            let expected = &all[process % self.world.per_replica()];
            if let Some((name, _)) = found.iter().zip(expected).find(|(a, b)| a != b).map(|(found, _)| found) {
                return Err(Error::Setting(format!(
                    "the replicas 0 and {} have other values of `{name}`: make them from the same seed, or load the same file",
                    process / self.world.per_replica()
                )));
            }
        }
        Ok(())
    }
}

/// A number that differs for tensors with other bits.
fn digest(tensor: &Tensor) -> Result<u64> {
    let values = duplicate(tensor)?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let mut hasher = DefaultHasher::new();
    with_bytes(&values, |bytes| hasher.write(bytes));
    Ok(hasher.finish())
}

/// What a message brings: parts for the owner, or the owner's results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Part,
    Sum,
}

/// Tensors that are being combined.
struct Combining<'c> {
    remote: &'c Remote,
    call: u64,
    operation: Operation,
    /// For each replica, the process that has the same stages as this one.
    twins: Vec<usize>,
    /// The number of this replica.
    me: usize,
    like: &'c [Tensor],
    /// A digest of what the tensors are called.
    names: u64,
    elements: Vec<usize>,
    /// The tensors, each in a row.
    flat: Vec<Option<Tensor>>,
}

impl<'c> Combining<'c> {
    fn new(
        call: &'c RemoteCall,
        operation: Operation,
        twins: Vec<usize>,
        own: Vec<Option<Tensor>>,
        like: &'c [Tensor],
        names: u64,
    ) -> Result<Self> {
        let flat = own.into_iter().zip(like).map(|(tensor, like)| {
            let Some(tensor) = tensor else { return Ok(None) };
            if tensor.is_sparse() {
                return Err(Error::Setting(
                    "a parameter has a sparse gradient, which is not summed over replicas: make its embedding with `sparse: false`".into(),
                ));
            }
            debug_assert_eq!((tensor.size(), tensor.kind()), (like.size(), like.kind()));
            Ok(Some(tensor.f_contiguous()?.f_view([-1])?))
        });
        Ok(Self {
            remote: &call.remote,
            call: call.number(),
            operation,
            me: call.remote.world.replica(),
            twins,
            like,
            names,
            elements: like.iter().map(Tensor::numel).collect(),
            flat: flat.collect::<Result<_>>()?,
        })
    }

    fn run(mut self) -> Result<Vec<Option<Tensor>>> {
        // Everyone tells everyone what it has, and gives its owner each part.
        let present: Vec<bool> = self.flat.iter().map(Option::is_some).collect();
        for owner in self.others() {
            for (number, block) in self.blocks(owner).iter().enumerate() {
                let parts: Vec<_> = block.iter().filter_map(|segment| self.part(segment)).collect();
                self.send(owner, (number, Phase::Part), if number == 0 { &present } else { &[] }, &parts)?;
            }
        }
        let mut has = vec![present; self.twins.len()];
        let mut names = vec![self.names; self.twins.len()];
        for (number, block) in self.blocks(self.me).iter().enumerate() {
            let mut parts: Vec<_> = self.twins.iter().map(|_| Vec::new().into_iter()).collect();
            for received in self.receive((number, Phase::Part), self.twins.len() - 1)? {
                if number == 0 {
                    has[received.replica] = received.present;
                    names[received.replica] = received.names;
                }
                parts[received.replica] = received.tensors.into_iter();
            }
            if number == 0 {
                self.check(&has, &names)?;
            }
            let mut sums = Vec::new();
            for segment in block {
                let own = self.part(segment);
                let of = |replica: usize| match replica == self.me {
                    true => own.as_ref().map(Tensor::shallow_clone),
                    false => has[replica][segment.tensor].then(|| parts[replica].next()).flatten(),
                };
                if let Some(total) = self.total(segment, (0..self.twins.len()).map(of))? {
                    self.write(segment, &total)?;
                    sums.push(total);
                }
            }
            for other in self.others() {
                self.send(other, (number, Phase::Sum), &[], &sums)?;
            }
        }

        let blocks: Vec<_> = (0..self.twins.len()).map(|owner| self.blocks(owner)).collect();
        for number in 0..blocks.iter().map(Vec::len).max().unwrap_or(0) {
            let senders = self.others().filter(|&owner| number < blocks[owner].len()).count();
            for received in self.receive((number, Phase::Sum), senders)? {
                // The sums take the place of the parts that were sent.
                lock(&self.remote.channel).after_sends(self.twins[received.replica])?;
                let mut sums = received.tensors.into_iter();
                for segment in &blocks[received.replica][number] {
                    if has.iter().any(|has| has[segment.tensor]) {
                        let sum = sums.next().ok_or_else(incomplete)?;
                        self.write(segment, &sum)?;
                    }
                }
            }
        }
        let shaped =
            |(flat, like): (Option<Tensor>, &Tensor)| flat.map(|flat| flat.f_view(like.size().as_slice())).transpose();
        Ok(self.flat.into_iter().zip(self.like).map(shaped).collect::<Result<_, _>>()?)
    }

    /// Combines the parts of a segment, in the order of the replicas; `None` if there are none.
    fn total(&self, segment: &Segment, parts: impl Iterator<Item = Option<Tensor>>) -> Result<Option<Tensor>> {
        let mut total: Option<Tensor> = None;
        for part in parts {
            total = match (total, part) {
                (Some(mut total), Some(part)) if self.adds(segment) => {
                    let _ = total.f_add_(&part.f_to_device(total.device())?)?;
                    Some(total)
                }
                (total, part) => total.or(part),
            };
        }
        if let Some(total) = total.as_mut().filter(|_| self.operation == Operation::Mean && self.adds(segment)) {
            divide(total, self.twins.len() as f64)?;
        }
        Ok(total)
    }

    /// Checks that the replicas combine the same tensors.
    fn check(&self, has: &[Vec<bool>], names: &[u64]) -> Result<()> {
        let differs = |other: usize| match self.operation {
            Operation::Sum => has[other].len() != has[self.me].len() || names[other] != self.names,
            Operation::Mean => has[other] != has[self.me],
        };
        match (0..self.twins.len()).find(|other| differs(*other)) {
            None => Ok(()),
            Some(other) => Err(Error::Output(format!(
                "the replicas {} and {other} differ in the variables that {}: they must be the same",
                self.me,
                match self.operation {
                    Operation::Sum => "are trained",
                    Operation::Mean => "their layers have changed",
                }
            ))),
        }
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..self.twins.len()).filter(move |replica| *replica != me)
    }

    fn blocks(&self, owner: usize) -> Vec<Vec<Segment>> {
        blocks(&self.elements, self.twins.len(), owner)
    }

    /// This replica's part of a tensor: a view of it with a version of its own, since other parts
    /// change while this one is sent.
    fn part(&self, segment: &Segment) -> Option<Tensor> {
        let Range { start, end } = segment.range;
        self.flat[segment.tensor].as_ref().map(|flat| flat.data().narrow(0, start as i64, (end - start) as i64))
    }

    /// Whether the numbers are added. Integers of statistics are not.
    fn adds(&self, segment: &Segment) -> bool {
        let kind = self.like[segment.tensor].kind();
        self.operation == Operation::Sum || matches!(kind, Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double)
    }

    /// Writes a result into this replica's tensor, which is made if there is none.
    fn write(&mut self, segment: &Segment, result: &Tensor) -> Result<()> {
        let like = &self.like[segment.tensor];
        if self.flat[segment.tensor].is_none() {
            self.flat[segment.tensor] = Some(like.f_zeros_like()?.f_contiguous()?.f_view([-1])?);
        }
        let mut part = self.part(segment).ok_or_else(incomplete)?;
        if result.size() != part.size() || result.kind() != part.kind() {
            return Err(incomplete());
        }
        // The result may be the part itself.
        if result.data_ptr() != part.data_ptr() {
            part.f_copy_(result)?;
        }
        Ok(())
    }

    fn send(&self, replica: usize, block: (usize, Phase), present: &[bool], parts: &[Tensor]) -> Result<()> {
        // The parts of a block are of neighbouring tensors, which are on one device.
        let accelerator = parts.iter().map(Tensor::device).find(|device| device.is_cuda());
        let (here, there) = (self.remote.process(), self.twins[replica]);
        let edge = accelerator.and_then(|device| self.remote.edge_between((here, device), (there, device)));
        let (edge, direct) = edge.unzip();
        let (layouts, memory) = spans(parts.iter(), direct)?;
        let message = Message::Part { round: self.round(block), present: present.to_vec(), names: self.names };
        let envelope = Envelope { call: self.call, message, layouts, edge };
        lock(&self.remote.channel).send(self.twins[replica], &envelope, memory)
    }

    /// Receives the messages of so many other replicas about a block.
    fn receive(&self, block: (usize, Phase), count: usize) -> Result<Vec<Received>> {
        let round = self.round(block);
        let wanted = |message: &Message| match message {
            Message::Part { round: of, .. } => *of == round,
            Message::Failed { .. } => true,
            _ => false,
        };
        let mut all = Vec::with_capacity(self.twins.len());
        let check = || match self.remote.heard.load(Ordering::Relaxed) == self.call + 1 {
            true => Err(Error::Elsewhere),
            false => Ok(()),
        };
        self.remote.receive(self.call, count, wanted, check, |delivered| {
            lock(&self.remote.channel).used_here(&delivered)?;
            let Delivered { from, envelope, tensors, .. } = delivered;
            let Message::Part { present, names, .. } = envelope.message else { return Err(Error::Elsewhere) };
            let replica = self.twins.iter().position(|twin| *twin == from).ok_or_else(incomplete)?;
            all.push(Received { replica, present, names, tensors });
            Ok(())
        })?;
        Ok(all)
    }

    /// The number of a block's messages. A call combines gradients and statistics.
    fn round(&self, (number, phase): (usize, Phase)) -> u64 {
        let operation = u64::from(self.operation == Operation::Mean);
        (number as u64) << 2 | operation << 1 | u64::from(phase == Phase::Sum)
    }
}

fn incomplete() -> Error {
    Error::Connection("a message of another replica does not have the tensors that belong to it".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_element_is_owned_once_and_large_tensors_evenly() {
        let elements = [0, 1, 5, SMALL - 1, SMALL, 3 * BLOCK + 2, 7];
        for replicas in 1..5 {
            let mut owned: Vec<Vec<bool>> = elements.iter().map(|&elements| vec![false; elements]).collect();
            let mut most = 0;
            for owner in 0..replicas {
                let blocks = blocks(&elements, replicas, owner);
                let length = |block: &Vec<Segment>| block.iter().map(|segment| segment.range.len()).sum::<usize>();
                assert!(blocks.iter().all(|block| length(block) <= BLOCK));
                most = most.max(blocks.iter().map(length).sum());
                for Segment { tensor, range } in blocks.into_iter().flatten() {
                    for owned in &mut owned[tensor][range] {
                        assert!(!std::mem::replace(owned, true));
                    }
                }
            }
            assert!(owned.iter().flatten().all(|owned| *owned));
            assert!(most <= (3 * BLOCK + 2).div_ceil(replicas) + 3 * SMALL);
        }
        assert_eq!(blocks(&[], 2, 1).len(), 1, "a block without segments says what there is");
    }
}
