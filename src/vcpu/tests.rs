// SPDX-License-Identifier: Apache-2.0
//! The run loop against vCPUs that answer as their script says.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{mpsc, Mutex};

use gunyah::uapi::{self, ExitStatus};
use gunyah::{Exit, Resume};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use super::*;
use crate::status::EndReason;

/// One answer of VCPU_RUN.
#[derive(Clone, Copy)]
enum Answer {
    Exit(Exit),
    Errno(Errno),
    /// Sits there like a sleeping guest until it is interrupted.
    Sleep,
    /// Comes back at once, again and again, like a guest that writes all the time.
    Busy,
}

/// What the run loop did between two calls of VCPU_RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reaction {
    Data([u8; 8]),
    Resume(Resume),
}

/// A vCPU that answers as its script says; after its end it sleeps.
struct Script {
    exit_now: Arc<AtomicBool>,
    answers: VecDeque<Answer>,
    reactions: Arc<Mutex<Vec<Reaction>>>,
}

impl Cpu for Script {
    fn run(&mut self) -> io::Result<Exit> {
        if self.exit_now.load(Ordering::SeqCst) {
            return Err(Errno::EINTR.into());
        }
        match self.answers.pop_front().unwrap_or(Answer::Sleep) {
            Answer::Exit(exit) => Ok(exit),
            Answer::Errno(errno) => Err(errno.into()),
            Answer::Sleep => match poll(&mut [], PollTimeout::NONE) {
                Ok(_) => panic!("poll of nothing returned"),
                Err(errno) => Err(errno.into()),
            },
            Answer::Busy => {
                self.answers.push_front(Answer::Busy);
                Ok(write(0x900, 1, b'x'))
            }
        }
    }

    fn set_read_data(&mut self, data: [u8; 8]) {
        self.reactions.lock().unwrap().push(Reaction::Data(data));
    }

    fn resume(&mut self, how: Resume) {
        self.reactions.lock().unwrap().push(Reaction::Resume(how));
    }
}

fn write(address: u64, len: u32, byte: u8) -> Exit {
    let data = [byte, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee];
    Exit::MmioWrite { address, len, data }
}

fn read(address: u64, len: u32) -> Exit {
    Exit::MmioRead { address, len }
}

fn end(status: u32, exit_type: u16) -> ExitStatus {
    ExitStatus { status, exit_type, padding: 0, reason_size: 0, reason: [0; 8] }
}

fn status(status: u32, exit_type: u16) -> Answer {
    Answer::Exit(Exit::Status(end(status, exit_type)))
}

fn fault(errno: Errno) -> Answer {
    Answer::Exit(Exit::PageFault { address: 0x8000_0000, errno: errno as i32 })
}

#[derive(Default)]
struct Register(Mutex<Vec<u8>>);

impl Device for Register {
    fn read(&self, _: u64, _: Width) -> u64 {
        0x1234
    }

    fn write(&self, _: u64, _: Width, value: u64) {
        let mut bytes = self.0.lock().unwrap();
        if bytes.len() < 100 {
            bytes.push(value.to_le_bytes()[0]);
        }
    }
}

struct Rig {
    vcpus: Vcpus,
    register: Arc<Register>,
    exit_now: Vec<Arc<AtomicBool>>,
    reactions: Arc<Mutex<Vec<Reaction>>>,
}

fn options() -> Options {
    Options {
        name: "test".to_owned(),
        affinity: Vec::new(),
        nice: 0,
        stall: STALL,
        confined: false,
    }
}

fn start(scripts: &[&[Answer]], options: &Options) -> Rig {
    let register = Arc::new(Register::default());
    let mut bus = Bus::new("test");
    bus.add("register", 0x900, 0x100, register.clone()).unwrap();
    let reactions = Arc::default();
    let mut exit_now = Vec::new();
    let cpus: Vec<_> = scripts
        .iter()
        .map(|script| {
            let flag = Arc::new(AtomicBool::new(false));
            exit_now.push(Arc::clone(&flag));
            let cpu: Box<dyn Cpu> = Box::new(Script {
                exit_now: Arc::clone(&flag),
                answers: script.iter().copied().collect(),
                reactions: Arc::clone(&reactions),
            });
            let set: ExitNow = Box::new(move || flag.store(true, Ordering::SeqCst));
            (set, cpu)
        })
        .collect();
    let vcpus = Vcpus::start_cpus(cpus.into_iter(), Arc::new(bus), options, || Ok(())).unwrap();
    Rig { vcpus, register, exit_now, reactions }
}

