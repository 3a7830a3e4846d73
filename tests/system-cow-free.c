/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Free space that is not preserved, on real file systems, and copies whose log has to be replayed, because a frozen one
 * hides the mistakes (hazards A4, A5). What the provider does is asked of it directly; syncfs() is replaced by one that
 * lets a test act between its steps, and leave the last one out: the copies of such a set must be wrong, or this test
 * sees nothing. ioctl() is watched: with CAP_SYS_ADMIN an XFS with a reverse map calls blocks of live
 * files free.
 */
#include "providers/cow/provider.h"
#include "tests/support-cow.h"
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fsmap.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum {
        MIB = 1 << 20,
        VOLUME_MIB = 320, /* XFS does not go below 300 */
        STORE_MIB = 1536,
        FILES = 200,
        FILE_BYTES = 64 * 1024,
        KEPT_BYTES = 40 * MIB,
        STEPS = 2,          /* calls of syncfs() for one map */
        INODEGC_MSEC = 500, /* XFS frees what was unlinked a little later, by itself */
};

typedef struct Kind {
        const char *name, *type, *options;
        bool naive_is_wrong; /* without the last step */
} Kind;

static const Kind kinds[] = {
        { "ext4 data=ordered", "ext4", "data=ordered", false }, /* what it says is free is committed */
        { "ext4 data=writeback", "ext4", "data=writeback", true },
        { "xfs", "xfs", "", true },
        { "xfs rmapbt", "xfs", "", true },
};

static struct {
        CowServer server;
        char root[64], mnt[128], view[128];
        char *device;
        const Kind *kind;
        unsigned volumes;
        char name[16];
} world = { .server.control = -EBADF };

/* --- the step between --------------------------------------------------------------------------------------------- */

static void (*between)(unsigned step); /* behind that call */
static unsigned sync_step;
static bool naive; /* the last call does nothing */

int __real_syncfs(int fd);
int __wrap_syncfs(int fd);
int __wrap_syncfs(int fd) {
        int r = naive && sync_step + 1 == STEPS ? 0 : __real_syncfs(fd);
        if (between)
                between(sync_step);
        sync_step++;
        return r;
}

static unsigned questions;

static bool is_admin(void) {
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
        return syscall(SYS_capget, &header, data) < 0 ||
               data[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective & CAP_TO_MASK(CAP_SYS_ADMIN);
}

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...) {
        va_list ap;
        va_start(ap, request);
        void *argument = va_arg(ap, void *);
        va_end(ap);
        if (request == FS_IOC_GETFSMAP && ((struct fsmap_head *) argument)->fmh_count > 0) {
                questions++;
                if (is_admin())
                        test_die("the file system is asked with CAP_SYS_ADMIN");
        }
        return __real_ioctl(fd, request, argument);
}

/* --- files -------------------------------------------------------------------------------------------------------- */

static uint8_t *pattern(uint64_t seed, size_t bytes) {
        uint64_t *p = malloc(bytes);
        if (!p)
                test_die("no memory");
        for (size_t i = 0; i < bytes / 8; i++)
                p[i] = (seed + 1) * 0x9e3779b97f4a7c15ULL + i * 0xff51afd7ed558ccdULL;
        return (uint8_t *) p;
}

static void file_path(const char *directory, const char *name, unsigned n, char ret[300]) {
        (void) snprintf(ret, 300, "%s/%s%u", directory, name, n);
}

/* False: no space. */
static bool put_file(const char *name, unsigned n, size_t bytes, bool durable) {
        char path[300];
        _cleanup_free_ uint8_t *data = pattern(n, bytes);
        file_path(world.mnt, name, n, path);
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        ssize_t written = fd < 0 ? -1 : write(fd, data, bytes);
        if (written < 0 && errno != ENOSPC)
                test_die("%s cannot be written: %s", path, strerror(errno));
        if (fd >= 0 && durable && fsync(fd) < 0)
                test_die("%s cannot be synced: %s", path, strerror(errno));
        return written == (ssize_t) bytes;
}

static void file_remove(const char *name, unsigned n) {
        char path[300];
        file_path(world.mnt, name, n, path);
        if (unlink(path) < 0)
                test_die("%s cannot be removed: %s", path, strerror(errno));
}

