/*
 * Asks a disk and a CD drive what they are, through Linux's SG_IO, and prints the answers: `name: status sense: hex`.
 * ATA commands go as ATA PASS-THROUGH (16) (SAT), which libata translates.
 */
#include <fcntl.h>
#include <scsi/sg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static void ask(int fd, const char *name, const unsigned char *cdb, int length, int bytes, int out) {
  unsigned char data[4096] = {0}, sense[64] = {0};
  struct sg_io_hdr io = {0};
  io.interface_id = 'S';
  io.dxfer_direction = bytes ? (out ? SG_DXFER_TO_DEV : SG_DXFER_FROM_DEV) : SG_DXFER_NONE;
  io.cmd_len = length;
  io.mx_sb_len = sizeof sense;
  io.dxfer_len = bytes;
  io.dxferp = data;
  io.cmdp = (unsigned char *)cdb;
  io.sbp = sense;
  io.timeout = 10000;
  if (ioctl(fd, SG_IO, &io) < 0) {
    printf("%s: no answer\n", name);
    return;
  }
  int got = bytes - io.resid;
  printf("%s: ", name);
  if (io.status) {
    int fixed = (sense[0] & 0x7f) < 0x72;
    printf("%d %x/%02x/%02x:", io.status, (fixed ? sense[2] : sense[1]) & 15, fixed ? sense[12] : sense[2],
           fixed ? sense[13] : sense[3]);
    /* ATA return descriptor: error, count, LBA, device, status. */
    if (!fixed && sense[8] == 9)
      printf(" ata %02x %02x%02x %02x%02x%02x %02x %02x", sense[11], sense[12], sense[13], sense[19], sense[17],
             sense[15], sense[20], sense[21]);
    printf("\n");
    return;
  }
  printf("0:");
  for (int i = 0; i < got; i++) printf(" %02x", data[i]);
  printf("\n");
}

/* protocol: 3 no data, 4 PIO in, 6 DMA */
static void ata(int fd, const char *name, int protocol, int command, int features, int count, int lba_low,
                int lba_mid, int lba_high, int blocks) {
  unsigned char cdb[16] = {0x85, protocol << 1, blocks ? 0x0e : 0x20, 0, features, 0, count, 0, lba_low,
                           0,    lba_mid,       0,                    lba_high, 0, command, 0};
  if (command == 0x2f || command == 0x47) cdb[1] |= 1;
  ask(fd, name, cdb, 16, blocks * 512, 0);
}

#define CDB(fd, name, bytes, ...)                          \
  do {                                                     \
    unsigned char cdb_[12] = {__VA_ARGS__};                \
    ask(fd, name, cdb_, 12, bytes, 0);                     \
  } while (0)

