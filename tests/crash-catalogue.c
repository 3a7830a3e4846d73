/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Power cuts for the catalogue. The calls with which store-disk.c changes the disk are intercepted (ld --wrap) and
 * written down; then for every point at which the power could go, everything that no fsync has covered by then is lost,
 * kept, reordered and torn in every combination, put on a disk as files, and loaded again. A record must be the old or
 * the new one, complete, and after the answer the new one. That the check can fail is shown by taking away one fsync at
 * a time.
 */
#include "daemon/store.h"
#include "tests/support.h"
#include <check.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define ID "aaaaaaaa-0000-4000-8000-000000000001"
enum { OPS_MAX = 64, INODES_MAX = 16, OLD_INODE = 0, TEXT_BYTES = 70000, FILES_MAX = 8 };

typedef enum OpKind { OP_CREATE, OP_WRITE, OP_SYNC_FILE, OP_RENAME, OP_UNLINK, OP_SYNC_DIRECTORY } OpKind;

typedef struct Op {
        OpKind kind;
        char name[64], to[64];
        int inode;
        char *data;
        size_t size;
} Op;

static struct {
        bool on;
        Op ops[OPS_MAX];
        unsigned n;
        int inode_of_fd[256], n_inodes;
        bool forget_file_sync, forget_directory_sync; /* as if the code did not call it */
        int fail_at, fail_with, calls;                /* the n-th intercepted call fails */
} tape;

static char old_text[TEXT_BYTES], new_text[TEXT_BYTES];
static char *directory;

/* ---- interception ---- */

ssize_t __real_write(int fd, const void *data, size_t size);
int __real_fsync(int fd);
int __real_renameat(int from_fd, const char *from, int to_fd, const char *to);
int __real_unlinkat(int fd, const char *name, int flags);
long __real_syscall(long number, ...);
ssize_t __wrap_write(int fd, const void *data, size_t size);
int __wrap_fsync(int fd);
int __wrap_renameat(int from_fd, const char *from, int to_fd, const char *to);
int __wrap_unlinkat(int fd, const char *name, int flags);
long __wrap_syscall(long number, ...);

static Op *tape_add(OpKind kind, int inode, const char *name) {
        ck_assert_uint_lt(tape.n, OPS_MAX);
        Op *op = &tape.ops[tape.n++];
        *op = (Op) { .kind = kind, .inode = inode };
        (void) snprintf(op->name, sizeof(op->name), "%s", name);
        return op;
}

static bool tape_fails(void) {
        if (!tape.on || ++tape.calls != tape.fail_at)
                return false;
        errno = tape.fail_with;
        return true;
}

static int inode_of(int fd) {
        return fd >= 0 && fd < (int) ELEMENTSOF(tape.inode_of_fd) ? tape.inode_of_fd[fd] : -1;
}

ssize_t __wrap_write(int fd, const void *data, size_t size) {
        if (tape_fails())
                return -1;
        ssize_t n = __real_write(fd, data, size);
        if (tape.on && n > 0 && inode_of(fd) >= 0) {
                Op *op = tape_add(OP_WRITE, inode_of(fd), "");
                op->data = malloc((size_t) n);
                ck_assert_ptr_nonnull(op->data);
                memcpy(op->data, data, (size_t) n);
                op->size = (size_t) n;
        }
        return n;
}

int __wrap_fsync(int fd) {
        if (tape_fails())
                return -1;
        bool is_file = inode_of(fd) >= 0;
        if (tape.on && !(is_file ? tape.forget_file_sync : tape.forget_directory_sync))
                (void) tape_add(is_file ? OP_SYNC_FILE : OP_SYNC_DIRECTORY, inode_of(fd), "");
        return __real_fsync(fd);
}

int __wrap_renameat(int from_fd, const char *from, int to_fd, const char *to) {
        if (tape_fails())
                return -1;
        int r = __real_renameat(from_fd, from, to_fd, to);
        if (tape.on && r == 0)
                (void) snprintf(tape_add(OP_RENAME, -1, from)->to, sizeof(tape.ops[0].to), "%s", to);
        return r;
}

int __wrap_unlinkat(int fd, const char *name, int flags) {
        if (tape_fails())
                return -1;
        int r = __real_unlinkat(fd, name, flags);
        if (tape.on && r == 0)
                (void) tape_add(OP_UNLINK, -1, name);
        return r;
}

