// SPDX-License-Identifier: Apache-2.0
//! The run loop against drivers that answer as told.

use std::collections::VecDeque;
use std::sync::{mpsc, Mutex};

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use super::run::Run;
use super::*;
use crate::status::EndReason;
use gunyah::uapi::{self, ExitMmio, ExitPageFault, ExitStatus, VcpuExit};

/// One answer of VCPU_RUN.
#[derive(Clone, Copy)]
enum Answer {
    Exit(u32, VcpuExit),
    Errno(Errno),
    /// Sits there like a sleeping guest until it is interrupted.
    Sleep,
    /// Comes back at once, again and again, like a guest that writes all the time.
    Busy,
}

/// A vCPU that answers as its script says; after its end it sleeps.
struct Script {
    page: Arc<RunPage>,
    answers: Mutex<VecDeque<Answer>>,
    read: Arc<Mutex<Vec<[u8; 8]>>>,
}

impl Run for Script {
    fn run(&self) -> Result<(), Errno> {
        let run = self.page.whole();
        // SAFETY: plain old data.
        self.read
            .lock()
            .unwrap()
            .push(unsafe { run.exit.mmio.data });
        if run.immediate_exit != 0 {
            return Err(Errno::EINTR);
        }
        let mut answers = self.answers.lock().unwrap();
        let answer = answers.pop_front().unwrap_or(Answer::Sleep);
        if let Answer::Busy = answer {
            answers.push_front(answer);
        }
        drop(answers);
        match answer {
            Answer::Exit(reason, exit) => {
                self.page.set_exit(reason, exit);
                Ok(())
            }
            Answer::Errno(errno) => Err(errno),
            Answer::Sleep => poll(&mut [], PollTimeout::NONE).map(drop),
            Answer::Busy => {
                self.page.set_exit(uapi::EXIT_MMIO, write(0x900, 1, b'x'));
                Ok(())
            }
        }
    }
}

fn mmio(phys_addr: u64, len: u32, is_write: u8, byte: u8) -> VcpuExit {
    VcpuExit {
        mmio: ExitMmio {
            phys_addr,
            data: [byte, 0, 0, 0, 0, 0, 0, 0],
            len,
            is_write,
            resume_action: 0xee,
        },
    }
}

fn write(address: u64, len: u32, byte: u8) -> VcpuExit {
    mmio(address, len, 1, byte)
}

fn status(status: u32, exit_type: u16) -> Answer {
    let status = ExitStatus {
        status,
        exit_type,
        padding: 0,
        reason_size: 0,
        reason: [0; 8],
    };
    Answer::Exit(uapi::EXIT_STATUS, VcpuExit { status })
}

fn fault(attempt: Errno) -> Answer {
    let page_fault = ExitPageFault {
        phys_addr: 0x8000_0000,
        attempt: -(attempt as i32),
        resume_action: 0xee,
    };
    Answer::Exit(uapi::EXIT_PAGE_FAULT, VcpuExit { page_fault })
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
    pages: Vec<Arc<RunPage>>,
    read: Arc<Mutex<Vec<[u8; 8]>>>,
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
    let read = Arc::new(Mutex::new(Vec::new()));
    let mut pages = Vec::new();
    let slots = (0..).zip(scripts).map(|(id, script)| {
        let page = Arc::new(RunPage::detached());
        pages.push(page.clone());
        let vcpu = Script {
            page: page.clone(),
            answers: Mutex::new(script.iter().copied().collect()),
            read: read.clone(),
        };
        Slot::new(id, Box::new(vcpu), page)
    });
    let slots = slots.collect();
    let vcpus = Vcpus::start_slots(slots, Arc::new(bus), options, || Ok(())).unwrap();
    Rig {
        vcpus,
        register,
        pages,
        read,
    }
}

impl Rig {
    fn event(&mut self) -> VcpuEvent {
        loop {
            if let Some(event) = self.vcpus.take_event() {
                return event;
            }
            let mut fds = [PollFd::new(self.vcpus.events_fd(), PollFlags::POLLIN)];
            assert_ne!(poll(&mut fds, 10_000u16), Ok(0), "no event came");
        }
    }

