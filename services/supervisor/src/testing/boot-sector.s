# A boot disk (of at least one cylinder, 504 KiB, or SeaBIOS does not read it). The first tells by which drive it came, reads the second by the firmware's disk service,
# prints it, changes it and writes it to the third. Then it does what keys say:
#   c reset by port 0xcf9, k reset by the keyboard controller, t triple fault, p ACPI power off
# Output by int 10h, keys by int 16h, disk by int 13h: the firmware's serial console and its virtio driver do the rest.
.code16
.globl _start
_start:
    ljmp $0, $1f
1:  xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7c00, %sp
    mov %dl, drive
    sti
    cld
    mov $hello, %si
    call print
    movb $0x42, verb                # extended read
    call disk
    jc failed
    mov $0x8000, %si
    call print
    movb $'W', 0x8000
    movb $2, sector
    movb $0x43, verb                # extended write
    call disk
    jc failed
    mov $ready, %si
    call print
key:
    xor %ah, %ah
    int $0x16
    cmp $'c', %al
    je reset
    cmp $'k', %al
    je keyboard
    cmp $'t', %al
    je triple
    cmp $'p', %al
    jne key
    mov $0x604, %dx                 # PM1 control: SLP_TYP 0 (S5), SLP_EN
    mov $0x2000, %ax
    out %ax, %dx
    jmp stay
reset:
    mov $0xcf9, %dx
    mov $6, %al
    out %al, %dx
    jmp stay
keyboard:
    mov $0xfe, %al
    out %al, $0x64
    jmp stay
triple:
    cli
    lidt nothing                    # protected mode: a KVM that emulates real mode does not look at the limit
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    mov $0xfff8, %ax                # beyond the GDT: #GP, which has no gate
    mov %ax, %ds
stay:
    hlt
    jmp stay
failed:
    mov $error, %si
    call print
    jmp key

# Does `verb` with the sector `sector` at 0x8000; carry: it failed.
disk:
    mov $packet, %si
    mov drive, %dl
    mov verb, %ah
    xor %al, %al
    int $0x13
    ret

# si: text that a zero byte ends
print:
    lodsb
    test %al, %al
    jz 1f
    mov $0x0e, %ah
    mov $7, %bx
    int $0x10
    jmp print
1:  ret

drive: .byte 0
verb: .byte 0
packet: .byte 16, 0
    .word 1, 0x8000, 0
sector: .quad 1
nothing: .word 0
    .long 0
hello: .asciz "Boot sector.\r\n"
ready: .asciz "Written. Key?\r\n"
error: .asciz "Disk error.\r\n"
.org 510
    .word 0xaa55
.asciz "Read from the disk.\r\n"
