/* The client of the TPM bench: sends commands over a unix socket, one after the other, and prints how many lists of commands were
 * answered in how many seconds, and how many answers were not success. usage: tpm-client SOCKET SECONDS < commands */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}
static uint32_t u32(const unsigned char *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  static unsigned char all[1 << 20], answer[8192];
  size_t size = fread(all, 1, sizeof all, stdin);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) return perror("connect"), 1;
  double start = now(), end = start + atof(argv[2]);
  long lists = 0, failed = 0;
  while (now() < end) {
    for (size_t at = 0; at + 10 <= size;) {
      uint32_t length = u32(all + at + 2);
      if (write(fd, all + at, length) != (ssize_t)length) return perror("write"), 1;
      size_t have = 0;
      while (have < 10 || have < u32(answer + 2)) {
        ssize_t n = read(fd, answer + have, sizeof answer - have);
        if (n <= 0) return perror("read"), 1;
        have += n;
      }
      if (u32(answer + 6) != 0) failed++;
      at += length;
    }
    lists++;
  }
  printf("%ld %.6f %ld\n", lists, now() - start, failed);
}