    fn end(&mut self) -> (EndReason, String) {
        match self.event() {
            VcpuEvent::Ended { reason, detail } => (reason, detail),
            other => panic!("{other:?}"),
        }
    }
}

const BOUND: Duration = Duration::from_secs(10);

#[test]
fn a_write_reaches_its_device_and_the_end_is_told_once() {
    let mut rig = start(
        &[
            &[
                Answer::Exit(uapi::EXIT_MMIO, write(0x904, 1, b'h')),
                Answer::Errno(Errno::EINTR),
                Answer::Exit(uapi::EXIT_MMIO, write(0x904, 4, b'i')),
                status(uapi::STATUS_EXITED, uapi::EXIT_TYPE_SYSTEM_RESET),
            ],
            &[Answer::Sleep],
        ],
        &options(),
    );
    assert_eq!(
        rig.end(),
        (
            EndReason::Reset,
            "status 2 (exited), exit type 2 (PSCI SYSTEM_RESET)".to_owned()
        )
    );
    assert_eq!(*rig.register.0.lock().unwrap(), b"hi");
    assert_eq!(rig.vcpus.take_event(), None);
    assert_eq!(rig.vcpus.stop(BOUND), Vec::<u32>::new());
}

#[test]
fn a_read_brings_the_devices_value_or_zero_and_a_fault() {
    let mut rig = start(
        &[&[
            Answer::Exit(uapi::EXIT_MMIO, mmio(0x900, 2, 0, 0xff)),
            Answer::Exit(uapi::EXIT_MMIO, mmio(0xdead_0000, 4, 0, 0xff)),
            status(uapi::STATUS_EXITED, 0),
        ]],
        &options(),
    );
    assert_eq!(rig.end().0, EndReason::PowerOff);
    let read = rig.read.lock().unwrap();
    assert_eq!(read[1], [0x34, 0x12, 0, 0, 0, 0, 0, 0]);
    assert_eq!(read[2], [0; 8]);
    drop(read);
    rig.vcpus.stop(BOUND);
}

