	.section .text
	.globl _libplat_start
_libplat_start:
	xor %ebp, %ebp
	mov %rsp, %rdi
	and $-16, %rsp
	call plat_entry
	hlt
	.section .uk_libinfo, "a"
	.byte 'p', 'l', 'a', 't', 0
	.section .note.GNU-stack, "", @progbits
