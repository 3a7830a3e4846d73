/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "providers/cow/unit.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define UNIT_DIRECTORY "/run/systemd/system"
enum { PATH_SIZE = ATTACHED_PATH_MAX + 128, TICK_USEC = 10000, UNITS_MAX = 64 };

/* --- what is attached --------------------------------------------------------------------------------------------- */

static bool name_is_sound(const char *name) {
        return name[0] != '.' && name[0] && !strchr(name, '/') && strlen(name) < ATTACHED_NAME_MAX;
}

static int attached_open(const char *state, bool make) {
        char path[PATH_SIZE];
        if (snprintf(path, sizeof(path), "%s/cow/attached", state) >= (int) sizeof(path))
                return -ENAMETOOLONG;
        if (make && mkdir(path, 0700) < 0 && errno != EEXIST)
                return -errno;
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

static int text_write(int directory, const char *name, const char *text) {
        char next[ATTACHED_NAME_MAX + 8];
        (void) snprintf(next, sizeof(next), ".%s.new", name);
        _cleanup_close_ int fd = openat(directory, next, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
        size_t n = strlen(text);
        if (fd < 0)
                return -errno;
        ssize_t k = write(fd, text, n);
        if (k < 0 || (size_t) k != n)
                return k < 0 ? -errno : -ENOSPC;
        return fsync(fd) < 0 || renameat(directory, next, directory, name) < 0 || fsync(directory) < 0 ? -errno : 0;
}

int attached_note(const char *state, const Attached *a) {
        char text[sizeof(*a) + 4];
        if (!name_is_sound(a->name) || strchr(a->origin, '\n'))
                return -EINVAL;
        _cleanup_close_ int directory = attached_open(state, true);
        if (directory < 0)
                return directory;
        (void) snprintf(text, sizeof(text), "%s\n%s\n", a->store, a->origin);
        return text_write(directory, a->name, text);
}

int attached_forget(const char *state, const char *name) {
        if (!name_is_sound(name))
                return -EINVAL;
        _cleanup_close_ int directory = attached_open(state, false);
        if (directory < 0)
                return directory == -ENOENT ? 0 : directory;
        if (unlinkat(directory, name, 0) < 0)
                return errno == ENOENT ? 0 : -errno;
        return fsync(directory) < 0 ? -errno : 0;
}

static bool text_read(int directory, const char *name, char *ret, size_t size) {
        _cleanup_close_ int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, ret, size - 1);
        if (n <= 0)
                return false;
        ret[n] = '\0';
        return true;
}

static bool attached_parse(int directory, const char *name, Attached *ret) {
        char text[sizeof(*ret)], *save = NULL;
        if (!name_is_sound(name) || !text_read(directory, name, text, sizeof(text)))
                return false;
        const char *store = strtok_r(text, "\n", &save), *origin = strtok_r(NULL, "\n", &save);
        if (!store || strlen(store) != ATTACHED_ID_SIZE - 1 || strspn(store, "0123456789abcdef-") != strlen(store))
                return false;
        *ret = (Attached) {};
        (void) snprintf(ret->name, sizeof(ret->name), "%s", name);
        (void) snprintf(ret->store, sizeof(ret->store), "%s", store);
        return snprintf(ret->origin, sizeof(ret->origin), "%s", origin ?: "") < (int) sizeof(ret->origin);
}

int attached_read(const char *state, Attached **ret, size_t *ret_n) {
        int fd = attached_open(state, false);
        if (fd < 0) {
                *ret = NULL;
                *ret_n = 0;
                return fd == -ENOENT ? 0 : fd;
        }
        _cleanup_free_ Attached *all = NULL;
        size_t n = 0;
        DIR *d = fdopendir(fd);
        for (struct dirent *e; d && n < ATTACHED_MAX && (e = readdir(d));) {
                Attached *more = reallocarray(all, n + 1, sizeof(*all));
                if (!more)
                        break;
                all = more;
                n += attached_parse(dirfd(d), e->d_name, &all[n]);
        }
        if (d)
                (void) closedir(d);
        *ret = TAKE_PTR(all);
        *ret_n = n;
        return 0;
}

int store_registered(const char *state, const char *id, StoreRegistered *ret) {
        char path[PATH_SIZE], text[sizeof(*ret) + 2], *save = NULL;
        *ret = (StoreRegistered) {};
        if (strchr(id, '/') || snprintf(path, sizeof(path), "%s/cow/stores/%s", state, id) >= (int) sizeof(path))
                return -EINVAL;
        if (!text_read(AT_FDCWD, path, text, sizeof(text)))
                return -ENOENT;
        const char *where = strtok_r(text, "\n", &save), *frontend = strtok_r(NULL, "\n", &save);
        (void) snprintf(ret->path, sizeof(ret->path), "%s", where ?: "");
        (void) snprintf(ret->frontend, sizeof(ret->frontend), "%s", frontend ?: "");
        return ret->path[0] == '/' ? 0 : -EINVAL;
}

/* --- systemd ------------------------------------------------------------------------------------------------------ */

static bool is_unset_or(const char *variable, const char *value) {
        const char *e = secure_getenv(variable);
        return isempty(e) || streq(e, value);
}

bool unit_is_available(void) {
        char self[PATH_MAX];
        ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
        size_t length = strlen(VSS_LIBEXECDIR);
        self[MAX_OF(n, 0)] = '\0';
        return strncmp(self, VSS_LIBEXECDIR, length) == 0 && self[length] == '/' && access(UNIT_DIRECTORY, F_OK) == 0 &&
               is_unset_or("RUNTIME_DIRECTORY", "/run/vss") && is_unset_or("STATE_DIRECTORY", "/var/lib/vss");
}

/* As one word of a unit file: % begins a specifier, a backslash takes the meaning from what follows. */
static size_t word_append(char *text, size_t n, size_t size, const char *path) {
        for (; *path && n + 4 < size; path++) {
                if (*path == '%')
                        text[n++] = '%';
                else if (!strchr("/._-+:@,=", *path) && (unsigned char) *path < 0x80 &&
                         !(*path >= '0' && *path <= '9') && !((*path | 32) >= 'a' && (*path | 32) <= 'z'))
                        text[n++] = '\\';
                text[n++] = *path;
        }
        text[n++] = ' ';
        text[n] = '\0';
        return n;
}

static bool needs_mount(const char *path) {
        return path[0] == '/' && strncmp(path, "/dev/", 5) != 0 && !strchr(path, '\n');
}

static int mounts_write(const char *state, const char *id, const Attached *all, size_t n_all) {
        static const char head[] = "# what the store and the origins of its volumes lie on\n[Unit]\nRequiresMountsFor=";
        char directory[PATH_SIZE];
        StoreRegistered store;
        size_t size = sizeof(head) + (n_all + 1) * (2 * ATTACHED_PATH_MAX + 8), n = sizeof(head) - 1;
        _cleanup_free_ char *text = malloc(size);
        if (!text)
                return -ENOMEM;
        memcpy(text, head, sizeof(head));
        if (store_registered(state, id, &store) >= 0 && needs_mount(store.path))
                n = word_append(text, n, size, store.path);
        for (size_t i = 0; i < n_all; i++)
                if (streq(all[i].store, id) && needs_mount(all[i].origin))
                        n = word_append(text, n, size, all[i].origin);
        text[n - 1] = '\n';
        (void) snprintf(directory, sizeof(directory), UNIT_DIRECTORY "/vss-cow@%s.service.d", id);
        if (mkdir(directory, 0755) < 0 && errno != EEXIST)
                return -errno;
        _cleanup_close_ int fd = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int r = fd < 0 ? -errno : text_write(fd, "mounts.conf", text);
        /* systemd warns of what not everybody can read, and with our umask nobody can */
        if (r >= 0 && (fchmod(fd, 0755) < 0 || fchmodat(fd, "mounts.conf", 0644, 0) < 0))
                r = -errno;
        return r;
}

static _Noreturn void become_systemctl(char *const *argv) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        sigset_t none;
        (void) sigemptyset(&none);
        (void) sigprocmask(SIG_SETMASK, &none, NULL);
        (void) dup2(null, STDIN_FILENO);
        (void) dup2(STDERR_FILENO, STDOUT_FILENO);
        (void) execv("/usr/bin/systemctl", argv);
        (void) execv("/bin/systemctl", argv);
        _exit(127);
}

