/*
 * Kills a process at a chosen step of its work on the local disk; preloaded into the daemon by the crash tests (ld.so(8)).
 *
 * A step is a call that changes something below DSSEFS_STEPS_DIR. Steps are counted over all threads in DSSEFS_STEPS_FILE, which
 * the test maps as well: three numbers of 8 bytes, the steps so far, the step to die at (0: none), and how to die: 0 before the call,
 * 1 after half of its bytes (before it, where it has none), 2 after it. With 3 nothing dies: from that step on, the disk fails to sync.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum how { BEFORE, TORN, AFTER, FAILING };

struct plan {
    _Atomic uint64_t count;
    _Atomic uint64_t at;
    _Atomic uint64_t how;
};

static struct plan *plan;
static const char *directory;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("DSSEFS_STEPS_FILE");
    directory = getenv("DSSEFS_STEPS_DIR");
    int fd = path && directory ? REAL(open)(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *at = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED) plan = at;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static int below(const char *path) {
    return plan && path && strncmp(path, directory, strlen(directory)) == 0;
}

static int is_ours(int fd) {
    char link[64], path[4096];
    if (!plan) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int kept = errno;
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = kept;
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

/* The step that begins now: -1 to go on, else how to die. Dies at once when that is before it. */
static int step(int ours) {
    if (!ours) return -1;
    uint64_t now = atomic_fetch_add(&plan->count, 1) + 1;
    if (now != atomic_load(&plan->at)) return -1;
    int how = (int)atomic_load(&plan->how);
    if (how == FAILING) return -1;
    if (how == BEFORE) die();
    return how;
}

/* For calls that are done whole or not at all. */
#define WHOLE(ours, call)          \
    do {                           \
        int how = step(ours);      \
        if (how == TORN) die();    \
        __auto_type result = call; \
        if (how == AFTER) die();   \
        return result;             \
    } while (0)

/* For calls that can be cut short. */
#define TEARABLE(ours, call, half) \
    do {                           \
        int how = step(ours);      \
        if (how == TORN) {         \
            half;                  \
            die();                 \
        }                          \
        __auto_type result = call; \
        if (how == AFTER) die();   \
        return result;             \
    } while (0)

ssize_t write(int fd, const void *bytes, size_t length) {
    TEARABLE(is_ours(fd), REAL(write)(fd, bytes, length), REAL(write)(fd, bytes, length / 2));
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
    TEARABLE(is_ours(fd), REAL(writev)(fd, pieces, count), REAL(writev)(fd, pieces, count / 2));
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    TEARABLE(is_ours(fd), REAL(pwrite64)(fd, bytes, length, at), REAL(pwrite64)(fd, bytes, length / 2, at));
}

/* Whether the disk fails to sync from a step on that has come. */
static int fails(void) {
    uint64_t at = plan ? atomic_load(&plan->at) : 0;
    return at != 0 && atomic_load(&plan->how) == FAILING && atomic_load(&plan->count) >= at;
}

static int failed(void) {
    errno = EIO;
    return -1;
}

int fsync(int fd) { WHOLE(is_ours(fd), is_ours(fd) && fails() ? failed() : REAL(fsync)(fd)); }
int fdatasync(int fd) { WHOLE(is_ours(fd), is_ours(fd) && fails() ? failed() : REAL(fdatasync)(fd)); }
int ftruncate64(int fd, off64_t length) { WHOLE(is_ours(fd), REAL(ftruncate64)(fd, length)); }
int mkdir(const char *path, mode_t mode) { WHOLE(below(path), REAL(mkdir)(path, mode)); }
int rmdir(const char *path) { WHOLE(below(path), REAL(rmdir)(path)); }
int unlink(const char *path) { WHOLE(below(path), REAL(unlink)(path)); }
int rename(const char *from, const char *to) { WHOLE(below(from) || below(to), REAL(rename)(from, to)); }
int unlinkat(int at, const char *path, int flags) {
    WHOLE(below(path) || is_ours(at), REAL(unlinkat)(at, path, flags));
}

int open64(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list more;
        va_start(more, flags);
        mode = va_arg(more, mode_t);
        va_end(more);
    }
    WHOLE((flags & O_CREAT) && below(path), REAL(open64)(path, flags, mode));
}