long __wrap_syscall(long number, ...) {
        va_list ap;
        va_start(ap, number);
        long a = va_arg(ap, long), b = va_arg(ap, long), c = va_arg(ap, long), d = va_arg(ap, long);
        va_end(ap);
        const struct open_how *how = (const struct open_how *) c;
        bool creates = tape.on && number == SYS_openat2 && how->flags & O_CREAT;
        if (creates && tape_fails())
                return -1;
        long fd = __real_syscall(number, a, b, c, d);
        if (tape.on && number == SYS_openat2 && fd >= 0 && fd < (int) ELEMENTSOF(tape.inode_of_fd)) {
                tape.inode_of_fd[fd] = creates ? ++tape.n_inodes : -1;
                if (creates)
                        (void) tape_add(OP_CREATE, tape.n_inodes, (const char *) b);
        }
        return fd;
}

static void tape_start(void) {
        tape.n = 0;
        tape.n_inodes = OLD_INODE;
        tape.calls = 0;
        memset(tape.inode_of_fd, -1, sizeof(tape.inode_of_fd));
        tape.on = true;
}

static void tape_clear(void) {
        tape.on = false;
        for (unsigned i = 0; i < tape.n; i++)
                free(tape.ops[i].data);
        tape.n = 0;
        tape.forget_file_sync = tape.forget_directory_sync = false;
        tape.fail_at = 0;
}

/* ---- the disk after the cut ---- */

typedef struct Disk {
        struct {
                char name[64];
                int inode;
        } files[FILES_MAX];
        unsigned n_files;
        char data[INODES_MAX][TEXT_BYTES + 1024];
        size_t size[INODES_MAX], end[INODES_MAX]; /* end: where the next write of the tape goes */
} Disk;

static Disk disk;

static void disk_unlink(const char *name) {
        for (unsigned i = 0; i < disk.n_files; i++)
                if (streq(disk.files[i].name, name)) {
                        disk.files[i] = disk.files[--disk.n_files];
                        return;
                }
}

static void disk_link(const char *name, int inode) {
        disk_unlink(name);
        ck_assert_uint_lt(disk.n_files, FILES_MAX);
        (void) snprintf(disk.files[disk.n_files].name, sizeof(disk.files[0].name), "%s", name);
        disk.files[disk.n_files++].inode = inode;
}

/* Which inode a name of the tape meant when the call was made, whatever became of the entry later. */
static int inode_at(unsigned op, const char *name) {
        int inode = streq(name, ID) ? OLD_INODE : -1;
        for (unsigned i = 0; i < op; i++) {
                const Op *o = &tape.ops[i];
                if (o->kind == OP_CREATE && streq(o->name, name))
                        inode = o->inode;
                if (o->kind == OP_RENAME && streq(o->to, name))
                        inode = inode_at(i, o->name);
        }
        return inode;
}

/* kept: how much of a write came through; zeros: whether the file grew all the same. */
static void disk_apply(unsigned i, bool applied, size_t kept, bool zeros) {
        const Op *op = &tape.ops[i];
        if (op->kind == OP_WRITE) {
                size_t at = disk.end[op->inode];
                disk.end[op->inode] += op->size;
                if (applied)
                        memcpy(disk.data[op->inode] + at, op->data, kept);
                if (applied || zeros)
                        disk.size[op->inode] = MAX_OF(disk.size[op->inode], at + (zeros ? op->size : kept));
        } else if (applied && op->kind == OP_CREATE)
                disk_link(op->name, op->inode);
        else if (applied && op->kind == OP_UNLINK)
                disk_unlink(op->name);
        else if (applied && op->kind == OP_RENAME) {
                disk_unlink(op->name);
                disk_link(op->to, inode_at(i, op->name));
        }
}

static bool is_durable(unsigned i, unsigned cut) {
        const Op *op = &tape.ops[i];
        for (unsigned j = i + 1; j < cut; j++)
                if (op->kind == OP_WRITE ? tape.ops[j].kind == OP_SYNC_FILE && tape.ops[j].inode == op->inode :
                                           tape.ops[j].kind == OP_SYNC_DIRECTORY)
                        return true;
        return false;
}

static void write_old(const char *name, const char *data, size_t size) {
        char path[512];
        (void) snprintf(path, sizeof(path), "%s/sets/%s", directory, name);
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(write(fd, data, size), (ssize_t) size);
}

static void disk_write_out(void) {
        StoreDisk d;
        pid_t owner;
        char **names;
        size_t n;
        ck_assert_int_eq(store_disk_open(directory, 0, &d, &owner), 0);
        ck_assert_int_eq(store_disk_list(&d, &names, &n), 0);
        for (size_t i = 0; i < n; i++) {
                ck_assert_int_eq(unlinkat(d.sets_fd, names[i], 0), 0);
                free(names[i]);
        }
        free(names);
        store_disk_close(&d);
        for (unsigned i = 0; i < disk.n_files; i++)
                write_old(disk.files[i].name, disk.data[disk.files[i].inode], disk.size[disk.files[i].inode]);
}

/* ---- what is loaded then ---- */

typedef enum Seen { SEEN_ABSENT, SEEN_OLD, SEEN_NEW, SEEN_DAMAGED, SEEN_TORN } Seen;