#[test]
fn how_the_guest_goes_on_is_written() {
    for (address, action) in [
        (0x900, uapi::RESUME_HANDLED),
        (0xdead_0000, uapi::RESUME_FAULT),
    ] {
        let script = [
            Answer::Exit(uapi::EXIT_MMIO, write(address, 1, 1)),
            Answer::Errno(Errno::EPERM),
        ];
        let mut rig = start(&[&script], &options());
        assert!(matches!(rig.event(), VcpuEvent::Failed(_)));
        // SAFETY: plain old data.
        let found = unsafe { rig.pages[0].whole().exit.mmio.resume_action };
        assert_eq!(found, action, "{address:#x}");
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

    let knows = [
        Answer::Errno(Errno::EBUSY),
        status(uapi::STATUS_EXITED, uapi::EXIT_TYPE_WATCHDOG_BITE),
    ];
    let mut rig = start(&[&gone, &knows], &options());
    assert_eq!(rig.end().0, EndReason::Watchdog);
}

#[test]
fn accesses_of_impossible_widths_are_told_once_and_the_guest_goes_on() {
    let mut rig = start(
        &[&[
            Answer::Exit(uapi::EXIT_MMIO, mmio(0x900, 3, 1, 7)),
            Answer::Exit(uapi::EXIT_MMIO, mmio(0x900, u32::MAX, 0, 7)),
            status(uapi::STATUS_EXITED, 1),
        ]],
        &options(),
    );
    match rig.event() {
        VcpuEvent::Warning(text) => {
            assert!(text.contains("vCPU 0: an access of 3 bytes"), "{text}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.end().0, EndReason::PowerOff);
    assert!(rig.register.0.lock().unwrap().is_empty());
}

#[test]
fn a_page_that_the_driver_cannot_give_fails_with_its_cure() {
    let mut rig = start(&[&[fault(Errno::EAGAIN), fault(Errno::EIO)]], &options());
    match rig.event() {
        VcpuEvent::Failed(error) => {
            assert_eq!(error.errno, Some(libc::EIO));
            assert!(error.cause.contains("hugetlb"), "{error}");
            assert!(error.cure.contains("thp"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    // SAFETY: plain old data.
    let action = unsafe { rig.pages[0].whole().exit.page_fault.resume_action };
    assert_eq!(action, 0xee, "the last fault is not answered");
}

#[test]
fn an_exit_reason_from_the_future_fails() {
    let mut rig = start(&[&[Answer::Exit(77, write(0, 1, 0))]], &options());
    match rig.event() {
        VcpuEvent::Failed(error) => assert!(error.what.contains("exit reason 77"), "{error}"),
        other => panic!("{other:?}"),
    }
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
    for page in &rig.pages {
        assert_eq!(page.whole().immediate_exit, 1, "one may be about to go in");
    }
    assert!(shared.upgrade().is_none(), "no thread holds anything");
}

#[test]
fn a_thread_that_cannot_be_taken_out_is_named() {
    struct Deaf {
        inside: mpsc::Sender<()>,
        let_go: Mutex<mpsc::Receiver<()>>,
    }
    impl Run for Deaf {
        fn run(&self) -> Result<(), Errno> {
            self.inside.send(()).unwrap();
            let _ = self.let_go.lock().unwrap().recv();
            Err(Errno::EINTR)
        }
    }
    let (inside, is_inside) = mpsc::channel();
    let (end, let_go) = mpsc::channel();
    let let_go = Mutex::new(let_go);
    let deaf = Box::new(Deaf { inside, let_go });
    let slot = Slot::new(3, deaf, Arc::new(RunPage::detached()));
    let bus = Arc::new(Bus::new("test"));
    let vcpus = Vcpus::start_slots(vec![slot], bus, &options(), || Ok(())).unwrap();
    is_inside.recv_timeout(BOUND).unwrap();
    assert_eq!(vcpus.stop(Duration::from_millis(50)), vec![3]);
    drop(end);
}

#[test]
fn a_vm_without_progress_is_told() {
    let options = Options {
        stall: Duration::from_millis(40),
        affinity: vec![vec![0]],
        ..options()
    };
    let mut rig = start(&[&[Answer::Sleep], &[Answer::Sleep]], &options);
    // One thread may have come to rest before the other.
    loop {
        match rig.event() {
            VcpuEvent::Warning(text) if text.starts_with("no vCPU makes progress") => break,
            VcpuEvent::Warning(text) => assert!(text.contains("makes no progress"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_impossible_cpu_is_a_warning_and_the_vcpu_runs() {
    let options = Options {
        affinity: vec![vec![1023]],
        ..options()
    };
    let mut rig = start(&[&[status(uapi::STATUS_EXITED, 1)]], &options);
    match rig.event() {
        VcpuEvent::Warning(text) => assert!(text.contains("online are"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.end().0, EndReason::PowerOff);
}

#[test]
fn no_guest_runs_before_its_worker_is_confined() {
    struct Told(mpsc::Sender<()>);
    impl Run for Told {
        fn run(&self) -> Result<(), Errno> {
            self.0.send(()).unwrap();
            Err(Errno::EINTR)
        }
    }
    let (inside, is_inside) = mpsc::channel();
    let start = |confine: &dyn Fn() -> Result<(), LaunchError>| {
        let vcpu = Box::new(Told(inside.clone()));
        let slot = Slot::new(0, vcpu, Arc::new(RunPage::detached()));
        let bus = Arc::new(Bus::new("test"));
        Vcpus::start_slots(vec![slot], bus, &options(), confine)
    };
    // Long for a thread that does not wait.
    let early = || is_inside.recv_timeout(Duration::from_millis(50)).is_ok();
    let failed = LaunchError::new(Step::Run, "confinement");
    let refused = start(&|| {
        assert!(!early());
        Err(failed.clone())
    });
    assert_eq!(refused.map(drop), Err(failed.clone()));
    assert!(!early());
    let vcpus = start(&|| Ok(())).unwrap();
    is_inside.recv_timeout(BOUND).unwrap();
    assert_eq!(vcpus.stop(BOUND), Vec::<u32>::new());
}
