// /init of the guest of cpu.bench.ts: runs each program between a line "@begin NAME" and a line "@end NAME CHECK".
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <emmintrin.h>
#ifdef HAVE_ZLIB
#include <zlib.h>
#endif

// To the kernel's log, whose console needs no interrupts of the serial port.
static int log_fd;
static void say(const char *format, ...) {
  char line[200] = "<1>";
  va_list args;
  va_start(args, format);
  int n = 3 + vsnprintf(line + 3, sizeof line - 4, format, args);
  va_end(args);
  line[n++] = '\n';  // else the kernel waits for the rest of the line
  if (write(log_fd, line, n) < 0) _exit(1);
}

static uint64_t integer_loop(void) {
  uint64_t a = 1, b = 2;
  for (uint32_t k = 0; k < 60000000; k++) {
    a = a * 6364136223846793005u + k;
    b ^= a >> 33;
    if (b & 1) b += k;
  }
  return a ^ b;
}

static uint64_t sieve(void) {
  enum { N = 2000000 };
  static uint8_t composite[N];
  uint64_t count = 0;
  for (int round = 0; round < 4; round++) {
    memset(composite, 0, N);
    for (int p = 2; p < N; p++) {
      if (composite[p]) continue;
      count++;
      for (int m = 2 * p; m < N; m += p) composite[m] = 1;
    }
  }
  return count;
}

static uint32_t ror(uint32_t v, int n) { return v >> n | v << (32 - n); }
static uint64_t sha256(void) {
  static uint32_t k[64];
  for (int i = 0, p = 2; i < 64; p++) {
    int prime = 1;
    for (int d = 2; d * d <= p; d++)
      if (p % d == 0) prime = 0;
    if (prime) k[i++] = (uint32_t)(uint64_t)(fmod(cbrt(p), 1) * 4294967296.0);
  }
  uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}, w[64];
  for (int block = 0; block < 60000; block++) {
    for (int t = 0; t < 16; t++) w[t] = block * 16 + t;
    for (int t = 16; t < 64; t++) {
      uint32_t a = w[t - 15], b = w[t - 2];
      w[t] = w[t - 16] + (ror(a, 7) ^ ror(a, 18) ^ a >> 3) + w[t - 7] + (ror(b, 17) ^ ror(b, 19) ^ b >> 10);
    }
    uint32_t s[8];
    memcpy(s, h, 32);
    for (int t = 0; t < 64; t++) {
      uint32_t e = s[4], a = s[0];
      uint32_t t1 = s[7] + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & s[5]) ^ (~e & s[6])) + k[t] + w[t];
      uint32_t t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
      s[7] = s[6], s[6] = s[5], s[5] = e, s[4] = s[3] + t1, s[3] = s[2], s[2] = s[1], s[1] = a, s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) h[i] += s[i];
  }
  return (uint64_t)h[0] << 32 | h[7];
}

enum { BUFFER = 4 << 20 };
static uint8_t *a_buffer, *b_buffer;

