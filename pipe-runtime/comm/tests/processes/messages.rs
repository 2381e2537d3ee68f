//! What is sent arrives.

use std::sync::Arc;

use super::*;

#[test]
fn messages_of_all_lengths_arrive() {
    in_processes("messages::messages_of_all_lengths_arrive", &ALL, |comm| {
        for (number, length) in [0, 1, 255, 4095, 4096, 65_537, 1 << 20, (8 << 20) + 3].into_iter().enumerate() {
            let expected = others(comm).map(|from| content(from, comm.rank(), number, length));
            let receive = |from| comm.receive(from, 7, vec![0; length]).unwrap();
            let receiving: Vec<_> = others(comm).map(receive).collect();
            let send = |to| comm.send(to, 7, content(comm.rank(), to, number, length)).unwrap();
            let sending: Vec<_> = others(comm).map(send).collect();
            for (receiving, expected) in receiving.into_iter().zip(expected) {
                assert!(receiving.wait(soon()).unwrap() == expected, "{length} bytes");
            }
            sending.into_iter().for_each(|sending| sending.wait(soon()).unwrap());
        }
    });
}

#[test]
fn long_messages_arrive() {
    const LENGTHS: [usize; 2] = [64 << 20, (1 << 30) + 5];
    in_processes("messages::long_messages_arrive", &[(OpenMpi, 2), (Mpich, 2)], |comm| {
        for length in LENGTHS {
            if comm.rank() == 0 {
                comm.send(1, 0, content(0, 1, 0, length)).unwrap().wait(soon()).unwrap();
            } else {
                let bytes = comm.receive(0, 0, vec![0; length]).unwrap().wait(soon()).unwrap();
                assert!(bytes == content(0, 1, 0, length), "{length} bytes");
            }
        }
    });
}

#[test]
fn all_types_of_buffers_are_sent() {
    in_processes("messages::all_types_of_buffers_are_sent", &[(OpenMpi, 2), (Mpich, 2)], |comm| {
        let other = 1 - comm.rank();
        let shared: Arc<[u8]> = vec![1; 5000].into();
        let sending = comm.send(other, 0, Arc::clone(&shared)).unwrap();
        let boxed: Box<[u8]> = vec![2; 6000].into();
        let second = comm.send(other, 0, boxed).unwrap();
        assert_eq!(comm.receive(other, 0, vec![0; 5000]).unwrap().wait(soon()).unwrap(), vec![1; 5000]);
        let boxed: Box<[u8]> = vec![0; 6000].into();
        assert_eq!(*comm.receive(other, 0, boxed).unwrap().wait(soon()).unwrap(), *vec![2; 6000]);
        sending.wait(soon()).unwrap();
        second.wait(soon()).unwrap();
        assert_eq!(Arc::strong_count(&shared), 1, "what is sent is dropped");
    });
}

#[test]
fn messages_with_one_tag_keep_their_order() {
    const COUNT: usize = 200;
    in_processes("messages::messages_with_one_tag_keep_their_order", &ALL, |comm| {
        // Lengths on both sides of the limit for early messages. The tags are received in another
        // order than they are sent.
        let length = |number: usize| if number.is_multiple_of(3) { 20_000 } else { 16 };
        let tags = [u16::MAX, 0, 5];
        let mut sending = Vec::new();
        for number in 0..COUNT {
            for (index, tag) in tags.into_iter().enumerate() {
                for to in others(comm) {
                    let bytes = content(comm.rank(), to, number * 8 + index, length(number));
                    sending.push(comm.send(to, tag, bytes).unwrap());
                }
            }
        }
        for (index, tag) in tags.into_iter().enumerate().rev() {
            for from in others(comm) {
                for number in 0..COUNT {
                    let bytes = comm.receive(from, tag, vec![0; length(number)]).unwrap().wait(soon());
                    let bytes = bytes.unwrap_or_else(|error| panic!("{number} from {from} with {tag}: {error}"));
                    assert!(bytes == content(from, comm.rank(), number * 8 + index, length(number)));
                }
            }
        }
        sending.into_iter().for_each(|sending| sending.wait(soon()).unwrap());
    });
}

#[test]
fn long_messages_cross_in_both_directions() {
    in_processes("messages::long_messages_cross_in_both_directions", &ALL, |comm| {
        // Both send first. Who waits for that alone would wait forever.
        let mut sending: Vec<_> = others(comm).map(|to| comm.send(to, 1, vec![to as u8; 8 << 20]).unwrap()).collect();
        for from in others(comm) {
            let bytes = comm.receive(from, 1, vec![9; 8 << 20]).unwrap().wait(soon()).unwrap();
            assert!(bytes.iter().all(|byte| *byte == comm.rank() as u8));
        }
        while !sending.iter_mut().all(|sending| sending.is_done().unwrap()) {}
    });
}

