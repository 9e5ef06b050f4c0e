// SPDX-License-Identifier: Apache-2.0
//
// A guest that tells what it was given and ends as it is told.
//
// An arm64 Image for the boot protocol of Linux: CPU 0 at the first byte, x0 = devicetree, MMU off.
// It prints, a line each with "guest: " in front: the command line, memory, initrd with a sum of its
// bytes, and every secondary CPU that PSCI started. Words of the command line:
//
//   smp        start the secondary CPUs         busy       they read the console's flags for ever
//   end=WORD   off, reset, hang, fault (a read where nothing is), undef (an undefined instruction)
//   print=N    N bytes of console output first
//   irq        take typed text by the console's interrupt, and power off by that of the power key
//
// Without end= it echoes: each byte at once and each line as "guest: heard LINE"; a line that is one
// of the words above ends it.
//
// With the MMU off all accesses must be aligned, so 64-bit cells are read in halves.
// Registers: x19 devicetree, x20 UART, x21 its kind; others are scratch or saved by their function.

	.equ	PL011, 0
	.equ	NS16550, 1
	.equ	CPU_ON, 0xc4000003
	.equ	SYSTEM_OFF, 0x84000008
	.equ	SYSTEM_RESET, 0x84000009
	.equ	MAX_CPUS, 8
	.equ	STACK, 4096
	.equ	LINE, 128

	.text
	.global	start
start:
	b	boot
	.long	0
	.quad	0				// text_offset
	.quad	memory_end			// image_size
	.quad	0xa				// little endian, 4 KiB pages, anywhere
	.quad	0, 0, 0
	.ascii	"ARM\x64"
	.long	0

boot:
	mov	x19, x0
	adr	x1, stacks
	add	sp, x1, #STACK
	// RAM is not known to be zero.
	adr	x1, variables
	adr	x2, variables_end
1:	str	xzr, [x1], #8
	cmp	x1, x2
	b.lo	1b
	// Until the devicetree names another: a PL011 where the simulator and gunyahd have theirs.
	mov	x20, #0x09000000
	mov	x21, #PL011
	bl	check_dtb
	bl	walk
	adr	x0, uart_base
	ldr	x20, [x0]
	cbnz	x20, 1f
	mov	x20, #0x09000000
	mov	x21, #PL011
	adr	x0, text_no_console
	bl	fail
1:	adr	x0, text_hello
	bl	say
	adr	x0, text_cmdline
	bl	print
	adr	x0, bootargs
	ldr	x0, [x0]
	bl	print
	bl	newline
	bl	tell_memory
	bl	tell_initrd
	adr	x0, word_print
	bl	find_word
	cbz	x0, 1f
	bl	print_many
1:	adr	x0, word_smp
	bl	find_word
	cbz	x0, 1f
	bl	start_cpus
1:	adr	x0, word_irq
	bl	find_word
	cbz	x0, 1f
	bl	start_interrupts
1:	adr	x0, text_ready
	bl	say
	adr	x0, word_end
	bl	find_word
	cbz	x0, echo
	bl	end_by
	// It was none of the words.
	adr	x0, text_bad_end
	bl	fail

// ---- what was given

check_dtb:
	mov	x29, x30
	ldr	w0, [x19]
	rev	w0, w0
	ldr	w1, =0xd00dfeed
	cmp	w0, w1
	b.ne	1f
	ret	x29
1:	adr	x0, text_bad_dtb
	bl	fail

