//! Processes that are lost.

use std::process;
use std::thread;

use super::*;

/// Ends this process as if the machine had killed it.
fn kill() -> ! {
    let _ = Command::new("kill").args(["-KILL", &process::id().to_string()]).status();
    process::abort()
}

/// The last process is killed. The first one waits for it, the others wait for another one.
#[test]
fn a_killed_process_is_an_error_in_the_others() {
    let name = "losses::a_killed_process_is_an_error_in_the_others";
    if is_process_of(name) {
        let comm = Comm::init().unwrap();
        assert!(comm.survives_losses());
        barrier(&comm);
        let (rank, last) = (comm.rank(), comm.size() - 1);
        if rank == last {
            thread::sleep(Duration::from_millis(200));
            kill();
        }
        let from = if rank == 0 { last } else { (rank + 1) % last };
        let start = Instant::now();
        let error = comm.receive(from, 0, vec![0; 4]).unwrap().wait(soon()).unwrap_err();
        comm.revoke();
        assert!(start.elapsed() < Duration::from_millis(1200), "{:?}", start.elapsed());
        println!("the error is: {error:?}");
        let expected = if rank == 0 { CommError::Lost { rank: Some(last) } } else { CommError::Revoked };
        assert_eq!(error, expected);
        // From now on, everything fails.
        let next = comm.send((rank + 1) % last.max(2), 0, vec![1; 1 << 20]).and_then(|sending| sending.wait(soon()));
        assert!(matches!(next, Err(CommError::Revoked | CommError::Lost { .. })), "{next:?}");
        let next = comm.all_gather(vec![1]).and_then(|gathering| gathering.wait(soon()));
        assert!(matches!(next, Err(CommError::Revoked | CommError::Lost { .. })), "{next:?}");
        return println!("{DONE}");
    }
    for processes in [2, 3, 4] {
        let ended = launch(name, Ulfm, processes);
        assert_eq!(ended.output.matches("the error is: ").count(), processes - 1, "{}", ended.output);
        assert_eq!(ended.output.matches(DONE).count(), processes - 1, "{}", ended.output);
        assert!(ended.took < Duration::from_secs(10), "{:?}\n{}", ended.took, ended.output);
    }
}

/// How many kills at random moments are tried. More are for a night: `PIPE_KILLS=200`.
fn kills() -> u64 {
    env::var("PIPE_KILLS").map_or(20, |text| text.parse().expect("a number"))
}

/// A process is killed while all exchange messages, or at their end.
#[test]
fn a_process_may_be_killed_at_any_moment() {
    const MOMENT: &str = "PIPE_COMM_KILL";
    let name = "losses::a_process_may_be_killed_at_any_moment";
    if is_process_of(name) {
        let comm = Comm::init().unwrap();
        barrier(&comm);
        let moment = Duration::from_micros(env::var(MOMENT).unwrap().parse().unwrap());
        if comm.rank() == moment.subsec_micros() as usize % comm.size() {
            thread::spawn(move || {
                thread::sleep(moment);
                kill()
            });
        }
        let end = Instant::now() + Duration::from_millis(60);
        if let Err(error) = exchange_until(&comm, end) {
            comm.revoke();
            println!("the error is: {error}");
        }
        return println!("{DONE}");
    }
    for kill in 0..kills() {
        let mut command = Ulfm.command(3, LIMIT, &env::current_exe().unwrap());
        // Every second kill is at the end.
        let moment = if kill % 2 == 0 { kill * 7919 % 60_000 } else { 60_000 + kill * 797 % 12_000 };
        let ended = run(name, {
            command.env(MOMENT, moment.to_string());
            command
        });
        assert!(ended.output.matches(DONE).count() >= 2, "after {moment} µs: {}", ended.output);
        assert!(ended.took < Duration::from_secs(5), "after {moment} µs: {:?}\n{}", ended.took, ended.output);
    }
}

/// Sends to all and receives from all again and again, until the first process says that it is
/// late.
fn exchange_until(comm: &Comm, end: Instant) -> Result<(), CommError> {
    loop {
        let sending: Vec<_> = others(comm).map(|to| comm.send(to, 1, vec![1; 20_000])).collect::<Result<_, _>>()?;
        for from in others(comm) {
            comm.receive(from, 1, vec![0; 20_000])?.wait(soon())?;
        }
        for sending in sending {
            sending.wait(soon())?;
        }
        let is_late = u8::from(Instant::now() > end);
        if comm.broadcast(0, vec![is_late])?.wait(soon())? == [1] {
            return Ok(());
        }
    }
}

#[test]
fn an_operation_of_all_fails_when_one_is_lost() {
    let name = "losses::an_operation_of_all_fails_when_one_is_lost";
    if is_process_of(name) {
        let comm = Comm::init().unwrap();
        barrier(&comm);
        if comm.rank() == 1 {
            kill();
        }
        let error = comm.all_gather(vec![0; 4]).and_then(|gathering| gathering.wait(soon())).unwrap_err();
        comm.revoke();
        println!("the error is: {error:?}");
        assert!(matches!(error, CommError::Revoked | CommError::Lost { .. }), "{error}");
        return println!("{DONE}");
    }
    for processes in [2, 4] {
        let ended = launch(name, Ulfm, processes);
        assert_eq!(ended.output.matches(DONE).count(), processes - 1, "{}", ended.output);
    }
}

#[test]
fn all_processes_end_when_a_launcher_cannot_go_on() {
    let name = "losses::all_processes_end_when_a_launcher_cannot_go_on";
    if is_process_of(name) {
        let comm = Comm::init().unwrap();
        assert!(!comm.survives_losses());
        barrier(&comm);
        if comm.rank() == 1 {
            kill();
        }
        comm.revoke();
        let _ = comm.receive(1, 0, vec![0; 4]).unwrap().wait(soon());
        return;
    }
    for (mpi, processes) in [(OpenMpi, 2), (OpenMpi, 4), (Mpich, 2), (Mpich, 4)] {
        launch_to_fail(name, mpi, processes);
    }
}