int main(void) {
  int disk = open("/dev/sda", O_RDONLY), cd = open("/dev/sr0", O_RDONLY | O_NONBLOCK);
  if (disk < 0 || cd < 0) return printf("no drives\n"), 1;
  ata(disk, "identify", 4, 0xec, 0, 1, 0, 0, 0, 1);
  ata(disk, "smart data", 4, 0xb0, 0xd0, 1, 0, 0x4f, 0xc2, 1);
  ata(disk, "smart status", 3, 0xb0, 0xda, 0, 0, 0x4f, 0xc2, 0);
  ata(disk, "log directory", 4, 0x2f, 0, 1, 0, 0, 0, 1);
  ata(disk, "queued error log", 4, 0x2f, 0, 1, 0x10, 0, 0, 1);
  ata(disk, "check power", 3, 0xe5, 0, 0, 0, 0, 0, 0);
  ata(disk, "identify packet on a disk", 4, 0xa1, 0, 1, 0, 0, 0, 1);
  ata(disk, "unknown command", 3, 0xff, 0, 0, 0, 0, 0, 0);
  ata(disk, "read beyond the end", 4, 0x20, 0, 1, 0xff, 0xff, 0xff, 1);

  ata(cd, "identify packet", 4, 0xa1, 0, 1, 0, 0, 0, 1);
  ata(cd, "identify on a CD", 4, 0xec, 0, 1, 0, 0, 0, 1);
  CDB(cd, "test unit ready", 0, 0);
  CDB(cd, "test unit ready again", 0, 0);
  CDB(cd, "inquiry", 96, 0x12, 0, 0, 0, 96);
  CDB(cd, "inquiry 5", 5, 0x12, 0, 0, 0, 5);
  CDB(cd, "vital pages", 255, 0x12, 1, 0, 0, 255);
  CDB(cd, "vital page d0", 255, 0x12, 1, 0xd0, 0, 255);
  CDB(cd, "request sense", 18, 0x03, 0, 0, 0, 18);
  CDB(cd, "capacity", 8, 0x25);
  CDB(cd, "toc", 804, 0x43, 0, 0, 0, 0, 0, 0, 3, 36);
  CDB(cd, "toc as time", 804, 0x43, 2, 0, 0, 0, 0, 0, 3, 36);
  CDB(cd, "toc lead-out", 804, 0x43, 0, 0, 0, 0, 0, 0xaa, 3, 36);
  CDB(cd, "toc track 5", 804, 0x43, 0, 0, 0, 0, 0, 5, 3, 36);
  CDB(cd, "sessions", 804, 0x43, 0, 1, 0, 0, 0, 0, 3, 36);
  CDB(cd, "raw toc", 804, 0x43, 2, 2, 0, 0, 0, 0, 3, 36);
  CDB(cd, "toc format 7", 804, 0x43, 0, 7, 0, 0, 0, 0, 3, 36);
  CDB(cd, "configuration", 1024, 0x46, 0, 0, 0, 0, 0, 0, 4, 0);
  CDB(cd, "configuration 1e", 1024, 0x46, 2, 0, 0x1e, 0, 0, 0, 4, 0);
  CDB(cd, "events", 8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8);
  CDB(cd, "events again", 8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8);
  CDB(cd, "events of no class", 8, 0x4a, 1, 0, 0, 0, 0, 0, 0, 8);
  CDB(cd, "asynchronous events", 8, 0x4a, 0, 0, 0, 0x10, 0, 0, 0, 8);
  CDB(cd, "mode page 1", 255, 0x5a, 0, 0x01, 0, 0, 0, 0, 0, 255);
  CDB(cd, "mode page 2a", 255, 0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 255);
  CDB(cd, "mode page 1, saved", 255, 0x5a, 0, 0xc1, 0, 0, 0, 0, 0, 255);
  CDB(cd, "mode page 11", 255, 0x5a, 0, 0x11, 0, 0, 0, 0, 0, 255);
  CDB(cd, "disc information", 34, 0x51, 0, 0, 0, 0, 0, 0, 0, 34);
  CDB(cd, "mechanism", 8, 0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8);
  CDB(cd, "read 17", 2048, 0x28, 0, 0, 0, 0, 17, 0, 0, 1);
  CDB(cd, "read (12) 16", 2048, 0xa8, 0, 0, 0, 0, 16, 0, 0, 0, 1);
  CDB(cd, "read CD 16", 2048, 0xbe, 0, 0, 0, 0, 16, 0, 0, 1, 0x10);
  CDB(cd, "read beyond the end", 2048, 0x28, 0, 0xff, 0, 0, 0, 0, 0, 1);
  CDB(cd, "read nothing", 0, 0x28);
  CDB(cd, "seek", 0, 0x2b, 0, 0, 0, 0, 16);
  CDB(cd, "unknown packet", 0, 0xf0);
  CDB(cd, "structure of a CD", 4, 0xad, 0, 0, 0, 0, 0, 0, 0, 0, 4);
  CDB(cd, "lock", 0, 0x1e, 0, 0, 0, 1);
  CDB(cd, "open while locked", 0, 0x1b, 0, 0, 0, 2);
  CDB(cd, "unlock", 0, 0x1e);
  CDB(cd, "open", 0, 0x1b, 0, 0, 0, 2);
  CDB(cd, "events when open", 8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8);
  CDB(cd, "ready when open", 0, 0);
  CDB(cd, "capacity when open", 8, 0x25);
  CDB(cd, "mechanism when open", 8, 0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8);
  CDB(cd, "close", 0, 0x1b, 0, 0, 0, 3);
  CDB(cd, "events when closed", 8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8);
  CDB(cd, "ready when closed", 0, 0);
  CDB(cd, "ready at last", 0, 0);
  return 0;
}