impl Rig {
    fn event(&mut self) -> VcpuEvent {
        loop {
            if let Some(event) = self.vcpus.take_event() {
                return event;
            }
            let mut fds = self.vcpus.events_fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            assert_ne!(poll(&mut fds, 10_000u16), Ok(0), "no event came");
        }
    }

    fn end(&mut self) -> (EndReason, String) {
        match self.event() {
            VcpuEvent::Ended { reason, detail } => (reason, detail),
            other => panic!("{other:?}"),
        }
    }

    fn failure(&mut self) -> Diagnostic {
        match self.event() {
            VcpuEvent::Failed(error) => error,
            other => panic!("{other:?}"),
        }
    }

    fn warning(&mut self) -> Diagnostic {
        match self.event() {
            VcpuEvent::Warning(warning) => warning,
            other => panic!("{other:?}"),
        }
    }

    fn reactions(&self) -> Vec<Reaction> {
        self.reactions.lock().unwrap().clone()
    }
}

const BOUND: Duration = Duration::from_secs(10);

#[test]
fn a_write_reaches_its_device_and_the_end_is_reported_once() {
    let mut rig = start(
        &[
            &[
                Answer::Exit(write(0x904, 1, b'h')),
                Answer::Errno(Errno::EINTR),
                Answer::Exit(write(0x904, 4, b'i')),
                status(uapi::STATUS_EXITED, uapi::EXIT_TYPE_SYSTEM_RESET),
            ],
            &[Answer::Sleep],
        ],
        &options(),
    );
    assert_eq!(
        rig.end(),
        (EndReason::Reset, "status 2 (exited), exit type 2 (PSCI SYSTEM_RESET)".to_owned())
    );
    assert_eq!(*rig.register.0.lock().unwrap(), b"hi");
    assert_eq!(rig.vcpus.take_event(), None);
    assert_eq!(rig.vcpus.stop(BOUND), Vec::<u32>::new());
}

#[test]
fn a_read_brings_the_devices_value_or_zero_and_a_fault() {
    let script = [
        Answer::Exit(read(0x900, 2)),
        Answer::Exit(read(0xdead_0000, 4)),
        Answer::Exit(write(0x900, 1, 1)),
        Answer::Exit(write(0xdead_0000, 1, 1)),
        status(uapi::STATUS_EXITED, 0),
    ];
    let mut rig = start(&[&script], &options());
    assert_eq!(rig.end().0, EndReason::PowerOff);
    assert_eq!(
        rig.reactions(),
        [
            Reaction::Data([0x34, 0x12, 0, 0, 0, 0, 0, 0]),
            Reaction::Resume(Resume::Handled),
            Reaction::Data([0; 8]),
            Reaction::Resume(Resume::Fault),
            Reaction::Resume(Resume::Handled),
            Reaction::Resume(Resume::Fault),
        ]
    );
}

#[test]
fn every_end_has_its_reason() {
    use EndReason::*;
    for (code, exit_type, reason) in [
        (2, 0, PowerOff),
        (2, 1, PowerOff),
        (2, 2, Reset),
        (2, 3, Reset),
        (2, 4, Watchdog),
        (2, 5, HypervisorError),
        (2, 6, ExternalAbort),
        (2, 7, ForceStopped),
        (2, 99, Crashed),
        (1, 0, LoadFailed),
        (1, 5, LoadFailed),
        (3, 0, Crashed),
        (3, 1, Crashed),
        (3, 4, Watchdog),
        (9, 0, Crashed),
    ] {
        let found = run_loop::end_reason(&end(code, exit_type));
        assert_eq!(found, reason, "status {code}, exit type {exit_type}");
    }
}

