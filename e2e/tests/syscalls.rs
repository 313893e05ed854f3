//! Syscalls per frame of each worker under load in copy mode, counted by the kernel (strace) and by the worker itself.

mod common;

use std::process::Command;

use common::{A, B, Line, PATIENCE, RELAY};
use florelay_e2e::{Deadline, Job, LinkPlan, Process, root_or_skip};

/// Frames per worker in the window that is judged.
const FRAMES: u64 = 20_000;
/// The bound: at most one syscall in this many frames received and sent.
const FRAMES_PER_SYSCALL: f64 = 16.0;
/// More than is sent while counting; the node's end ends the transfer.
const LOAD_BYTES: u64 = 64_000_000_000;

struct Counted {
    frames: u64,
    own: u64,
    strace: u64,
    table: String,
}

#[test]
fn a_worker_under_load_makes_few_syscalls() {
    if !root_or_skip("a_worker_under_load_makes_few_syscalls") {
        return;
    }
    let line = Line::af_xdp(&LinkPlan::default());
    // Sparse: it only has to last.
    let file = line.topology.folder().join("load.raw");
    std::fs::File::create(&file).unwrap().set_len(LOAD_BYTES).unwrap();
    let mut send = line.send(&file);
    line.confirmed(&mut send, 4_000_000, Deadline::after(PATIENCE));
    for node in [A, RELAY, B] {
        let own = best_of_three(|| window(&line, node), |counted| counted.frames as f64 / counted.own as f64);
        println!("{}: own counter 1/{:.1} per frame, undisturbed", line.name(node), own.1);
        let traced = best_of_three(|| trace(&line, node), |counted| counted.frames as f64 / counted.strace as f64);
        let (strace, counted) = (traced.1, traced.0);
        println!("{}: strace 1/{strace:.1} per frame, {} frames\n{}", line.name(node), counted.frames, counted.table);
        assert!(send.ended().unwrap().is_none(), "the transfer ended before the count");
        assert!(own.1 >= FRAMES_PER_SYSCALL, "own counter: 1/{:.1} per frame", own.1);
        assert!(strace >= FRAMES_PER_SYSCALL, "strace: 1/{strace:.1} per frame\n{}", counted.table);
        // The worker's own number may leave out what is not packet work (memory, looks at statistics), and its window is
        // a little narrower; but not a kick, a wake-up or a sleep.
        let missed = counted.strace.saturating_sub(counted.own);
        assert!(missed <= counted.strace / 2, "own counter {}, strace {}", counted.own, counted.strace);
    }
}

/// Other work on the machine starves a worker's neighbours, and it then sleeps between few frames: the best of up to
/// three windows is what the worker does under load.
fn best_of_three(count: impl Fn() -> Counted, frames_per_syscall: impl Fn(&Counted) -> f64) -> (Counted, f64) {
    let mut best: Option<(Counted, f64)> = None;
    for _ in 0..3 {
        let counted = count();
        let ratio = frames_per_syscall(&counted);
        if best.as_ref().is_none_or(|(_, so_far)| ratio > *so_far) {
            best = Some((counted, ratio));
        }
        if ratio >= FRAMES_PER_SYSCALL {
            break;
        }
    }
    best.expect("three windows")
}

/// Frames and the worker's own count of syscalls over a window of at least `FRAMES`.
fn window(line: &Line, node: usize) -> Counted {
    let look = || {
        let status = line.status(node);
        let counter = |name| status.worker_counter(0, name);
        (counter("rx_frames") + counter("tx_frames"), counter("syscalls"))
    };
    let before = look();
    let enough = || Ok(Some(look()).filter(|now| now.0 - before.0 >= FRAMES));
    let after = Deadline::after(PATIENCE).wait("frames", enough).unwrap();
    Counted { frames: after.0 - before.0, own: after.1 - before.1, strace: 0, table: String::new() }
}

/// The same with strace attached to the worker's thread for a little longer: what it counts is not less than what the
/// window's frames cost.
fn trace(line: &Line, node: usize) -> Counted {
    let thread = worker_thread(line.nodes[node].process("dataplane").unwrap());
    let table = line.topology.folder().join("strace");
    let mut strace = Command::new("strace");
    strace.args(["-c", "-p", &thread.to_string(), "-o"]).arg(&table);
    let mut strace = Job::start(&strace, line.topology.folder(), "strace-job").unwrap();
    let deadline = Deadline::after(PATIENCE);
    deadline.wait("strace to attach", || Ok(strace.said().contains("attached").then_some(()))).unwrap();
    let counted = window(line, node);
    Process::find(strace.pid()).unwrap().signal(rustix::process::Signal::INT);
    strace.wait_status(deadline).unwrap();
    let table = std::fs::read_to_string(&table).unwrap();
    let total = table.lines().last().and_then(|total| total.split_whitespace().nth(3)?.parse().ok());
    Counted { strace: total.expect("strace's total"), table, ..counted }
}

/// The thread of the node's first worker.
fn worker_thread(dataplane: Process) -> u32 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", dataplane.pid)).unwrap().flatten();
    let named = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim_end() == "worker-0")
    };
    let task = tasks.into_iter().find(named).expect("a worker thread");
    task.file_name().to_str().unwrap().parse().unwrap()
}