tell_memory:
	stp	x29, x30, [sp, #-16]!
	adr	x0, text_memory
	bl	print
	adr	x0, memory_size
	ldr	x0, [x0]
	bl	print_hex
	adr	x0, text_at
	bl	print
	adr	x0, memory_base
	ldr	x0, [x0]
	bl	print_hex
	bl	newline
	ldp	x29, x30, [sp], #16
	ret

// The sum of all bytes, which the test knows.
tell_initrd:
	stp	x29, x30, [sp, #-16]!
	adr	x0, initrd_start
	ldp	x1, x2, [x0]
	cbz	x1, 3f
	mov	x3, #0
1:	cmp	x1, x2
	b.hs	2f
	ldrb	w4, [x1], #1
	add	x3, x3, x4
	b	1b
2:	stp	x3, xzr, [sp, #-16]!
	adr	x0, text_initrd
	bl	print
	adr	x0, initrd_start
	ldp	x1, x2, [x0]
	sub	x0, x2, x1
	bl	print_hex
	adr	x0, text_sum
	bl	print
	ldp	x0, x1, [sp], #16
	bl	print_hex
	bl	newline
3:	ldp	x29, x30, [sp], #16
	ret

// ---- the command line

// x0 = behind the word at x0 in the command line, or 0.
find_word:
	stp	x29, x30, [sp, #-32]!
	stp	x22, x23, [sp, #16]
	mov	x22, x0
	adr	x1, bootargs
	ldr	x23, [x1]
	cbz	x23, 3f
1:	mov	x0, x23
	mov	x1, x22
	bl	after_word
	cbnz	x0, 4f
	// On to the next word.
2:	ldrb	w1, [x23], #1
	cbz	w1, 3f
	cmp	w1, #' '
	b.ne	2b
	b	1b
3:	mov	x0, #0
4:	ldp	x22, x23, [sp, #16]
	ldp	x29, x30, [sp], #32
	ret

// x0 = where the text at x0 goes on behind the one at x1, or 0. A word that does not end with "="
// must be a whole one.
after_word:
1:	ldrb	w2, [x1], #1
	cbz	w2, 2f
	ldrb	w3, [x0], #1
	mov	w4, w2
	cmp	w2, w3
	b.eq	1b
	mov	x0, #0
	ret
2:	cmp	w4, #'='
	b.eq	3f
	ldrb	w2, [x0]
	cbz	w2, 3f
	cmp	w2, #' '
	b.eq	3f
	mov	x0, #0
3:	ret

// Prints as many bytes as the number at x0 says, in lines of 64.
print_many:
	stp	x29, x30, [sp, #-32]!
	str	x22, [sp, #16]
	mov	x22, #0
	mov	x2, #10
1:	ldrb	w1, [x0], #1
	sub	w1, w1, #'0'
	cmp	w1, #9
	b.hi	2f
	madd	x22, x22, x2, x1
	b	1b
2:	cbz	x22, 4f
	sub	x22, x22, #1
	tst	x22, #63
	mov	w0, #'.'
	mov	w1, #'\n'
	csel	w0, w1, w0, eq
	bl	put
	b	2b
4:	ldr	x22, [sp, #16]
	ldp	x29, x30, [sp], #32
	ret

// ---- secondary CPUs

start_cpus:
	stp	x29, x30, [sp, #-48]!
	stp	x22, x23, [sp, #16]
	str	x24, [sp, #32]
	mov	x22, #1
1:	adr	x0, cpu_count
	ldr	x0, [x0]
	cmp	x22, x0
	b.hs	9f
	adr	x1, cpus
	ldr	x1, [x1, x22, lsl #3]
	ldr	x0, =CPU_ON
	adr	x2, secondary
	mov	x3, x22
	bl	psci
	mov	x23, x0
	adr	x0, text_cpu
	bl	print
	mov	x0, x22
	bl	print_hex
	cbnz	x23, 4f
	// It says so by its flag. Not for ever: the engine may run one CPU alone.
	adr	x0, flags
	mov	x24, #0x4000000
2:	ldr	x1, [x0, x22, lsl #3]
	cbnz	x1, 3f
	yield
	sub	x24, x24, #1
	cbnz	x24, 2b
	adr	x0, text_silent
	bl	print
	b	5f
3:	adr	x0, text_up
	bl	print
	b	5f
4:	adr	x0, text_refused
	bl	print
5:	bl	newline
	add	x22, x22, #1
	b	1b
9:	ldr	x24, [sp, #32]
	ldp	x22, x23, [sp, #16]
	ldp	x29, x30, [sp], #48
	ret

// A secondary CPU: x0 its index.
secondary:
	adr	x1, stacks
	add	x2, x0, #1
	mov	x3, #STACK
	madd	x1, x2, x3, x1
	mov	sp, x1
	mov	x22, x0
	adr	x20, uart_base
	ldr	x20, [x20]
	adr	x1, flags
	mov	x2, #1
	str	x2, [x1, x22, lsl #3]
	dsb	sy
	sev
	adr	x0, word_busy
	bl	find_word
	cbnz	x0, 2f
1:	wfi
	b	1b
	// An exit for every turn.
2:	ldrb	w0, [x20, #0x18]
	b	2b

// x0 function, x1 to x3 arguments; x0 = the answer. By hvc, unless the devicetree says smc.
psci:
	stp	x29, x30, [sp, #-64]!
	stp	x0, x1, [sp, #16]
	stp	x2, x3, [sp, #32]
	adr	x0, psci_method
	ldr	x0, [x0]
	mov	x4, #0
	cbz	x0, 1f
	adr	x1, method_smc
	bl	begins_with
	mov	x4, x0
1:	ldp	x2, x3, [sp, #32]
	ldp	x0, x1, [sp, #16]
	ldp	x29, x30, [sp], #64
	cbnz	x4, 2f
	hvc	#0
	ret
2:	smc	#0
	ret

// ---- the end

// Ends as the word at x0 says; comes back if it is none that is known.
end_by:
	stp	x29, x30, [sp, #-32]!
	str	x22, [sp, #16]
	mov	x22, x0
	adr	x1, word_off
	bl	after_word
	cbnz	x0, end_off
	mov	x0, x22
	adr	x1, word_reset
	bl	after_word
	cbnz	x0, end_reset
	mov	x0, x22
	adr	x1, word_hang
	bl	after_word
	cbnz	x0, end_hang
	mov	x0, x22
	adr	x1, word_fault
	bl	after_word
	cbnz	x0, end_fault
	mov	x0, x22
	adr	x1, word_undef
	bl	after_word
	cbnz	x0, end_undef
	ldr	x22, [sp, #16]
	ldp	x29, x30, [sp], #32
	ret

end_off:
	adr	x0, text_off
	bl	say
	ldr	x0, =SYSTEM_OFF
	bl	psci
	b	end_hang

end_reset:
	adr	x0, text_reset
	bl	say
	ldr	x0, =SYSTEM_RESET
	bl	psci
	b	end_hang

end_hang:
	wfi
	b	end_hang

// Above 1 GiB nothing traps to the host, and here is no memory.
end_fault:
	mov	x0, #0x700000000
	ldr	x0, [x0]
	b	end_hang

end_undef:
	udf	#0
	b	end_hang

// Says what is wrong and powers off.
fail:
	bl	say
	ldr	x0, =SYSTEM_OFF
	bl	psci
	b	end_hang

// ---- typed text

echo:
	adr	x22, line
	mov	x23, #0
1:	bl	get
	mov	w24, w0
	bl	put
	cmp	w24, #'\r'
	b.eq	2f
	cmp	w24, #'\n'
	b.eq	3f
	cmp	x23, #LINE - 1
	b.hs	1b
	strb	w24, [x22, x23]
	add	x23, x23, #1
	b	1b
2:	mov	w0, #'\n'
	bl	put
3:	strb	wzr, [x22, x23]
	mov	x23, #0
	adr	x0, text_heard
	bl	print
	mov	x0, x22
	bl	print
	bl	newline
	mov	x0, x22
	bl	end_by
	b	1b

	.include "devicetree.S"
	.include "interrupts.S"
	.include "console.S"

	.ltorg

	.section .rodata
digits:			.ascii	"0123456789abcdef"
text_hello:		.asciz	"guest: hello"
text_cmdline:		.asciz	"guest: cmdline "
text_memory:		.asciz	"guest: memory "
text_at:		.asciz	" at "
text_initrd:		.asciz	"guest: initrd "
text_sum:		.asciz	" sum "
text_cpu:		.asciz	"guest: cpu "
text_up:		.asciz	" up"
text_silent:		.asciz	" silent"
text_refused:		.asciz	" refused"
text_ready:		.asciz	"guest: ready"
text_irq:		.asciz	"guest: irq on"
text_exception:		.asciz	"guest: exception"
text_heard:		.asciz	"guest: heard "
text_power_key:		.asciz	"guest: power key"
text_off:		.asciz	"guest: off"
text_reset:		.asciz	"guest: reset"
text_bad_dtb:		.asciz	"guest: no devicetree in x0"
text_no_console:	.asciz	"guest: stdout-path names no console"
text_bad_end:		.asciz	"guest: end= is none that is known"
word_smp:		.asciz	"smp"
word_busy:		.asciz	"busy"
word_print:		.asciz	"print="
word_irq:		.asciz	"irq"
word_end:		.asciz	"end="
word_off:		.asciz	"off"
word_reset:		.asciz	"reset"
word_hang:		.asciz	"hang"
word_fault:		.asciz	"fault"
word_undef:		.asciz	"undef"
method_smc:		.asciz	"smc"
name_compatible:	.asciz	"compatible"
name_reg:		.asciz	"reg"
name_interrupts:	.asciz	"interrupts"
name_bootargs:		.asciz	"bootargs"
name_stdout:		.asciz	"stdout-path"
name_initrd_start:	.asciz	"linux,initrd-start"
name_initrd_end:	.asciz	"linux,initrd-end"
name_method:		.asciz	"method"
name_memory:		.asciz	"memory"
name_cpu:		.asciz	"cpu@"
name_power_key:		.asciz	"power-key"
compatible_gic:		.asciz	"arm,gic-v3"
compatible_pl011:	.asciz	"arm,pl011"

	.bss
	.balign	16
variables:
node_name:		.skip	8
	.balign	16
node_compatible:	.skip	8		// node_reg and node_interrupts follow: cleared together
node_reg:		.skip	8
node_interrupts:	.skip	8
child_name:		.skip	8		// child_reg follows: cleared as a pair
child_reg:		.skip	8
bootargs:		.skip	8
stdout_path:		.skip	8
initrd_start:		.skip	8		// initrd_end follows: read as a pair
initrd_end:		.skip	8
psci_method:		.skip	8
memory_base:		.skip	8
memory_size:		.skip	8
uart_base:		.skip	8
uart_interrupt:		.skip	8
power_interrupt:	.skip	8
gic_distributor:	.skip	8		// gic_redistributor follows: read as a pair
gic_redistributor:	.skip	8
irq_on:			.skip	8
interrupts_taken:	.skip	8
typed_head:		.skip	8		// typed_tail follows: read as a pair
typed_tail:		.skip	8
cpu_count:		.skip	8
cpus:			.skip	8 * MAX_CPUS
flags:			.skip	8 * MAX_CPUS
line:			.skip	LINE
typed:			.skip	LINE
variables_end:
	.balign	16
stacks:			.skip	STACK * (MAX_CPUS + 1)
