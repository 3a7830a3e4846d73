/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The queue of calls of each writer, and the places on the bus that all of them share: what lets an application go on
 * reaches it, whoever else is slow or hangs.
 */
#include "daemon/manager.h"
#include "tests/support.h"
#include <check.h>

static const char set_a[] = "11111111-1111-4111-8111-111111111111", set_b[] = "22222222-2222-4222-8222-222222222222";

enum { MANY = LIMIT_CALLS_IN_FLIGHT + 20, HEARD_MAX = 512 };

static Manager m;
static sd_bus *writers_end;
static struct { /* what came to the writers' end of the bus, in order */
        char member[32], object[32];
        sd_bus_message *call;
} heard[HEARD_MAX];
static unsigned n_heard;
static unsigned outcomes[_OUTCOME_MAX];

static int on_call(sd_bus_message *call, void *userdata, sd_bus_error *reterr) {
        uint8_t type = 0;

        (void) sd_bus_message_get_type(call, &type);
        if (type != SD_BUS_MESSAGE_METHOD_CALL)
                return 0;
        ck_assert_uint_lt(n_heard, HEARD_MAX);
        (void) snprintf(heard[n_heard].member, sizeof(heard[0].member), "%s", sd_bus_message_get_member(call));
        (void) snprintf(heard[n_heard].object, sizeof(heard[0].object), "%s", sd_bus_message_get_path(call));
        heard[n_heard++].call = sd_bus_message_ref(call);
        return 1;
}

static void setup(void) {
        m = (Manager) { 0 };
        LIST_INIT(&m.writers);
        TAILQ_INIT(&m.changed_writers);
        n_heard = 0;
        memset(outcomes, 0, sizeof(outcomes));
        ck_assert_int_ge(sd_event_new(&m.event), 0);
        bus_pair_new(&m.bus, &writers_end);
        ck_assert_int_ge(sd_bus_attach_event(m.bus, m.event, 0), 0);
        ck_assert_int_ge(sd_bus_attach_event(writers_end, m.event, 0), 0);
        ck_assert_int_ge(sd_bus_add_filter(writers_end, NULL, on_call, NULL), 0);
}

static void settle(void);

static void teardown(void) {
        Writer *w;

        LIST_FOREACH(w, &m.writers, entries)
                writer_lost(w);
        settle();
        while ((w = LIST_FIRST(&m.writers))) {
                LIST_REMOVE(w, entries);
                writer_unref(w);
        }
        for (unsigned i = 0; i < n_heard; i++)
                sd_bus_message_unref(heard[i].call);
        sd_bus_flush_close_unref(writers_end);
        sd_bus_flush_close_unref(m.bus);
        sd_event_unref(m.event);
}

/* Until nothing happens for a moment. */
static void settle(void) {
        while (sd_event_run(m.event, 20 * USEC_PER_MSEC) > 0)
                ;
}

static Writer *writer(unsigned number) {
        Writer *w = calloc(1, sizeof *w);
        char text[32];

        ck_assert_ptr_nonnull(w);
        (void) snprintf(text, sizeof text, "/w%u", number);
        *w = (Writer) { .manager = &m, .n_ref = 1, .kind = WRITER_KIND_BUS, .events = ~0u, .lease_fd = -EBADF };
        TAILQ_INIT(&w->calls);
        w->reference = strdup(text + 1);
        w->object = strdup(text);
        LIST_INSERT_HEAD(&m.writers, w, entries);
        return w;
}

static void on_done(Writer *w, Outcome outcome, const Failure *failure, sd_bus_message *reply, void *userdata) {
        outcomes[outcome]++;
}

static void call(Writer *w, WriterEvent e, const char *set, uint64_t budget_usec) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *message = NULL;
        uint64_t deadline = now_usec() + budget_usec;

        ck_assert_int_ge(writer_call_message(w, e, set, deadline, &message), 0);
        ck_assert_int_ge(writer_call(w, e, set, message, deadline, on_done, w, NULL), 0);
}

static unsigned count(const Writer *w, const char *member) {
        unsigned n = 0;

        for (unsigned i = 0; i < n_heard; i++)
                n += (!w || streq(heard[i].object, w->object)) && streq(heard[i].member, member);
        return n;
}

/* The oldest call of that member that this writer has not answered. */
static void answer(const Writer *w, const char *member) {
        for (unsigned i = 0; i < n_heard; i++)
                if (heard[i].call && streq(heard[i].object, w->object) && streq(heard[i].member, member)) {
                        ck_assert_int_ge(sd_bus_reply_method_return(heard[i].call, NULL), 0);
                        heard[i].call = sd_bus_message_unref(heard[i].call);
                        settle();
                        return;
                }
        ck_abort_msg("%s was not called", member);
}

