/*
 * Reads a disk past the page cache by Linux AIO: io DEVICE DEPTH BYTES COUNT random|sequential. Prints requests a second, and the
 * median and 99th percentile of their times in microseconds.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}
static int less(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

int main(int argc, char **argv) {
  if (argc != 6) return 1;
  int fd = open(argv[1], O_RDONLY | O_DIRECT), depth = atoi(argv[2]), bytes = atoi(argv[3]), count = atoi(argv[4]);
  int is_random = argv[5][0] == 'r';
  unsigned long long size;
  if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size) < 0) return perror(argv[1]), 1;
  unsigned long blocks = size / bytes, at = 0, seed = 1;
  aio_context_t context = 0;
  if (syscall(SYS_io_setup, depth, &context) < 0) return perror("io_setup"), 1;
  struct iocb *requests = calloc(depth, sizeof *requests);
  double *begun = calloc(depth, sizeof *begun), *took = calloc(count, sizeof *took);
  int submitted = 0, done = 0;
  double start = now();
  struct io_event events[64];
  for (int slot = -1, free_slots = depth; done < count;) {
    struct iocb *batch[64];
    int n = 0;
    while (submitted < count && free_slots > 0) {
      for (slot = (slot + 1) % depth; begun[slot] != 0;) slot = (slot + 1) % depth;
      struct iocb *r = &requests[slot];
      void *buffer = (void *)(unsigned long)r->aio_buf;
      if (!buffer && posix_memalign(&buffer, 4096, bytes)) return 1;
      memset(r, 0, sizeof *r);
      seed = seed * 6364136223846793005ul + 1442695040888963407ul;
      r->aio_lio_opcode = IOCB_CMD_PREAD;
      r->aio_fildes = fd;
      r->aio_buf = (unsigned long)buffer;
      r->aio_nbytes = bytes;
      r->aio_offset = (is_random ? (seed >> 20) % blocks : at++ % blocks) * bytes;
      r->aio_data = slot;
      begun[slot] = now();
      batch[n++] = r;
      free_slots--;
      submitted++;
    }
    if (n && syscall(SYS_io_submit, context, n, batch) != n) return perror("io_submit"), 1;
    int got = syscall(SYS_io_getevents, context, 1, 64, events, NULL);
    if (got < 0) return perror("io_getevents"), 1;
    double t = now();
    for (int i = 0; i < got; i++) {
      if (events[i].res != bytes) return fprintf(stderr, "a read gave %lld\n", (long long)events[i].res), 1;
      took[done++] = t - begun[events[i].data];
      begun[events[i].data] = 0;
      free_slots++;
    }
  }
  double seconds = (now() - start) / 1e6;
  qsort(took, count, sizeof *took, less);
  printf("%.0f %.1f %.1f\n", count / seconds, took[count / 2], took[count * 99 / 100]);
  return 0;
}
