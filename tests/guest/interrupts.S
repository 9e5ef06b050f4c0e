// SPDX-License-Identifier: Apache-2.0
//
// Interrupts (GICv3, Arm IHI 0069): the console's and the power key's.

	.equ	GICD_CTLR, 0x0
	.equ	GICD_IGROUPR, 0x80
	.equ	GICD_ISENABLER, 0x100
	.equ	GICD_ICFGR, 0xc00
	.equ	GICD_IROUTER, 0x6000
	.equ	GICR_WAKER, 0x14

start_interrupts:
	stp	x29, x30, [sp, #-16]!
	adr	x0, vectors
	msr	vbar_el1, x0
	isb
	adr	x1, gic_distributor
	ldp	x1, x2, [x1]
	cbz	x1, 3f
	// Group 1, by affinity.
	mov	w3, #0x12
	str	w3, [x1, #GICD_CTLR]
	adr	x4, uart_interrupt
	ldr	x4, [x4]
	cbz	x4, 3f
	bl	enable_interrupt
	adr	x4, power_interrupt
	ldr	x4, [x4]
	cbz	x4, 1f
	// An edge: the upper of two bits each.
	lsr	x5, x4, #4
	add	x7, x1, x5, lsl #2
	and	x5, x4, #15
	lsl	x5, x5, #1
	mov	w6, #2
	lsl	w6, w6, w5
	ldr	w3, [x7, #GICD_ICFGR]
	orr	w3, w3, w6
	str	w3, [x7, #GICD_ICFGR]
	bl	enable_interrupt
	// The redistributor sleeps until it is told not to.
1:	ldr	w3, [x2, #GICR_WAKER]
	and	w3, w3, #~2
	str	w3, [x2, #GICR_WAKER]
	mov	w5, #1000
1:	ldr	w3, [x2, #GICR_WAKER]
	tbz	w3, #2, 2f
	subs	w5, w5, #1
	b.ne	1b
2:	mov	x0, #1
	msr	S3_0_C12_C12_5, x0		// ICC_SRE_EL1
	isb
	mov	x0, #0xff
	msr	S3_0_C4_C6_0, x0		// ICC_PMR_EL1
	mov	x0, #1
	msr	S3_0_C12_C12_7, x0		// ICC_IGRPEN1_EL1
	isb
	mov	w0, #0x50			// PL011 IMSC: RX and its timeout
	mov	w1, #1				// 16550 IER: received data
	cbnz	x21, 1f
	str	w0, [x20, #0x38]
	b	2f
1:	strb	w1, [x20, #1]
2:	adr	x0, irq_on
	mov	x1, #1
	str	x1, [x0]
	msr	daifclr, #2
	adr	x0, text_irq
	bl	say
3:	ldp	x29, x30, [sp], #16
	ret

// Interrupt x4 of the distributor at x1.
enable_interrupt:
	lsr	x5, x4, #5
	add	x7, x1, x5, lsl #2
	mov	w6, #1
	lsl	w6, w6, w4
	ldr	w3, [x7, #GICD_IGROUPR]
	orr	w3, w3, w6
	str	w3, [x7, #GICD_IGROUPR]
	add	x8, x1, #GICD_IROUTER
	str	xzr, [x8, x4, lsl #3]
	str	w6, [x7, #GICD_ISENABLER]
	ret

	.balign	2048
vectors:
	b	bad_exception			// from EL1 with SP_EL0: never
	.balign	512
	b	bad_exception			// synchronous
	.balign	128
	b	interrupt
	.balign	128
	b	bad_exception			// FIQ
	.balign	128
	b	bad_exception			// SError
	.balign	512

bad_exception:
	adr	x0, text_exception
	bl	fail

power_key:
	adr	x0, text_power_key
	bl	say
	b	end_off

// Moves all that is typed to the queue, a byte that does not fit is lost.
interrupt:
	stp	x0, x1, [sp, #-64]!
	stp	x2, x3, [sp, #16]
	stp	x4, x5, [sp, #32]
	stp	x6, x30, [sp, #48]
	mrs	x6, S3_0_C12_C12_0		// ICC_IAR1_EL1
	adr	x1, power_interrupt
	ldr	x1, [x1]
	cmp	x1, x6
	b.eq	power_key
	adr	x1, uart_interrupt
	ldr	x1, [x1]
	cmp	x1, x6
	b.ne	4f
	adr	x1, interrupts_taken
	ldr	x2, [x1]
	add	x2, x2, #1
	str	x2, [x1]
1:	cbnz	x21, 2f
	ldr	w0, [x20, #0x18]		// FR
	tbnz	w0, #4, 3f			// RXFE
	ldr	w0, [x20]
	b	5f
2:	ldrb	w0, [x20, #5]			// LSR
	tbz	w0, #0, 3f			// DR
	ldrb	w0, [x20]
5:	adr	x1, typed_head
	ldp	x2, x3, [x1]
	sub	x4, x2, x3
	cmp	x4, #LINE
	b.hs	1b
	adr	x4, typed
	and	x5, x2, #LINE - 1
	strb	w0, [x4, x5]
	add	x2, x2, #1
	str	x2, [x1]
	b	1b
3:	msr	S3_0_C12_C12_1, x6		// ICC_EOIR1_EL1
4:	ldp	x6, x30, [sp, #48]
	ldp	x4, x5, [sp, #32]
	ldp	x2, x3, [sp, #16]
	ldp	x0, x1, [sp], #64
	eret
