//! What a message between two processes costs.

use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use super::World;
use crate::error::Result;

/// How often a message is timed.
const ROUNDS: usize = 16;

/// The lengths of the timed messages, in bytes.
const LENGTHS: [i64; 2] = [4 << 10, 1 << 20];

/// What a message between two processes takes: `latency + bytes * seconds_per_byte`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MessagePrice {
    /// The time of a message without contents.
    pub latency: Duration,
    /// The time that each byte adds, in seconds.
    pub seconds_per_byte: f64,
}

impl MessagePrice {
    /// The time of a message of `bytes` bytes, in seconds.
    pub(crate) fn of(self, bytes: f64) -> f64 {
        self.latency.as_secs_f64() + bytes * self.seconds_per_byte
    }
}

impl World {
    /// Times messages of 4 KiB and 1 MiB between neighbouring processes of each replica: the best
    /// of 16 each. Returns the price of the slowest pair, the same on all processes; nothing, if
    /// each is alone. All processes call this together.
    ///
    /// # Errors
    ///
    /// Fails if a process is lost or gives no sign until the deadline, or if one calls something
    /// else.
    pub fn message_price(&self) -> Result<MessagePrice> {
        let is_pair = |here: &usize| !(here + 1).is_multiple_of(self.per_replica());
        let mut own: Vec<f64> = Vec::new();
        // Nobody sends before all have come here.
        let _: Vec<()> = self.exchange("World::message_price", &(), || self.check_signs())?;
        for here in (0..self.size()).filter(is_pair) {
            for length in LENGTHS {
                let best = self.time_message([here, here + 1], length)?;
                own.extend(Some(best).filter(|_| self.process() == here));
            }
        }
        let all: Vec<Vec<f64>> = self.exchange("the price of a message", &own, || self.check_signs())?;
        let [short, long] = LENGTHS.map(|length| length as f64);
        let mut price = MessagePrice::default();
        for [of_short, of_long] in all.iter().filter_map(|times| <[f64; 2]>::try_from(times.as_slice()).ok()) {
            let per_byte = match of_long > of_short {
                true => (of_long - of_short) / (long - short),
                // Other programs took part of the time of all short messages. Bytes are not free.
                false => of_long / long,
            };
            let latency = Duration::from_secs_f64((of_short - per_byte * short).max(0.));
            price.seconds_per_byte = price.seconds_per_byte.max(per_byte);
            price.latency = price.latency.max(latency);
        }
        Ok(price)
    }

    /// Half of the least time of a message from the one process to the other and back.
    fn time_message(&self, [here, there]: [usize; 2], length: i64) -> Result<f64> {
        let message = Tensor::f_zeros([length], (Kind::Uint8, Device::Cpu))?;
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            match self.process() {
                process if process == here => {
                    self.send(there, &message)?;
                    let _ = self.receive(there, vec![length], Kind::Uint8)?;
                }
                process if process == there => {
                    let _ = self.receive(here, vec![length], Kind::Uint8)?;
                    self.send(here, &message)?;
                }
                _ => {}
            }
            best = best.min(start.elapsed().as_secs_f64() / 2.);
        }
        Ok(best)
    }
}