typedef struct Seen {
        unsigned there, wrong;
} Seen;

static void file_look(const char *directory, const char *name, unsigned n, size_t bytes, Seen *seen) {
        char path[300];
        _cleanup_free_ uint8_t *data = pattern(n, bytes), *found = malloc(bytes + 1);
        file_path(directory, name, n, path);
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return;
        seen->there++;
        seen->wrong += !found || read(fd, found, bytes + 1) != (ssize_t) bytes || memcmp(data, found, bytes) != 0;
}

static Seen files_look(const char *directory, const char *name, unsigned n, size_t bytes) {
        Seen seen = {};
        for (unsigned i = 0; i < n; i++)
                file_look(directory, name, i, bytes, &seen);
        return seen;
}

static void sync_all(void) {
        _cleanup_close_ int fd = open(world.mnt, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || __real_syncfs(fd) < 0)
                test_die("%s cannot be synced", world.mnt);
}

/* Until there is no space, so that every block that was free is used again. How many. */
static unsigned fill(const char *name) {
        unsigned n = 0;
        while (put_file(name, n, MIB, false))
                n++;
        file_remove(name, n);
        sync_all();
        return n;
}

/* --- volumes and copies ------------------------------------------------------------------------------------------- */

static void volume_begin(const Kind *k) {
        char *ext4[] = { (char *) "mkfs.ext4", (char *) "-q", (char *) "-F", NULL, NULL };
        bool rmap = strstr(k->name, "rmapbt");
        char *xfs[] = { (char *) "mkfs.xfs",
                        (char *) "-q",
                        (char *) "-f",
                        NULL,
                        (char *) "-m",
                        (char *) (rmap ? "rmapbt=1,reflink=1" : "reflink=1"),
                        NULL };
        (void) snprintf(world.name, sizeof(world.name), "v%u", world.volumes++);
        world.kind = k;
        world.device = cow_volume(&world.server, world.name, (uint64_t) VOLUME_MIB * MIB);
        ext4[3] = xfs[3] = world.device;
        if (run_command(streq(k->type, "xfs") ? xfs : ext4) != 0 ||
            mount(world.device, world.mnt, k->type, 0, k->options) < 0)
                test_die("no %s on %s: %s", k->name, world.device, strerror(errno));
        world.server.skip_free = true;
}

static void volume_end(void) {
        char members[64];
        if (umount2(world.mnt, 0) < 0)
                test_die("%s cannot be unmounted", world.mnt);
        (void) snprintf(members, sizeof(members), "\"name\": \"%s\"", world.name);
        (void) cow_call(&world.server, "volume-detach", members, NULL);
        (void) snprintf(members, sizeof(members), "\"name\": \"%s\", \"force\": true", world.name);
        (void) cow_call(&world.server, "volume-remove", members, NULL);
        free(world.device);
        between = NULL;
        naive = false;
}

