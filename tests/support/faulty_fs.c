/* A faulty disk under a process: an LD_PRELOAD shim over the file calls of libc, for files below one folder only.

   FAULTY_FS_ROOT     the folder; everything else is passed on untouched
   FAULTY_FS_CONTROL  a file of 4 KiB that holds the rules (struct control); the tests map it too, so they arm and
                      disarm faults while the process runs, and read how often each came to be
   FAULTY_FS_RECORD   optional: a file to which every change is appended in the order in which it happened, over all
                      processes that name it. A look at a path with "/.note/" in it is recorded as a note.

   Calls go to the kernel by syscall(), never back into libc. Nothing is synced for real: these are tests, and what
   a sync would have saved is what tests/support/power_loss.py works out from the record. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum op { OPEN, CREATE, WRITE, READ, SYNC, SYNC_FOLDER, RENAME, UNLINK, MKDIR, TRUNCATE, STAT, CHANGE, LIST, LINK, OPS };
enum record { R_CREATE = 1, R_WRITE, R_TRUNCATE, R_SYNC, R_SYNC_FOLDER, R_RENAME, R_UNLINK, R_MKDIR, R_RMDIR, R_LINK, R_NOTE };
enum action { SHORT = -1, TORN = -2, KILL = -3, KILL_TORN = -4, HALF_EIO = -5 };

#define RULES 4
struct rule {
    uint32_t ops, skip, times, per_mille; /* times 0: for ever */
    int32_t action;                       /* an errno, or enum action */
    uint32_t unused;
    uint64_t matched, fired;
    char path[88]; /* what the path below the root must contain */
};
struct control {
    struct rule rules[RULES];
    uint64_t calls[16];
};
struct entry {
    uint32_t kind, path_bytes, data_bytes, pid;
    uint64_t inode, offset;
};

static struct control *control;
static char root[PATH_MAX];
static size_t root_bytes;
static const char *record_path;
static int record_fd = -1;
static pid_t record_pid;
static pthread_mutex_t order = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static __thread unsigned short dice[3] = {0x330E, 1, 2};

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("FAULTY_FS_ROOT"), *rules = getenv("FAULTY_FS_CONTROL");
    if (!folder || !rules)
        return;
    int fd = syscall(SYS_openat, AT_FDCWD, rules, O_RDWR | O_CLOEXEC, 0);
    void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) {
        fprintf(stderr, "faulty_fs: cannot map %s\n", rules);
        _exit(99);
    }
    syscall(SYS_close, fd);
    snprintf(root, sizeof root, "%s", folder);
    root_bytes = strlen(root);
    record_path = getenv("FAULTY_FS_RECORD");
    control = mapped;
}

/* ---- which file ---- */

static int below(const char *path) {
    return !strncmp(path, root, root_bytes) && (path[root_bytes] == '/' || !path[root_bytes]);
}

/* The path of an open file, relative to the root; NULL when it lies elsewhere. */
static const char *of_fd(int fd, char *full) {
    char link[40];
    if (!control)
        return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = syscall(SYS_readlinkat, AT_FDCWD, link, full, PATH_MAX - 1);
    if (size <= 0)
        return NULL;
    full[size] = 0;
    return below(full) ? full + root_bytes : NULL;
}

static const char *of_path(int folder, const char *path, char *full) {
    if (!control || !path)
        return NULL;
    if (path[0] == '/') {
        snprintf(full, PATH_MAX, "%s", path);
    } else if (folder == AT_FDCWD) {
        if (syscall(SYS_getcwd, full, PATH_MAX) < 0)
            return NULL;
        strncat(full, "/", PATH_MAX - strlen(full) - 1);
        strncat(full, path, PATH_MAX - strlen(full) - 1);
    } else {
        if (!of_fd(folder, full))
            return NULL;
        strncat(full, "/", PATH_MAX - strlen(full) - 1);
        strncat(full, path, PATH_MAX - strlen(full) - 1);
    }
    return below(full) ? full + root_bytes : NULL;
}

static uint64_t inode_of(int fd) {
    struct stat found;
    return syscall(SYS_newfstatat, fd, "", &found, AT_EMPTY_PATH) ? 0 : found.st_ino;
}

static uint64_t inode_at(const char *full) {
    struct stat found;
    return syscall(SYS_newfstatat, AT_FDCWD, full, &found, AT_SYMLINK_NOFOLLOW) ? 0 : found.st_ino;
}

static int is_folder(int fd) {
    struct stat found;
    return !syscall(SYS_newfstatat, fd, "", &found, AT_EMPTY_PATH) && S_ISDIR(found.st_mode);
}

/* ---- what fails ---- */

