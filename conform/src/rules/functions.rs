// SPDX-License-Identifier: Apache-2.0
//! ADD_FUNCTION and REMOVE_FUNCTION, whatever the function.

use crate::bench::Bench;
use crate::device::{Answer, Vm};
use crate::dialect::FUNCTIONS;
use crate::rule::Rule;
use crate::uapi::{self, Function};
use crate::verdict::{fails, succeeds, Found};

pub const RULES: &[Rule] = &[
    Rule::read(
        FUNCTIONS,
        "function.argument",
        "A description that cannot be read is EFAULT.",
        argument,
    ),
    Rule::read(
        FUNCTIONS,
        "function.too-big",
        "An argument of more than 256 bytes is EINVAL.",
        too_big,
    ),
    Rule::read(
        FUNCTIONS,
        "function.order-size",
        "Its size is checked before it is read: EINVAL where both are wrong.",
        order_size,
    ),
    Rule::read(
        FUNCTIONS,
        "function.own-argument",
        "An argument that cannot be read is EFAULT.",
        own_argument,
    ),
    Rule::read(FUNCTIONS, "function.unknown", "A type that does not exist is ENOENT.", unknown),
    Rule::read(
        FUNCTIONS,
        "function.order-type",
        "The argument is read before the type is checked: EFAULT where both are wrong.",
        order_type,
    ),
    Rule::read(
        FUNCTIONS,
        "function.size",
        "An argument of another size than its type's is EINVAL.",
        size,
    ),
    Rule::read(
        FUNCTIONS,
        "function.remove-unknown",
        "Removing what was never added is ENOENT.",
        remove_unknown,
    ),
    Rule::read(
        FUNCTIONS,
        "function.remove-argument",
        "Removing with a description or an argument that cannot be read is EFAULT.",
        remove_argument,
    ),
    Rule::read(
        FUNCTIONS,
        "function.remove-size",
        "Removing with an argument of another size finds nothing: ENOENT.",
        remove_size,
    ),
    Rule::read(
        FUNCTIONS,
        "function.remove-type",
        "Removing a type that does not exist is ENOENT.",
        remove_type,
    ),
];

/// 512 bytes that can be read.
static READABLE: [u64; 64] = [0; 64];

fn readable() -> u64 {
    READABLE.as_ptr() as u64
}

fn add(vm: &Vm, kind: u32, size: u32, argument: u64) -> Answer {
    let function = Function { kind, size, argument };
    vm.call(uapi::ADD_FUNCTION, &function)
}

fn argument(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    for address in [0, 8] {
        let answer = vm.call_number(uapi::ADD_FUNCTION, address);
        fails(format!("at {address:#x}"), answer, &[libc::EFAULT])?;
    }
    Ok(())
}

fn too_big(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    for size in [uapi::FUNCTION_SIZE_MAX + 1, 512, u32::MAX] {
        let answer = add(&vm, uapi::VCPU, size, readable());
        fails(format!("{size} bytes"), answer, &[libc::EINVAL])?;
    }
    Ok(())
}

fn order_size(bench: &Bench) -> Found {
    let answer = add(&bench.vm()?, 99, uapi::FUNCTION_SIZE_MAX + 1, 8);
    fails("ADD_FUNCTION", answer, &[libc::EINVAL])
}

fn own_argument(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    for kind in [uapi::VCPU, uapi::IRQFD, uapi::IOEVENTFD] {
        let answer = add(&vm, kind, 4, 8);
        fails(format!("type {kind}"), answer, &[libc::EFAULT])?;
    }
    Ok(())
}

fn unknown(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    for kind in [0, 4, 99, u32::MAX] {
        let answer = add(&vm, kind, 4, readable());
        fails(format!("type {kind}"), answer, &[libc::ENOENT])?;
    }
    let answer = add(&vm, 99, 0, 0);
    fails("type 99 without an argument", answer, &[libc::ENOENT])
}

fn order_type(bench: &Bench) -> Found {
    let answer = add(&bench.vm()?, 99, 4, 8);
    fails("ADD_FUNCTION", answer, &[libc::EFAULT])
}

fn size(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    for (kind, own) in [(uapi::VCPU, 4), (uapi::IRQFD, 16), (uapi::IOEVENTFD, 32)] {
        for size in [0, own - 1, own + 1, 2 * own, uapi::FUNCTION_SIZE_MAX] {
            let argument = if size == 0 { 0 } else { readable() };
            let answer = add(&vm, kind, size, argument);
            fails(format!("type {kind}, {size} bytes"), answer, &[libc::EINVAL])?;
        }
    }
    Ok(())
}

fn remove(vm: &Vm, kind: u32, size: u32, argument: u64) -> Answer {
    let function = Function { kind, size, argument };
    vm.call(uapi::REMOVE_FUNCTION, &function)
}

fn remove_unknown(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    for (kind, size) in [(uapi::VCPU, 4), (uapi::IRQFD, 16), (uapi::IOEVENTFD, 32)] {
        let answer = remove(&vm, kind, size, readable());
        fails(format!("type {kind}"), answer, &[libc::ENOENT])?;
    }
    Ok(())
}

fn remove_argument(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    let answer = vm.call_number(uapi::REMOVE_FUNCTION, 8);
    fails("description", answer, &[libc::EFAULT])?;
    let answer = remove(&vm, uapi::VCPU, 4, 8);
    fails("argument", answer, &[libc::EFAULT])
}

fn remove_size(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    let _vcpu = succeeds("vCPU", vm.vcpu(0))?;
    let answer = remove(&vm, uapi::VCPU, 8, readable());
    fails("8 bytes for a vCPU", answer, &[libc::ENOENT])
}

fn remove_type(bench: &Bench) -> Found {
    let answer = remove(&bench.vm()?, 99, 4, readable());
    fails("type 99", answer, &[libc::ENOENT])
}
