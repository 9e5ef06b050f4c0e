// SPDX-License-Identifier: Apache-2.0
//
// What the guest reads of its devicetree (version 17: header, structure block of tokens, strings).

// x22 token, x23 strings, x24 depth, x25 property's value, x26 its length, x27 its name.
walk:
	stp	x29, x30, [sp, #-80]!
	stp	x22, x23, [sp, #16]
	stp	x24, x25, [sp, #32]
	stp	x26, x27, [sp, #48]
	ldr	w22, [x19, #8]
	rev	w22, w22
	add	x22, x19, x22
	ldr	w23, [x19, #12]
	rev	w23, w23
	add	x23, x19, x23
	mov	x24, #0
next_token:
	ldr	w0, [x22], #4
	rev	w0, w0
	cmp	w0, #1
	b.eq	begin_node
	cmp	w0, #2
	b.eq	end_node
	cmp	w0, #3
	b.eq	property
	cmp	w0, #4
	b.eq	next_token
walk_done:
	ldp	x22, x23, [sp, #16]
	ldp	x24, x25, [sp, #32]
	ldp	x26, x27, [sp, #48]
	ldp	x29, x30, [sp], #80
	ret

begin_node:
	add	x24, x24, #1
	cmp	x24, #2
	b.ne	1f
	adr	x0, node_name
	str	x22, [x0]
	adr	x0, node_compatible
	stp	xzr, xzr, [x0]
	str	xzr, [x0, #16]
1:	cmp	x24, #3
	b.ne	2f
	adr	x0, child_name
	stp	x22, xzr, [x0]
2:	ldrb	w0, [x22], #1
	cbnz	w0, 2b
	bl	align_token
	b	next_token

align_token:
	add	x22, x22, #3
	and	x22, x22, #~3
	ret

property:
	ldr	w26, [x22], #4
	rev	w26, w26
	ldr	w27, [x22], #4
	rev	w27, w27
	add	x27, x23, x27
	mov	x25, x22
	add	x22, x22, x26
	bl	align_token
	cmp	x24, #2
	b.eq	node_property
	cmp	x24, #3
	b.eq	child_property
	b	next_token

// In a child of the root.
node_property:
	adr	x0, name_compatible
	bl	is_name
	cbz	x0, 1f
	adr	x0, node_compatible
	str	x25, [x0]
1:	adr	x0, name_reg
	bl	is_name
	cbz	x0, 1f
	adr	x0, node_reg
	str	x25, [x0]
1:	adr	x0, name_interrupts
	bl	is_name
	cbz	x0, 1f
	adr	x0, node_interrupts
	str	x25, [x0]
1:	adr	x0, name_bootargs
	bl	is_name
	cbz	x0, 1f
	adr	x0, bootargs
	str	x25, [x0]
1:	adr	x0, name_stdout
	bl	is_name
	cbz	x0, 1f
	adr	x0, stdout_path
	str	x25, [x0]
1:	adr	x0, name_initrd_start
	bl	is_name
	cbz	x0, 1f
	bl	read_number
	adr	x1, initrd_start
	str	x0, [x1]
1:	adr	x0, name_initrd_end
	bl	is_name
	cbz	x0, 1f
	bl	read_number
	adr	x1, initrd_end
	str	x0, [x1]
1:	adr	x0, name_method
	bl	is_name
	cbz	x0, next_token
	adr	x1, psci_method
	str	x25, [x1]
	b	next_token

// In a grandchild: a CPU's number and the power key's interrupt count.
child_property:
	adr	x0, name_reg
	bl	is_name
	cbz	x0, 1f
	adr	x0, child_reg
	str	x25, [x0]
1:	adr	x0, name_interrupts
	bl	is_name
	cbz	x0, next_token
	adr	x0, child_name
	ldr	x0, [x0]
	adr	x1, name_power_key
	bl	begins_with
	cbz	x0, next_token
	ldr	w1, [x25, #4]
	rev	w1, w1
	add	w1, w1, #32
	adr	x0, power_interrupt
	str	x1, [x0]
	b	next_token

end_node:
	cmp	x24, #2
	b.ne	1f
	bl	end_of_node
1:	cmp	x24, #3
	b.ne	2f
	bl	end_of_child
2:	sub	x24, x24, #1
	cbnz	x24, next_token
	b	walk_done

end_of_node:
	stp	x29, x30, [sp, #-16]!
	// /memory, with or without its address: the first range of its reg.
	adr	x0, node_name
	ldr	x0, [x0]
	adr	x1, name_memory
	bl	begins_with
	cbz	x0, 1f
	adr	x0, node_reg
	ldr	x25, [x0]
	cbz	x25, 1f
	bl	read_64
	adr	x1, memory_base
	str	x0, [x1]
	add	x25, x25, #8
	bl	read_64
	adr	x1, memory_size
	str	x0, [x1]
	// The interrupt controller: distributor, then redistributors.
1:	adr	x0, node_compatible
	ldp	x0, x25, [x0]
	cbz	x0, 1f
	cbz	x25, 1f
	adr	x1, compatible_gic
	bl	begins_with
	cbz	x0, 1f
	bl	read_64
	adr	x1, gic_distributor
	str	x0, [x1]
	add	x25, x25, #16
	bl	read_64
	adr	x1, gic_redistributor
	str	x0, [x1]
	// The node that stdout-path names: a slash, its name, and the end or a colon.
1:	adr	x0, stdout_path
	ldr	x0, [x0]
	cbz	x0, 4f
	add	x0, x0, #1
	adr	x1, node_name
	ldr	x1, [x1]
	bl	begins_with
	cbz	x0, 4f
	adr	x0, node_compatible
	ldp	x0, x25, [x0]
	cbz	x0, 4f
	cbz	x25, 4f
	mov	x21, #PL011
	adr	x1, compatible_pl011
	bl	begins_with
	cbnz	x0, 2f
	mov	x21, #NS16550
2:	bl	read_64
	adr	x1, uart_base
	str	x0, [x1]
	// A shared peripheral interrupt: its kind, its number less 32, its trigger.
	adr	x0, node_interrupts
	ldr	x0, [x0]
	cbz	x0, 4f
	ldr	w1, [x0, #4]
	rev	w1, w1
	add	w1, w1, #32
	adr	x0, uart_interrupt
	str	x1, [x0]
4:	ldp	x29, x30, [sp], #16
	ret

end_of_child:
	stp	x29, x30, [sp, #-16]!
	adr	x0, child_name
	ldr	x0, [x0]
	adr	x1, name_cpu
	bl	begins_with
	cbz	x0, 1f
	adr	x0, child_reg
	ldr	x0, [x0]
	cbz	x0, 1f
	ldr	w0, [x0]
	rev	w0, w0
	adr	x1, cpu_count
	ldr	x2, [x1]
	cmp	x2, #MAX_CPUS
	b.hs	1f
	adr	x3, cpus
	str	x0, [x3, x2, lsl #3]
	add	x2, x2, #1
	str	x2, [x1]
1:	ldp	x29, x30, [sp], #16
	ret

// x0 = 1 if the property's name is the text at x0.
is_name:
	mov	x1, x27
1:	ldrb	w2, [x0], #1
	ldrb	w3, [x1], #1
	cmp	w2, w3
	b.ne	2f
	cbnz	w2, 1b
	mov	x0, #1
	ret
2:	mov	x0, #0
	ret

// x0 = 1 if the text at x0 begins with the one at x1.
begins_with:
1:	ldrb	w2, [x1], #1
	cbz	w2, 2f
	ldrb	w3, [x0], #1
	cmp	w2, w3
	b.eq	1b
	mov	x0, #0
	ret
2:	mov	x0, #1
	ret

// x0 = the property's number of one cell or two.
read_number:
	cmp	x26, #8
	b.eq	read_64
	ldr	w0, [x25]
	rev	w0, w0
	ret

read_64:
	ldr	w0, [x25]
	ldr	w1, [x25, #4]
	rev	w0, w0
	rev	w1, w1
	orr	x0, x1, x0, lsl #32
	ret
