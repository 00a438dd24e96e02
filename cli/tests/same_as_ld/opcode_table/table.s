 .text
 .globl table
table: .byte 0xbf
 .long first
 .byte 0xbe
 .long second
 .globl first
first: movl $11, %eax
 ret
 .globl second
second: movl $22, %eax
 ret
 .section .note.GNU-stack,"",@progbits
