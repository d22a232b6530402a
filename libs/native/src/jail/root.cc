#include "root.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace nyx {
namespace {

// Where the new root is built; any directory would do, and this one always exists.
constexpr const char* kPlace = "/tmp";

bool Fail(const std::string& what, std::string* why) {
  *why = what + ": " + strerror(errno);
  return false;
}

// Directories on the way to `path`, and at its end a directory or a file to mount over.
bool MakeTarget(const std::string& path, bool directory) {
  for (size_t at = 1; (at = path.find('/', at)) != std::string::npos; at++)
    if (mkdir(path.substr(0, at).c_str(), 0755) != 0 && errno != EEXIST) return false;
  if (directory) return mkdir(path.c_str(), 0755) == 0 || errno == EEXIST;
  const int fd = open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
  return fd >= 0 && close(fd) == 0;
}

bool MakeReadOnly(const std::string& path) {
  struct statvfs now;
  if (statvfs(path.c_str(), &now) != 0) return false;
  // A mount of another user namespace keeps the restrictions that it has.
  unsigned long flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID;
  if (now.f_flag & ST_NODEV) flags |= MS_NODEV;
  if (now.f_flag & ST_NOEXEC) flags |= MS_NOEXEC;
  if (now.f_flag & ST_NOATIME) flags |= MS_NOATIME;
  if (now.f_flag & ST_NODIRATIME) flags |= MS_NODIRATIME;
  if (now.f_flag & ST_RELATIME) flags |= MS_RELATIME;
  return mount(nullptr, path.c_str(), nullptr, flags, nullptr) == 0;
}

struct Source {
  std::string path;
  int fd;
  bool directory;
};

bool Bind(const Source& source, std::string* why) {
  const std::string target = kPlace + source.path;
  if (!MakeTarget(target, source.directory)) return Fail("mkdir " + target, why);
  const std::string from = "/proc/self/fd/" + std::to_string(source.fd);
  if (mount(from.c_str(), target.c_str(), nullptr, MS_BIND | MS_REC, nullptr) != 0)
    return Fail("mount " + source.path, why);
  // A device node is written to; a read-only mount would not hinder that, but leave it as it is.
  return source.path.starts_with("/dev/") || MakeReadOnly(target) || Fail("read-only " + source.path, why);
}

}  // namespace

bool EnterRoot(const std::vector<std::string>& paths, std::string* why) {
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return Fail("private mounts", why);
  std::vector<Source> sources;
  for (const std::string& path : paths) {
    // Opened first: one may lie below the place that is covered now.
    const int fd = open(path.c_str(), O_PATH | O_CLOEXEC);
    struct stat st;
    if (fd >= 0 && fstat(fd, &st) == 0) sources.push_back({path, fd, S_ISDIR(st.st_mode)});
  }
  if (mount("nyx", kPlace, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755") != 0) return Fail("mount tmpfs", why);
  bool good = true;
  for (const Source& source : sources) {
    good = good && Bind(source, why);
    close(source.fd);
  }
  // Nothing more is made in it, not even by us.
  good = good && (mount(nullptr, kPlace, nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, nullptr) == 0 ||
                  Fail("read-only root", why));
  // With both arguments alike the old root lies on top of the new one, and goes with the umount; pivot_root(2).
  good = good && ((chdir(kPlace) == 0 && syscall(SYS_pivot_root, ".", ".") == 0) || Fail("pivot_root", why));
  if (good) return (umount2(".", MNT_DETACH) == 0 && chdir("/") == 0) || Fail("umount of the old root", why);
  umount2(kPlace, MNT_DETACH);
  return false;
}

int EmptyRoot(const std::vector<std::string>& paths) {
  int error = 0;
  for (const std::string& path : paths)
    if (umount2(path.c_str(), MNT_DETACH) != 0 && errno != ENOENT && errno != EINVAL) error = errno;
  return error;
}

}  // namespace nyx
