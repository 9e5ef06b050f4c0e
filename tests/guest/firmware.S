// SPDX-License-Identifier: Apache-2.0
//
// Stands for pvmfw: the resource manager puts it into a protected VM, which begins here. It finds the
// kernel by /config in the devicetree, as pvmfw does, says a line and goes on there with x0 as it came.
//
// x0 devicetree; x19 the same, x20 the kernel's address, x21 its size. MMU off: aligned accesses alone.

	.text
	.global	start
start:
	mov	x19, x0
	mov	x20, #0
	mov	x21, #0
	ldr	w1, [x19, #8]			// the structure block
	rev	w1, w1
	add	x1, x19, x1
	ldr	w2, [x19, #12]			// the strings
	rev	w2, w2
	add	x2, x19, x2
next:	ldr	w3, [x1], #4
	rev	w3, w3
	cmp	w3, #3				// a property
	b.eq	property
	cmp	w3, #9				// the end
	b.eq	end
	cmp	w3, #1				// a node: skip its name
	b.ne	next
1:	ldrb	w3, [x1], #1
	cbnz	w3, 1b
	add	x1, x1, #3
	and	x1, x1, #~3
	b	next
property:
	ldp	w4, w5, [x1], #8
	rev	w4, w4
	rev	w5, w5
	add	x5, x2, x5
	adr	x6, name_address
	bl	is_name
	cbz	x6, 1f
	ldr	w20, [x1]
	rev	w20, w20
1:	adr	x6, name_size
	bl	is_name
	cbz	x6, 1f
	ldr	w21, [x1]
	rev	w21, w21
1:	add	x1, x1, x4
	add	x1, x1, #3
	and	x1, x1, #~3
	b	next

// x6 = whether the texts at x5 and x6 are the same.
is_name:
	mov	x7, x5
1:	ldrb	w8, [x6], #1
	ldrb	w9, [x7], #1
	cmp	w8, w9
	b.ne	2f
	cbnz	w8, 1b
	mov	x6, #1
	ret
2:	mov	x6, #0
	ret

end:
	adr	x6, text_hello
	cbnz	x20, 1f
	adr	x6, text_none
1:	mov	x7, #0x09000000			// gunyahd's PL011
2:	ldrb	w8, [x6], #1
	cbz	w8, 3f
	str	w8, [x7]
	b	2b
3:	cbz	x20, off
	cbz	x21, off
	mov	x0, x19
	br	x20
off:	movz	w0, #8
	movk	w0, #0x8400, lsl #16		// SYSTEM_OFF
	hvc	#0
	b	.

name_address:	.asciz	"kernel-address"
name_size:	.asciz	"kernel-size"
text_hello:	.asciz	"firmware: hello\n"
text_none:	.asciz	"firmware: no kernel\n"