#[test]
fn all_gather_and_get_a_broadcast() {
    in_processes("messages::all_gather_and_get_a_broadcast", &ALL, |comm| {
        for length in [0, 1, 100, 1 << 20] {
            let gathering = comm.all_gather(vec![comm.rank() as u8; length]).unwrap();
            let broadcasting: Vec<_> = (0..comm.size())
                .map(|root| comm.broadcast(root, content(comm.rank(), 0, root, length)).unwrap())
                .collect();
            let expected: Vec<_> = (0..comm.size()).map(|rank| vec![rank as u8; length]).collect();
            assert!(gathering.wait(soon()).unwrap() == expected);
            for (root, broadcasting) in broadcasting.into_iter().enumerate() {
                assert!(broadcasting.wait(soon()).unwrap() == content(root, 0, root, length));
            }
        }
    });
}

#[test]
fn a_message_of_another_length_is_an_error() {
    in_processes("messages::a_message_of_another_length_is_an_error", &[(OpenMpi, 2), (Mpich, 2)], |comm| {
        let other = 1 - comm.rank();
        for length in [10, 30] {
            let sending = comm.send(other, 0, vec![1; length]).unwrap();
            let mut receiving = comm.receive(other, 0, vec![0; 20]).unwrap();
            let error = loop {
                match receiving.is_done() {
                    Ok(is_done) => assert!(!is_done),
                    Err(error) => break error,
                }
            };
            assert_eq!(receiving.is_done().unwrap_err(), error, "it is said again");
            match &error {
                CommError::Length { expected: 20, received: 10, .. } => assert_eq!(length, 10),
                CommError::Mpi { function: "MPI_Test", text } => assert!(text.contains("trunc"), "{text}"),
                _ => panic!("{error}"),
            }
            sending.wait(soon()).unwrap();
        }
        barrier(comm);
    });
}

#[test]
fn a_rank_of_nobody_is_an_error() {
    in_processes("messages::a_rank_of_nobody_is_an_error", &[(OpenMpi, 2)], |comm| {
        for other in [comm.rank(), 2, usize::MAX] {
            let (rank, size) = (comm.rank(), 2);
            let expected = CommError::NoSuchProcess { rank, size, other };
            assert_eq!(comm.send(other, 0, vec![]).unwrap_err(), expected);
            assert_eq!(comm.receive(other, 0, vec![]).unwrap_err(), expected);
        }
        assert!(comm.broadcast(2, vec![]).is_err());
    });
}

#[test]
fn a_deadline_ends_a_wait() {
    in_processes("messages::a_deadline_ends_a_wait", &ALL, |comm| {
        let start = Instant::now();
        let deadline = start + Duration::from_millis(200);
        let receiving = comm.receive((comm.rank() + 1) % comm.size(), 3, vec![0; 8]).unwrap();
        assert_eq!(receiving.wait(Some(deadline)).unwrap_err(), CommError::Deadline);
        let late = start.elapsed();
        assert!(late >= Duration::from_millis(200) && late < Duration::from_secs(2), "{late:?}");
        // The cancelled receive does not take the next message.
        let other = (comm.rank() + 1) % comm.size();
        barrier(comm);
        let sending = comm.send((comm.rank() + comm.size() - 1) % comm.size(), 3, vec![5; 8]).unwrap();
        assert_eq!(comm.receive(other, 3, vec![0; 8]).unwrap().wait(soon()).unwrap(), [5; 8]);
        sending.wait(soon()).unwrap();
    });
}

#[test]
fn what_is_dropped_is_sent_or_cancelled_and_then_freed() {
    in_processes("messages::what_is_dropped_is_sent_or_cancelled_and_then_freed", &ALL, |comm| {
        let alive = Arc::new(());
        let watched = |length, value| (vec![value; length], Arc::clone(&alive));
        for from in others(comm) {
            for length in [0, 100, 1 << 20] {
                drop(comm.receive(from, 1, watched(length, 0)).unwrap());
            }
        }
        barrier(comm);
        for to in others(comm) {
            drop(comm.send(to, 2, watched(4 << 20, 7)).unwrap());
            drop(comm.send(to, 2, watched(10, 8)).unwrap());
        }
        barrier(comm);
        for from in others(comm) {
            let first = comm.receive(from, 2, vec![0; 4 << 20]).unwrap().wait(soon()).unwrap();
            assert!(first.iter().all(|byte| *byte == 7));
            assert_eq!(comm.receive(from, 2, vec![0; 10]).unwrap().wait(soon()).unwrap(), [8; 10]);
        }
        drop(comm.all_gather(vec![0; 100]).unwrap());
        barrier(comm);
        let start = Instant::now();
        while Arc::strong_count(&alive) > 1 {
            barrier(comm);
            assert!(start.elapsed() < Duration::from_secs(10), "{} are not freed", Arc::strong_count(&alive) - 1);
            // All processes leave the loop in the same round.
            let left = comm.all_gather(vec![u8::from(Arc::strong_count(&alive) > 1)]).unwrap();
            if left.wait(soon()).unwrap().iter().all(|left| left[0] == 0) {
                return;
            }
        }
    });
}
