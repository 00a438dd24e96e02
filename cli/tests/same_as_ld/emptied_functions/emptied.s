.section .text.unlikely,"ax",@progbits
.balign 64
.rept 40
.cfi_startproc
.cfi_endproc
.endr
.section .note.GNU-stack,"",@progbits
