// SPDX-License-Identifier: Apache-2.0
//
// CPU 0 with the devicetree in x0, MMU off; then interrupts for `on_interrupt`.

	.section .text.boot, "ax"
	.global	_start
_start:
	// Floating-point registers, which compilers move bytes with.
	mov	x1, #(3 << 20)
	msr	cpacr_el1, x1
	adr	x1, vectors
	msr	vbar_el1, x1
	isb
	ldr	x1, =stack_end
	mov	sp, x1
	bl	peer_main
1:	wfi
	b	1b

	.balign	2048
vectors:
	.rept	4
	b	unexpected
	.balign	128
	.endr
	b	unexpected			// synchronous, from here
	.balign	128
	b	interrupt
	.balign	128
	.rept	10
	b	unexpected
	.balign	128
	.endr

unexpected:
	mrs	x0, esr_el1
	mrs	x1, elr_el1
	mrs	x2, far_el1
	bl	peer_fault
1:	wfi
	b	1b

interrupt:
	sub	sp, sp, #192
	stp	x0, x1, [sp]
	stp	x2, x3, [sp, #16]
	stp	x4, x5, [sp, #32]
	stp	x6, x7, [sp, #48]
	stp	x8, x9, [sp, #64]
	stp	x10, x11, [sp, #80]
	stp	x12, x13, [sp, #96]
	stp	x14, x15, [sp, #112]
	stp	x16, x17, [sp, #128]
	stp	x18, x29, [sp, #144]
	str	x30, [sp, #160]
	bl	peer_interrupt
	ldp	x0, x1, [sp]
	ldp	x2, x3, [sp, #16]
	ldp	x4, x5, [sp, #32]
	ldp	x6, x7, [sp, #48]
	ldp	x8, x9, [sp, #64]
	ldp	x10, x11, [sp, #80]
	ldp	x12, x13, [sp, #96]
	ldp	x14, x15, [sp, #112]
	ldp	x16, x17, [sp, #128]
	ldp	x18, x29, [sp, #144]
	ldr	x30, [sp, #160]
	add	sp, sp, #192
	eret

	.bss
	.balign	16
	.skip	65536
stack_end:
