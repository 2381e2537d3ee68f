//! Saves that are interrupted: by a kill at any moment, and by a disk that is full. A process of
//! its own trains and saves; this one ends it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

use pipe_runtime::optim::AdamW;
use pipe_runtime::{Checkpoints, Devices, Trainer, pipeline};
use pipe_tests::again::{FOLDER, again, folder as own_folder};
use tch::nn::{self, Linear};
use tch::{Device, Kind, Tensor};

/// How many times each kind of save is killed. More are for a night: `PIPE_KILLS=200`.
fn kills() -> u64 {
    std::env::var("PIPE_KILLS").map_or(20, |text| text.parse().expect("a number"))
}

fn this_binary() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

/// Reads lines of the process up to the first one that is `line`.
fn wait_for(child: &mut Child, line: &str) {
    let output = BufReader::new(child.stdout.as_mut().unwrap());
    assert!(output.lines().any(|found| found.unwrap().ends_with(line)), "the process never says `{line}`");
}

const WIDTH: i64 = 512;

#[pipeline(chunks = 2)]
struct Net {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    last: Linear,
}

fn net() -> (Net, NetVars) {
    tch::manual_seed(1);
    let vars = Net::vars(&Devices::cpu(2)).unwrap();
    let first = nn::linear(vars.first(), WIDTH, WIDTH, Default::default());
    let last = nn::linear(vars.last(), WIDTH, WIDTH, Default::default());
    (Net { first, last }, vars)
}

fn trainer() -> (Trainer<Net>, Vec<Tensor>) {
    let (net, vars) = net();
    let pipe = net.pipe(&vars).build().unwrap();
    let optimizer = pipe.optimizer(AdamW::default()).build().unwrap();
    let named = vars.select("*").unwrap();
    (Trainer::new(pipe, optimizer).unwrap(), named.into_iter().map(|(_, tensor)| tensor).collect())
}

fn step(trainer: &mut Trainer<Net>) {
    let x = Tensor::full([4, WIDTH], trainer.steps() as f64 / 10. - 1., (Kind::Float, Device::Cpu));
    trainer.step(&x, &x, |output, x: &Tensor| output.mse_loss(x, tch::Reduction::Mean)).unwrap();
}

fn save_for_ever(vars: &NetVars, folder: &Path) -> ! {
    loop {
        vars.save(folder.join("model.safetensors")).unwrap();
        println!("saved");
    }
}

/// Resumes what is in the folder, and saves after each step, every second time in the background.
fn train_for_ever(folder: &Path) -> ! {
    let (mut trainer, _) = trainer();
    let mut checkpoints = Checkpoints::in_folder(folder).keep(2);
    checkpoints.resume(&mut trainer).unwrap();
    println!("resumed");
    loop {
        step(&mut trainer);
        match trainer.steps() % 2 {
            0 => checkpoints.save_in_background(&trainer).unwrap(),
            _ => {
                checkpoints.save(&trainer).unwrap();
                println!("saved");
            }
        }
    }
}

