/* Makes system calls of a process fail: a full disk, a broken disk, no more descriptors.
 *
 * Loaded with LD_PRELOAD. A seccomp filter traps the calls below, whoever makes them: the C library, RocksDB, or Rust without
 * the C library. The handler of the trap counts those that have to do with the folder FAULT_UNDER, and lets the FAULT_AT-th of
 * them fail with FAULT_ERRNO; with FAULT_ON also all that follow. The count is in the file FAULT_COUNT, 8 bytes. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* In the sixth argument, which none of the calls has: the handler itself makes the call. */
#define OWN 0x51ce

enum kind { WRITES = 'w', OPENS = 'o' };

static char kind;
static const char *under;
static long at, fault;
static int on;
static _Atomic long *count;

#if defined(__x86_64__)
#define REG(context, name) ((context)->uc_mcontext.gregs[name])
#define NUMBER(c) REG(c, REG_RAX)
#define RESULT(c) REG(c, REG_RAX)
#define ARGUMENTS(c) { REG(c, REG_RDI), REG(c, REG_RSI), REG(c, REG_RDX), REG(c, REG_R10), REG(c, REG_R8) }
#elif defined(__aarch64__)
#define REG(context, name) ((context)->uc_mcontext.regs[name])
#define NUMBER(c) REG(c, 8)
#define RESULT(c) REG(c, 0)
#define ARGUMENTS(c) { REG(c, 0), REG(c, 1), REG(c, 2), REG(c, 3), REG(c, 4) }
#else
#error "the registers of this processor are not known here"
#endif

static int is_under(int descriptor) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return strncmp(path, under, strlen(under)) == 0;
}

/* The paths of the program's own files are below the folder, or relative to it. */
static int is_own_path(const char *path) {
  return path[0] != '/' || strncmp(path, under, strlen(under)) == 0;
}

static int concerns(long number, const long *arguments) {
  switch (number) {
#ifdef __NR_open
  case __NR_open: return kind == OPENS && is_own_path((const char *)arguments[0]);
#endif
  case __NR_openat:
  case __NR_openat2: return kind == OPENS && is_own_path((const char *)arguments[1]);
#ifdef __NR_rename
  case __NR_rename:
#endif
#ifdef __NR_renameat
  case __NR_renameat:
#endif
  case __NR_renameat2: return kind == WRITES;
  default: return kind == WRITES && is_under((int)arguments[0]);
  }
}

static void trapped(int signal, siginfo_t *info, void *context_) {
  (void)signal, (void)info;
  ucontext_t *context = context_;
  int saved = errno;
  long a[] = ARGUMENTS(context), number = NUMBER(context), result;
  long place = concerns(number, a) ? atomic_fetch_add(count, 1) + 1 : 0;
  if (at > 0 && (place == at || (on && place > at))) {
    result = -fault;
  } else {
    result = syscall(number, a[0], a[1], a[2], a[3], a[4], (long)OWN);
    if (result == -1) result = -errno;
  }
  RESULT(context) = result;
  errno = saved;
}

static long number_of(const char *name) { return getenv(name) ? atol(getenv(name)) : 0; }

__attribute__((constructor)) static void begin(void) {
  if (!(under = getenv("FAULT_UNDER"))) return;
  kind = *getenv("FAULT_KIND"), at = number_of("FAULT_AT"), fault = number_of("FAULT_ERRNO"), on = number_of("FAULT_ON");
  int file = open(getenv("FAULT_COUNT"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0 || ftruncate(file, sizeof *count)) abort();
  count = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (count == MAP_FAILED) abort();
  close(file);

  struct sigaction action = { .sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART };
  if (sigaction(SIGSYS, &action, NULL)) abort();
  static const int calls[] = {
#ifdef __NR_open
    __NR_open,
#endif
#ifdef __NR_rename
    __NR_rename,
#endif
#ifdef __NR_renameat
    __NR_renameat,
#endif
    __NR_openat, __NR_openat2, __NR_renameat2, __NR_write, __NR_pwrite64, __NR_writev, __NR_pwritev, __NR_fsync,
    __NR_fdatasync, __NR_fallocate, __NR_copy_file_range,
  };
  enum { CALLS = sizeof calls / sizeof *calls };
  struct sock_filter program[CALLS + 6];
  int length = 0;
  program[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
  for (int i = 0; i < CALLS; i++)
    program[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i], CALLS - i, 0);
  program[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  program[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5]));
  program[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OWN, 0, 1);
  program[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  program[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
  struct sock_fprog filter = { .len = length, .filter = program };
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) abort();
}
