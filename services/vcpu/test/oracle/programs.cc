// The run loop, block links, jump cache and block cache on small programs; and how fast they run.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <initializer_list>

#include "flat.h"
#include "soft/block.h"
#include "soft/mem.h"
#include "soft/run.h"
#include "soft/tables.h"

namespace oracle {
namespace {

using namespace nyx::soft;

int failures = 0;

void check(const char* program, const char* what, uint64_t is, uint64_t should) {
  if (is == should) return;
  failures++;
  std::printf("FAILED: %s: %s is %llx, should be %llx\n", program, what, static_cast<unsigned long long>(is),
              static_cast<unsigned long long>(should));
}

// Puts code at kCode + offset (INT3 everywhere else) and makes the CPU ready to start there.
Cpu& prepare(std::initializer_list<uint8_t> code, unsigned offset = 0) {
  Cpu& c = *flat.cpu;
  std::memset(flat.code, 0xcc, kCodeBytes);
  std::memcpy(flat.code + offset, code.begin(), code.size());
  flat.code_writable = true;
  flat_forget();
  flat_mode(kLong);
  std::memset(c.gpr, 0, sizeof(c.gpr));
  c.gpr[RSP] = kData + 0x1f00;
  c.rip = kCode + offset;
  c.icount = 0;
  c.dr[6] = c.dr[7] = 0;
  set_rflags(c, 2);
  return c;
}
void execute(Cpu& c) {
  flat.ended = false;
  run(c);
}

void loop_and_count() {
  Cpu& c = prepare({0xb9, 0xe8, 3, 0, 0,  // mov ecx, 1000
                    0x31, 0xc0,           // xor eax, eax
                    0x01, 0xc8,           // add eax, ecx
                    0xff, 0xc9,           // dec ecx
                    0x75, 0xfa});         // jnz
  execute(c);
  check("loop", "sum", c.gpr[RAX], 500500);
  check("loop", "vector", unsigned(flat.vector), 3);
  check("loop", "icount", c.icount, 2 + 3000);
}

// Fibonacci by recursion: calls, returns to two places, the stack.
const std::initializer_list<uint8_t> kFibonacci = {
    0xbf, 15,   0,    0,    0,           // mov edi, 15
    0xe8, 1,    0,    0,    0,           // call fib
    0xcc,                                // int3
    0x83, 0xff, 2,                       // fib: cmp edi, 2
    0x73, 3,                             // jae
    0x89, 0xf8,                          // mov eax, edi
    0xc3,                                // ret
    0x57,                                // push rdi
    0xff, 0xcf,                          // dec edi
    0xe8, 0xf0, 0xff, 0xff, 0xff,        // call fib
    0x8b, 0x3c, 0x24,                    // mov edi, [rsp]
    0x89, 0x04, 0x24,                    // mov [rsp], eax
    0x83, 0xef, 2,                       // sub edi, 2
    0xe8, 0xe2, 0xff, 0xff, 0xff,        // call fib
    0x5f,                                // pop rdi
    0x01, 0xf8,                          // add eax, edi
    0xc3};

void recursion() {
  Cpu& c = prepare(kFibonacci);
  execute(c);
  check("recursion", "fib(15)", c.gpr[RAX], 610);
  check("recursion", "rsp", c.gpr[RSP], kData + 0x1f00);
}

// The same with a cache that holds four blocks.
void tiny_cache() {
  Cpu& c = prepare(kFibonacci);
  BlockCache tiny(op_tables(), 4, 4 * (kMaxBlockInsns + 1), 1 << 17);
  BlockCache* const usual = c.blocks;
  tiny.Attach(c);
  c.block = nullptr;
  execute(c);
  usual->Attach(c);
  c.block = nullptr;
  check("tiny cache", "fib(15)", c.gpr[RAX], 610);
}

void changes_next_instruction() {
  Cpu& c = prepare({0xc6, 0x05, 1, 0, 0, 0, 0x77,  // mov byte [rip + 1], 0x77
                    0xb8, 0x11, 0, 0, 0,           // mov eax, 0x11
                    0xbb, 0x22, 0, 0, 0});         // mov ebx, 0x22
  execute(c);
  check("changes next", "eax", c.gpr[RAX], 0x77);
  check("changes next", "ebx", c.gpr[RBX], 0x22);
  check("changes next", "icount", c.icount, 3);
}

void changes_itself_in_a_loop() {
  Cpu& c = prepare({0xb9, 10, 0, 0, 0,               // mov ecx, 10
                    0x05, 1, 0, 0, 0,                // L: add eax, 1
                    0xff, 0x05, 0xf6, 0xff, 0xff, 0xff,  // inc dword [rip - 10]: that immediate
                    0xff, 0xc9, 0x75, 0xf1});        // dec ecx; jnz L
  execute(c);
  check("changes itself", "sum", c.gpr[RAX], 55);
  check("changes itself", "icount", c.icount, 1 + 40);
}

// Conditional jumps in the middle of a block, which leave it now and then.
void leaves_in_the_middle() {
  Cpu& c = prepare({0xb9, 0x2c, 1, 0, 0,  // mov ecx, 300
                    0xff, 0xc0,           // L: inc eax
                    0x83, 0xf9, 10,       // cmp ecx, 10
                    0x74, 20,             // je A
                    0xff, 0xc3,           // inc ebx
                    0x83, 0xf9, 7,        // cmp ecx, 7
                    0x72, 17,             // jb B
                    0xf6, 0xc1, 1,        // test cl, 1
                    0x75, 2,              // jne C
                    0xff, 0xc2,           // inc edx
                    0xff, 0xc9,           // C: dec ecx
                    0x75, 231,            // jne L
                    0xcc, 0xcc,           //
                    0xff, 0xc9,           // A: dec ecx
                    0xeb, 225,            // jmp L
                    0x0f, 0x92, 0xc1,     // B: setb cl
                    0x0f, 0x0b});         // ud2
  execute(c);
  uint64_t a = 0, b = 0, d = 0, count = 1;
  for (unsigned n = 300;; n--) {
    a++, count += 3;
    if (n == 10) {
      count += 2;
      continue;
    }
    b++, count += 3;
    if (n < 7) break;
    count += 4;
    if (n % 2 == 0) d++, count++;
  }
  check("middle", "eax", c.gpr[RAX], a);
  check("middle", "ebx", c.gpr[RBX], b);
  check("middle", "edx", c.gpr[RDX], d);
  check("middle", "ecx", c.gpr[RCX], 1);
  check("middle", "vector", unsigned(flat.vector), 6);
  check("middle", "rip", c.rip, kCode + 39);
  check("middle", "icount", c.icount, count + 1);
}

// Data beside code: stores to other 64-byte granules of the page drop nothing.
void data_beside_code() {
  Cpu& c = prepare({0xb9, 100, 0, 0, 0,                  // mov ecx, 100
                    0xff, 0x05, 0xfa, 0, 0, 0,           // L: inc dword [rip + 250]
                    0xff, 0xc9, 0x75, 0xf6});            // dec ecx; jnz L
  const uint64_t before = c.stat_blocks;
  execute(c);
  uint32_t counter;
  std::memcpy(&counter, flat.code + 11 + 250, 4);
  check("data beside code", "counter", counter, 0xcccccccc + 100);
  check("data beside code", "blocks dropped", c.stat_blocks - before > 3, 0);
}

// An instruction over two pages, whose second part then changes.
void spans_pages() {
  Cpu& c = prepare({0xb8, 0x11, 0, 0, 0}, 0xffe);  // mov eax, 0x11
  execute(c);
  check("spans pages", "eax", c.gpr[RAX], 0x11);
  const uint8_t changed = 0x33;
  store<uint8_t>(c, nullptr, kCode + 0x1000, changed);
  c.rip = kCode + 0xffe;
  execute(c);
  check("spans pages", "eax after the change", c.gpr[RAX], 0x3311);
}

void single_step() {
  Cpu& c = prepare({0x90, 0x90, 0xf3, 0xa4});  // nop; nop; rep movsb
  c.eflags |= kTF;
  execute(c);
  check("single step", "vector", unsigned(flat.vector), 1);
  check("single step", "rip", c.rip, kCode + 1);
  check("single step", "dr6", c.dr[6], 1 << 14);
  check("single step", "icount", c.icount, 1);
  c.gpr[RCX] = 3;
  c.gpr[RSI] = kData;
  c.gpr[RDI] = kData + 0x100;
  c.rip = kCode + 2;
  execute(c);
  check("single step, rep", "rcx", c.gpr[RCX], 2);
  check("single step, rep", "rip", c.rip, kCode + 2);
  check("single step, rep", "icount", c.icount, 1);
}

void breakpoint() {
  Cpu& c = prepare({0x90, 0x90, 0x90});
  c.dr[1] = kCode + 2;
  c.dr[7] = 1 << 2;
  execute(c);
  check("breakpoint", "vector", unsigned(flat.vector), 1);
  check("breakpoint", "rip", c.rip, kCode + 2);
  check("breakpoint", "dr6", c.dr[6], 2);
  c.eflags |= kRF;  // goes on over it
  execute(c);
  check("breakpoint, RF", "vector", unsigned(flat.vector), 3);
  check("breakpoint, RF", "rip", c.rip, kCode + 3);
  check("breakpoint, RF", "RF", c.eflags & kRF, 0);
}

// A string instruction that is asked to leave goes on where it was, and counts once.
void interrupted_string() {
  Cpu& c = prepare({0xf3, 0xa4});
  for (unsigned k = 0; k < 0x700; k++) flat.data[k] = uint8_t(k * 7);
  c.gpr[RCX] = 0x700;
  c.gpr[RSI] = kData;
  c.gpr[RDI] = kData + 0xc00;
  c.attention->store(1);
  execute(c);
  check("interrupted string", "rcx", c.gpr[RCX], 0);
  check("interrupted string", "bytes", std::memcmp(flat.data, flat.data + 0xc00, 0x700), 0);
  check("interrupted string", "icount", c.icount, 1);
  // A fault in the middle leaves the registers at the element that failed.
  c.gpr[RCX] = 0x40;
  c.gpr[RSI] = kData;
  c.gpr[RDI] = kData + kDataBytes - 0x10;
  c.rip = kCode;
  execute(c);
  check("faulting string", "vector", unsigned(flat.vector), 14);
  check("faulting string", "rcx", c.gpr[RCX], 0x30);
  check("faulting string", "rdi", c.gpr[RDI], kData + kDataBytes);
  check("faulting string", "rip", c.rip, kCode);
}

// From the last byte of a page into the next.
void crosses_page_end() {
  Cpu& c = prepare({0x90, 0x90}, 0xfff);
  c.rip = kCode + 0xfff;
  execute(c);
  check("page end", "rip", c.rip, kCode + 0x1001);
  check("page end", "icount", c.icount, 2);
}

// Calls that never return, more than the return stack holds; returns to where they were called from and to elsewhere.
void returns() {
  Cpu& c = prepare({0xb9, 0x88, 0x13, 0, 0,       // mov ecx, 5000
                    0xe8, 0, 0, 0, 0,             // L: call next
                    0x48, 0x83, 0xc4, 8,          // next: add rsp, 8
                    0xff, 0xc9, 0x75, 0xf3,       // dec ecx; jnz L
                    0xb9, 0xe8, 3, 0, 0,          // mov ecx, 1000
                    0xe8, 10, 0, 0, 0,            // M: call f
                    0xe8, 11, 0, 0, 0,            // call g
                    0xff, 0xc9, 0x75, 0xf2,       // dec ecx; jnz M
                    0xcc,                         // int3
                    0xff, 0xc0, 0xc3, 0x90, 0x90, 0x90,     // f: inc eax; ret
                    0x48, 0x8d, 0x15, 6, 0, 0, 0,  // g: lea rdx, [there]
                    0xe8, 5, 0, 0, 0,             // call h
                    0xcc,                         // int3
                    0xff, 0xc3, 0xc3, 0xcc,       // there: inc ebx; ret
                    0x48, 0x89, 0x14, 0x24, 0xc3});  // h: mov [rsp], rdx; ret
  execute(c);
  check("returns", "vector", unsigned(flat.vector), 3);
  check("returns", "eax", c.gpr[RAX], 1000);
  check("returns", "ebx", c.gpr[RBX], 1000);
  check("returns", "rsp", c.gpr[RSP], kData + 0x1f00);
  check("returns", "icount", c.icount, 1 + 20000 + 1 + 12000);
}

// A return to what is no address: a fault of the return, which has done nothing.
void returns_nowhere() {
  Cpu& c = prepare({0x48, 0xb8, 1, 0, 0, 0, 0, 0, 0, 0x80,  // mov rax, 1 << 63 | 1
                    0x50, 0xc3});                           // push rax; ret
  execute(c);
  check("returns nowhere", "vector", unsigned(flat.vector), 13);
  check("returns nowhere", "rip", c.rip, kCode + 11);
  check("returns nowhere", "rsp", c.gpr[RSP], kData + 0x1ef8);
}

double measure(const char* name, std::initializer_list<uint8_t> code) {
  Cpu& c = prepare(code);
  flat.code_writable = false;
  c.gpr[RDI] = kData + 0x100;
  c.gpr[RSI] = kData + 0x800;
  const auto start = std::chrono::steady_clock::now();
  execute(c);
  const double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("%-28s %7.1f M instructions/s (%.2f s, vector %d)\n", name, double(c.icount) / s / 1e6, s, flat.vector);
  return double(c.icount) / s;
}

// What names no MMX, XMM or x87 register works whatever CR0.EM, CR0.TS and CR4.OSFXSR say (SDM vol. 2); the rest is #UD, or #NM.
void without_sse() {
  for (const unsigned vector : {6u, 7u}) {
    Cpu& c = prepare({0xb8, 0x78, 0x56, 0x34, 0x12,        // mov eax, 0x12345678
                      0x0f, 0xc3, 0x07,                    // movnti [rdi], eax
                      0x48, 0x0f, 0xc3, 0x47, 8,           // movnti [rdi + 8], rax
                      0x0f, 0xae, 0xf8, 0x0f, 0xae, 0xe8,  // sfence; lfence
                      0x0f, 0xae, 0xf0, 0x0f, 0x18, 0x07,  // mfence; prefetchnta [rdi]
                      0x0f, 0xae, 0x3f, 0xf3, 0x90,        // clflush [rdi]; pause
                      0xf2, 0x0f, 0x38, 0xf1, 0xd8,        // crc32 ebx, eax
                      0xf3, 0x0f, 0xb8, 0xc8,              // popcnt ecx, eax
                      0x0f, 0x28, 0xc1});                  // movaps xmm0, xmm1
    c.gpr[RDI] = kData + 0x100;
    const uint64_t cr0 = c.cr0, cr4 = c.cr4;
    if (vector == 6) c.cr0 |= kCr0EM, c.cr4 &= ~kCr4OSFXSR;
    c.cr0 |= kCr0TS;
    // Often enough to be translated.
    for (int k = 0; k < 40; k++) {
      c.rip = kCode;
      c.gpr[RBX] = 0;
      c.icount = 0;
      execute(c);
    }
    c.cr0 = cr0;
    c.cr4 = cr4;
    check("without SSE", "vector", unsigned(flat.vector), vector);
    check("without SSE", "icount", c.icount, 11);
    uint32_t low, high;
    std::memcpy(&low, flat.data + 0x100, 4);
    std::memcpy(&high, flat.data + 0x108, 4);
    check("without SSE", "MOVNTI", low, 0x12345678);
    check("without SSE", "MOVNTI of 64 bits", high, 0x12345678);
    check("without SSE", "POPCNT", c.gpr[RCX], 13);
  }
}

void run_all() {
  loop_and_count();
  recursion();
  tiny_cache();
  changes_next_instruction();
  changes_itself_in_a_loop();
  leaves_in_the_middle();
  data_beside_code();
  spans_pages();
  single_step();
  breakpoint();
  interrupted_string();
  crosses_page_end();
  returns();
  returns_nowhere();
  without_sse();
}

void measure_all() {
  // mov ecx, 20000000; L: add eax, ecx; dec ecx; jnz L
  measure("add, dec, jnz", {0xb9, 0x00, 0x2d, 0x31, 0x01, 0x01, 0xc8, 0xff, 0xc9, 0x75, 0xfa});
  // L: mov rax, [rdi]; add rax, [rsi]; mov [rdi], rax; lea rdx, [rax + rcx*2]; cmp rdx, rax; cmp [rsi], ecx; dec ecx; jnz L
  measure("memory mix", {0xb9, 0x80, 0x96, 0x98, 0x00, 0x48, 0x8b, 0x07, 0x48, 0x03, 0x06, 0x48, 0x89, 0x07, 0x48, 0x8d, 0x14, 0x48,
                         0x48, 0x39, 0xc2, 0x39, 0x0e, 0xff, 0xc9, 0x75, 0xea});
  // L: call f; dec ecx; jnz L; int3; f: push rbx; push rbp; pop rbp; pop rbx; ret
  measure("call, push, pop, ret", {0xb9, 0x80, 0x96, 0x98, 0x00, 0xe8, 0x05, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf7, 0xcc, 0x53, 0x55, 0x5d, 0x5b, 0xc3});
  // L: test al, 1; jz +2; xor eax, edx; shr eax, 1; movzx edx, al; dec ecx; jnz L
  measure("branches", {0xb9, 0x80, 0x96, 0x98, 0x00, 0xa8, 0x01, 0x74, 0x02, 0x31, 0xd0, 0xd1, 0xe8, 0x0f, 0xb6, 0xd0, 0xff, 0xc9, 0x75, 0xf1});
}

}  // namespace

int run_programs() {
  failures = 0;
  for (const bool translated : {false, true}) {
    flat_translate(translated);
    run_all();
  }
  if (failures == 0) std::printf("programs: all as expected\n");
  return failures;
}

void run_bench() {
  for (const bool translated : {false, true}) {
    std::printf("%s\n", translated ? "translated" : "interpreter");
    flat_translate(translated);
    measure_all();
  }
}

}  // namespace oracle
