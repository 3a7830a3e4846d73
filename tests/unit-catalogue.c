/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The catalogue through a real vss-store: what was put is there after a restart, and what is damaged is said to be. */
#include "daemon/catalogue.h"
#include "daemon/store.h"
#include "protocol/sha256.h"
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define A "aaaaaaaa-0000-4000-8000-000000000001"
#define B "bbbbbbbb-0000-4000-8000-000000000002"
#define C "cccccccc-0000-4000-8000-000000000003"

static char directory[] = "/tmp/vss-catalogue-XXXXXX", state[64];
static sd_event *event;
static Catalogue *catalogue;

typedef struct Answer {
        int calls, result;
} Answer;

typedef struct Loaded {
        Answer answer; /* first: both callbacks share the userdata */
        int n;
        char ids[16][256], texts[16][64];
        int results[16];
} Loaded;

static void on_done(int result, void *userdata) {
        Answer *a = userdata;

        a->calls++;
        a->result = result;
}

static void on_record(const char *id, const char *text, int result, void *userdata) {
        Loaded *l = userdata;

        ck_assert_int_lt(l->n, 16);
        (void) snprintf(l->ids[l->n], sizeof(l->ids[0]), "%s", id);
        (void) snprintf(l->texts[l->n], sizeof(l->texts[0]), "%s", text ? text : "(null)");
        l->results[l->n++] = result;
}

static void setup(void) {
        strcpy(directory + strlen(directory) - 6, "XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(directory));
        (void) snprintf(state, sizeof(state), "%s/state", directory);
        ck_assert_int_eq(sd_event_new(&event), 0);
        ck_assert_int_eq(catalogue_new(event, state, &catalogue), 0);
}

static void teardown(void) {
        char command[128];

        catalogue = catalogue_free(catalogue);
        event = sd_event_unref(event);
        (void) umount2(state, MNT_DETACH);
        (void) snprintf(command, sizeof(command), "rm -rf %s 2>/dev/null", directory);
        /* a store that is just ending may still put something there */
        for (unsigned i = 0; system(command) != 0; i++) {
                ck_assert_uint_lt(i, 50);
                (void) usleep(20000);
        }
}

static void run_until_idle(uint64_t budget_usec) {
        uint64_t until = now_usec() + budget_usec;

        while (!catalogue_is_idle(catalogue)) {
                ck_assert_msg(now_usec() < until, "the catalogue did not come to rest");
                ck_assert_int_ge(sd_event_run(event, 100 * USEC_PER_MSEC), 0);
        }
}

static void restart(void) {
        catalogue = catalogue_free(catalogue);
        ck_assert_int_eq(catalogue_new(event, state, &catalogue), 0);
}

static void put(const char *id, const char *text) {
        Answer a = { .result = 1 };

        ck_assert_int_eq(catalogue_put(catalogue, id, text, on_done, &a), 0);
        run_until_idle(10 * USEC_PER_SEC);
        ck_assert_int_eq(a.calls, 1);
        ck_assert_int_eq(a.result, 0);
}

static Loaded load(void) {
        Loaded l = {};

        ck_assert_int_eq(catalogue_load(catalogue, on_record, on_done, &l), 0);
        run_until_idle(10 * USEC_PER_SEC);
        ck_assert_int_eq(l.answer.calls, 1);
        return l;
}

static void write_file(const char *name, const char *text) {
        char path[512];
        int fd;

        (void) snprintf(path, sizeof(path), "%s/%s", state, name);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t) strlen(text));
        (void) close_fd(fd);
}

