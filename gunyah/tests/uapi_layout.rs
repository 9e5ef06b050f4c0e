// SPDX-License-Identifier: Apache-2.0
//! The numbers and layouts of `src/uapi.rs`, held against a C compiler's view of our own header
//! (`tests/uapi/gunyah_facts.h`) and, for the calls, against the numbers as they are documented.
//!
//! Without a C compiler this says so and checks nothing of C; GUNYAHD_REQUIRE_TOOLS=1 or
//! GUNYAHD_NO_SKIP makes that a failure.

#![allow(clippy::unwrap_used)] // All of it is test.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use gunyah::uapi::{self, VcpuExit, VcpuRun};

/// What C says it is, what Rust says it is.
struct Fact {
    c: String,
    rust: i128,
}

/// A constant of the same name on both sides, or of two names.
macro_rules! constants {
    ($facts:ident: $($c:ident $(= $rust:ident)?),* $(,)?) => {
        $($facts.push(Fact { c: stringify!($c).into(), rust: constants!(@rust $c $($rust)?) });)*
    };
    (@rust $c:ident) => { i128::from(uapi::$c) };
    (@rust $c:ident $rust:ident) => { i128::from(uapi::$rust) };
}

/// A struct's size, alignment and fields; a field is named alone or as `c = rust`.
macro_rules! layout {
    ($facts:ident: $c:literal = $rust:ident { $($field:ident $(= $of:ident)?),* $(,)? }) => {
        $facts.push(size(format!("sizeof({})", $c), size_of::<uapi::$rust>()));
        $facts.push(size(format!("_Alignof({})", $c), align_of::<uapi::$rust>()));
        $($facts.push(size(
            format!("offsetof({}, {})", $c, layout!(@last $field $($of)?)),
            offset_of!(uapi::$rust, $field),
        ));)*
    };
    (@last $field:ident) => { stringify!($field) };
    (@last $field:ident $of:ident) => { stringify!($of) };
}

fn size(c: String, rust: usize) -> Fact {
    Fact { c, rust: i128::try_from(rust).unwrap() }
}

