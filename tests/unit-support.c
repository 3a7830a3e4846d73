/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The fixtures themselves: a fixture that silently does nothing would make every test above it worthless. */
#include "tests/support.h"
#include <check.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

START_TEST(loop_fs_freezes_and_thaws) {
        _cleanup_(loop_fs_freep) LoopFs *fs = loop_fs_new("ext4", 64);
        ck_assert(!loop_fs_is_frozen(fs));
        ck_assert_int_eq(loop_fs_thaw(fs), -EINVAL);
        ck_assert_int_eq(loop_fs_freeze(fs), 0);
        ck_assert(loop_fs_is_frozen(fs));
        ck_assert_int_eq(loop_fs_thaw(fs), 0);
        ck_assert(!loop_fs_is_frozen(fs));
}
END_TEST

START_TEST(private_bus_carries_calls) {
        _cleanup_(private_bus_freep) PrivateBus *bus = private_bus_new();
        sd_bus *connection = private_bus_connect(bus);
        const char *name = NULL;
        ck_assert_int_ge(sd_bus_get_unique_name(connection, &name), 0);
        ck_assert_int_eq(name[0], ':');
        sd_bus_flush_close_unref(connection);
}
END_TEST

static int on_ping(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        return sd_bus_reply_method_return(m, "s", "pong");
}

static int on_pong(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const char *s = NULL;
        ck_assert_int_ge(sd_bus_message_read(m, "s", &s), 0);
        *(bool *) userdata = streq(s, "pong");
        return 0;
}

START_TEST(bus_pair_carries_calls) {
        static const sd_bus_vtable vtable[] = {
                SD_BUS_VTABLE_START(0),
                SD_BUS_METHOD("Ping", "", "s", on_ping, SD_BUS_VTABLE_UNPRIVILEGED),
                SD_BUS_VTABLE_END,
        };
        sd_bus *server, *client;
        bool answered = false;
        bus_pair_new(&server, &client);
        ck_assert_int_ge(sd_bus_add_object_vtable(server, NULL, "/x", "x.Y", vtable, NULL), 0);
        ck_assert_int_ge(sd_bus_call_method_async(client, NULL, NULL, "/x", "x.Y", "Ping", on_pong, &answered, ""), 0);
        bus_pair_process(server, client);
        ck_assert(answered);
        sd_bus_flush_close_unref(client);
        sd_bus_flush_close_unref(server);
}
END_TEST

START_TEST(temp_dir_leaves_nothing) {
        _cleanup_free_ char *copy = NULL, *file = NULL;
        char *dir = temp_dir_new();
        ck_assert_int_gt(asprintf(&file, "%s/file", dir), 0);
        file_write(file, "text");
        _cleanup_free_ char *text = file_read(file);
        ck_assert_str_eq(text, "text");
        copy = strdup(dir);
        temp_dir_free(dir);
        ck_assert_int_ne(access(copy, F_OK), 0);
}
END_TEST

START_TEST(commands_report_status) {
        char *ok[] = { (char *) "true", NULL };
        char *bad[] = { (char *) "sh", (char *) "-c", (char *) "exit 3", NULL };
        char *slow[] = { (char *) "sleep", (char *) "60", NULL };
        ck_assert_int_eq(run_command(ok), 0);
        ck_assert_int_eq(run_command(bad), 3);
        int status = stop_command(start_command(slow, NULL), USEC_PER_SEC);
        ck_assert(WIFSIGNALED(status));
}
END_TEST

int main(void) {
        sandbox_enter(60);
        Suite *s = suite_create("support");
        TCase *t = tcase_create("fixtures");
        tcase_set_timeout(t, 30);
        tcase_add_test(t, loop_fs_freezes_and_thaws);
        tcase_add_test(t, private_bus_carries_calls);
        tcase_add_test(t, bus_pair_carries_calls);
        tcase_add_test(t, temp_dir_leaves_nothing);
        tcase_add_test(t, commands_report_status);
        suite_add_tcase(s, t);
        SRunner *runner = srunner_create(s);
        srunner_set_fork_status(runner, CK_NOFORK);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed ? 1 : 0;
}