/* Return what is to happen to this call: 0 nothing, an errno, or an enum action. */
static int fate(enum op op, const char *path) {
    __atomic_add_fetch(&control->calls[op], 1, __ATOMIC_RELAXED);
    for (int i = 0; i < RULES; i++) {
        struct rule *rule = &control->rules[i];
        if (!(__atomic_load_n(&rule->ops, __ATOMIC_ACQUIRE) & (1u << op)) || !strstr(path, rule->path))
            continue;
        uint64_t turn = __atomic_fetch_add(&rule->matched, 1, __ATOMIC_RELAXED);
        if (turn < rule->skip || (rule->times && turn - rule->skip >= rule->times))
            continue;
        if (rule->per_mille < 1000 && nrand48(dice) % 1000 >= rule->per_mille)
            continue;
        __atomic_add_fetch(&rule->fired, 1, __ATOMIC_RELAXED);
        if (rule->action == KILL)
            syscall(SYS_kill, getpid(), SIGKILL);
        return rule->action;
    }
    return 0;
}

/* For calls that can only fail or not; true when errno is set. */
static int fails(enum op op, const char *path) {
    int action = fate(op, path);
    if (action < 0)
        action = EIO;
    errno = action ? action : errno;
    return action != 0;
}

/* ---- the record ---- */

/* Between these two no other thread or process changes or records anything. */
static void in_order(void) {
    pthread_mutex_lock(&order);
    if (!record_path)
        return;
    if (record_pid != getpid()) { /* a lock belongs to an open file, which a fork would share */
        record_fd = syscall(SYS_openat, AT_FDCWD, record_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        record_pid = getpid();
    }
    syscall(SYS_flock, record_fd, LOCK_EX);
}

static void done(void) {
    int kept = errno;
    if (record_path)
        syscall(SYS_flock, record_fd, LOCK_UN);
    pthread_mutex_unlock(&order);
    errno = kept;
}

static void put(enum record kind, uint64_t inode, uint64_t offset, const char *path, const struct iovec *data, int count,
                size_t size) {
    if (!record_path)
        return;
    int kept = errno;
    struct entry head = {kind, strlen(path), size, getpid(), inode, offset};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)path, head.path_bytes}};
    syscall(SYS_writev, record_fd, parts, 2);
    for (int i = 0; i < count && size; i++) {
        size_t part = data[i].iov_len < size ? data[i].iov_len : size;
        syscall(SYS_write, record_fd, data[i].iov_base, part);
        size -= part;
    }
    errno = kept;
}

static void put_two(enum record kind, uint64_t inode, const char *path, const char *other) {
    struct iovec second = {(void *)other, strlen(other)};
    put(kind, inode, 0, path, &second, 1, second.iov_len);
}

/* ---- open ---- */

static int open_at(int folder, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    const char *name = of_path(folder, path, full);
    if (!name || (flags & O_PATH))
        return syscall(SYS_openat, folder, path, flags, mode);
    if (fails(flags & O_CREAT ? CREATE : flags & O_DIRECTORY ? LIST : OPEN, name))
        return -1;
    if (!(flags & (O_CREAT | O_TRUNC)))
        return syscall(SYS_openat, folder, path, flags, mode);
    in_order();
    int was_there = inode_at(full) != 0;
    int fd = syscall(SYS_openat, folder, path, flags, mode);
    if (fd >= 0 && !was_there)
        put(R_CREATE, inode_of(fd), 0, name, NULL, 0, 0);
    else if (fd >= 0 && (flags & O_TRUNC))
        put(R_TRUNCATE, inode_of(fd), 0, name, NULL, 0, 0);
    done();
    return fd;
}

#define MODE                                                                                                           \
    mode_t mode = 0;                                                                                                   \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                                                             \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode = va_arg(rest, mode_t);                                                                                   \
        va_end(rest);                                                                                                  \
    }
