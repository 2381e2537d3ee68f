//! Threads use one `Comm` at the same time.

use std::thread;

use super::*;

#[test]
fn two_threads_exchange_messages_at_once() {
    in_processes("threads::two_threads_exchange_messages_at_once", &ALL, |comm| {
        let rounds = |tag: u16| {
            for number in 0..100 {
                let length = if number % 10 == 0 { 1 << 18 } else { 64 };
                let sending: Vec<_> = others(comm)
                    .map(|to| {
                        comm.send(to, tag, content(comm.rank(), to, number << 16 | usize::from(tag), length)).unwrap()
                    })
                    .collect();
                for from in others(comm) {
                    let bytes = comm.receive(from, tag, vec![0; length]).unwrap().wait(soon()).unwrap();
                    assert!(bytes == content(from, comm.rank(), number << 16 | usize::from(tag), length));
                }
                sending.into_iter().for_each(|sending| sending.wait(soon()).unwrap());
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| rounds(1));
            scope.spawn(|| rounds(2));
        });
    });
}