#[test]
fn a_file_is_complete_whenever_its_save_is_killed() {
    let (_net, vars) = net();
    if let Some(folder) = own_folder() {
        save_for_ever(&vars, Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    for kill in 0..kills() {
        let mut child = again(this_binary(), "a_file_is_complete_whenever_its_save_is_killed", folder.path());
        wait_for(&mut child, "saved");
        sleep(Duration::from_micros(kill * 617 % 12_000));
        child.kill().unwrap();
        child.wait().unwrap();
        vars.load(folder.path()).unwrap();
    }
}

/// Each process resumes what the one before has left. The last one's training is that of a process
/// that nobody has interrupted.
#[test]
fn a_training_that_is_killed_again_and_again_ends_as_one_that_is_not() {
    const NAME: &str = "a_training_that_is_killed_again_and_again_ends_as_one_that_is_not";
    if let Some(folder) = own_folder() {
        train_for_ever(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut steps = 0;
    for kill in 0..kills() {
        let mut child = again(this_binary(), NAME, folder.path());
        // Some are killed before they have saved anything.
        wait_for(&mut child, if kill % 2 == 0 { "resumed" } else { "saved" });
        sleep(Duration::from_micros(kill * 7919 % 60_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let (mut found, _) = trainer();
        Checkpoints::in_folder(folder.path()).resume(&mut found).unwrap();
        assert!(found.steps() >= steps, "a checkpoint was lost");
        steps = found.steps();
    }
    assert!(steps > 0, "some process has saved");

    let (mut resumed, found) = trainer();
    assert!(Checkpoints::in_folder(folder.path()).resume(&mut resumed).unwrap());
    let (mut whole, expected) = trainer();
    let last = steps + 2;
    while resumed.steps() < last {
        step(&mut resumed);
    }
    while whole.steps() < last {
        step(&mut whole);
    }
    assert!(found.iter().zip(&expected).all(|(found, expected)| found.equal(expected)));
}

/// A limit on the size of files stands for the full disk: writing fails in the middle of a file.
#[test]
fn a_full_disk_loses_nothing() {
    const NAME: &str = "a_full_disk_loses_nothing";
    let (net, vars) = net();
    if let Some(folder) = own_folder() {
        let folder = Path::new(&folder);
        let error = vars.save(folder.join("model.safetensors")).unwrap_err().to_string();
        assert!(error.ends_with("File too large (os error 27)"), "{error}");
        drop(net);
        let (mut trainer, _) = trainer();
        step(&mut trainer);
        let error = Checkpoints::in_folder(folder).keep(1).save(&trainer).unwrap_err().to_string();
        assert!(error.ends_with("`model-00001-of-00002.safetensors`: File too large (os error 27)"), "{error}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    vars.save(folder.path().join("model.safetensors")).unwrap();
    let (first, _) = trainer();
    let kept = Checkpoints::in_folder(folder.path()).save(&first).unwrap();

    let mut limited = Command::new("sh");
    let binary = std::env::current_exe().unwrap();
    // In blocks of 512 bytes. Without the trap, the limit would end the process.
    limited.args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$0\" \"$@\""]).arg(binary);
    let output = again(limited, NAME, folder.path()).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    vars.load(folder.path().join("model.safetensors")).unwrap();
    let (mut resumed, _) = trainer();
    Checkpoints::resume_from(kept, &mut resumed).unwrap();
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["model.safetensors", "step-0000000000"], "nothing half-written is left");
}

/// A real disk that is full: a small one in memory, which only a process of its own sees.
#[test]
fn a_small_disk_that_is_full_loses_nothing() {
    const NAME: &str = "a_small_disk_that_is_full_loses_nothing";
    if let Some(folder) = own_folder() {
        return fill(Path::new(&folder));
    }
    let own_mounts = ["--map-root-user", "--mount"];
    if !Command::new("unshare").args(own_mounts).arg("true").status().is_ok_and(|status| status.success()) {
        pipe_tests::skip("this user may not mount a disk for a process of its own (`unshare`)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut mounted = Command::new("unshare");
    mounted.args(own_mounts).args(["sh", "-c"]);
    mounted.arg(format!("mount -t tmpfs -o size=13m tmpfs \"${FOLDER}\" && exec \"$0\" \"$@\""));
    mounted.arg(std::env::current_exe().unwrap());
    let output = again(mounted, NAME, folder.path()).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Fills a disk of 13 MiB with a file of 2 MiB and a checkpoint of 6 MiB, so that another one does
/// not fit.
fn fill(disk: &Path) {
    let (_net, vars) = net();
    vars.save(disk.join("model.safetensors")).unwrap();
    let (mut training, _) = trainer();
    let mut checkpoints = Checkpoints::in_folder(disk).keep(1);
    let kept = checkpoints.save(&training).unwrap();
    step(&mut training);
    let is_full = |error: pipe_runtime::Error| error.to_string().ends_with("No space left on device (os error 28)");
    assert!(is_full(checkpoints.save(&training).unwrap_err()));
    checkpoints.save_in_background(&training).unwrap();
    assert!(is_full(checkpoints.finish().unwrap_err()));
    fs::write(disk.join("filler"), vec![0; 4 << 20]).unwrap();
    assert!(is_full(vars.save(disk.join("model.safetensors")).unwrap_err()));

    vars.load(disk.join("model.safetensors")).unwrap();
    let (mut resumed, _) = trainer();
    Checkpoints::resume_from(kept, &mut resumed).unwrap();
    fs::remove_file(disk.join("filler")).unwrap();
    fs::remove_file(disk.join("model.safetensors")).unwrap();
    assert_eq!(checkpoints.save(&training).unwrap(), disk.join("step-0000000001"), "there is room again");
    let names = fs::read_dir(disk).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["step-0000000001"], "nothing half-written is left");
}

/// What a kill cannot show, because the system goes on: that a file is on the disk before it gets
/// its name, and the name before the save returns.
#[test]
fn files_are_synced_then_renamed_then_the_folder_is_synced() {
    const NAME: &str = "files_are_synced_then_renamed_then_the_folder_is_synced";
    if let Some(folder) = own_folder() {
        let folder = Path::new(&folder);
        let (_net, vars) = net();
        vars.save(folder.join("model.safetensors")).unwrap();
        let (trainer, _) = trainer();
        Checkpoints::in_folder(folder).save(&trainer).unwrap();
        return;
    }
    if Command::new("strace").arg("-V").output().is_err() {
        pipe_tests::skip("strace is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("calls");
    let mut traced = Command::new("strace");
    traced.args(["-f", "-y", "-e", "trace=fsync,fdatasync,rename,renameat,renameat2", "-o"]).arg(&log);
    traced.arg(std::env::current_exe().unwrap());
    let output = again(traced, NAME, folder.path()).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let folder = folder.path().canonicalize().unwrap().display().to_string();
    let calls: Vec<_> = fs::read_to_string(&log)
        .unwrap()
        .lines()
        .filter(|line| line.contains(&folder))
        .map(|line| {
            let call = line.split_whitespace().nth(1).unwrap().split('(').next().unwrap();
            let names = line.split(&folder).skip(1).map(|rest| {
                let end = rest.find(['>', '"']).unwrap_or(rest.len());
                // A temporary name is random.
                if rest.starts_with("/.") && !rest.starts_with("/.step") { ".partial" } else { &rest[..end] }
            });
            format!(
                "{} {}",
                call.replace("renameat2", "rename").replace("renameat", "rename"),
                names.collect::<Vec<_>>().join(" -> ")
            )
        })
        .map(|call| call.trim_end().to_owned())
        .collect();
    let partial = "/.step-0000000000.partial";
    assert_eq!(
        calls,
        [
            "fsync .partial".to_owned(),
            "rename .partial -> /model.safetensors".to_owned(),
            "fsync".to_owned(),
            format!("fsync {partial}/model-00001-of-00002.safetensors"),
            format!("fsync {partial}/model-00002-of-00002.safetensors"),
            format!("fsync {partial}/model.safetensors.index.json"),
            format!("fsync {partial}/optimizer-00001-of-00002.safetensors"),
            format!("fsync {partial}/optimizer-00002-of-00002.safetensors"),
            format!("fsync {partial}/optimizer.safetensors.index.json"),
            format!("fsync {partial}/training.json"),
            format!("fsync {partial}"),
            format!("rename {partial} -> /step-0000000000"),
            "fsync".to_owned(),
        ]
    );
}

/// The calls of a save that may fail, by the names that strace has for them.
const CALLS: [&str; 5] = ["mkdir", "openat", "write", "fsync", "rename"];

/// Saves a checkpoint, trains, and saves another one, of which a call fails. Nothing is lost, and
/// the next save works.
fn save_with_a_fault(folder: &Path) {
    // strace counts each thread's calls. No other one makes as many, and fails for this one.
    for _ in 0..500 {
        fs::write("/dev/null", "nothing").unwrap();
    }
    let (mut training, _) = trainer();
    let mut checkpoints = Checkpoints::in_folder(folder).keep(1);
    checkpoints.save(&training).unwrap();
    step(&mut training);
    let saved = checkpoints.save(&training);
    let names = || {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.starts_with("step-")).collect();
        names.sort();
        names
    };
    let (mut resumed, _) = trainer();
    if let Err(error) = saved {
        println!("{error}");
        assert!(error.to_string().contains("os error 5"), "{error}");
        // Once the new checkpoint has its name, the call that failed was one of those that remove
        // the old one.
        assert!(Checkpoints::in_folder(folder).resume(&mut resumed).unwrap());
    }
    step(&mut training);
    let saved = checkpoints.save(&training).unwrap();
    assert_eq!(names(), ["step-0000000002"]);
    Checkpoints::resume_from(saved, &mut resumed).unwrap();
    assert_eq!(resumed.steps(), 2);
    let left = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(left.filter(|name| name.ends_with(".partial")).count() == 0, "nothing half-written is left");
}

/// Each call of the system that a save makes fails once, as on a disk that is broken.
#[test]
fn a_save_of_which_any_call_fails_loses_nothing() {
    const NAME: &str = "a_save_of_which_any_call_fails_loses_nothing";
    if let Some(folder) = own_folder() {
        return save_with_a_fault(Path::new(&folder));
    }
    if Command::new("strace").arg("-V").output().is_err() {
        pipe_tests::skip("strace is not installed");
        return;
    }
    // Runs it under strace, and returns the calls of the thread that saves, and its folder.
    let traced = |fault: Option<(&str, usize)>| {
        let folder = tempfile::tempdir().unwrap();
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-y", "-e", &format!("trace={}", CALLS.join(",")), "-o"]).arg(log.path());
        if let Some((call, number)) = fault {
            strace.args(["-e", &format!("inject={call}:error=EIO:when={number}")]);
        }
        strace.arg(std::env::current_exe().unwrap());
        let output = again(strace, NAME, folder.path()).wait_with_output().unwrap();
        let folder = folder.path().display().to_string();
        let text = fs::read_to_string(log.path()).unwrap();
        let saver = text.lines().find(|line| line.contains(&folder)).and_then(|line| line.split(' ').next());
        let saver = format!("{} ", saver.expect("a thread saves"));
        let calls = text.lines().filter(|line| line.starts_with(&saver)).map(str::to_owned);
        (calls.collect::<Vec<String>>(), folder, output)
    };
    let (calls, folder, output) = traced(None);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The calls from the second save's first one to the third save's, each with its number among
    // the thread's calls of its name. A save first makes the folder, if it is not there.
    let made = format!("mkdir(\"{folder}\"");
    let begins = |step: u64| {
        let named = calls.iter().position(|line| line.contains(&folder) && line.contains(&format!("step-{step:010}")));
        calls[..named.expect("a save")].iter().rposition(|line| line.contains(&made)).expect("a save")
    };
    let (begin, end) = (begins(1), begins(2));
    let name = |line: &String| CALLS.into_iter().find(|call| line.contains(&format!(" {call}(")));
    let saving: Vec<_> =
        calls.iter().enumerate().take(end).skip(begin).filter(|(_, line)| line.contains(&folder)).collect();
    // `PIPE_KILLS=300` is all of them.
    let stride = saving.len().div_ceil(kills() as usize);
    for &(place, line) in saving.iter().step_by(stride) {
        let call = name(line).expect("one of the calls");
        let number = calls[..=place].iter().filter(|line| name(line) == Some(call)).count();
        let (calls, _, output) = traced(Some((call, number)));
        let about = format!("{line}\n{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{about}{}", String::from_utf8_lossy(&output.stderr));
        assert!(calls.iter().any(|line| line.ends_with("(INJECTED)")), "it did not fail: {about}");
        // A folder that is there need not be made.
        let says_so = about.contains("os error 5") || line.contains("EEXIST");
        assert!(says_so, "the save said nothing: {about}");
    }
    println!("{} of {} calls of a save failed", saving.len().div_ceil(stride), saving.len());
}
