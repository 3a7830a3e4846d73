/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which stores there are, and how each is reached. Its vss-cow outlives this process and vssd: it is started in a
 * session of its own with no descriptor of ours, and makes itself a daemon. Two processes that want the same one at the
 * same time take turns by a lock file on tmpfs; vss-cow's own lock on the store decides in the end.
 */
#include "providers/cow/provider.h"
#include "providers/cow/format.h"
#include "providers/cow/unit.h"
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { LOCK_TICK_USEC = 5000 };
#define PROBE_PATIENCE_USEC (10 * USEC_PER_SEC) /* for calls that come without a deadline */

static const char *directory_of(const char *variable, const char *otherwise) {
        const char *e = secure_getenv(variable);
        return isempty(e) ? otherwise : e;
}

const char *cow_state_directory(void) {
        return directory_of("STATE_DIRECTORY", "/var/lib/vss");
}

static int make_directory(const char *path) {
        return mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

int cow_state_path(struct vss_call *c, const char *name, char *ret, size_t size) {
        const char *state = cow_state_directory();
        static const char *const made[] = { "", "/stores", "/finished" };
        int n;
        for (size_t i = 0; i < ELEMENTSOF(made); i++) {
                n = snprintf(ret, size, "%s/cow%s", state, made[i]);
                int r = n < 0 || (size_t) n >= size ? -ENAMETOOLONG : make_directory(ret);
                if (r < 0)
                        return cow_fail(c, r == -ENOENT ? -EIO : r, "cannot make %s: %s", ret, strerror(-r));
        }
        n = snprintf(ret, size, "%s/cow/%s", state, name);
        return n < 0 || (size_t) n >= size ? cow_fail(c, -EINVAL, "%s is too long a path", state) : 0;
}

static int runtime_path(const char *id, const char *suffix, char *ret, size_t size) {
        const char *runtime = directory_of("RUNTIME_DIRECTORY", "/run/vss");
        int n = snprintf(ret, size, "%s/cow", runtime);
        if (n < 0 || (size_t) n >= size)
                return -ENAMETOOLONG;
        (void) make_directory(runtime);
        int r = make_directory(ret);
        if (r < 0)
                return r;
        n = snprintf(ret, size, "%s/cow/%s%s", runtime, id, suffix);
        return n < 0 || (size_t) n >= size ? -ENAMETOOLONG : 0;
}

static int write_file(const char *path, const char *text) {
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
        size_t n = strlen(text);
        if (fd < 0)
                return -errno;
        ssize_t k = write(fd, text, n);
        if (k < 0 || (size_t) k != n)
                return k < 0 ? -errno : -ENOSPC;
        return fsync(fd) < 0 ? -errno : 0;
}

/* Two lines: the path, and the front end if there is a choice of one. */
static bool read_registered(int directory, const char *id, CowStore *ret) {
        char text[sizeof(ret->path) + sizeof(ret->frontend)], *save = NULL;
        *ret = COW_STORE_NULL;
        _cleanup_close_ int fd = openat(directory, id, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        if (n <= 1)
                return false;
        text[n] = '\0';
        const char *path = strtok_r(text, "\n", &save), *frontend = strtok_r(NULL, "\n", &save);
        (void) snprintf(ret->path, sizeof(ret->path), "%s", path ?: "");
        (void) snprintf(ret->frontend, sizeof(ret->frontend), "%s", frontend ?: "");
        memcpy(ret->id, id, VSS_ID_SIZE);
        return ret->path[0] == '/';
}

int cow_store_register(struct vss_call *c, const CowStore *s) {
        char directory[LIMIT_PATH_BYTES], path[LIMIT_PATH_BYTES + 64], next[LIMIT_PATH_BYTES + 64];
        CowStore known;
        int r = cow_state_path(c, "stores", directory, sizeof(directory));
        if (r < 0)
                return r;
        (void) snprintf(path, sizeof(path), "%s/%s", directory, s->id);
        (void) snprintf(next, sizeof(next), "%s/.%s", directory, s->id);
        _cleanup_close_ int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || !read_registered(fd, s->id, &known))
                known = COW_STORE_NULL;
        char text[sizeof(s->path) + sizeof(s->frontend) + 2];
        (void) snprintf(text, sizeof(text), "%s\n%s", s->path, s->frontend[0] ? s->frontend : known.frontend);
        r = write_file(next, text);
        if (r >= 0 && rename(next, path) < 0)
                r = -errno;
        if (r >= 0 && (fd < 0 || fsync(fd) < 0))
                r = -errno;
        return r < 0 ? cow_fail(c, r, "cannot register the store in %s: %s", directory, strerror(-r)) : 0;
}

int cow_store_unregister(const CowStore *s) {
        char path[LIMIT_PATH_BYTES];
        int n = snprintf(path, sizeof(path), "%s/cow/stores/%s", cow_state_directory(), s->id);
        if (n < 0 || (size_t) n >= sizeof(path))
                return -ENAMETOOLONG;
        return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

int cow_store_identify(const char *path, char ret_id[static VSS_ID_SIZE]) {
        uint8_t block[BLOCK_SIZE];
        struct stat st;
        _cleanup_close_ int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
                return -EMEDIUMTYPE;
        for (unsigned copy = 0; copy < 2; copy++) { /* of four; vss-cow looks at all and at their checksums */
                const struct superblock *s = (const void *) block;
                if (pread(fd, block, sizeof(block), copy * BLOCK_SIZE) != sizeof(block) ||
                    memcmp(s->magic, STORE_MAGIC, sizeof(s->magic)) != 0)
                        continue;
                for (unsigned i = 0, k = 0; i < 16; i++)
                        k += (unsigned) snprintf(ret_id + k, VSS_ID_SIZE - k,
                                                 i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", s->uuid[i]);
                return 0;
        }
        return -EMEDIUMTYPE;
}

/* ---- vss-cow ---- */

static int program_path(char *ret, size_t size) {
        static const char *const places[] = { "", "../providers/", "../providers/cow/" };
        const char *e = secure_getenv("VSS_COW");
        char self[LIMIT_PATH_BYTES], *slash;
        if (!isempty(e))
                return snprintf(ret, size, "%s", e) < (int) size ? 0 : -ENAMETOOLONG;
        ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
        self[MAX_OF(n, 0)] = '\0';
        slash = strrchr(self, '/');
        for (size_t i = 0; slash && i < ELEMENTSOF(places); i++) {
                int k = snprintf(ret, size, "%.*s/%svss-cow", (int) (slash - self), self, places[i]);
                if (k > 0 && (size_t) k < size && access(ret, X_OK) >= 0)
                        return 0;
        }
        return snprintf(ret, size, "%s/vss-cow", VSS_LIBEXECDIR) < (int) size ? 0 : -ENAMETOOLONG;
}

/* In the child. Its stdout is our pipe; stderr stays vssd's. */
static _Noreturn void become_program(char *const *argv, int out) {
        sigset_t none;
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        (void) sigemptyset(&none);
        (void) sigprocmask(SIG_SETMASK, &none, NULL);
        (void) signal(SIGPIPE, SIG_DFL);
        (void) setsid();
        (void) prctl(PR_SET_PDEATHSIG, 0);
        (void) chdir("/");
        if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0)
                _exit(127);
        (void) syscall(SYS_close_range, 3u, ~0u, 0);
        (void) execv(argv[0], argv);
        _exit(127);
}

static uint64_t call_deadline(const struct vss_call *c) {
        return MIN_OF(c->deadline_usec, usec_add(now_usec(), 30 * USEC_PER_SEC));
}

/* Its first line, or what it said before it ended; not the end of the pipe, which a daemon may keep. */
static int read_line(int fd, char *ret, size_t size, uint64_t deadline_usec) {
        size_t n = 0;
        while (n + 1 < size) {
                struct pollfd p = { .fd = fd, .events = POLLIN };
                uint64_t now = now_usec();
                int k = now < deadline_usec ? poll(&p, 1, (int) ((deadline_usec - now) / USEC_PER_MSEC + 1)) : 0;
                if (k == 0)
                        return -ETIME;
                ssize_t r = k < 0 ? -1 : read(fd, ret + n, 1);
                if (r < 0 && errno == EINTR)
                        continue;
                if (r <= 0 || ret[n] == '\n')
                        break;
                n++;
        }
        ret[n] = '\0';
        return 0;
}

static int wait_program(pid_t pid, uint64_t deadline_usec) {
        int status = 0;
        while (waitpid(pid, &status, WNOHANG) == 0) {
                if (now_usec() >= deadline_usec) {
                        (void) kill(pid, SIGKILL);
                        (void) waitpid(pid, &status, 0);
                        return -ETIME;
                }
                (void) usleep(1000);
        }
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

int cow_program(struct vss_call *c, char *const *arguments, char *first_line, size_t size) {
        char path[LIMIT_PATH_BYTES], line[256] = "";
        char *argv[8] = { path };
        int out[2], r = program_path(path, sizeof(path));
        uint64_t deadline = call_deadline(c);
        for (size_t i = 0; arguments[i]; i++)
                argv[i + 1] = arguments[i];
        if (r < 0 || access(path, X_OK) < 0)
                return cow_fail(c, -EIO, "%s is not there: the built-in engine is not installed", path);
        if (pipe2(out, O_CLOEXEC) < 0)
                return -errno;
        pid_t pid = fork();
        if (pid == 0)
                become_program(argv, out[1]);
        (void) close_fd(out[1]);
        r = pid < 0 ? -errno : read_line(out[0], line, sizeof(line), deadline);
        (void) close_fd(out[0]);
        if (pid < 0)
                return cow_fail(c, r, "cannot start vss-cow: %s", strerror(-r));
        r = wait_program(pid, deadline);
        if (r != 0)
                return cow_fail(c, r == -ETIME ? r : -EIO, "vss-cow %s %s; the log has its reason%s%s", arguments[0],
                                r == -ETIME ? "did not answer in time" : "failed", line[0] ? ": " : "",
                                line[0] ? line : "");
        if (first_line)
                (void) snprintf(first_line, size, "%s", line);
        return 0;
}

void cow_links_directory(char *ret, size_t size) {
        const char *runtime = directory_of("RUNTIME_DIRECTORY", "/run/vss");
        if (streq(runtime, "/run/vss"))
                (void) snprintf(ret, size, "/dev/vss");
        else
                (void) snprintf(ret, size, "%s/dev", runtime);
}

static int start_server(struct vss_call *c, const CowStore *s, const char *directory) {
        char id[VSS_ID_SIZE] = "", line[256];
        char store[sizeof(s->path) + 16], where[LIMIT_PATH_BYTES + 16],
                links[LIMIT_PATH_BYTES + 16] = "--links=", frontend[sizeof(s->frontend) + 16];
        int r = cow_store_identify(s->path, id);
        if (r < 0 || !streq(id, s->id))
                return cow_fail(c, r == -ENOENT ? -ENOENT : -EIO, "the store of %s is not at %s: %s", s->id, s->path,
                                r < 0 ? strerror(-r) : "another one is there");
        r = make_directory(directory);
        if (r < 0)
                return cow_fail(c, r, "cannot make %s: %s", directory, strerror(-r));
        if (unit_is_available()) {
                const char *const unit = s->id;
                r = units_start(cow_state_directory(), &unit, 1, call_deadline(c));
                return r < 0 ? cow_fail(c, r, "vss-cow@%s.service does not start: %s; look at its status", s->id,
                                        strerror(-r)) :
                               0;
        }
        (void) snprintf(store, sizeof(store), "--store=%s", s->path);
        (void) snprintf(where, sizeof(where), "--directory=%s", directory);
        cow_links_directory(links + strlen(links), sizeof(links) - strlen(links));
        (void) snprintf(frontend, sizeof(frontend), "--frontend=%s", s->frontend[0] ? s->frontend : "auto");
        return cow_program(c, (char *[]) { (char *) "serve", store, where, links, frontend, NULL }, line, sizeof(line));
}

static int take_lock(struct vss_call *c, const char *id, int *ret) {
        char path[LIMIT_PATH_BYTES];
        uint64_t deadline = call_deadline(c);
        int r = runtime_path(id, ".lock", path, sizeof(path));
        _cleanup_close_ int fd = r < 0 ? -1 : open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return cow_fail(c, r < 0 ? r : -errno, "cannot open the lock of store %s", id);
        while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
                if (errno != EWOULDBLOCK || now_usec() >= deadline)
                        return cow_fail(c, -EBUSY, "another process is starting the vss-cow of store %s", id);
                (void) usleep(LOCK_TICK_USEC);
        }
        *ret = TAKE_FD(fd);
        return 0;
}

int cow_store_connect(struct vss_call *c, CowStore *s, unsigned flags) {
        char directory[LIMIT_PATH_BYTES];
        _cleanup_close_ int lock = -EBADF;
        int r = runtime_path(s->id, "", directory, sizeof(directory));
        if (r < 0)
                return cow_fail(c, r, "no place for the store's socket: %s", strerror(-r));
        s->fd = control_connect(directory);
        if (s->fd >= 0)
                return 0;
        if (!(flags & COW_START) || (s->fd != -ENOENT && s->fd != -ECONNREFUSED))
                return cow_fail(c, s->fd == -ENOENT ? -ECONNREFUSED : s->fd, "nobody serves the store at %s", s->path);
        r = take_lock(c, s->id, &lock);
        if (r < 0)
                return r;
        s->fd = control_connect(directory);
        if (s->fd < 0)
                r = start_server(c, s, directory);
        if (r < 0)
                return r;
        if (s->fd < 0)
                s->fd = control_connect(directory);
        return s->fd < 0 ? cow_fail(c, s->fd, "the vss-cow of the store at %s does not listen", s->path) : 0;
}

static int read_registry(CowStore *ret, unsigned *ret_n) {
        char path[LIMIT_PATH_BYTES];
        int n = snprintf(path, sizeof(path), "%s/cow/stores", cow_state_directory());
        DIR *d = n < 0 || (size_t) n >= sizeof(path) ? NULL : opendir(path);
        *ret_n = 0;
        if (!d)
                return errno == ENOENT ? 0 : -errno;
        for (struct dirent *e; (e = readdir(d)) && *ret_n < COW_STORES_MAX;)
                if (id_is_valid(e->d_name) && read_registered(dirfd(d), e->d_name, &ret[*ret_n]))
                        ++*ret_n;
        (void) closedir(d);
        return 0;
}

int cow_each_store(struct vss_call *c, unsigned flags, CowStoreFunction f, void *userdata) {
        _cleanup_free_ CowStore *stores = calloc(COW_STORES_MAX, sizeof(CowStore));
        unsigned n = 0;
        int r = stores ? read_registry(stores, &n) : -ENOMEM;
        if (r < 0)
                return cow_fail(c, r, "the registry of stores cannot be read: %s", strerror(-r));
        for (unsigned i = 0; i < n && r == 0; i++) {
                r = cow_store_connect(c, &stores[i], flags);
                if (r < 0 && flags & COW_TOLERATE) {
                        r = 0;
                        continue;
                }
                if (r >= 0)
                        r = f(c, &stores[i], userdata);
                cow_store_done(&stores[i]);
        }
        return r;
}

/* ---- asking ---- */

json_object *cow_request(const char *command) {
        json_object *q = json_object_new_object();
        json_add_string(q, "command", command);
        return q;
}

int cow_ask_with(struct vss_call *c, CowStore *s, json_object *request, int fd, json_object **ret) {
        uint64_t deadline = c->deadline_usec == UINT64_MAX ? usec_add(now_usec(), PROBE_PATIENCE_USEC) :
                                                             c->deadline_usec;
        ControlError error = {};
        int r = !request ? -ENOMEM : s->fd < 0 ? -EPIPE : control_call_with(s->fd, request, fd, deadline, ret, &error);
        (void) json_object_put(request);
        if (r == -ETIME || r == -EPIPE || r == -EPROTO)
                cow_store_done(s);
        if (r < 0)
                return cow_fail(c, r, "%s",
                                error.message[0] ? error.message :
                                r == -ETIME      ? "vss-cow did not answer in time" :
                                r == -EPIPE      ? "vss-cow ended in the middle of a request" :
                                                   strerror(-r));
        return 0;
}

int cow_ask(struct vss_call *c, CowStore *s, json_object *request, json_object **ret) {
        return cow_ask_with(c, s, request, -EBADF, ret);
}