static uint64_t copy(void) {
  for (int k = 0; k < 150; k++) {
    memcpy(b_buffer, a_buffer, BUFFER);
    __asm__ volatile("" ::: "memory");
  }
  return b_buffer[123];
}
static uint64_t rep_movs(void) {
  for (int k = 0; k < 300; k++) {
    void *d = b_buffer, *s = a_buffer;
    size_t n = BUFFER / 8;
    __asm__ volatile("rep movsq" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
  }
  return b_buffer[77];
}

static uint64_t chase(size_t count, int steps) {
  void **p = (void **)a_buffer;
  const size_t stride = BUFFER / sizeof(void *) / count;
  // A cycle through all cells by a step that has no common divisor with their number.
  for (size_t k = 0; k < count; k++) p[k * stride] = &p[(k + count / 2 + 1) % count * stride];
  void **at = p;
  for (int k = 0; k < steps; k++) at = *at;
  return (uint64_t)(at - p);
}
static uint64_t chase_in_cache(void) { return chase(512, 40000000); }
static uint64_t chase_out_of_cache(void) { return chase(BUFFER / 64, 10000000); }

static uint64_t matrix(void) {
  enum { N = 160 };
  static double a[N][N], b[N][N], c[N][N];
  for (int i = 0; i < N; i++)
    for (int j = 0; j < N; j++) a[i][j] = i + j * 0.5, b[i][j] = i - j * 0.25;
  for (int round = 0; round < 5; round++)
    for (int i = 0; i < N; i++)
      for (int j = 0; j < N; j += 2) {
        __m128d sum = _mm_setzero_pd();
        for (int k = 0; k < N; k++) sum = _mm_add_pd(sum, _mm_mul_pd(_mm_set1_pd(a[i][k]), _mm_loadu_pd(&b[k][j])));
        _mm_storeu_pd(&c[i][j], sum);
      }
  return (uint64_t)c[7][9];
}
static uint64_t libm(void) {
  double s = 0;
  for (int k = 1; k < 300000; k++) s += sin(k) * exp(-k * 1e-6) + log(k) + pow(k, 0.3);
  return (uint64_t)(s * 1000);
}
static uint64_t x87(void) {
  volatile long double s = 0;
  for (int k = 1; k < 2500000; k++) s = s * 0.999L + 1.0L / k + k * 0.5L;
  return (uint64_t)(s * 1000);
}

static uint64_t gzip(void) {
#ifdef HAVE_ZLIB
  for (int k = 0; k < BUFFER; k++) a_buffer[k] = (uint8_t)("the quick brown fox jumps over the lazy dog"[k % 43] ^ (k >> 9 & 3));
  uLongf size = BUFFER;
  uint64_t sum = 0;
  for (int k = 0; k < 2; k++) {
    size = BUFFER;
    compress2(b_buffer, &size, a_buffer, BUFFER, 6);
    sum += size;
  }
  return sum;
#else
  return 0;
#endif
}

static uint64_t do_fork(void) {
  for (int k = 0; k < 400; k++) {
    const pid_t p = fork();
    if (p == 0) _exit(0);
    waitpid(p, NULL, 0);
  }
  return 0;
}
static uint64_t fork_exec(void) {
  for (int k = 0; k < 150; k++) {
    const pid_t p = vfork();
    if (p == 0) {
      execl("/init", "true", NULL);
      _exit(1);
    }
    waitpid(p, NULL, 0);
  }
  return 0;
}
static uint64_t do_getpid(void) {
  uint64_t sum = 0;
  for (int k = 0; k < 600000; k++) sum += syscall(SYS_getppid);
  return sum;
}
static uint64_t ping_pong(void) {
  int to[2], from[2];
  if (pipe(to) || pipe(from)) return 1;
  const pid_t p = fork();
  char c = 1;
  if (p == 0) {
    while (read(to[0], &c, 1) == 1 && c)
      if (write(from[1], &c, 1) != 1) break;
    _exit(0);
  }
  for (int k = 0; k < 20000; k++) {
    c = 1;
    if (write(to[1], &c, 1) != 1 || read(from[0], &c, 1) != 1) return 2;
  }
  c = 0;
  if (write(to[1], &c, 1) != 1) return 3;
  waitpid(p, NULL, 0);
  return 0;
}
static uint64_t page_touch(void) {
  enum { PAGES = 8192 };
  for (int k = 0; k < 6; k++) {
    char *m = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int page = 0; page < PAGES; page++) m[page * 4096] = 1;
    munmap(m, PAGES * 4096);
  }
  return 0;
}
static uint64_t map_unmap(void) {
  for (int k = 0; k < 30000; k++) {
    char *m = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    m[0] = 1;
    munmap(m, 16384);
  }
  return 0;
}

static const struct {
  const char *name;
  uint64_t (*run)(void);
} programs[] = {
    {"integer loop", integer_loop}, {"sieve", sieve}, {"SHA-256", sha256}, {"memcpy", copy}, {"rep movs", rep_movs},
    {"pointer chase, in cache", chase_in_cache}, {"pointer chase, out of cache", chase_out_of_cache},
    {"matrix product, SSE2", matrix}, {"libm", libm}, {"x87", x87},
#ifdef HAVE_ZLIB
    {"gzip", gzip},
#endif
    {"fork", do_fork}, {"fork and exec", fork_exec}, {"getpid", do_getpid}, {"pipe ping-pong", ping_pong},
    {"page touch", page_touch}, {"mmap, munmap", map_unmap},
};

// Whether `name` is in a list with semicolons between names.
static int listed(const char *list, const char *name) {
  const size_t n = strlen(name);
  for (; list; list = strchr(list, ';') ? strchr(list, ';') + 1 : NULL)
    if (strncmp(list, name, n) == 0 && (list[n] == 0 || list[n] == ';')) return 1;
  return 0;
}

int main(int argc, char **argv) {
  if (argc > 0 && strcmp(argv[0], "true") == 0) return 0;
  const char *const only = getenv("only");  // from the kernel's command line
  log_fd = open("/dev/kmsg", O_WRONLY);
  say("@shell");
  a_buffer = malloc(BUFFER);
  b_buffer = malloc(BUFFER);
  memset(a_buffer, 1, BUFFER);
  memset(b_buffer, 2, BUFFER);
  for (size_t k = 0; k < sizeof(programs) / sizeof(programs[0]); k++) {
    if (only && !listed(only, programs[k].name)) continue;
    say("@begin %s", programs[k].name);
    const uint64_t check = programs[k].run();
    say("@end %s: %llx", programs[k].name, (unsigned long long)check);
  }
  say("@done");
  reboot(RB_AUTOBOOT);
  return 0;
}
