# One vCPU and self-modifying code: a function patched before each call, and an instruction that changes the next one.
# Ends by port 0xf4: 0x10 when all was right, 0x11 when not.
.set rounds, 20000
.code32
.globl _start
_start:
    mov $0x80000, %esp
    mov $1, %ecx
1:  mov %ecx, f + 1                 # before the first round the page was not executed yet
    call f
    cmp %ecx, %eax
    jne wrong
    mov %cl, next + 1               # the next instruction of this block
next:
    mov $0, %al
    cmp %cl, %al
    jne wrong
    inc %ecx
    cmp $rounds + 1, %ecx
    jne 1b
    mov $0xf4, %dx
    mov $0x10, %al
    out %al, %dx
wrong:
    mov $0xf4, %dx
    mov $0x11, %al
    out %al, %dx
    hlt
.align 4096
f:  mov $0, %eax
    ret
