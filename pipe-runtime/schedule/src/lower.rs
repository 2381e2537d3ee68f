//! Turns lists of actions into lists with messages.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;

use crate::list::{Action, ActionKind, Schedule};

/// A value or a gradient of one micro-batch that one stage sends to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Message {
    /// The stage that sends it.
    pub from: usize,
    /// The stage that receives it: a later one for a value, an earlier one for a gradient.
    pub to: usize,
    /// The index of the skip in the list of skips; `None` for the main flow between neighbours.
    pub skip: Option<usize>,
    /// The micro-batch.
    pub micro_batch: usize,
}

impl Message {
    /// Whether it is a gradient.
    pub fn is_gradient(self) -> bool {
        self.to < self.from
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (self.skip.is_some(), self.is_gradient()) {
            (false, false) => "the output",
            (false, true) => "the gradient",
            (true, false) => "the skip",
            (true, true) => "the skip's gradient",
        };
        write!(f, "{what} of micro-batch {} from stage {} to stage {}", self.micro_batch, self.from, self.to)
    }
}

/// One entry of a rank's list of actions and messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Runs an action, once its inputs have arrived.
    Run(Action),
    /// Posts a send. No action waits for it.
    Send(Message),
    /// Posts a receive.
    Receive(Message),
}

/// A schedule's lists with messages. Made by [`Schedule::lower`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Lowered {
    /// The entries of each rank's list, in order.
    pub ranks: Vec<Vec<Op>>,
    /// The rank of each stage that occurs in the lists.
    pub rank_of: BTreeMap<usize, usize>,
    /// The skips, as pairs of the stage that stashes and the stage that pops.
    pub skips: Vec<(usize, usize)>,
    /// The number of stages.
    pub stages: usize,
}

impl Schedule {
    /// Adds sends and receives to the lists. `skips` are pairs of stages: the stage that stashes
    /// and the later one that pops.
    ///
    /// * The results of an action are sent right after it: first what the neighbour waits for, then
    ///   the skips.
    /// * A receive is posted right before the action that needs it, after the receives for
    ///   everything that the same sender sends earlier. Between two ranks, everything arrives in
    ///   the order in which it was sent.
    /// * Before the lower of two ranks sends a message, it posts the receives for everything that
    ///   the other rank sends before it receives that message. So both ranks post their messages to
    ///   each other in the same order.
    /// * No action waits for a send. Values between two stages of one rank are not messages.
    pub fn lower(&self, skips: &[(usize, usize)]) -> Lowered {
        let mut lowered = Lowered {
            ranks: vec![Vec::new(); self.ranks.len()],
            rank_of: BTreeMap::new(),
            skips: skips.to_vec(),
            stages: self.stages,
        };
        for (rank, list) in self.ranks.iter().enumerate() {
            list.iter().for_each(|action| _ = lowered.rank_of.entry(action.stage).or_insert(rank));
        }
        // Each channel (from one rank to another) in the order in which it is filled.
        let mut channels: HashMap<(usize, usize), VecDeque<Message>> = HashMap::new();
        for (rank, list) in self.ranks.iter().enumerate() {
            for message in list.iter().flat_map(|&action| lowered.made(action)) {
                channels.entry((rank, lowered.rank_of[&message.to])).or_default().push_back(message);
            }
        }
        // From the last rank to the first, because the receives of lower ranks depend on the order
        // of higher ones.
        let mut leads: HashMap<(usize, usize), HashMap<Message, usize>> = HashMap::new();
        for rank in (0..self.ranks.len()).rev() {
            let ops = lowered.rank(rank, &self.ranks[rank], &channels, &leads);
            // For each lower peer, the number of messages that are sent to it before each of its
            // messages is received.
            let mut sent: HashMap<usize, usize> = HashMap::new();
            for op in &ops {
                match op {
                    Op::Send(message) => *sent.entry(lowered.rank_of[&message.to]).or_default() += 1,
                    Op::Receive(message) => {
                        if let Some(&peer) = lowered.rank_of.get(&message.from).filter(|&&peer| peer < rank) {
                            let before = sent.get(&peer).copied().unwrap_or(0);
                            leads.entry((peer, rank)).or_default().entry(*message).or_insert(before);
                        }
                    }
                    Op::Run(_) => {}
                }
            }
            lowered.ranks[rank] = ops;
        }
        lowered
    }
}

