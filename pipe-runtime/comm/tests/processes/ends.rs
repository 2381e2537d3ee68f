//! How programs begin and end.

use std::fs;
use std::process;
use std::thread;

use super::*;

#[test]
fn a_process_without_a_launcher_is_alone_and_opens_no_library() {
    let name = "ends::a_process_without_a_launcher_is_alone_and_opens_no_library";
    if is_process_of(name) {
        let comm = Comm::init().unwrap();
        assert_eq!((comm.rank(), comm.size(), comm.library()), (0, 1, "none"));
        assert!(!fs::read_to_string("/proc/self/maps").unwrap().contains("libmpi"));
        return;
    }
    let ended = run(name, Command::new(env::current_exe().unwrap()));
    assert!(ended.status.success(), "{}", ended.output);
}

#[test]
fn the_processes_know_each_other() {
    in_processes(
        "ends::the_processes_know_each_other",
        &[(OpenMpi, 1), (OpenMpi, 3), (Mpich, 1), (Mpich, 3)],
        |comm| {
            let again = Comm::init().unwrap();
            assert_eq!((again.rank(), again.size()), (comm.rank(), comm.size()));
            let size = env::var("OMPI_COMM_WORLD_SIZE").or_else(|_| env::var("PMI_SIZE")).unwrap();
            assert_eq!(comm.size().to_string(), size);
            let library = comm.library();
            assert!(library.starts_with("Open MPI v5") || library.starts_with("MPICH Version:"), "{library}");
            let ranks = comm.all_gather(vec![comm.rank() as u8]).unwrap().wait(soon()).unwrap();
            assert_eq!(ranks, (0..comm.size()).map(|rank| [rank as u8]).collect::<Vec<_>>());
            assert!(!comm.survives_losses());
        },
    );
}

#[test]
fn exit_ends_mpi() {
    let name = "ends::exit_ends_mpi";
    if is_process_of(name) {
        barrier(&Comm::init().unwrap());
        process::exit(0);
    }
    for (mpi, processes) in ALL {
        let ended = launch(name, mpi, processes);
        assert!(ended.status.success(), "{mpi:?}: {}", ended.output);
        assert!(!ended.output.contains("finaliz"), "{mpi:?}: {}", ended.output);
        assert!(ended.took < Duration::from_secs(10), "{mpi:?}: {:?}", ended.took);
    }
}

#[test]
fn finalize_ends_all_communication_here() {
    in_processes("ends::finalize_ends_all_communication_here", &ALL, |comm| {
        let other = (comm.rank() + 1) % comm.size();
        let mut pending = comm.receive(other, 0, vec![0; 10]).unwrap();
        barrier(comm);
        comm.clone().finalize().unwrap();
        assert_eq!(pending.is_done().unwrap_err(), CommError::Ended);
        drop(pending);
        assert_eq!(comm.send(other, 0, vec![1]).unwrap_err(), CommError::Ended);
        assert_eq!(Comm::init().unwrap().all_gather(vec![]).unwrap_err(), CommError::Ended);
        comm.revoke();
        comm.clone().finalize().unwrap();
    });
}

#[test]
fn messages_that_nobody_receives_do_not_hold_up_the_end() {
    in_processes("ends::messages_that_nobody_receives_do_not_hold_up_the_end", &ALL, |comm| {
        for to in others(comm) {
            drop(comm.send(to, 1, vec![1; 100]).unwrap());
            drop(comm.send(to, 1, vec![1; 1 << 20]).unwrap());
            drop(comm.receive(to, 2, vec![1; 100]).unwrap());
        }
        barrier(comm);
    });
}

/// The others wait for a process that ends with an error.
fn one_leaves(name: &str, leave: fn()) {
    if is_process_of(name) {
        let comm = Comm::init().unwrap();
        barrier(&comm);
        if comm.rank() == comm.size() - 1 {
            thread::sleep(Duration::from_millis(100));
            return leave();
        }
        let error = comm.receive(comm.size() - 1, 0, vec![0]).unwrap().wait(soon()).unwrap_err();
        println!("the error is: {error:?}");
        assert_eq!(error, CommError::Failed { rank: comm.size() - 1 });
        return;
    }
    for (mpi, processes) in ALL {
        let ended = launch_to_fail(name, mpi, processes);
        if mpi == Ulfm {
            assert_eq!(ended.output.matches("the error is: Failed").count(), processes - 1, "{}", ended.output);
        }
    }
}

