# Two vCPUs and self-modifying code. The first patches the immediate of `f` and then counts `sequence` up; the second waits
# for the count, serializes with CPUID and calls `f`, which must return it (Intel SDM vol. 3, 9.1.3, cross-modifying code).
# A counter in the page of `f` is written all the time, so that the page is code and data at once.
# Entered by the multiboot protocol. Ends by port 0xf4: 0x10 when all rounds were right, 0x11 when one was not.
.set rounds, 20000
.code32
.globl _start
_start:
    mov $0x80000, %esp
    mov $trampoline, %esi           # real-mode start of the second CPU at 0x8000
    mov $0x8000, %edi
    mov $trampoline_end - trampoline, %ecx
    rep movsb
    movl $0x1ff, 0xfee000f0         # enable the local APIC
    movl $0xc4500, 0xfee00300       # INIT, then start-up at 0x8000, to all others
    mov $100000, %ecx
1:  dec %ecx
    jnz 1b
    movl $0xc4608, 0xfee00300
2:  cmpl $1, alive
    jne 2b
    mov $1, %ecx
patch:
    mov %ecx, f + 1
    incl neighbour
    mov %ecx, sequence
3:  pause
    cmp %ecx, acknowledged
    jne 3b
    inc %ecx
    cmp $rounds + 1, %ecx
    jne patch
    mov $0xf4, %dx
    mov $0x10, %al
    out %al, %dx
wrong:
    mov $0xf4, %dx
    mov $0x11, %al
    out %al, %dx
    hlt

second:
    mov $0x90000, %esp
    movl $1, alive
    xor %edi, %edi
4:  mov sequence, %esi
    cmp %edi, %esi
    je 4b
    xor %eax, %eax
    xor %ecx, %ecx
    cpuid
    call f
    cmp %esi, %eax
    jne wrong
    mov %esi, %edi
    mov %esi, acknowledged
    jmp 4b

.align 4096
f:  mov $0, %eax
    ret
neighbour: .long 0

.align 4096
gdt: .quad 0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
alive: .long 0
.align 64
sequence: .long 0
.align 64
acknowledged: .long 0

.code16
trampoline:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl 0x8000 + gdtr - trampoline
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $0x10, $flat
gdtr: .word 31
    .long gdt
trampoline_end:
.code32
flat:
    mov $0x18, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    jmp second