#[test]
fn busy_around_the_end_is_tried_again() {
    let mut script = vec![Answer::Errno(Errno::EBUSY); 20];
    script.push(status(uapi::STATUS_CRASHED, 0));
    let mut rig = start(&[&script], &options());
    assert_eq!(rig.end().0, EndReason::Crashed);
}

#[test]
fn a_vm_that_is_gone_is_unreported_unless_another_vcpu_knows() {
    let gone = [Answer::Errno(Errno::ENODEV); 2000];
    let mut rig = start(&[&gone, &[Answer::Sleep]], &options());
    let (reason, detail) = rig.end();
    assert_eq!(reason, EndReason::Unreported);
    assert!(detail.contains("vCPU 0 answers ENODEV"), "{detail}");
    assert!(detail.ends_with("still inside: vCPU 1"), "{detail}");
    drop(rig);

    let knows =
        [Answer::Errno(Errno::EBUSY), status(uapi::STATUS_EXITED, uapi::EXIT_TYPE_WATCHDOG_BITE)];
    let mut rig = start(&[&gone, &knows], &options());
    assert_eq!(rig.end().0, EndReason::Watchdog);
}

#[test]
fn accesses_of_other_widths_are_reported_once_and_the_guest_goes_on() {
    let script = [
        Answer::Exit(write(0x900, 3, 7)),
        Answer::Exit(read(0x900, u32::MAX)),
        status(uapi::STATUS_EXITED, 1),
    ];
    let mut rig = start(&[&script], &options());
    let warning = rig.warning();
    assert_eq!(warning.name, "run-access-width");
    let what = "vCPU 0: access at 0x900: accesses of 3 bytes are not supported; reported once";
    assert_eq!(warning.what, what);
    assert_eq!(rig.end().0, EndReason::PowerOff);
    assert!(rig.register.0.lock().unwrap().is_empty());
}

#[test]
fn a_guest_that_touches_nothing_gets_its_fault() {
    let script = [fault(Errno::ENOENT), status(uapi::STATUS_EXITED, 1)];
    let mut rig = start(&[&script], &options());
    let warning = rig.warning();
    assert_eq!(warning.name, "run-no-region");
    assert!(warning.what.contains("0x80000000"), "{warning}");
    assert_eq!(rig.end().0, EndReason::PowerOff);
    assert_eq!(rig.reactions(), [Reaction::Resume(Resume::Fault)]);
}

#[test]
fn a_page_that_the_driver_cannot_give_fails_with_its_cure() {
    for (errno, name, word) in [
        (Errno::EIO, "run-fault-eio", "hugetlb"),
        (Errno::ENOMEM, "run-fault-enomem", "RLIMIT_MEMLOCK"),
        (Errno::EPERM, "run-fault-eperm", "flags"),
        (Errno::EFAULT, "run-fault-efault", "truncated"),
        (Errno::ENODEV, "run-fault-enodev", "lend"),
    ] {
        let mut rig = start(&[&[fault(Errno::EAGAIN), fault(errno)]], &options());
        let error = rig.failure();
        assert_eq!((error.errno, &*error.name), (Some(errno as i32), name));
        assert!(error.what.contains("vCPU 0 the page at guest 0x80000000"));
        assert!(error.to_string().contains(word), "{error}");
        let retried = [Reaction::Resume(Resume::Retry)];
        assert_eq!(rig.reactions(), retried, "the last fault is not answered");
    }
}

#[test]
fn an_error_of_the_call_itself_fails() {
    for (errno, name) in [
        (Errno::EIO, "run-eio"),
        (Errno::ENOMEM, "run-enomem"),
        (Errno::ENOTTY, "run-enotty"),
        (Errno::EACCES, "run-eperm"),
        (Errno::EINVAL, "run-failed"),
    ] {
        let error = start(&[&[Answer::Errno(errno)]], &options()).failure();
        assert_eq!((error.errno, &*error.name), (Some(errno as i32), name));
        assert_eq!(error.what, "VCPU_RUN of vCPU 0");
    }
}

