.section strs,"aMS",@progbits,1
.string "hello"
.string "hello"
.string "lo"
.text
.globl FN
FN: ret
.section .note.GNU-stack,"",@progbits
