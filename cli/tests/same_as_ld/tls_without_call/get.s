	.text
	.globl	get
get:	push	%rax
	.byte	0x66
	leaq	variable@tlsgd(%rip), %rdi
	.byte	0x66, 0x66, 0x48, 0xe8, 0, 0, 0, 0
	mov	other(%rip), %eax
	pop	%rdx
	ret
	.data
	.globl	other
other:	.long	99
	.section .tdata, "awT", @progbits
	.globl	variable
variable:
	.long	7
	.section .note.GNU-stack, "", @progbits