impl Lowered {
    fn rank(
        &self,
        rank: usize,
        list: &[Action],
        channels: &HashMap<(usize, usize), VecDeque<Message>>,
        leads: &HashMap<(usize, usize), HashMap<Message, usize>>,
    ) -> Vec<Op> {
        let mut incoming: HashMap<usize, VecDeque<Message>> = HashMap::new();
        for (&(from, to), messages) in channels {
            if to == rank {
                incoming.insert(from, messages.clone());
            }
        }
        let mut received: HashMap<usize, usize> = HashMap::new();
        let mut posted = HashSet::new();
        let mut ops = Vec::new();
        for &action in list {
            for message in self.needed(action) {
                if posted.contains(&message) {
                    continue;
                }
                let from = self.rank_of[&message.from];
                let waiting = incoming.entry(from).or_default();
                match waiting.iter().position(|&other| other == message) {
                    Some(position) => {
                        *received.entry(from).or_default() += position + 1;
                        post(&mut ops, &mut posted, waiting.drain(..=position));
                    }
                    // The message is never sent; `check` reports that.
                    None => post(&mut ops, &mut posted, [message]),
                }
            }
            ops.push(Op::Run(action));
            for message in self.made(action) {
                let to = self.rank_of[&message.to];
                let lead = leads.get(&(rank, to)).and_then(|lead| lead.get(&message)).copied().unwrap_or(0);
                let received = received.entry(to).or_default();
                if let (Some(waiting), true) = (incoming.get_mut(&to), lead > *received) {
                    let pending = (lead - *received).min(waiting.len());
                    *received += pending;
                    post(&mut ops, &mut posted, waiting.drain(..pending));
                }
                ops.push(Op::Send(message));
            }
        }
        ops
    }

    /// The messages that the action needs from other ranks.
    fn needed(&self, action: Action) -> Vec<Message> {
        let Action { kind, stage, micro_batch } = action;
        let message = |from, skip| Message { from, to: stage, skip, micro_batch };
        let mut messages = Vec::new();
        match kind {
            ActionKind::Forward => {
                messages.extend(stage.checked_sub(1).map(|before| message(before, None)));
                let ending = self.skips.iter().enumerate().filter(|(_, (_, to))| *to == stage);
                messages.extend(ending.map(|(skip, &(from, _))| message(from, Some(skip))));
            }
            ActionKind::Backward | ActionKind::BackwardInput => {
                messages.extend(next_stage(stage, self.stages).map(|next| message(next, None)));
                let starting = self.skips.iter().enumerate().filter(|(_, (from, _))| *from == stage);
                messages.extend(starting.map(|(skip, &(_, to))| message(to, Some(skip))));
            }
            ActionKind::Recompute | ActionKind::BackwardWeight => {}
        }
        messages.retain(|message| self.crosses(message));
        messages
    }

    /// The messages that other ranks need from the action.
    fn made(&self, action: Action) -> Vec<Message> {
        let Action { kind, stage, micro_batch } = action;
        let message = |to, skip| Message { from: stage, to, skip, micro_batch };
        let mut messages = Vec::new();
        match kind {
            ActionKind::Forward => {
                messages.extend(next_stage(stage, self.stages).map(|next| message(next, None)));
                let starting = self.skips.iter().enumerate().filter(|(_, (from, _))| *from == stage);
                messages.extend(starting.map(|(skip, &(_, to))| message(to, Some(skip))));
            }
            ActionKind::Backward | ActionKind::BackwardInput => {
                messages.extend(stage.checked_sub(1).map(|before| message(before, None)));
                let ending = self.skips.iter().enumerate().filter(|(_, (_, to))| *to == stage);
                messages.extend(ending.map(|(skip, &(from, _))| message(from, Some(skip))));
            }
            ActionKind::Recompute | ActionKind::BackwardWeight => {}
        }
        messages.retain(|message| self.crosses(message));
        messages
    }