#[test]
fn a_panic_in_main_does_not_leave_the_others_waiting() {
    one_leaves("ends::a_panic_in_main_does_not_leave_the_others_waiting", || panic!("of the test"));
}

#[test]
fn an_exit_with_an_error_does_not_leave_the_others_waiting() {
    one_leaves("ends::an_exit_with_an_error_does_not_leave_the_others_waiting", || process::exit(3));
}

/// Scripts look at the launcher's exit code.
#[test]
fn an_error_of_all_processes_is_one_of_the_launcher() {
    let name = "ends::an_error_of_all_processes_is_one_of_the_launcher";
    if is_process_of(name) {
        let comm = Comm::init().unwrap();
        barrier(&comm);
        process::exit(3);
    }
    for (mpi, processes) in ALL {
        launch_to_fail(name, mpi, processes);
    }
}

/// The others go on after one has failed, for longer than it waits for them.
#[test]
fn the_others_may_go_on_after_one_has_failed() {
    let name = "ends::the_others_may_go_on_after_one_has_failed";
    if is_process_of(name) {
        let comm = Comm::init().unwrap();
        barrier(&comm);
        if comm.rank() == 0 {
            process::exit(3);
        }
        let error = comm.receive(0, 0, vec![0]).unwrap().wait(soon()).unwrap_err();
        assert_eq!(error, CommError::Failed { rank: 0 });
        thread::sleep(Duration::from_secs(4));
        return println!("{DONE}");
    }
    let ended = launch(name, Ulfm, 3);
    assert_eq!(ended.output.matches(DONE).count(), 2, "{}", ended.output);
}

#[test]
fn abort_ends_all_processes() {
    let name = "ends::abort_ends_all_processes";
    if is_process_of(name) {
        let comm = Comm::init().unwrap();
        if comm.rank() == 1 {
            comm.abort(7);
        }
        let _ = comm.receive(1, 0, vec![0]).unwrap().wait(soon());
        thread::sleep(Duration::from_secs(20));
        return;
    }
    for (mpi, processes) in ALL {
        launch_to_fail(name, mpi, processes);
    }
}

/// Each process of a library below the launcher of another one would take itself for the only one,
/// or abort.
#[test]
fn a_library_below_the_wrong_launcher_is_an_error() {
    let name = "ends::a_library_below_the_wrong_launcher_is_an_error";
    if is_process_of(name) {
        println!("the error is: {}", Comm::init().unwrap_err());
        assert_eq!(Comm::init().unwrap_err(), Comm::init().unwrap_err());
        return;
    }
    for (launcher, library, named) in [(Mpich, OpenMpi, "Open MPI v5.0.11"), (OpenMpi, Mpich, "libmpi.so.12")] {
        let mut command = launcher.command(2, LIMIT, &env::current_exe().unwrap());
        command.env("PIPE_MPI", library.home());
        let ended = run(name, command);
        assert!(ended.status.success(), "{}", ended.output);
        let errors: Vec<_> = ended.output.lines().filter(|line| line.contains("the error is: ")).collect();
        assert_eq!(errors.len(), 2, "{}", ended.output);
        assert!(errors[0].contains(named), "{errors:?}");
        assert!(errors[0].contains("start the program with the `mpiexec` that belongs to this library"), "{errors:?}");
    }
}

#[test]
fn a_missing_library_is_an_error() {
    let name = "ends::a_missing_library_is_an_error";
    if is_process_of(name) {
        let error = Comm::init().unwrap_err().to_string();
        assert!(error.contains("/nowhere/libmpi.so"), "{error}");
        assert!(error.contains("set PIPE_MPI to the folder of the MPI whose `mpiexec` starts"), "{error}");
        return;
    }
    let mut command = OpenMpi.command(2, LIMIT, &env::current_exe().unwrap());
    command.env("PIPE_MPI", "/nowhere/libmpi.so");
    let ended = run(name, command);
    assert!(ended.status.success(), "{}", ended.output);
}