static Seen classify(int fd, uint64_t size) {
        static char text[TEXT_BYTES];
        if (size != TEXT_BYTES || pread(fd, text, size, 0) != TEXT_BYTES)
                return SEEN_TORN;
        return memcmp(text, old_text, size) == 0 ? SEEN_OLD : memcmp(text, new_text, size) == 0 ? SEEN_NEW : SEEN_TORN;
}

static Seen load_record(void) {
        _cleanup_close_ int fd = -EBADF;
        StoreDisk d;
        pid_t owner;
        uint64_t size;
        ck_assert_int_eq(store_disk_open(directory, 0, &d, &owner), 0);
        int r = store_disk_get(&d, ID, &fd, &size);
        store_disk_close(&d);
        ck_assert(r == 0 || r == -ENOENT || r == -EBADMSG);
        return r == -ENOENT ? SEEN_ABSENT : r == -EBADMSG ? SEEN_DAMAGED : classify(fd, size);
}

static char old_record[TEXT_BYTES + 1024];
static size_t old_record_size;
static bool old_exists;

static Seen seen_after(unsigned cut, unsigned mask, unsigned tear, bool zeros) {
        unsigned bit = 0, last_write = UINT32_MAX;
        memset(disk.size, 0, sizeof(disk.size));
        memset(disk.end, 0, sizeof(disk.end));
        memset(disk.data, 0, sizeof(disk.data));
        disk.n_files = 0;
        if (old_exists) {
                disk_link(ID, OLD_INODE);
                memcpy(disk.data[OLD_INODE], old_record, old_record_size);
                disk.size[OLD_INODE] = old_record_size;
        }
        for (unsigned i = 0; i < cut; i++)
                if (tape.ops[i].kind == OP_WRITE && !is_durable(i, cut))
                        last_write = i;
        for (unsigned i = 0; i < cut; i++) {
                const Op *op = &tape.ops[i];
                bool durable = is_durable(i, cut),
                     applied = durable ||
                               (op->kind != OP_SYNC_FILE && op->kind != OP_SYNC_DIRECTORY && (mask >> bit++ & 1) != 0);
                size_t kept[] = { op->size, 1, op->size / 2, op->size - 1 };
                disk_apply(i, applied, i == last_write ? MIN_OF(kept[tear], op->size) : op->size, zeros && !durable);
        }
        disk_write_out();
        return load_record();
}

/* Runs over all cuts; returns how many end in none of the two allowed states, or after the answer not in the second. */
static unsigned count_bad(Seen before, Seen after, unsigned *ret_states) {
        unsigned bad = 0;
        *ret_states = 0;
        for (unsigned cut = 0; cut <= tape.n; cut++) {
                unsigned pending = 0;
                for (unsigned i = 0; i < cut; i++)
                        pending += tape.ops[i].kind != OP_SYNC_FILE && tape.ops[i].kind != OP_SYNC_DIRECTORY &&
                                   !is_durable(i, cut);
                ck_assert_uint_lt(pending, 8);
                for (unsigned mask = 0; mask < 1U << pending; mask++)
                        for (unsigned variant = 0; variant < 8; variant++) {
                                Seen seen = seen_after(cut, mask, variant % 4, variant >= 4);
                                bad += seen != after && (seen != before || cut == tape.n);
                                (*ret_states)++;
                        }
        }
        return bad;
}

/* ---- tests ---- */

static int text_fd(const char *text) {
        int fd = memfd_create("text", MFD_CLOEXEC);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(write(fd, text, TEXT_BYTES), TEXT_BYTES);
        return fd;
}

static int change(bool put) {
        _cleanup_close_ int fd = text_fd(new_text);
        StoreDisk d;
        pid_t owner;
        ck_assert_int_eq(store_disk_open(directory, 0, &d, &owner), 0);
        tape_start();
        int r = put ? store_disk_put(&d, ID, fd, TEXT_BYTES) : store_disk_remove(&d, ID);
        tape.on = false;
        store_disk_close(&d);
        return r;
}

static void put_old(void) {
        _cleanup_close_ int fd = text_fd(old_text);
        StoreDisk d;
        pid_t owner;
        char path[512];
        ck_assert_int_eq(store_disk_open(directory, 0, &d, &owner), 0);
        ck_assert_int_eq(store_disk_put(&d, ID, fd, TEXT_BYTES), 0);
        store_disk_close(&d);
        (void) snprintf(path, sizeof(path), "%s/sets/%s", directory, ID);
        _cleanup_close_ int file = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = read(file, old_record, sizeof(old_record));
        ck_assert_int_gt(n, TEXT_BYTES);
        old_record_size = (size_t) n;
}