    fn crosses(&self, message: &Message) -> bool {
        let ranks = (self.rank_of.get(&message.from), self.rank_of.get(&message.to));
        matches!(ranks, (Some(from), Some(to)) if from != to)
    }
}

fn post(ops: &mut Vec<Op>, posted: &mut HashSet<Message>, messages: impl IntoIterator<Item = Message>) {
    for message in messages {
        posted.insert(message);
        ops.push(Op::Receive(message));
    }
}

/// How messages are transported. Neither way buffers: a message moves once both its send and its
/// receive are posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// One ordered channel per directed pair of ranks: the first receive takes the first send (as
    /// in MPI with one tag).
    Rendezvous,
    /// One ordered channel per pair of ranks, for both directions: an operation waits for those
    /// posted before it (as in an NCCL communicator).
    InOrder,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Rendezvous => "over a rendezvous transport",
            Transport::InOrder => "over an in-order transport",
        })
    }
}

/// A fault in the messages of a lowered schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageFault {
    /// A message is sent twice.
    #[error("{message} is sent twice by rank {rank}")]
    SentTwice {
        /// The message.
        message: Message,
        /// The rank that sends it.
        rank: usize,
    },
    /// A message that an action waits for is never sent.
    #[error("{message} is never sent, and rank {rank} waits for it")]
    NeverSent {
        /// The message.
        message: Message,
        /// The rank that waits.
        rank: usize,
    },
    /// A message is received twice.
    #[error("{message} is received twice by rank {rank}")]
    ReceivedTwice {
        /// The message.
        message: Message,
        /// The rank that receives it.
        rank: usize,
    },
    /// A message is sent and never received.
    #[error("{message} is sent by rank {rank} and never received")]
    NeverReceived {
        /// The message.
        message: Message,
        /// The rank that sends it.
        rank: usize,
    },
    /// An action runs before a message that it needs is received.
    #[error("`{action}` on rank {rank} runs before {message} is received")]
    Unreceived {
        /// The action.
        action: Action,
        /// The rank of the action.
        rank: usize,
        /// The message that it needs.
        message: Message,
    },
    /// The two ends of a channel do not agree on the order.
    #[error("between rank {rank} and rank {peer}, one posts {here} where the other posts {there}")]
    OutOfOrder {
        /// The rank at one end.
        rank: usize,
        /// The rank at the other end.
        peer: usize,
        /// What the first rank posts.
        here: Message,
        /// What the other rank posts at the same position.
        there: Message,
    },
    /// A rank waits for ever.
    #[error("rank {rank} waits for ever to run `{action}`")]
    Deadlock {
        /// The rank.
        rank: usize,
        /// The action that it waits to run.
        action: Action,
    },
}

/// An operation: whether it is a send, and its message.
type Post = (bool, Message);