static int run_systemctl(char *const *argv, uint64_t deadline_usec) {
        int status = 0;
        pid_t pid = fork(), ended;
        if (pid == 0)
                become_systemctl(argv);
        if (pid < 0)
                return -errno;
        while ((ended = waitpid(pid, &status, WNOHANG)) == 0 && now_usec() < deadline_usec)
                (void) usleep(TICK_USEC);
        if (ended == 0) { /* the job goes on without it */
                (void) kill(pid, SIGKILL);
                (void) waitpid(pid, &status, 0);
                return -ETIME;
        }
        return ended == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

int units_start(const char *state, const char *const *ids, size_t n, uint64_t deadline_usec) {
        char units[UNITS_MAX][64],
                *argv[UNITS_MAX + 4] = { (char *) "systemctl", (char *) "--quiet", (char *) "start" };
        _cleanup_free_ Attached *all = NULL;
        size_t n_all = 0;
        int r = n > UNITS_MAX ? -E2BIG : attached_read(state, &all, &n_all);
        for (size_t i = 0; i < n && r >= 0; i++) {
                r = mounts_write(state, ids[i], all, n_all);
                (void) snprintf(units[i], sizeof(units[i]), "vss-cow@%s.service", ids[i]);
                argv[3 + i] = units[i];
        }
        return r < 0 || n == 0 ? r : run_systemctl(argv, deadline_usec);
}