fn facts() -> Vec<Fact> {
    let mut facts = Vec::new();
    constants!(facts:
        CREATE_VM, VM_SET_USER_MEM_REGION, VM_SET_DTB_CONFIG, VM_START, VM_ADD_FUNCTION, VCPU_RUN,
        VCPU_MMAP_SIZE, VM_REMOVE_FUNCTION, VM_MAP_MEM, VM_SET_BOOT_CONTEXT,
        VM_ANDROID_LEND_USER_MEM, VM_ANDROID_SET_FW_CONFIG, VM_ANDROID_RECLAIM_REGION,
        ANDROID_CREATE_CMA_MEM_FD, VM_ANDROID_MAP_CMA_MEM, VM_ANDROID_SET_AUTH_TYPE, CHECK_EXTENSION,
        GUNYAH_IOCTL_TYPE = IOCTL_TYPE, GUNYAH_ANDROID_IOCTL_TYPE = ANDROID_IOCTL_TYPE,
        MEM_ALLOW_READ, MEM_ALLOW_WRITE, MEM_ALLOW_EXEC, MEM_LEND, AUTH_TYPE_ANDROID_PVM,
        AUTH_TYPE_QTVM, CAP_VCPU_TIMER_WAKEUP,
        FN_MAX_ARG_SIZE = FUNCTION_MAX_ARG_SIZE, FN_VCPU = FUNCTION_VCPU,
        FN_IRQFD = FUNCTION_IRQFD, FN_IOEVENTFD = FUNCTION_IOEVENTFD,
        IRQFD_LEVEL = IRQFD_FLAGS_LEVEL, IOEVENTFD_DATAMATCH = IOEVENTFD_FLAGS_DATAMATCH,
        REG_SET_X = BOOT_CONTEXT_X, REG_SET_PC = BOOT_CONTEXT_PC, REG_SET_SP = BOOT_CONTEXT_SP,
        EXIT_UNKNOWN, EXIT_MMIO, EXIT_STATUS, EXIT_PAGE_FAULT,
        STATUS_LOAD_FAILED, STATUS_EXITED, STATUS_CRASHED,
        RESUME_HANDLED, RESUME_FAULT, RESUME_RETRY,
        EXIT_TYPE_VM_EXIT, EXIT_TYPE_SYSTEM_OFF, EXIT_TYPE_SYSTEM_RESET, EXIT_TYPE_SYSTEM_RESET2,
        EXIT_TYPE_WATCHDOG_BITE, EXIT_TYPE_HYP_ERROR, EXIT_TYPE_ASYNC_EXT_ABORT,
        EXIT_TYPE_FORCE_STOPPED,
    );
    layout!(facts: "struct user_mem_region" = UserMemoryRegion {
        label, flags, guest_phys_addr, memory_size, userspace_addr,
    });
    layout!(facts: "struct dtb_config" = GuestRange { guest_phys_addr, size });
    layout!(facts: "struct fw_config" = GuestRange { guest_phys_addr, size });
    layout!(facts: "struct reclaim_region" = GuestRange { guest_phys_addr, size });
    layout!(facts: "struct map_cma_mem" = MapCmaMem {
        label, padding, guest_phys_addr, flags, guest_mem_fd, offset, size,
    });
    layout!(facts: "struct map_mem" = MapMem { guest_addr, flags, guest_mem_fd, offset, size });
    layout!(facts: "struct auth_type" = AuthType { kind = type, size, arg });
    layout!(facts: "struct qtvm_auth" = QtvmAuth { vm_id, padding, pas_id, guest_phys_addr, size });
    layout!(facts: "struct fn_desc" = FunctionDesc { kind = type, arg_size, arg });
    layout!(facts: "struct fn_vcpu_arg" = FunctionVcpu { id });
    layout!(facts: "struct fn_irqfd_arg" = FunctionIrqfd { fd, label, flags, padding });
    layout!(facts: "struct fn_ioeventfd_arg" = FunctionIoeventfd {
        datamatch, addr, len, fd, flags, padding,
    });
    layout!(facts: "struct boot_context" = BootContext { reg, reserved, value });
    layout!(facts: "struct vcpu_exit_mmio" = ExitMmio {
        phys_addr, data, len, is_write, resume_action,
    });
    layout!(facts: "struct vcpu_exit_page_fault" = ExitPageFault {
        phys_addr, attempt, resume_action,
    });
    layout!(facts: "struct vcpu_run" = VcpuRun { immediate_exit, exit_reason });
    // Nested in C, flat in ours.
    let status =
        |c: &str, rust: usize| size(format!("offsetof(struct vcpu_exit_status, {c})"), rust);
    facts.extend([
        status("status", offset_of!(uapi::ExitStatus, status)),
        status("exit_info.type", offset_of!(uapi::ExitStatus, exit_type)),
        status("exit_info.padding", offset_of!(uapi::ExitStatus, padding)),
        status("exit_info.reason_size", offset_of!(uapi::ExitStatus, reason_size)),
        status("exit_info.reason", offset_of!(uapi::ExitStatus, reason)),
        size("sizeof(struct vcpu_exit_status)".into(), size_of::<uapi::ExitStatus>()),
    ]);
    let exit = offset_of!(VcpuRun, exit);
    let run = |c: &str, rust: usize| size(format!("offsetof(struct vcpu_run, {c})"), exit + rust);
    facts.extend([
        run("mmio", offset_of!(VcpuExit, mmio)),
        run("mmio.resume_action", offset_of!(uapi::ExitMmio, resume_action)),
        run("status", offset_of!(VcpuExit, status)),
        run("status.exit_info.reason", offset_of!(uapi::ExitStatus, reason)),
        run("page_fault", offset_of!(VcpuExit, page_fault)),
        run("page_fault.resume_action", offset_of!(uapi::ExitPageFault, resume_action)),
    ]);
    facts
}

/// A C program that prints one line a fact: its expression, a tab, its value.
fn program(facts: &[Fact]) -> String {
    let mut text = String::from(
        "#include <stddef.h>\n#include <stdio.h>\n#include \"gunyah_facts.h\"\nint main(void)\n{\n",
    );
    for Fact { c, .. } in facts {
        let printable = c.replace('%', "%%");
        writeln!(text, "\tprintf(\"{printable}\\t%lld\\n\", (long long)({c}));").unwrap();
    }
    text + "\treturn 0;\n}\n"
}

fn have_compiler() -> bool {
    let found = Command::new("cc").arg("--version").output().is_ok();
    if !found {
        let required = std::env::var_os("GUNYAHD_REQUIRE_TOOLS").is_some_and(|value| value == "1")
            || std::env::var_os("GUNYAHD_NO_SKIP").is_some();
        assert!(!required, "no C compiler `cc`, and nothing may be skipped");
        eprintln!("SKIPPED: no C compiler `cc`: the layouts are not compared with C");
    }
    found
}