#[test]
fn an_exit_reason_from_the_future_fails() {
    let script = [Answer::Exit(Exit::Unknown(uapi::EXIT_UNKNOWN)), Answer::Exit(Exit::Unknown(77))];
    let error = start(&[&script], &options()).failure();
    assert_eq!(error.name, "run-unknown-exit");
    assert_eq!(error.what, "vCPU 0: exit reason 77");
}

#[test]
fn threads_that_cannot_be_made_have_a_name() {
    assert_eq!(failed("a thread")(Errno::EAGAIN).name, "vcpu-threads");
}

#[test]
fn four_busy_and_two_sleeping_vcpus_stop_at_once_and_leave_nothing() {
    let busy: &[Answer] = &[Answer::Busy];
    let asleep: &[Answer] = &[Answer::Sleep];
    let rig = start(&[busy, busy, busy, busy, asleep, asleep], &options());
    while rig.register.0.lock().unwrap().len() < 100 {
        std::thread::yield_now();
    }
    let shared = Arc::downgrade(&rig.vcpus.shared);
    assert_eq!(rig.vcpus.stop(BOUND), Vec::<u32>::new());
    for flag in &rig.exit_now {
        assert!(flag.load(Ordering::SeqCst), "one may be about to go in");
    }
    assert!(shared.upgrade().is_none(), "no thread holds anything");
}

/// A vCPU that is what its closure does, without an immediate exit.
struct Acts<F>(F);

impl<F: FnMut() -> io::Result<Exit> + Send> Cpu for Acts<F> {
    fn run(&mut self) -> io::Result<Exit> {
        (self.0)()
    }

    fn set_read_data(&mut self, _: [u8; 8]) {}

    fn resume(&mut self, _: Resume) {}
}

fn start_one(
    run: impl FnMut() -> io::Result<Exit> + Send + 'static,
    confine: impl FnOnce() -> Result<(), Diagnostic>,
) -> Result<Vcpus, Diagnostic> {
    let cpu: (ExitNow, Box<dyn Cpu>) = (Box::new(|| ()), Box::new(Acts(run)));
    let bus = Arc::new(Bus::new("test"));
    Vcpus::start_cpus([cpu].into_iter(), bus, &options(), confine)
}

#[test]
fn a_thread_that_cannot_be_taken_out_is_named() {
    let (inside, is_inside) = mpsc::channel();
    let (end, let_go) = mpsc::channel::<()>();
    let deaf = move || {
        inside.send(()).unwrap();
        let _ = let_go.recv();
        Err(Errno::EINTR.into())
    };
    let vcpus = start_one(deaf, || Ok(())).unwrap();
    is_inside.recv_timeout(BOUND).unwrap();
    assert_eq!(vcpus.stop(Duration::from_millis(50)), vec![0]);
    drop(end);
}

#[test]
fn a_vm_without_progress_is_reported() {
    let options =
        Options { stall: Duration::from_millis(40), affinity: vec![vec![0]], ..options() };
    let mut rig = start(&[&[Answer::Sleep], &[Answer::Sleep]], &options);
    // One thread may have come to rest before the other.
    loop {
        match &*rig.warning().name {
            "vcpu-all-stalled" => break,
            name => assert_eq!(name, "vcpu-stalled"),
        }
    }
}

#[test]
fn an_end_that_no_vcpu_was_woken_for_is_found() {
    let options = Options { stall: Duration::from_millis(60), ..options() };
    // Who sleeps is not told, but who comes again is.
    let untold = [Answer::Sleep, status(uapi::STATUS_EXITED, uapi::EXIT_TYPE_SYSTEM_OFF)];
    let mut rig = start(&[&untold, &untold], &options);
    assert_eq!(rig.end().0, EndReason::PowerOff);
    assert_eq!(rig.vcpus.stop(BOUND), Vec::<u32>::new());
}