static void setup(void) {
        StoreDisk d;
        pid_t owner;
        directory = temp_dir_new();
        ck_assert_int_eq(chmod(directory, 0700), 0);
        for (size_t i = 0; i < TEXT_BYTES; i++) {
                old_text[i] = (char) ('a' + i % 23);
                new_text[i] = (char) ('A' + i % 19);
        }
        ck_assert_int_eq(store_disk_open(directory, 0, &d, &owner), 0);
        store_disk_close(&d);
        old_exists = true;
        put_old();
}

static void teardown(void) {
        tape_clear();
        directory = temp_dir_free(directory);
}

START_TEST(replaced_record_is_old_or_new_after_every_cut) {
        unsigned states;
        ck_assert_int_eq(change(true), 0);
        ck_assert_uint_eq(count_bad(SEEN_OLD, SEEN_NEW, &states), 0);
        ck_assert_uint_gt(states, 300);
        (void) fprintf(stderr, "replace: %u operations, %u states\n", tape.n, states);
}
END_TEST

START_TEST(first_record_is_absent_or_complete_after_every_cut) {
        char path[512];
        unsigned states;
        (void) snprintf(path, sizeof(path), "%s/sets/%s", directory, ID);
        ck_assert_int_eq(unlink(path), 0);
        old_exists = false;
        ck_assert_int_eq(change(true), 0);
        ck_assert_uint_eq(count_bad(SEEN_ABSENT, SEEN_NEW, &states), 0);
}
END_TEST

START_TEST(removed_record_is_there_or_gone_after_every_cut) {
        unsigned states;
        ck_assert_int_eq(change(false), 0);
        ck_assert_uint_eq(count_bad(SEEN_OLD, SEEN_ABSENT, &states), 0);
}
END_TEST

START_TEST(left_over_of_an_earlier_cut_is_no_harm) {
        unsigned states;
        write_old("." ID ".tmp", "half of something", 17);
        ck_assert_int_eq(change(true), 0);
        ck_assert_uint_eq(count_bad(SEEN_OLD, SEEN_NEW, &states), 0);
}
END_TEST

START_TEST(without_syncing_the_file_the_check_fails) {
        unsigned states;
        tape.forget_file_sync = true;
        ck_assert_int_eq(change(true), 0);
        ck_assert_uint_gt(count_bad(SEEN_OLD, SEEN_NEW, &states), 0);
}
END_TEST

START_TEST(without_syncing_the_directory_the_check_fails) {
        unsigned states;
        tape.forget_directory_sync = true;
        ck_assert_int_eq(change(true), 0);
        ck_assert_uint_gt(count_bad(SEEN_OLD, SEEN_NEW, &states), 0);
        tape_clear();
        put_old();
        tape.forget_directory_sync = true;
        ck_assert_int_eq(change(false), 0);
        ck_assert_uint_gt(count_bad(SEEN_OLD, SEEN_ABSENT, &states), 0);
}
END_TEST

/* Call 1, 2, 3 … fails until it works. */
static void fail_every_call(int error, bool put) {
        int n = 1, r;
        do {
                tape_clear();
                put_old();
                tape.fail_at = n++;
                tape.fail_with = error;
                r = change(put);
                Seen seen = load_record();
                ck_assert_msg(r == 0 || r == -error, "call %d failed with %d, the answer was %d", n - 1, error, r);
                ck_assert_msg(seen == SEEN_OLD || seen == (put ? SEEN_NEW : SEEN_ABSENT), "call %d left state %d",
                              n - 1, (int) seen);
                ck_assert(r < 0 || seen != SEEN_OLD);
                ck_assert_int_lt(n, 30);
        } while (r < 0 || tape.calls >= tape.fail_at);
        ck_assert_int_gt(n, put ? 6 : 2);
}

START_TEST(every_failing_call_is_an_answer_and_leaves_old_or_new) {
        fail_every_call(EIO, true);
        fail_every_call(ENOSPC, true);
        fail_every_call(EIO, false);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("crash-catalogue");
        TCase *tc = tcase_create("crash-catalogue");
        tcase_set_timeout(tc, 120);
        tcase_add_checked_fixture(tc, setup, teardown);
        tcase_add_test(tc, replaced_record_is_old_or_new_after_every_cut);
        tcase_add_test(tc, first_record_is_absent_or_complete_after_every_cut);
        tcase_add_test(tc, removed_record_is_there_or_gone_after_every_cut);
        tcase_add_test(tc, left_over_of_an_earlier_cut_is_no_harm);
        tcase_add_test(tc, without_syncing_the_file_the_check_fails);
        tcase_add_test(tc, without_syncing_the_directory_the_check_fails);
        tcase_add_test(tc, every_failing_call_is_an_answer_and_leaves_old_or_new);
        suite_add_tcase(suite, tc);
        SRunner *runner = srunner_create(suite);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed > 0;
}
