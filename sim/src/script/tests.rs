// SPDX-License-Identifier: Apache-2.0

use super::*;

#[test]
fn every_form() {
    let text = "\
            # a comment\n\
            vm 1 exit off after 200   # and one behind\n\
            vm * crash\n\
            vm 2 end 3 error after 5\n\
            vm 2 busy 3\n\
            vm 2 fault ENOMEM 0x80000000\n\
            vm 2 untold\n\
            vm 3 refuse EIO\n\
            vm 3 refuse EIO at lend\n\
            call VM_SET_USER_MEM_REGION 2 errno ENOMEM\n\
            call lend_user_mem * hang\n\
            call START 1 delay 50\n\
            call OPEN 3+ kill caller\n\
            watch memfd_create fork\n\
            call memfd_create +2 errno EMFILE from vm:a\n\
            forgive\n\
            teardown delay 10\n\
            teardown delay 20 behind\n\
            teardown over\n\
            property refuse 0x18\n\
            logd vanish\n\
            rm dead\n\
            property stale\n\
            call MADV_POPULATE 1 partial 7 errno EFAULT\n\
            call VM_ANDROID_LEND_USER_MEM 1 partial 3\n\
            call pread64 2 partial 100\n\
            list\n";
    let commands = parse(text).unwrap();
    assert_eq!(
        commands,
        [
            Command::Exit {
                vm: Some(1),
                exit: Exit::of_type(1),
                after: Duration::from_millis(200)
            },
            Command::Exit { vm: None, exit: Exit::of_type(5), after: Duration::ZERO },
            Command::Exit {
                vm: Some(2),
                exit: Exit { status: 3, exit_type: 5, reason: 0 },
                after: Duration::from_millis(5)
            },
            Command::Busy { vm: 2, count: 3 },
            Command::PageFault { vm: 2, errno: Errno::ENOMEM, address: 0x8000_0000 },
            Command::Untold { vm: 2 },
            Command::Refuse { vm: 3, errno: Errno::EIO, at: None },
            Command::Refuse { vm: 3, errno: Errno::EIO, at: Some(Stage::Lend) },
            Command::Call {
                call: "SET_USER_MEM_REGION".into(),
                nth: Nth::Only(2),
                from: None,
                fault: Fault::Errno(Errno::ENOMEM)
            },
            Command::Call {
                call: "LEND_USER_MEM".into(),
                nth: Nth::From(1),
                from: None,
                fault: Fault::Hang
            },
            Command::Call {
                call: "START".into(),
                nth: Nth::Only(1),
                from: None,
                fault: Fault::Delay(Duration::from_millis(50))
            },
            Command::Call {
                call: "OPEN".into(),
                nth: Nth::From(3),
                from: None,
                fault: Fault::KillCaller
            },
            Command::Watch(vec!["memfd_create", "fork"]),
            Command::Call {
                call: "MEMFD_CREATE".into(),
                nth: Nth::Next(2),
                from: Some("vm:a".into()),
                fault: Fault::Errno(Errno::EMFILE)
            },
            Command::Forgive,
            Command::Teardown { delay: Duration::from_millis(10), behind: None },
            Command::Teardown { delay: Duration::from_millis(20), behind: Some(true) },
            Command::TeardownOver,
            Command::Property(PeerMode::Refuse(0x18)),
            Command::Log(PeerMode::Vanish),
            Command::RmDead,
            Command::Property(PeerMode::Stale),
            Command::Call {
                call: "MADV_POPULATE".into(),
                nth: Nth::Only(1),
                from: None,
                fault: Fault::Partial(7, Errno::EFAULT)
            },
            Command::Call {
                call: "LEND_USER_MEM".into(),
                nth: Nth::Only(1),
                from: None,
                fault: Fault::Partial(3, Errno::ENOMEM)
            },
            Command::Call {
                call: "PREAD64".into(),
                nth: Nth::Only(2),
                from: None,
                fault: Fault::Short(100)
            },
            Command::List,
        ]
    );
}

#[test]
fn mistakes_name_their_line() {
    for (text, line) in [
        ("list\nfrob", "line 2: \"frob\""),
        ("call START one hang", "line 1: \"one\" is not a number"),
        ("call VM_STRAT 1 hang", "line 1: call \"VM_STRAT\": one of OPEN"),
        ("call START 1 partial 3", "line 1: partial: for SET_USER"),
        ("teardown delay 3 beside", "line 1: teardown delay MS"),
        ("logd drown", "line 1: one of answer"),
        ("call START 1 errno EWHAT", "line 1: errno \"EWHAT\""),
        ("vm 1 exit sideways", "line 1: exit type"),
        ("vm * busy 1", "line 1: vm N exit"),
        ("watch getpid", "line 1: host call \"getpid\": one of memfd_create"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(line), "{error}");
    }
}