impl Lowered {
    /// Checks that every message is sent once and received once, before the action that needs it,
    /// and that everything finishes on `transport`.
    ///
    /// # Errors
    ///
    /// Fails with the faults that were found. The lists are run on `transport` only if every
    /// message is sent once and received once.
    pub fn check(&self, transport: Transport) -> Result<(), Vec<MessageFault>> {
        let mut faults = self.unmatched();
        if faults.is_empty() {
            faults = self.play(transport);
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn unmatched(&self) -> Vec<MessageFault> {
        let mut faults = Vec::new();
        let (mut sent, mut received) = (BTreeMap::new(), BTreeMap::new());
        for (rank, list) in self.ranks.iter().enumerate() {
            for &op in list {
                match op {
                    Op::Send(message) if sent.insert(message, rank).is_some() => {
                        faults.push(MessageFault::SentTwice { message, rank });
                    }
                    Op::Receive(message) if received.insert(message, rank).is_some() => {
                        faults.push(MessageFault::ReceivedTwice { message, rank });
                    }
                    Op::Run(action) => {
                        let missing =
                            self.needed(action).into_iter().filter(|needed| received.get(needed) != Some(&rank));
                        faults.extend(missing.map(|message| MessageFault::Unreceived { action, rank, message }));
                    }
                    _ => {}
                }
            }
        }
        let never_sent = received.iter().filter(|(message, _)| !sent.contains_key(message));
        faults.extend(never_sent.map(|(&message, &rank)| MessageFault::NeverSent { message, rank }));
        let never_received = sent.iter().filter(|(message, _)| !received.contains_key(message));
        faults.extend(never_received.map(|(&message, &rank)| MessageFault::NeverReceived { message, rank }));
        faults
    }

    /// Runs the lists. A rank waits only at an action, for the messages that the action needs.
    fn play(&self, transport: Transport) -> Vec<MessageFault> {
        let mut next = vec![0; self.ranks.len()];
        // For each channel, the operations that one end has posted and the other has not.
        let mut channels: HashMap<(usize, usize), [VecDeque<Post>; 2]> = HashMap::new();
        let mut arrived = HashSet::new();
        let mut ready: Vec<usize> = (0..self.ranks.len()).rev().collect();
        let mut faults = Vec::new();
        while let Some(rank) = ready.pop() {
            while let Some(&op) = self.ranks[rank].get(next[rank]) {
                let (sends, message, peer) = match op {
                    Op::Run(action) => {
                        if self.needed(action).iter().any(|needed| !arrived.contains(needed)) {
                            break;
                        }
                        next[rank] += 1;
                        continue;
                    }
                    Op::Send(message) => (true, message, self.rank_of.get(&message.to)),
                    Op::Receive(message) => (false, message, self.rank_of.get(&message.from)),
                };
                next[rank] += 1;
                // Every message has two ends; otherwise there was a fault before.
                let Some(&peer) = peer else { continue };
                let (key, end) = match transport {
                    Transport::Rendezvous if sends => ((rank, peer), 0),
                    Transport::Rendezvous => ((peer, rank), 1),
                    Transport::InOrder => ((rank.min(peer), rank.max(peer)), usize::from(rank > peer)),
                };
                let channel = channels.entry(key).or_default();
                channel[end].push_back((sends, message));
                while let (Some(&(sends, here)), Some(&(other_sends, there))) = (channel[0].front(), channel[1].front())
                {
                    if here != there || sends == other_sends {
                        faults.push(MessageFault::OutOfOrder { rank: key.0, peer: key.1, here, there });
                        return faults;
                    }
                    channel.iter_mut().for_each(|end| _ = end.pop_front());
                    arrived.insert(here);
                    ready.push(peer);
                }
            }
        }
        for (rank, list) in self.ranks.iter().enumerate() {
            if let Some(&Op::Run(action)) = list.get(next[rank]) {
                faults.push(MessageFault::Deadlock { rank, action });
            }
        }
        faults
    }
}

/// Prints one line per rank, such as `0F0 >1.0 <1.0 0B0`. There, `>1.0` sends to stage 1 for
/// micro-batch 0, and `<1.0` receives from stage 1 for micro-batch 0.
impl fmt::Display for Lowered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (rank, list) in self.ranks.iter().enumerate() {
            write!(f, "rank {rank} ")?;
            for op in list {
                match op {
                    Op::Run(action) => write!(f, " {action}")?,
                    Op::Send(message) => write!(f, " >{}.{}", message.to, message.micro_batch)?,
                    Op::Receive(message) => write!(f, " <{}.{}", message.from, message.micro_batch)?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// The stage after `stage`, if there is one.
fn next_stage(stage: usize, stages: usize) -> Option<usize> {
    stage.checked_add(1).filter(|&next| next < stages)
}