/// What a vCPU that sleeps may be told to do.
const EXIT: [u8; 1] = *b"x";
const SPIN_ON: [u8; 1] = *b"s";
const END_UNTOLD: [u8; 1] = *b"e";

/// One vCPU that rests until it is told otherwise; a signal brings it out.
fn at_rest() -> (Rig, UnixStream) {
    let (orders, mut told) = UnixStream::pair().unwrap();
    let mut over = false;
    let run = move || {
        if over {
            return Ok(Exit::Status(end(uapi::STATUS_EXITED, uapi::EXIT_TYPE_SYSTEM_OFF)));
        }
        let mut order = [0];
        if told.read(&mut order)? > 0 {
            match order {
                EXIT => return Ok(write(0x900, 1, b'x')),
                END_UNTOLD => {
                    over = true;
                    let _ = told.read(&mut order)?;
                }
                // Until the other end is closed.
                _ => {
                    told.set_nonblocking(true)?;
                    while told.read(&mut order).is_err() {}
                }
            }
        }
        Err(Errno::EINTR.into())
    };
    let cpu: (ExitNow, Box<dyn Cpu>) = (Box::new(|| ()), Box::new(Acts(run)));
    let bus = Arc::new(Bus::new("test"));
    let options = Options { stall: Duration::from_millis(120), ..options() };
    let vcpus = Vcpus::start_cpus([cpu].into_iter(), bus, &options, || Ok(())).unwrap();
    let mut rig =
        Rig { vcpus, register: Arc::default(), exit_now: Vec::new(), reactions: Arc::default() };
    assert_eq!(rig.until_rest(), ["vcpu-all-stalled"]);
    (rig, orders)
}

impl Rig {
    /// Until it rests and has no more to say; what it said before.
    fn until_rest(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while !self.vcpus.resting || self.vcpus.stalls.due().is_some() {
            match self.vcpus.take_event() {
                Some(VcpuEvent::Warning(warning)) => told.push(warning.name.to_string()),
                Some(other) => panic!("{other:?}"),
                None => {
                    let mut fds =
                        self.vcpus.events_fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                    assert_ne!(poll(&mut fds, 10_000u16), Ok(0), "it does not rest");
                }
            }
        }
        told
    }