static bool exists(const char *name) {
        char path[512];

        (void) snprintf(path, sizeof(path), "%s/%s", state, name);
        return faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static pid_t store_pid(void) {
        char command[64], line[32] = {};
        FILE *f;

        (void) snprintf(command, sizeof(command), "pgrep -P %d vss-store", (int) getpid());
        f = popen(command, "r");
        ck_assert_ptr_nonnull(f);
        (void) !fgets(line, sizeof(line), f);
        ck_assert_int_ge(pclose(f), 0);
        return (pid_t) strtol(line, NULL, 10);
}

START_TEST(sha256_is_sha256) {
        char hex[SHA256_HEX + 1], million[1000];
        Sha256 s = SHA256_INIT;

        sha256_finish(&s, hex);
        ck_assert_str_eq(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        s = SHA256_INIT;
        sha256_update(&s, "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56);
        sha256_finish(&s, hex);
        ck_assert_str_eq(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
        s = SHA256_INIT;
        memset(million, 'a', sizeof(million));
        for (int i = 0; i < 1000; i++)
                sha256_update(&s, million, sizeof(million));
        sha256_finish(&s, hex);
        ck_assert_str_eq(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}
END_TEST

START_TEST(records_survive_a_restart) {
        Loaded l;

        put(B, "{\"b\":1}");
        put(A, "{\n\"a\":1\n}");
        put(B, "{\"b\":2}");
        put(C, "");
        restart();
        l = load();
        ck_assert_int_eq(l.answer.result, 3);
        ck_assert_int_eq(l.n, 3);
        ck_assert_str_eq(l.ids[0], A);
        ck_assert_str_eq(l.texts[0], "{\n\"a\":1\n}");
        ck_assert_str_eq(l.texts[1], "{\"b\":2}");
        ck_assert_str_eq(l.texts[2], "");
}
END_TEST

START_TEST(removed_records_stay_away_and_removing_twice_is_fine) {
        Answer a = { .result = 1 }, b = { .result = 1 };

        put(A, "a");
        ck_assert_int_eq(catalogue_remove(catalogue, A, on_done, &a), 0);
        ck_assert_int_eq(catalogue_remove(catalogue, B, on_done, &b), 0);
        run_until_idle(10 * USEC_PER_SEC);
        ck_assert_int_eq(a.result, 0);
        ck_assert_int_eq(b.result, 0);
        ck_assert_int_eq(load().n, 0);
}
END_TEST

START_TEST(files_are_for_root_only_and_readable_by_people) {
        char path[128], text[256] = {}, expected[128], hex[SHA256_HEX + 1];
        Sha256 hash = SHA256_INIT;
        struct stat st;
        FILE *f;

        put(A, "{\"a\":1}");
        (void) snprintf(path, sizeof(path), "%s/sets", state);
        ck_assert_int_eq(stat(path, &st), 0);
        ck_assert_int_eq(st.st_mode & 07777, 0700);
        (void) snprintf(path, sizeof(path), "%s/sets/%s", state, A);
        ck_assert_int_eq(stat(path, &st), 0);
        ck_assert_int_eq(st.st_mode & 07777, 0600);
        f = fopen(path, "re");
        ck_assert_ptr_nonnull(f);
        ck_assert_uint_gt(fread(text, 1, sizeof(text) - 1, f), 0);
        (void) fclose(f);
        sha256_update(&hash, "{\"a\":1}\n", 8);
        sha256_finish(&hash, hex);
        (void) snprintf(expected, sizeof(expected), "{\"a\":1}\nsha256:%s\n", hex);
        ck_assert_str_eq(text, expected);
}
END_TEST

START_TEST(newest_queued_put_wins_and_everybody_is_told) {
        Answer answers[50] = {};
        char text[32];
        Loaded l;

        for (int i = 0; i < 50; i++) {
                (void) snprintf(text, sizeof(text), "{\"n\":%d}", i);
                ck_assert_int_eq(catalogue_put(catalogue, A, text, on_done, &answers[i]), 0);
        }
        ck_assert(!catalogue_is_idle(catalogue));
        run_until_idle(10 * USEC_PER_SEC);
        for (int i = 0; i < 50; i++) {
                ck_assert_int_eq(answers[i].calls, 1);
                ck_assert_int_eq(answers[i].result, 0);
        }
        l = load();
        ck_assert_int_eq(l.n, 1);
        ck_assert_str_eq(l.texts[0], "{\"n\":49}");
}
END_TEST

START_TEST(put_then_remove_in_the_queue_removes) {
        Answer a = {}, b = {};

        put(B, "busy");
        ck_assert_int_eq(catalogue_put(catalogue, B, "in flight", NULL, NULL), 0);
        ck_assert_int_eq(catalogue_put(catalogue, A, "a", on_done, &a), 0);
        ck_assert_int_eq(catalogue_remove(catalogue, A, on_done, &b), 0);
        run_until_idle(10 * USEC_PER_SEC);
        ck_assert_int_eq(a.calls + b.calls, 2);
        ck_assert_int_eq(load().n, 1);
}
END_TEST

START_TEST(forgotten_callbacks_are_not_called) {
        Loaded l = {};

        put(A, "a");
        ck_assert_int_eq(catalogue_load(catalogue, on_record, on_done, &l), 0);
        ck_assert_int_eq(catalogue_put(catalogue, B, "b", on_done, &l), 0);
        catalogue_forget(catalogue, &l);
        run_until_idle(10 * USEC_PER_SEC);
        ck_assert_int_eq(l.n + l.answer.calls, 0);
        ck_assert_int_eq(load().n, 2);
}
END_TEST

START_TEST(killed_store_is_started_again_and_nothing_is_lost) {
        Answer answers[20] = {};
        char id[VSS_ID_LENGTH + 1], text[16];
        pid_t pid;

        put(C, "c");
        for (int i = 0; i < 20; i++) {
                (void) snprintf(id, sizeof(id), "aaaaaaaa-0000-4000-8000-0000000000%02d", i);
                (void) snprintf(text, sizeof(text), "%d", i);
                ck_assert_int_eq(catalogue_put(catalogue, id, text, on_done, &answers[i]), 0);
                if (i % 10 == 0) {
                        pid = store_pid();
                        ck_assert_int_gt(pid, 0);
                        ck_assert_int_eq(kill(pid, SIGKILL), 0);
                        ck_assert_int_ge(sd_event_run(event, 100 * USEC_PER_MSEC), 0);
                }
                if (i == 9)
                        run_until_idle(20 * USEC_PER_SEC);
        }
        run_until_idle(20 * USEC_PER_SEC);
        for (int i = 0; i < 20; i++)
                ck_assert_int_eq(answers[i].calls == 1 && answers[i].result == 0, 1);
        ck_assert_int_eq(catalogue_put(catalogue, C, "last", NULL, NULL), 0);
        run_until_idle(10 * USEC_PER_SEC);
}
END_TEST

START_TEST(paused_catalogue_sends_and_starts_nothing) {
        Answer a = {};

        put(A, "old");
        catalogue_pause(catalogue, true);
        ck_assert_int_eq(kill(store_pid(), SIGKILL), 0);
        ck_assert_int_eq(catalogue_put(catalogue, A, "new", on_done, &a), 0);
        for (int i = 0; i < 15; i++)
                ck_assert_int_ge(sd_event_run(event, 100 * USEC_PER_MSEC), 0);
        ck_assert_int_eq(a.calls, 0);
        ck_assert_int_eq(store_pid(), 0);
        catalogue_pause(catalogue, false);
        run_until_idle(10 * USEC_PER_SEC);
        ck_assert_int_eq(a.calls, 1);
        ck_assert_str_eq(load().texts[0], "new");
}
END_TEST

START_TEST(strays_go_damage_is_reported_once_and_kept) {
        Loaded l;

        put(A, "good");
        write_file("sets/." A ".tmp", "half");
        write_file("sets/" B, "no checksum at all");
        write_file("sets/notes.txt", "somebody's");
        restart();
        l = load();
        ck_assert(!exists("sets/." A ".tmp"));
        ck_assert_int_eq(l.n, 3);
        ck_assert_int_eq(l.results[0], 0);
        ck_assert_str_eq(l.ids[1], B);
        ck_assert_int_eq(l.results[1], -EBADMSG);
        ck_assert_str_eq(l.ids[2], "notes.txt");
        ck_assert_int_eq(l.results[2], -EBADMSG);
        ck_assert(exists("damaged/" B) && exists("damaged/notes.txt") && !exists("sets/" B));
        ck_assert_int_eq(load().n, 1);
        write_file("sets/" B, "again");
        ck_assert_int_eq(load().n, 2);
        ck_assert(exists("damaged/" B ".1") && exists("damaged/" B));
}
END_TEST

START_TEST(links_in_place_of_records_are_not_followed) {
        char path[512], target[512];
        Answer a = {};
        Loaded l;

        put(C, "c");
        (void) snprintf(target, sizeof(target), "%s/precious", directory);
        ck_assert_int_eq(close(open(target, O_WRONLY | O_CREAT, 0600)), 0);
        (void) snprintf(path, sizeof(path), "%s/sets/%s", state, A);
        ck_assert_int_eq(symlink(target, path), 0);
        (void) snprintf(path, sizeof(path), "%s/sets/.%s.tmp", state, B);
        ck_assert_int_eq(symlink(target, path), 0);
        ck_assert_int_eq(catalogue_put(catalogue, B, "b", on_done, &a), 0);
        l = load();
        ck_assert_int_eq(a.result, 0);
        ck_assert_int_eq(l.n, 3);
        ck_assert_int_eq(l.results[0], -EBADMSG);
        ck_assert_str_eq(l.texts[1], "b");
        struct stat st;
        ck_assert_int_eq(stat(target, &st), 0);
        ck_assert_int_eq(st.st_size, 0);
}
END_TEST

START_TEST(every_flipped_bit_and_every_cut_is_noticed) {
        StoreDisk disk = STORE_DISK_NULL;
        char record[256] = {}, path[512];
        _cleanup_close_ int text = memfd_create("text", MFD_CLOEXEC);
        ssize_t size;
        pid_t owner;

        run_until_idle(10 * USEC_PER_SEC);
        catalogue = catalogue_free(catalogue); /* its store lets go of the lock */
        ck_assert_int_eq(write(text, "{\"a\":12}", 8), 8);
        ck_assert_int_eq(store_disk_open(state, 5 * USEC_PER_SEC, &disk, &owner), 0);
        ck_assert_int_eq(store_disk_put(&disk, A, text, 8), 0);
        (void) snprintf(path, sizeof(path), "%s/sets/%s", state, A);
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        size = read(fd, record, sizeof(record));
        ck_assert_int_eq(size, 8 + STORE_TRAILER_BYTES);
        for (ssize_t i = 0; i < size * 9; i++) {
                char bad[256];
                ssize_t n = i < size * 8 ? size : i - size * 8;
                int got = -EBADF;
                uint64_t got_size;

                memcpy(bad, record, sizeof(bad));
                if (i < size * 8)
                        bad[i / 8] ^= (char) (1 << i % 8);
                _cleanup_close_ int out = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
                ck_assert_int_eq(write(out, bad, (size_t) n), n);
                ck_assert_msg(store_disk_get(&disk, A, &got, &got_size) == -EBADMSG, "change %zd was accepted", i);
                (void) snprintf(bad, sizeof(bad), "%s/damaged/%s", state, A);
                ck_assert_int_eq(unlink(bad), 0);
        }
        store_disk_close(&disk);
        ck_assert_int_eq(catalogue_new(event, state, &catalogue), 0);
}
END_TEST

START_TEST(second_daemon_on_one_directory_is_refused) {
        Catalogue *second = NULL, *first;
        Answer a = {};

        put(A, "a");
        ck_assert_int_eq(catalogue_new(event, state, &second), 0);
        ck_assert_int_eq(catalogue_load(second, on_record, on_done, &a), 0);
        first = catalogue;
        catalogue = second;
        run_until_idle(15 * USEC_PER_SEC);
        ck_assert_int_eq(a.calls, 1);
        ck_assert_int_eq(a.result, -EBUSY);
        catalogue = first;
        (void) catalogue_free(second);
        put(A, "still works");
}
END_TEST

START_TEST(directory_others_may_write_is_refused) {
        Answer a = {};

        run_until_idle(USEC_PER_SEC);
        put(A, "a");
        ck_assert_int_eq(chmod(state, 0777), 0);
        restart();
        ck_assert_int_eq(catalogue_load(catalogue, on_record, on_done, &a), 0);
        run_until_idle(15 * USEC_PER_SEC);
        ck_assert_int_eq(a.result, -EPERM);
        ck_assert_int_eq(chmod(state, 0700), 0);
        for (int i = 0; i < 12; i++)
                ck_assert_int_ge(sd_event_run(event, 100 * USEC_PER_MSEC), 0);
        put(A, "b"); /* and it comes back once that is mended */
}
END_TEST

START_TEST(full_disk_is_an_answer_and_keeps_the_old_record) {
        _cleanup_free_ char *big = malloc(512 * 1024 + 1);
        Answer a = {};
        Loaded l;

        ck_assert_ptr_nonnull(big);
        memset(big, 'x', 512 * 1024);
        big[512 * 1024] = '\0';
        put(B, "makes the directory");
        catalogue = catalogue_free(catalogue);
        if (mount("vss-test", state, "tmpfs", MS_NOSUID, "size=128k,mode=0700") < 0) {
                (void) fprintf(stderr, "SKIPPED full_disk: cannot mount a tmpfs: %s\n", strerror(errno));
                ck_assert_int_eq(catalogue_new(event, state, &catalogue), 0);
                return;
        }
        ck_assert_int_eq(catalogue_new(event, state, &catalogue), 0);
        put(A, "old");
        ck_assert_int_eq(catalogue_put(catalogue, A, big, on_done, &a), 0);
        run_until_idle(10 * USEC_PER_SEC);
        ck_assert_int_eq(a.result, -ENOSPC);
        l = load();
        ck_assert_int_eq(l.n, 1);
        ck_assert_str_eq(l.texts[0], "old");
        put(A, "fits again");
}
END_TEST

START_TEST(bad_ids_and_monsters_are_refused_at_once) {
        ck_assert_int_eq(catalogue_put(catalogue, "../../etc/passwd", "x", NULL, NULL), -EINVAL);
        ck_assert_int_eq(catalogue_put(catalogue, "", "x", NULL, NULL), -EINVAL);
        ck_assert_int_eq(catalogue_remove(catalogue, "." A, NULL, NULL), -EINVAL);
        _cleanup_free_ char *monster = malloc((size_t) LIMIT_MANIFEST_BYTES + 2);
        ck_assert_ptr_nonnull(monster);
        memset(monster, 'x', (size_t) LIMIT_MANIFEST_BYTES + 1);
        monster[(size_t) LIMIT_MANIFEST_BYTES + 1] = '\0';
        ck_assert_int_eq(catalogue_put(catalogue, A, monster, NULL, NULL), -EFBIG);
}
END_TEST

START_TEST(queue_is_bounded) {
        char id[VSS_ID_LENGTH + 1];
        int r = 0, n = 0;

        catalogue_pause(catalogue, true);
        for (; n < 5000 && r >= 0; n++) {
                (void) snprintf(id, sizeof(id), "aaaaaaaa-0000-4000-8000-00000000%04d", n);
                r = catalogue_put(catalogue, id, "x", NULL, NULL);
        }
        ck_assert_int_eq(r, -ENOBUFS);
        ck_assert_int_gt(n, 500);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("catalogue");
        TCase *tc = tcase_create("catalogue");
        SRunner *runner;
        int failed;

        tcase_set_timeout(tc, 60);
        tcase_add_checked_fixture(tc, setup, teardown);
        tcase_add_test(tc, sha256_is_sha256);
        tcase_add_test(tc, records_survive_a_restart);
        tcase_add_test(tc, removed_records_stay_away_and_removing_twice_is_fine);
        tcase_add_test(tc, files_are_for_root_only_and_readable_by_people);
        tcase_add_test(tc, newest_queued_put_wins_and_everybody_is_told);
        tcase_add_test(tc, put_then_remove_in_the_queue_removes);
        tcase_add_test(tc, forgotten_callbacks_are_not_called);
        tcase_add_test(tc, killed_store_is_started_again_and_nothing_is_lost);
        tcase_add_test(tc, paused_catalogue_sends_and_starts_nothing);
        tcase_add_test(tc, strays_go_damage_is_reported_once_and_kept);
        tcase_add_test(tc, links_in_place_of_records_are_not_followed);
        tcase_add_test(tc, every_flipped_bit_and_every_cut_is_noticed);
        tcase_add_test(tc, second_daemon_on_one_directory_is_refused);
        tcase_add_test(tc, directory_others_may_write_is_refused);
        tcase_add_test(tc, full_disk_is_an_answer_and_keeps_the_old_record);
        tcase_add_test(tc, bad_ids_and_monsters_are_refused_at_once);
        tcase_add_test(tc, queue_is_bounded);
        suite_add_tcase(suite, tc);
        runner = srunner_create(suite);
        srunner_run_all(runner, CK_NORMAL);
        failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed > 0;
}