fn answers(facts: &[Fact]) -> BTreeMap<String, i128> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = dir.join("uapi_layout.c");
    let binary = dir.join("uapi_layout");
    std::fs::write(&source, program(facts)).unwrap();
    let compiled = Command::new("cc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/uapi"))
        .arg("-o")
        .args([&binary, &source])
        .output()
        .unwrap();
    assert!(compiled.status.success(), "cc: {}", String::from_utf8_lossy(&compiled.stderr));
    let output = Command::new(&binary).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            let (name, value) = line.split_once('\t').unwrap();
            (name.to_string(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn numbers_and_layouts_are_what_c_says() {
    let facts = facts();
    assert!(facts.len() > 100, "only {} facts", facts.len());
    if !have_compiler() {
        return;
    }
    let c = answers(&facts);
    let differing: Vec<_> = facts
        .iter()
        .filter(|fact| c.get(&fact.c) != Some(&fact.rust))
        .map(|fact| format!("{}: C {:?}, uapi.rs {}", fact.c, c.get(&fact.c), fact.rust))
        .collect();
    assert!(differing.is_empty(), "{differing:#?}");
}

#[test]
fn the_calls_have_their_documented_numbers() {
    for (name, ours, documented) in [
        ("CREATE_VM", uapi::CREATE_VM, 0x4700),
        ("VM_SET_USER_MEM_REGION", uapi::VM_SET_USER_MEM_REGION, 0x4020_4701),
        ("VM_SET_DTB_CONFIG", uapi::VM_SET_DTB_CONFIG, 0x4010_4702),
        ("VM_START", uapi::VM_START, 0x4703),
        ("VM_ADD_FUNCTION", uapi::VM_ADD_FUNCTION, 0x4010_4704),
        ("VCPU_RUN", uapi::VCPU_RUN, 0x4705),
        ("VCPU_MMAP_SIZE", uapi::VCPU_MMAP_SIZE, 0x4706),
        ("VM_REMOVE_FUNCTION", uapi::VM_REMOVE_FUNCTION, 0x4010_4707),
        ("VM_SET_BOOT_CONTEXT", uapi::VM_SET_BOOT_CONTEXT, 0x4010_470a),
        ("VM_ANDROID_LEND_USER_MEM", uapi::VM_ANDROID_LEND_USER_MEM, 0x4020_4111),
        ("VM_ANDROID_SET_FW_CONFIG", uapi::VM_ANDROID_SET_FW_CONFIG, 0x4010_4112),
        ("VM_MAP_MEM", uapi::VM_MAP_MEM, 0x4020_4709),
        ("VM_ANDROID_RECLAIM_REGION", uapi::VM_ANDROID_RECLAIM_REGION, 0x4010_4113),
        ("ANDROID_CREATE_CMA_MEM_FD", uapi::ANDROID_CREATE_CMA_MEM_FD, 0x4114),
        ("VM_ANDROID_MAP_CMA_MEM", uapi::VM_ANDROID_MAP_CMA_MEM, 0x4028_4115),
        ("VM_ANDROID_SET_AUTH_TYPE", uapi::VM_ANDROID_SET_AUTH_TYPE, 0x4010_4116),
        ("CHECK_EXTENSION", uapi::CHECK_EXTENSION, 0x4117),
    ] {
        assert_eq!(ours, documented, "{name}: {ours:#x}, documented {documented:#x}");
    }
}

#[test]
fn the_run_page_has_its_documented_offsets() {
    let exit = offset_of!(VcpuRun, exit);
    let found = [
        offset_of!(VcpuRun, immediate_exit),
        offset_of!(VcpuRun, exit_reason),
        exit + offset_of!(uapi::ExitMmio, phys_addr),
        exit + offset_of!(uapi::ExitMmio, data),
        exit + offset_of!(uapi::ExitMmio, len),
        exit + offset_of!(uapi::ExitMmio, is_write),
        exit + offset_of!(uapi::ExitMmio, resume_action),
        exit + offset_of!(uapi::ExitStatus, status),
        exit + offset_of!(uapi::ExitStatus, exit_type),
        exit + offset_of!(uapi::ExitStatus, reason_size),
        exit + offset_of!(uapi::ExitStatus, reason),
        exit + offset_of!(uapi::ExitPageFault, attempt),
        exit + offset_of!(uapi::ExitPageFault, resume_action),
    ];
    assert_eq!(found, [0, 8, 16, 24, 32, 36, 37, 16, 20, 24, 28, 24, 28]);
}