    /// Skips what is told of its progress.
    fn end_of_all(&mut self) -> (EndReason, String) {
        loop {
            match self.event() {
                VcpuEvent::Ended { reason, detail } => return (reason, detail),
                VcpuEvent::Warning(_) => {}
                VcpuEvent::Failed(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn a_vcpu_at_rest_is_left_alone_until_it_does_something() {
    let (mut rig, mut orders) = at_rest();
    let returns = |rig: &Rig| rig.vcpus.shared.slots[0].returns.load(Ordering::SeqCst);
    let nothing = |rig: &Rig| {
        let mut fds = rig.vcpus.events_fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll(&mut fds, 200u16) == Ok(0)
    };
    assert!(nothing(&rig), "ten looks would have been");
    let before = returns(&rig);
    assert!(nothing(&rig));
    assert_eq!(returns(&rig), before, "it was knocked at");
    orders.write_all(&EXIT).unwrap();
    assert_eq!(rig.warning().name, "vcpu-progress");
    assert_eq!(rig.until_rest(), ["vcpu-all-stalled"]);
    assert!(nothing(&rig), "it does not rest again");
    // The end comes right after an exit.
    orders.write_all(&EXIT).unwrap();
    orders.write_all(&END_UNTOLD).unwrap();
    assert_eq!(rig.end_of_all().0, EndReason::PowerOff);
    assert_eq!(rig.vcpus.stop(BOUND), Vec::<u32>::new());
}

#[test]
fn a_vcpu_at_rest_that_begins_to_spin_is_found() {
    let (mut rig, mut orders) = at_rest();
    orders.write_all(&SPIN_ON).unwrap();
    let (reason, detail) = rig.end_of_all();
    assert_eq!(reason, EndReason::Unreported);
    assert!(detail.starts_with("vCPU 0 does not come out of VCPU_RUN"), "{detail}");
    drop(orders);
}

#[test]
fn an_end_that_a_vcpu_at_rest_is_asked_for_is_found() {
    let (mut rig, mut orders) = at_rest();
    orders.write_all(&END_UNTOLD).unwrap();
    rig.vcpus.watch();
    assert_eq!(rig.end_of_all().0, EndReason::PowerOff);
    assert_eq!(rig.vcpus.stop(BOUND), Vec::<u32>::new());
}

#[test]
fn a_vcpu_that_burns_a_cpu_without_an_exit_ends_the_vm() {
    let (end, let_go) = mpsc::channel::<()>();
    let spin = move || {
        while let_go.try_recv() == Err(mpsc::TryRecvError::Empty) {
            std::hint::spin_loop();
        }
        Err(Errno::EINTR.into())
    };
    let cpu: (ExitNow, Box<dyn Cpu>) = (Box::new(|| ()), Box::new(Acts(spin)));
    let bus = Arc::new(Bus::new("test"));
    let options = Options { stall: Duration::from_millis(300), ..options() };
    let vcpus = Vcpus::start_cpus([cpu].into_iter(), bus, &options, || Ok(())).unwrap();
    let mut rig =
        Rig { vcpus, register: Arc::default(), exit_now: Vec::new(), reactions: Arc::default() };
    let warning = rig.warning();
    assert_eq!(warning.name, "vcpu-spins");
    let (reason, detail) = rig.end();
    assert_eq!(reason, EndReason::Unreported);
    assert!(detail.starts_with("vCPU 0 does not come out of VCPU_RUN"), "{detail}");
    assert_eq!(rig.vcpus.take_event(), None, "told once");
    drop(end);
}

#[test]
fn a_guest_that_computes_is_no_vcpu_that_spins() {
    // It comes out where it is knocked at, and computes on.
    let (inside, is_inside) = mpsc::channel();
    let compute = move || {
        inside.send(()).unwrap();
        let begun = Instant::now();
        // A signal's arrival is not seen here: a short while stands for it.
        while begun.elapsed() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        Err(Errno::EINTR.into())
    };
    let cpu: (ExitNow, Box<dyn Cpu>) = (Box::new(|| ()), Box::new(Acts(compute)));
    let bus = Arc::new(Bus::new("test"));
    let options = Options { stall: Duration::from_millis(300), ..options() };
    let mut vcpus = Vcpus::start_cpus([cpu].into_iter(), bus, &options, || Ok(())).unwrap();
    // Ten looks, and far more CPU time than one that spins needs to be lost.
    for _ in 0..100 {
        is_inside.recv_timeout(BOUND).unwrap();
        assert_eq!(vcpus.take_event(), None);
    }
    assert_eq!(vcpus.stop(BOUND), Vec::<u32>::new());
}

#[test]
fn an_impossible_cpu_is_a_warning_and_the_vcpu_runs() {
    let options = Options { affinity: vec![vec![1023]], ..options() };
    let mut rig = start(&[&[status(uapi::STATUS_EXITED, 1)]], &options);
    let warning = rig.warning();
    assert_eq!(warning.name, "vcpu-affinity");
    assert!(warning.what.starts_with("vCPU 0: running on host CPUs [1023]"));
    assert_eq!(rig.end().0, EndReason::PowerOff);
}

#[test]
fn no_guest_runs_before_its_worker_is_confined() {
    let (inside, is_inside) = mpsc::channel();
    let run = move || {
        inside.send(()).unwrap();
        Err(Errno::EINTR.into())
    };
    // Long for a thread that does not wait.
    let early = || is_inside.recv_timeout(Duration::from_millis(50)).is_ok();
    let failure = failed("confinement")(Errno::EPERM);
    let refused = start_one(run.clone(), || {
        assert!(!early());
        Err(failure.clone())
    });
    assert_eq!(refused.map(drop), Err(failure));
    assert!(!early());
    let vcpus = start_one(run, || Ok(())).unwrap();
    is_inside.recv_timeout(BOUND).unwrap();
    assert_eq!(vcpus.stop(BOUND), Vec::<u32>::new());
}
