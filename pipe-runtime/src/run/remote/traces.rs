//! What a trace over several processes needs: one clock, and the price of a message.

use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::Remote;
use crate::error::Result;

/// How often the clocks are compared, and messages timed.
const ROUNDS: usize = 16;

/// The lengths of the timed messages, in bytes.
const LENGTHS: [i64; 2] = [4 << 10, 1 << 20];

/// The price of a message between two processes, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct MessagePrice {
    pub(crate) latency: f64,
    pub(crate) per_byte: f64,
}

impl Remote {
    /// Compares this process's clock with that of the first process of its replica. Returns the
    /// seconds by which the other one is ahead, to about 10 µs on one machine.
    pub(crate) fn clock_offset(&self, now: impl Fn() -> f64) -> Result<f64> {
        // Where the first process has read its clock, by the clock of this one: it reads it after
        // the round before, to which this process has contributed, and before the end of this one.
        let (mut earliest, mut latest) = (f64::NEG_INFINITY, f64::INFINITY);
        let mut contributed = f64::NEG_INFINITY;
        for _ in 0..ROUNDS {
            let sent = now();
            let all: Vec<f64> = self.exchange("the clocks of a trace", &sent)?;
            let first = all[self.replica().start];
            earliest = earliest.max(first - now());
            latest = latest.min(first - contributed);
            contributed = sent;
        }
        match self.process() == self.replica().start {
            true => Ok(0.),
            false => Ok(f64::midpoint(earliest, latest)),
        }
    }

    /// Times messages between neighbouring processes of each replica. Returns the price of the
    /// slowest pair, the same on all processes.
    pub(crate) fn message_price(&self) -> Result<MessagePrice> {
        let processes = self.replica();
        let mut own = Vec::new();
        for (here, there) in processes.clone().zip(processes.skip(1)) {
            for length in LENGTHS {
                let message = Tensor::f_zeros([length], (Kind::Uint8, Device::Cpu))?;
                let mut best = f64::INFINITY;
                for _ in 0..ROUNDS {
                    let start = Instant::now();
                    match self.process() {
                        process if process == here => {
                            self.world.send(there, &message)?;
                            let _ = self.world.receive(there, vec![length], Kind::Uint8)?;
                        }
                        process if process == there => {
                            let _ = self.world.receive(here, vec![length], Kind::Uint8)?;
                            self.world.send(here, &message)?;
                        }
                        _ => {}
                    }
                    best = best.min(start.elapsed().as_secs_f64() / 2.);
                }
                if self.process() == here {
                    own.push(best);
                }
            }
        }
        let all: Vec<Vec<f64>> = self.exchange("the price of a message", &own)?;
        let [short, long] = LENGTHS.map(|length| length as f64);
        let mut price = MessagePrice::default();
        for times in all.iter().filter_map(|times| <[f64; 2]>::try_from(times.as_slice()).ok()) {
            let per_byte = ((times[1] - times[0]) / (long - short)).max(0.);
            price.per_byte = price.per_byte.max(per_byte);
            price.latency = price.latency.max((times[0] - per_byte * short).max(0.));
        }
        Ok(price)
    }
}
