// SPDX-License-Identifier: Apache-2.0
//
// The console; x20 its base, x21 its kind.

// w0 = the next typed byte.
get:
	adr	x0, irq_on
	ldr	x0, [x0]
	cbz	x0, 3f
	// With interrupts masked WFI wakes for one all the same, and none is missed before it.
1:	msr	daifset, #2
	adr	x1, typed_head
	ldp	x2, x3, [x1]
	cmp	x2, x3
	b.ne	2f
	wfi
	msr	daifclr, #2
	isb
	b	1b
2:	adr	x4, typed
	and	x5, x3, #LINE - 1
	ldrb	w0, [x4, x5]
	add	x3, x3, #1
	str	x3, [x1, #8]
	msr	daifclr, #2
	ret
3:	cbnz	x21, 2f
1:	ldr	w0, [x20, #0x18]		// FR
	tbnz	w0, #4, 1b			// RXFE
	ldr	w0, [x20]
	and	w0, w0, #0xff
	ret
2:	ldrb	w0, [x20, #5]			// LSR
	tbz	w0, #0, 2b			// DR
	ldrb	w0, [x20]
	ret

// Prints w0; keeps all but x16 and x17.
put:
	cbnz	x21, 2f
1:	ldr	w16, [x20, #0x18]		// FR
	tbnz	w16, #5, 1b			// TXFF
	str	w0, [x20]
	ret
2:	ldrb	w16, [x20, #5]			// LSR
	tbz	w16, #5, 2b			// THRE
	strb	w0, [x20]
	ret

newline:
	mov	w0, #'\n'
	b	put

// Prints the text at x0; none is an empty one.
print:
	stp	x29, x30, [sp, #-32]!
	str	x22, [sp, #16]
	mov	x22, x0
	cbz	x22, 2f
1:	ldrb	w0, [x22], #1
	cbz	w0, 2f
	bl	put
	b	1b
2:	ldr	x22, [sp, #16]
	ldp	x29, x30, [sp], #32
	ret

// The same as a line.
say:
	stp	x29, x30, [sp, #-16]!
	bl	print
	bl	newline
	ldp	x29, x30, [sp], #16
	ret

// Prints x0 as 0x and its digits without leading zeros.
print_hex:
	stp	x29, x30, [sp, #-32]!
	stp	x22, x23, [sp, #16]
	mov	x22, x0
	mov	w0, #'0'
	bl	put
	mov	w0, #'x'
	bl	put
	clz	x23, x22
	mov	x1, #60
	and	x23, x23, #~3
	cmp	x23, x1
	csel	x23, x1, x23, hi
	sub	x23, x1, x23
1:	lsr	x0, x22, x23
	and	x0, x0, #0xf
	adr	x1, digits
	ldrb	w0, [x1, x0]
	bl	put
	subs	x23, x23, #4
	b.pl	1b
	ldp	x22, x23, [sp, #16]
	ldp	x29, x30, [sp], #32
	ret