/* The provider's part. */
static bool free_skipped(void) {
        struct stat st;
        _cleanup_close_ int root = open(world.mnt, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (root < 0 || fstat(root, &st) < 0)
                test_die("%s cannot be opened", world.mnt);
        struct vss_volume v = { .struct_size = sizeof(v),
                                .name = world.mnt,
                                .mount_point = world.mnt,
                                .device = world.device,
                                .dev = st.st_dev,
                                .size_bytes = (uint64_t) VOLUME_MIB * MIB,
                                .root_fd = root };
        struct vss_call c = {
                .struct_size = sizeof(c), .set = "", .deadline_usec = now_usec() + 60 * USEC_PER_SEC, .cancel_fd = -1
        };
        CowStore store = { .fd = world.server.control };
        sync_step = questions = 0;
        return cow_free_skip(&c, &store, world.name, &v);
}

/* … then hold, snapshot and release without any freeze. */
static CowId set_make(void) {
        const char *names[] = { world.name };
        CowTimes times;
        CowId id;
        if (!free_skipped())
                test_die("%s: nothing is skipped", world.kind->name);
        if (sync_step != STEPS || questions == 0 || !is_admin())
                test_die("the provider synced %u times and asked %u times", sync_step, questions);
        cow_set(&world.server, names, 1, &id, &times);
        return id;
}

/* A private image of the copy, mounted with its log replayed. */
static void copy_mount(const CowId *id) {
        _cleanup_free_ char *device = cow_expose(&world.server, id);
        char image[128], options[64];
        (void) snprintf(image, sizeof(image), "%s/copy.img", world.root);
        (void) snprintf(options, sizeof(options), "loop%s", streq(world.kind->type, "xfs") ? ",nouuid" : "");
        char *copy[] = { (char *) "cp", (char *) "--sparse=always", device, image, NULL };
        char *there[] = { (char *) "mount",
                          (char *) "-t",
                          (char *) (uintptr_t) world.kind->type,
                          (char *) "-o",
                          (char *) options,
                          image,
                          world.view,
                          NULL };
        if (run_command(copy) != 0 || run_command(there) != 0)
                test_die("%s: the copy cannot be mounted", world.kind->name);
}

static void copy_unmount(const CowId *id) {
        char image[128];
        (void) snprintf(image, sizeof(image), "%s/copy.img", world.root);
        if (umount2(world.view, 0) < 0 || unlink(image) < 0)
                test_die("%s cannot be unmounted", world.view);
        if (id)
                cow_delete(&world.server, id);
}

/* --- removed just before the map ---------------------------------------------------------------------------------- */

static void remove_files(unsigned step) {
        for (unsigned i = 0; step == 0 && i < FILES; i++)
                file_remove("f", i);
        if (step == 0)
                nap_msec(INODEGC_MSEC);
}

static Seen removed_before_the_map(const Kind *k, bool without_commit) {
        volume_begin(k);
        for (unsigned i = 0; i < FILES; i++)
                (void) put_file("f", i, FILE_BYTES, false);
        sync_all();
        naive = without_commit;
        between = remove_files;
        CowId id = set_make();
        copy_mount(&id);
        Seen seen = files_look(world.view, "f", FILES, FILE_BYTES);
        copy_unmount(&id);
        volume_end();
        return seen;
}

static void test_removed_before_the_map(void) {
        for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
                const Kind *k = &kinds[i];
                Seen good = removed_before_the_map(k, false), bad = removed_before_the_map(k, true);
                printf("%-20s removed before the map: %u of %d files there, %u wrong; without the commit %u there, %u "
                       "wrong\n",
                       k->name, good.there, FILES, good.wrong, bad.there, bad.wrong);
                if (good.wrong > 0)
                        test_die("%s: %u files of the copy are wrong", k->name, good.wrong);
                if (k->naive_is_wrong && bad.wrong == 0)
                        test_die("%s: this test would not notice a map without a commit", k->name);
        }
}

/* --- written between map and snapshot ----------------------------------------------------------------------------- */

static void write_files(unsigned step) {
        for (unsigned i = 0; step + 1 == STEPS && i < FILES; i++)
                if (!put_file("late", i, FILE_BYTES, i % 8 == 0))
                        test_die("no room for late files");
        if (step + 1 == STEPS)
                sync_all();
}

static void test_written_after_the_map(void) {
        for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
                volume_begin(&kinds[i]);
                between = write_files;
                CowId id = set_make();
                for (unsigned k = 0; k < FILES; k++)
                        file_remove("late", k);
                sync_all();
                (void) fill("fill");
                copy_mount(&id);
                Seen seen = files_look(world.view, "late", FILES, FILE_BYTES);
                copy_unmount(&id);
                printf("%-20s written between map and snapshot, then overwritten: %u of %d files there, %u wrong\n",
                       kinds[i].name, seen.there, FILES, seen.wrong);
                if (seen.there != FILES || seen.wrong > 0)
                        test_die("%s: files of the copy are gone or wrong", kinds[i].name);
                volume_end();
        }
}

/* --- deleted between snapshots, and its blocks used again --------------------------------------------------------- */

static void must_have(const CowId *id, const char *name, unsigned n, size_t bytes) {
        copy_mount(id);
        Seen seen = files_look(world.view, name, n, bytes);
        copy_unmount(NULL);
        if (seen.there != n || seen.wrong > 0)
                test_die("%s: of %u files %s in a copy %u are there and %u wrong", world.kind->name, n, name,
                         seen.there, seen.wrong);
}