START_TEST(thaw_and_abort_do_not_wait_for_places_that_others_fill) {
        Writer *frozen = writer(1000), *other = writer(1001);

        call(frozen, EVENT_FREEZE, set_a, USEC_PER_SEC * 60);
        settle();
        answer(frozen, "Freeze");
        for (unsigned i = 0; i < MANY; i++)
                call(writer(i), EVENT_PREPARE_BACKUP, set_b, USEC_PER_SEC * 60);
        settle();
        ck_assert_uint_lt(count(NULL, "PrepareBackup"), LIMIT_CALLS_IN_FLIGHT);
        call(frozen, EVENT_THAW, set_a, USEC_PER_SEC * 60);
        settle();
        ck_assert_uint_eq(count(frozen, "Thaw"), 1);
        call(other, EVENT_FREEZE, set_a, USEC_PER_SEC * 60);
        call(frozen, EVENT_ABORT, set_a, USEC_PER_SEC * 60);
        settle();
        ck_assert_uint_eq(count(other, "Freeze"), 1);
        ck_assert_uint_eq(count(frozen, "Abort"), 1);
}
END_TEST

START_TEST(aborts_that_nobody_answers_leave_room_for_a_thaw) {
        Writer *frozen = writer(1000);

        call(frozen, EVENT_FREEZE, set_a, USEC_PER_SEC * 60);
        settle();
        answer(frozen, "Freeze");
        for (unsigned i = 0; i < MANY; i++)
                call(writer(i), EVENT_ABORT, set_b, USEC_PER_SEC * 60);
        settle();
        call(frozen, EVENT_THAW, set_a, USEC_PER_SEC * 60);
        settle();
        ck_assert_uint_eq(count(frozen, "Thaw"), 1);
        ck_assert_uint_le(n_heard, LIMIT_CALLS_IN_FLIGHT + 1); /* the answered Freeze */
}
END_TEST

START_TEST(a_writer_that_was_never_asked_has_not_failed_to_answer) {
        Writer *late;

        for (unsigned i = 0; i < MANY; i++)
                call(writer(i), EVENT_PREPARE_BACKUP, set_b, USEC_PER_SEC * 60);
        settle();
        late = writer(1000);
        for (unsigned i = 0; i < 3; i++) {
                call(late, EVENT_IDENTIFY, "", USEC_PER_MSEC * 5);
                settle();
        }
        ck_assert_uint_eq(outcomes[OUTCOME_TIMEOUT], 3);
        ck_assert_uint_eq(count(late, "Identify"), 0);
        ck_assert(!late->lost);
        late = writer(1001);
        m.calls_in_flight = 0;
        for (unsigned i = 0; i < 2; i++) {
                call(late, EVENT_IDENTIFY, "", USEC_PER_MSEC * 5);
                settle();
        }
        ck_assert(late->lost); /* asked twice, silent twice */
}
END_TEST

/* BackupComplete of one set is slow; the other set gives up before its Freeze could be sent. */
START_TEST(abort_drops_what_was_queued_before_it_and_is_sent_at_once) {
        Writer *w = writer(1);

        call(w, EVENT_BACKUP_COMPLETE, set_a, USEC_PER_SEC * 60);
        call(w, EVENT_FREEZE, set_b, USEC_PER_SEC * 60);
        settle();
        call(w, EVENT_ABORT, set_b, USEC_PER_SEC * 60);
        settle();
        ck_assert_uint_eq(count(w, "Abort"), 1);
        answer(w, "BackupComplete");
        answer(w, "Abort");
        ck_assert_uint_eq(count(w, "Freeze"), 0);
        ck_assert_uint_eq(outcomes[OUTCOME_OK], 2);
        ck_assert_str_eq(w->frozen_for, "");
        ck_assert(TAILQ_EMPTY(&w->calls));
}
END_TEST

/* The set is gone before there was a place for its Abort. */
START_TEST(the_last_word_is_sent_although_nobody_waits_for_it) {
        Writer *w = writer(1);

        m.calls_in_flight = LIMIT_CALLS_IN_FLIGHT;
        call(w, EVENT_ABORT, set_a, USEC_PER_SEC * 60);
        call(w, EVENT_IDENTIFY, "", USEC_PER_SEC * 60);
        writer_forget(w, w);
        m.calls_in_flight = 0;
        call(w, EVENT_PREPARE_BACKUP, set_b, USEC_PER_SEC * 60);
        settle();
        ck_assert_uint_eq(count(w, "Abort"), 1);
        answer(w, "Abort");
        ck_assert_uint_eq(count(w, "Identify"), 0);
        ck_assert_uint_eq(outcomes[OUTCOME_OK], 0);
        ck_assert_uint_eq(count(w, "PrepareBackup"), 1);
}
END_TEST

int main(void) {
        Suite *s = suite_create("calls");
        TCase *t = tcase_create("calls");
        SRunner *r;
        int failed;

        tcase_add_checked_fixture(t, setup, teardown);
        tcase_add_test(t, thaw_and_abort_do_not_wait_for_places_that_others_fill);
        tcase_add_test(t, aborts_that_nobody_answers_leave_room_for_a_thaw);
        tcase_add_test(t, a_writer_that_was_never_asked_has_not_failed_to_answer);
        tcase_add_test(t, abort_drops_what_was_queued_before_it_and_is_sent_at_once);
        tcase_add_test(t, the_last_word_is_sent_although_nobody_waits_for_it);
        suite_add_tcase(s, t);
        r = srunner_create(s);
        srunner_run_all(r, CK_NORMAL);
        failed = srunner_ntests_failed(r);
        srunner_free(r);
        return failed ? 1 : 0;
}
