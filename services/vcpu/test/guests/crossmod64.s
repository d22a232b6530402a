# As crossmod.s, in 64-bit mode: two vCPUs in translated code. The first patches the immediate of `f`, then counts `sequence` up; the second
# waits for it, serializes with CPUID and calls `f`. Between rounds both call `f` some more, so that it is hot while it changes.
# Entered by the multiboot protocol. Ends by port 0xf4: 0x10 when all rounds were right, 0x11 when one was not.
.set rounds, 5000
.set pml4, 0x200000
.set pdpt, 0x201000
.set pd, 0x202000
.code32
.globl _start
_start:
    movl $pdpt + 3, pml4            # the first GiB, by pages of 2 MiB; RAM begins as zeros
    movl $pd + 3, pdpt
    mov $pd, %edi
    mov $0x83, %eax
1:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $8, %edi
    add $0x200000, %eax
    cmp $0x40000083, %eax
    jne 1b
    movl $0xfee00093, pd + 0xff8       # the last of them, at 0x3fe00000: the local APIC
    mov $trampoline, %esi           # real-mode start of the second CPU at 0x8000
    mov $0x8000, %edi
    mov $trampoline_end - trampoline, %ecx
    rep movsb
    lgdt gdtr
    ljmp $0x10, $first
first:
    mov $0x80000, %esp
    mov $start64, %ebx
enter_long:                         # EBX: where to go on
    mov $0x18, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %cr4, %eax
    or $0x20, %eax
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    ljmp $0x20, $long
.code64
long:
    jmp *%rbx
start64:
    mov $0x3fe00000 + 0xf0, %edi    # enable the local APIC
    movl $0x1ff, (%rdi)
    mov $0x3fe00000 + 0x300, %edi   # INIT, then start-up at 0x8000, to all others
    movl $0xc4500, (%rdi)
    mov $100000, %ecx
2:  dec %ecx
    jnz 2b
    movl $0xc4608, (%rdi)
3:  cmpl $1, alive(%rip)
    jne 3b
    mov $1, %r8d
patch:
    mov %r8d, f + 1(%rip)
    incl neighbour(%rip)
    call f
    cmp %r8d, %eax
    jne wrong
    mov %r8d, sequence(%rip)
4:  pause
    call f
    cmp %r8d, acknowledged(%rip)
    jne 4b
    inc %r8d
    cmp $rounds + 1, %r8d
    jne patch
    mov $0x10, %al
    jmp finish
wrong:
    mov $0x11, %al
finish:
    mov $0xf4, %dx
    out %al, %dx
    hlt

second64:
    movl $1, alive(%rip)
    xor %r9d, %r9d
5:  mov sequence(%rip), %r10d
    cmp %r9d, %r10d
    je 5b
    xor %eax, %eax
    xor %ecx, %ecx
    cpuid
    mov $50, %r11d
6:  call f
    cmp %r10d, %eax
    jne wrong
    dec %r11d
    jnz 6b
    mov %r10d, %r9d
    mov %r10d, acknowledged(%rip)
    jmp 5b

.align 4096
f:  mov $0, %eax
    ret
neighbour: .long 0

.align 4096
gdt: .quad 0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
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
gdtr: .word 39
    .long gdt
trampoline_end:
.code32
flat:
    mov $0x90000, %esp
    mov $second64, %ebx
    jmp enter_long
