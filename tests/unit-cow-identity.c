/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What disks are by themselves, from a sysfs of our own, and the stamp that keeps it. */
#include "providers/cow/identity.h"
#include "providers/cow/origin.h"
#include <check.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

static char sys[64];

static void run(const char *format, const char *a, const char *b) {
        char command[512], all[768];
        (void) snprintf(command, sizeof(command), format, a, b);
        (void) snprintf(all, sizeof(all), "cd %s && %s", sys, command);
        ck_assert_msg(system(all) == 0, "%s", all);
}

static void begin(void) {
        strcpy(sys, "/tmp/vss-unit-XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(sys));
        run("mkdir -p dev/block devices", "", "");
}

static void end(void) {
        run("rm -r %s%s", sys, "");
}

/* A disk that is nowhere in /dev: numbers of no driver. */
static void disk(const char *name, const char *number) {
        run("mkdir -p devices/%s/device && ln -s ../../devices/%1$s dev/block/%2$s && echo %2$s >devices/%1$s/dev",
            name, number);
}

static void attribute(const char *path, const char *value) {
        char all[256];
        (void) snprintf(all, sizeof(all), "devices/%s", path);
        run("mkdir -p $(dirname %s) && printf '%%s\\n' '%s' >%1$s", all, value);
}

static const char *of(unsigned minor_number) {
        static char ret[IDENTITY_SIZE];
        identity_read(sys, makedev(4000, minor_number), ret);
        return ret;
}

START_TEST(the_best_that_there_is) {
        disk("vda", "4000:1");
        ck_assert_str_eq(of(1), "");
        attribute("vda/serial", "");
        ck_assert_str_eq(of(1), "");
        attribute("vda/serial", "d1");
        ck_assert_str_eq(of(1), "serial:d1");
        attribute("vda/device/wwid", "naa.5000c500a1b2c3d4");
        ck_assert_str_eq(of(1), "wwid:naa.5000c500a1b2c3d4");
        ck_assert_msg(identity_is(sys, makedev(4000, 1), "serial:d1"), "what was recorded first is what counts");
        ck_assert(!identity_is(sys, makedev(4000, 1), "serial:d2"));
        ck_assert(!identity_is(sys, makedev(4000, 1), "dm:x"));
        ck_assert(!identity_is(sys, makedev(4000, 1), "serial"));
        ck_assert_int_eq(identity_compare(sys, makedev(4000, 1), "serial:d1"), IDENTITY_SAME);
        ck_assert_int_eq(identity_compare(sys, makedev(4000, 1), "serial:d2"), IDENTITY_ANOTHER);
        ck_assert_int_eq(identity_compare(sys, makedev(4000, 1), "dm:x"), IDENTITY_UNKNOWN);
        attribute("vda/dm/uuid", "CRYPT-LUKS2-0f1e2d3c4b5a69788796a5b4c3d2e1f0-data");
        ck_assert_uint_eq(strlen(of(1)), IDENTITY_SIZE - 1);
        ck_assert_int_eq(strncmp(of(1), "dm:CRYPT-LUKS2-0f1e2d3c4b5a697", 30), 0);
        ck_assert_str_eq(of(77), "");
}
END_TEST

START_TEST(long_ones_differ_by_what_is_cut) {
        static char first[IDENTITY_SIZE];
        disk("dm-0", "4000:1");
        disk("dm-1", "4000:2");
        attribute("dm-0/dm/uuid", "LVM-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb1");
        attribute("dm-1/dm/uuid", "LVM-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2");
        strcpy(first, of(1));
        ck_assert_str_ne(first, of(2));
        ck_assert_int_eq(strncmp(first, of(2), 30), 0);
        ck_assert(identity_is(sys, makedev(4000, 1), first));
        ck_assert(!identity_is(sys, makedev(4000, 2), first));
}
END_TEST

START_TEST(words_that_are_fit_to_be_shown) {
        disk("sda", "4000:1");
        attribute("sda/device/wwid", "  t10.ATA     QEMU HARDDISK   QM00001 ");
        ck_assert_str_eq(of(1), "wwid:t10.ATA_QEMU_HARDDISK_QM00001");
        attribute("sda/device/wwid", "\033[2J\\x\377");
        ck_assert_str_eq(of(1), "wwid:[2J_x");
}
END_TEST

START_TEST(partitions_are_of_their_disk) {
        disk("sda", "4000:1");
        attribute("sda/sda2/partition", "2");
        run("ln -s ../../devices/sda/sda2 dev/block/%s%s", "4000:3", "");
        ck_assert_str_eq(of(3), ""); /* no table can be read */
        attribute("sda/serial", "S1");
        ck_assert_str_eq(of(1), "serial:S1");
        ck_assert_str_eq(of(3), "serial:S1-part2");
        ck_assert(!identity_is(sys, makedev(4000, 3), "serial:S1"));
}
END_TEST

/* Paths that are no devices here: the one that is recorded has gone. */
START_TEST(a_disk_with_another_name) {
        char path[64], text[256] = "";
        disk("vdb", "4000:1");
        disk("vdc", "4000:2");
        attribute("vdb/serial", "other");
        attribute("vdc/serial", "mine");
        ck_assert_int_eq(identity_locate(sys, "/dev/vss-none", "serial:mine", path, sizeof(path), text, sizeof(text)),
                         0);
        ck_assert_str_eq(path, "/dev/vdc");
        ck_assert_int_eq(identity_locate(sys, "/dev/vss-none", "", path, sizeof(path), text, sizeof(text)), 0);
        ck_assert_str_eq(path, "/dev/vss-none");
        ck_assert_int_eq(identity_locate(sys, "/dev/vss-none", "serial:gone", path, sizeof(path), text, sizeof(text)),
                         0);
        ck_assert_str_eq(path, "/dev/vss-none"); /* who opens it says that it does not exist */
        attribute("vdb/serial", "mine");
        ck_assert_int_eq(identity_locate(sys, "/dev/vss-none", "serial:mine", path, sizeof(path), text, sizeof(text)),
                         -EBUSY);
        ck_assert_ptr_nonnull(strstr(text, "serial:mine"));
}
END_TEST

START_TEST(the_stamp_keeps_it) {
        uint8_t stamp[STAMP_BYTES], later[STAMP_BYTES];
        static uint8_t head[STAMP_HEAD];
        char identity[IDENTITY_SIZE];
        stamp_of_head(head, stamp);
        stamp_identity(stamp, identity);
        ck_assert_str_eq(identity, "");
        stamp_set_identity(stamp, "serial:d1");
        stamp_identity(stamp, identity);
        ck_assert_str_eq(identity, "serial:d1");
        stamp_of_head(head, later);
        ck_assert_int_eq(stamp_compare(stamp, later, true), STAMP_SAME); /* of a version that knew of none */
        stamp_keep_identity(stamp, later);
        ck_assert_mem_eq(stamp, later, sizeof(stamp));
        stamp_of_head(head, later);
        later[8] = 1; /* of a file at rest, with its times */
        uint8_t file[STAMP_BYTES];
        memcpy(file, later, sizeof(file));
        stamp_keep_identity(stamp, later);
        ck_assert_mem_eq(file, later, sizeof(file));
        stamp[16] = 0x07;
        stamp_identity(stamp, identity);
        ck_assert_str_eq(identity, "");
        memset(stamp + 16, 'x', IDENTITY_SIZE);
        stamp_identity(stamp, identity);
        ck_assert_str_eq(identity, "");
}
END_TEST

int main(void) {
        Suite *s = suite_create("cow-identity");
        TCase *c = tcase_create("identity");
        tcase_add_checked_fixture(c, begin, end);
        tcase_add_test(c, the_best_that_there_is);
        tcase_add_test(c, long_ones_differ_by_what_is_cut);
        tcase_add_test(c, words_that_are_fit_to_be_shown);
        tcase_add_test(c, partitions_are_of_their_disk);
        tcase_add_test(c, a_disk_with_another_name);
        tcase_add_test(c, the_stamp_keeps_it);
        suite_add_tcase(s, c);
        SRunner *r = srunner_create(s);
        srunner_run_all(r, CK_NORMAL);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        return failed == 0 ? 0 : 1;
}