int open(const char *path, int flags, ...) { MODE return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return open_at(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE return open_at(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE return open_at(folder, path, flags, mode); }
int __open_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
int __openat64_2(int folder, const char *path, int flags) { return open_at(folder, path, flags, 0); }

DIR *opendir(const char *path) {
    char full[PATH_MAX];
    const char *name = of_path(AT_FDCWD, path, full);
    if (name && fails(LIST, name))
        return NULL;
    return ((DIR * (*)(const char *)) dlsym(RTLD_NEXT, "opendir"))(path);
}

/* ---- write and read ---- */

static ssize_t write_at(int fd, const struct iovec *data, int count, off64_t offset) {
    if (offset < 0)
        return syscall(SYS_writev, fd, data, count);
    return syscall(SYS_pwritev, fd, data, count, offset, 0);
}

/* Write half of the bytes, and with `fill` zeros for the rest, as a disk does that has lost its power within. */
static ssize_t write_half(int fd, const struct iovec *data, int count, off64_t offset, int fill) {
    size_t size = 0, at = 0;
    for (int i = 0; i < count; i++)
        size += data[i].iov_len;
    char *all = calloc(1, size + 1);
    for (int i = 0; i < count; at += data[i++].iov_len)
        memcpy(all + at, data[i].iov_base, data[i].iov_len);
    size_t half = size > 1 ? size / 2 : size;
    if (fill)
        memset(all + half, 0, size - half);
    struct iovec one = {all, fill ? size : half};
    ssize_t result = write_at(fd, &one, 1, offset);
    free(all);
    return result;
}

static ssize_t any_write(int fd, const struct iovec *data, int count, off64_t offset) {
    char full[PATH_MAX];
    const char *name = of_fd(fd, full);
    if (!name)
        return write_at(fd, data, count, offset);
    int action = fate(WRITE, name);
    if (action > 0) {
        errno = action;
        return -1;
    }
    in_order();
    ssize_t size = action ? write_half(fd, data, count, offset, action == TORN) : write_at(fd, data, count, offset);
    if (action == KILL_TORN)
        syscall(SYS_kill, getpid(), SIGKILL);
    if (size > 0) {
        off64_t start = offset >= 0 ? offset : syscall(SYS_lseek, fd, 0, SEEK_CUR) - size;
        put(R_WRITE, inode_of(fd), start, name, data, count, size);
    }
    done();
    if (action == HALF_EIO) {
        errno = EIO;
        return -1;
    }
    return size;
}

ssize_t write(int fd, const void *data, size_t size) { return any_write(fd, &(struct iovec){(void *)data, size}, 1, -1); }
ssize_t writev(int fd, const struct iovec *data, int count) { return any_write(fd, data, count, -1); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    return any_write(fd, &(struct iovec){(void *)data, size}, 1, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    return any_write(fd, &(struct iovec){(void *)data, size}, 1, at);
}
ssize_t pwritev(int fd, const struct iovec *data, int count, off_t at) { return any_write(fd, data, count, at); }
ssize_t pwritev64(int fd, const struct iovec *data, int count, off64_t at) { return any_write(fd, data, count, at); }
ssize_t pwritev64v2(int fd, const struct iovec *data, int count, off64_t at, int flags) {
    (void)flags;
    return any_write(fd, data, count, at);
}

static int read_fails(int fd) {
    char full[PATH_MAX];
    const char *name = of_fd(fd, full);
    return name && fails(READ, name);
}
ssize_t read(int fd, void *data, size_t size) { return read_fails(fd) ? -1 : syscall(SYS_read, fd, data, size); }
ssize_t readv(int fd, const struct iovec *data, int count) {
    return read_fails(fd) ? -1 : syscall(SYS_readv, fd, data, count);
}
ssize_t pread(int fd, void *data, size_t size, off_t at) {
    return read_fails(fd) ? -1 : syscall(SYS_pread64, fd, data, size, at);
}
ssize_t pread64(int fd, void *data, size_t size, off64_t at) {
    return read_fails(fd) ? -1 : syscall(SYS_pread64, fd, data, size, at);
}
ssize_t preadv64v2(int fd, const struct iovec *data, int count, off64_t at, int flags) {
    return read_fails(fd) ? -1 : syscall(SYS_preadv2, fd, data, count, at, 0, flags);
}

static int truncate_fd(int fd, off64_t size) {
    char full[PATH_MAX];
    const char *name = of_fd(fd, full);
    if (!name)
        return syscall(SYS_ftruncate, fd, size);
    if (fails(TRUNCATE, name))
        return -1;
    in_order();
    int result = syscall(SYS_ftruncate, fd, size);
    if (!result)
        put(R_TRUNCATE, inode_of(fd), size, name, NULL, 0, 0);
    done();
    return result;
}
int ftruncate(int fd, off_t size) { return truncate_fd(fd, size); }
int ftruncate64(int fd, off64_t size) { return truncate_fd(fd, size); }

/* ---- sync ---- */

static int sync_fd(int fd, long number) {
    char full[PATH_MAX];
    const char *name = of_fd(fd, full);
    if (!name)
        return syscall(number, fd);
    int folder = is_folder(fd);
    if (fails(folder ? SYNC_FOLDER : SYNC, name))
        return -1;
    in_order();
    put(folder ? R_SYNC_FOLDER : R_SYNC, inode_of(fd), 0, name, NULL, 0, 0);
    done();
    return 0;
}
int fsync(int fd) { return sync_fd(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_fd(fd, SYS_fdatasync); }

/* ---- names ---- */

static int rename_at(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    char full_from[PATH_MAX], full_to[PATH_MAX];
    const char *a = of_path(from_folder, from, full_from), *b = of_path(to_folder, to, full_to);
    if (!a || !b)
        return syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
    if (fails(RENAME, b))
        return -1;
    in_order();
    int result = syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
    if (!result)
        put_two(R_RENAME, inode_at(full_to), a, b);
    done();
    return result;
}
int rename(const char *from, const char *to) { return rename_at(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int f, const char *from, int t, const char *to) { return rename_at(f, from, t, to, 0); }
int renameat2(int f, const char *from, int t, const char *to, unsigned flags) { return rename_at(f, from, t, to, flags); }

static int link_at(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    char full_from[PATH_MAX], full_to[PATH_MAX];
    const char *a = of_path(from_folder, from, full_from), *b = of_path(to_folder, to, full_to);
    if (!a || !b)
        return syscall(SYS_linkat, from_folder, from, to_folder, to, flags);
    if (fails(LINK, b))
        return -1;
    in_order();
    int result = syscall(SYS_linkat, from_folder, from, to_folder, to, flags);
    if (!result)
        put_two(R_LINK, inode_at(full_to), a, b);
    done();
    return result;
}
int link(const char *from, const char *to) { return link_at(AT_FDCWD, from, AT_FDCWD, to, 0); }
int linkat(int f, const char *from, int t, const char *to, int flags) { return link_at(f, from, t, to, flags); }

static int unlink_at(int folder, const char *path, int flags) {
    char full[PATH_MAX];
    const char *name = of_path(folder, path, full);
    if (!name)
        return syscall(SYS_unlinkat, folder, path, flags);
    if (fails(UNLINK, name))
        return -1;
    in_order();
    uint64_t inode = inode_at(full);
    int result = syscall(SYS_unlinkat, folder, path, flags);
    if (!result)
        put(flags & AT_REMOVEDIR ? R_RMDIR : R_UNLINK, inode, 0, name, NULL, 0, 0);
    done();
    return result;
}
int unlink(const char *path) { return unlink_at(AT_FDCWD, path, 0); }
int unlinkat(int folder, const char *path, int flags) { return unlink_at(folder, path, flags); }
int rmdir(const char *path) { return unlink_at(AT_FDCWD, path, AT_REMOVEDIR); }

static int mkdir_at(int folder, const char *path, mode_t mode) {
    char full[PATH_MAX];
    const char *name = of_path(folder, path, full);
    if (!name)
        return syscall(SYS_mkdirat, folder, path, mode);
    if (fails(MKDIR, name))
        return -1;
    in_order();
    int result = syscall(SYS_mkdirat, folder, path, mode);
    if (!result)
        put(R_MKDIR, inode_at(full), 0, name, NULL, 0, 0);
    done();
    return result;
}
int mkdir(const char *path, mode_t mode) { return mkdir_at(AT_FDCWD, path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) { return mkdir_at(folder, path, mode); }

/* ---- looks, and changes of what a file says of itself ---- */

static int stat_at(int folder, const char *path, struct stat *into, int flags) {
    char full[PATH_MAX];
    const char *name = of_path(folder, path, full);
    if (name && strstr(name, "/.note/")) {
        in_order();
        put(R_NOTE, 0, 0, strstr(name, "/.note/") + 7, NULL, 0, 0);
        done();
    } else if (name && fails(STAT, name)) {
        return -1;
    }
    return syscall(SYS_newfstatat, folder, path, into, flags);
}
int stat64(const char *path, struct stat64 *into) { return stat_at(AT_FDCWD, path, (struct stat *)into, 0); }
int lstat64(const char *path, struct stat64 *into) {
    return stat_at(AT_FDCWD, path, (struct stat *)into, AT_SYMLINK_NOFOLLOW);
}
int fstatat64(int folder, const char *path, struct stat64 *into, int flags) {
    return stat_at(folder, path, (struct stat *)into, flags);
}

int utimensat(int folder, const char *path, const struct timespec times[2], int flags) {
    char full[PATH_MAX];
    const char *name = of_path(folder, path, full);
    return name && fails(CHANGE, name) ? -1 : syscall(SYS_utimensat, folder, path, times, flags);
}
int chmod(const char *path, mode_t mode) {
    char full[PATH_MAX];
    const char *name = of_path(AT_FDCWD, path, full);
    return name && fails(CHANGE, name) ? -1 : syscall(SYS_fchmodat, AT_FDCWD, path, mode);
}
