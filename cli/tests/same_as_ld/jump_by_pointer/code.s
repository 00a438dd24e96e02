	.text
	.globl by_pointer, past, past_at_end, past_if
	.type by_pointer, @function
by_pointer:
	mov %rdi, %r11
	lea 1f(%rip), %rax
	lea next(%rip), %rcx
	mov %rax, (%rcx)
	xor %eax, %eax
	jmp *next(%rip)
	ud2
1:	lea 5(%r11), %rax
	ret
	.type past, @function
past:
	mov %rdi, %rax
	call adds+4@plt
	ret
	.type past_at_end, @function
past_at_end:
	mov %rdi, %rax
	jmp adds+4@plt
	.type past_if, @function
past_if:
	mov %rdi, %rax
	cmp %rdi, %rdi
	je adds+4@plt
	ret
	.section .note.GNU-stack, "", @progbits