static void test_deleted_and_used_again(void) {
        for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
                CowId first, second, third, fourth;
                volume_begin(&kinds[i]);
                for (unsigned k = 0; k < KEPT_BYTES / MIB; k++)
                        (void) put_file("a", k, MIB, false);
                first = set_make();
                for (unsigned k = 0; k < KEPT_BYTES / MIB; k++)
                        file_remove("a", k);
                second = set_make();
                uint64_t before = cow_call(&world.server, "status", "", "preserved_blocks");
                unsigned n = fill("b");
                uint64_t preserved = (cow_call(&world.server, "status", "", "preserved_blocks") - before) / 256;
                third = set_make();
                for (unsigned k = 0; k < n; k++)
                        file_remove("b", k);
                fourth = set_make();
                (void) fill("c");
                must_have(&first, "a", KEPT_BYTES / MIB, MIB);
                must_have(&second, "b", 0, MIB);
                must_have(&third, "b", n, MIB);
                must_have(&fourth, "c", 0, MIB);
                printf("%-20s deleted and used again over 4 snapshots: every file right; of %u MiB written into free "
                       "space %lu MiB were preserved, %d MiB of them for the first\n",
                       kinds[i].name, n, preserved, KEPT_BYTES / MIB);
                if (preserved > KEPT_BYTES / MIB + 10)
                        test_die("%s: free space was preserved", kinds[i].name);
                volume_end();
        }
}

/* --- where the answer is worth nothing ---------------------------------------------------------------------------- */

/* Its log was not replayed, so what it calls free is older than its files; and nothing of it is ever committed. */
static void test_read_only_is_not_asked(void) {
        for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
                const char *unread = streq(kinds[i].type, "xfs") ? "norecovery" : "noload";
                volume_begin(&kinds[i]);
                if (umount2(world.mnt, 0) < 0 || mount(world.device, world.mnt, kinds[i].type, MS_RDONLY, unread) < 0)
                        test_die("%s cannot be mounted read-only: %s", kinds[i].name, strerror(errno));
                if (free_skipped() || questions > 0)
                        test_die("%s: a read-only file system was asked what it has free", kinds[i].name);
                volume_end();
        }
        printf("read-only file systems are not asked\n");
}

/* --- life --------------------------------------------------------------------------------------------------------- */

static void test_run(void) {
        cow_start(&world.server, world.root, (uint64_t) STORE_MIB * MIB);
        test_read_only_is_not_asked();
        test_removed_before_the_map();
        test_written_after_the_map();
        test_deleted_and_used_again();
}

static void clean_up(void) {
        (void) umount2(world.view, MNT_DETACH);
        for (unsigned i = 0; umount2(world.mnt, 0) < 0 && errno == EBUSY && i < 400; i++)
                nap_msec(5);
        (void) snprintf(world.server.directory, sizeof(world.server.directory), "%s", world.root);
        cow_stop(&world.server);
        char *argv[] = { (char *) "rm", (char *) "-rf", world.root, NULL };
        (void) run_command(argv);
}

int main(void) {
        int status = 1;
        if (run_command((char *[]) { (char *) "mkfs.xfs", (char *) "-V", NULL }) != 0)
                test_skip("mkfs.xfs is not installed");
        sandbox_enter(280);
        (void) snprintf(world.root, sizeof(world.root), "/var/tmp/cow-free-XXXXXX");
        (void) snprintf(world.mnt, sizeof(world.mnt), "%s/fs", sandbox_directory());
        (void) snprintf(world.view, sizeof(world.view), "%s/view", sandbox_directory());
        if (!mkdtemp(world.root) || mkdir(world.mnt, 0700) < 0 || mkdir(world.view, 0700) < 0)
                test_die("%s", world.root);
        (void) fflush(stdout);
        setvbuf(stdout, NULL, _IOLBF, 0);
        pid_t pid = fork();
        if (pid == 0) {
                test_run();
                exit(0);
        }
        if (pid > 0)
                (void) waitpid(pid, &status, 0);
        clean_up();
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
