/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A vssd that only answers: enough of the bus for every verb of vssctl, with the error a test asks for. What happens to
 * a set is said by the name of its volume, so that tests need no second channel:
 *
 *   /fail/NAME    CreateSet and Plan are refused with that error     /abort/NAME  the set ends aborted with it
 *   /refuse/NAME  created, but each later call on it is refused      /once/NAME   aborted the first time, then created
 *   /slow         goes on until it is cancelled                      /late        created although it is cancelled
 *   /flaky        Complete answers with one failed writer            anything else: created at once
 *
 * NAME is the last part of one of our error names, or a whole name. Every call is printed on stdout as it came.
 * Open("mount") hands out a detached clone of $FAKE_COPY, Path of every copy is $FAKE_COPY.
 */
#include "tests/fake-manager.h"
#include "protocol/manifest.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

enum { SETS_MAX = 256, COPIES_MAX = 64 };

typedef struct FakeSet FakeSet;
typedef struct FakeCopy {
        FakeSet *set;
        char id[VSS_ID_LENGTH + 1], volume[256], mount[512];
        char *path;
        bool deleted;
} FakeCopy;
struct FakeSet {
        char id[VSS_ID_LENGTH + 1], alias[64], error[256], refuse[256];
        const char *state;
        char *path;
        FakeCopy copies[COPIES_MAX];
        size_t n_copies;
        bool late, flaky;
        sd_bus_message *waiter;
        sd_event_source *timer;
};

static struct {
        sd_bus *bus;
        sd_event *event;
        FakeSet sets[SETS_MAX];
        size_t n_sets;
        unsigned n_once;
} fake;

static const char *error_name(const char *name, char *buffer, size_t size) {
        (void) snprintf(buffer, size, "%s%s", strchr(name, '.') ? "" : VSS_BUS_NAME ".Error.", name);
        return buffer;
}

int refuse(sd_bus_error *e, const char *name) {
        char full[300];
        error_name(name, full, sizeof(full));
        return sd_bus_error_setf(e, full, "the fake service was told to answer %s; do not use it", full);
}

void log_call(sd_bus_message *m) {
        (void) printf("Member=%s\n", sd_bus_message_get_member(m));
        (void) sd_bus_message_dump(m, stdout, 0);
        (void) fflush(stdout);
        (void) sd_bus_message_rewind(m, true);
}

/* m stands before its options. */
static bool is_dry_run(sd_bus_message *m) {
        const char *key;
        int dry = false;
        (void) sd_bus_message_enter_container(m, 'a', "{sv}");
        while (!dry && sd_bus_message_enter_container(m, 'e', "sv") > 0 && sd_bus_message_read(m, "s", &key) > 0) {
                (void) (streq(key, "dry_run") ? sd_bus_message_read(m, "v", "b", &dry) : sd_bus_message_skip(m, "v"));
                (void) sd_bus_message_exit_container(m);
        }
        return dry;
}

static bool set_is_aborted(const FakeSet *s) {
        return streq(s->state, "aborted");
}

static void reply_wait(FakeSet *s) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = TAKE_PTR(s->waiter);
        char full[300];
        if (!call)
                return;
        error_name(s->error, full, sizeof(full));
        if (set_is_aborted(s))
                (void) sd_bus_reply_method_return(call, "sa{sv}", s->state, 3, "error_name", "s", full, "error_message",
                                                  "s", "the writer sqlite@book said no; see its log", "retryable", "b",
                                                  (int) condition_retryable(condition_from_name(full)));
        else
                (void) sd_bus_reply_method_return(call, "sa{sv}", s->state, 1, "consistency", "s", "application");
}

static void set_state(FakeSet *s, const char *state) {
        s->state = state;
        (void) sd_bus_emit_properties_changed(fake.bus, s->path, VSS_IFACE_SET, "State", "Phase", "Progress", NULL);
}

/* ---- snapshots ---- */

static int copy_mount(sd_bus_message *m, void *userdata, sd_bus_error *e) {
        FakeCopy *copy = userdata;
        const char *directory;
        log_call(m);
        if (copy->set->refuse[0])
                return refuse(e, copy->set->refuse);
        int r = sd_bus_message_read(m, "s", &directory);
        if (r < 0)
                return r;
        (void) snprintf(copy->mount, sizeof(copy->mount), "%s", directory[0] ? directory : "/run/vss/mnt/copy");
        return sd_bus_reply_method_return(m, "s", copy->mount);
}

static int copy_unmount(sd_bus_message *m, void *userdata, sd_bus_error *e) {
        FakeCopy *copy = userdata;
        log_call(m);
        if (copy->set->refuse[0])
                return refuse(e, copy->set->refuse);
        copy->mount[0] = 0;
        return sd_bus_reply_method_return(m, "");
}

static int copy_open(sd_bus_message *m, void *userdata, sd_bus_error *e) {
        FakeCopy *copy = userdata;
        const char *from = getenv("FAKE_COPY");
        log_call(m);
        if (copy->set->refuse[0] || !from)
                return refuse(e, copy->set->refuse[0] ? copy->set->refuse : "NotSupported");
        _cleanup_close_ int fd = open_tree(AT_FDCWD, from, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        return fd < 0 ? sd_bus_error_set_errnof(e, errno, "open_tree") : sd_bus_reply_method_return(m, "h", fd);
}

static int copy_delete(sd_bus_message *m, void *userdata, sd_bus_error *e) {
        FakeCopy *copy = userdata;
        log_call(m);
        if (copy->set->refuse[0])
                return refuse(e, copy->set->refuse);
        copy->deleted = !is_dry_run(m);
        return sd_bus_reply_method_return(m, "");
}

static int copy_property(sd_bus *bus, const char *path, const char *interface, const char *property,
                         sd_bus_message *reply, void *userdata, sd_bus_error *e) {
        FakeCopy *copy = userdata;
        const char *from = getenv("FAKE_COPY");
        if (streq(property, "Set"))
                return sd_bus_message_append(reply, "o", copy->set->path);
        if (streq(property, "CreatedAt"))
                return sd_bus_message_append(reply, "t", UINT64_C(1795341600123456));
        if (streq(property, "SizeBytes"))
                return sd_bus_message_append(reply, "t", UINT64_C(1) << 30);
        if (streq(property, "Mounts"))
                return copy->mount[0] ? sd_bus_message_append(reply, "as", 1, copy->mount) :
                                        sd_bus_message_append(reply, "as", 0);
        const char *text = streq(property, "Id")           ? copy->id :
                           streq(property, "VolumeName")   ? copy->volume :
                           streq(property, "Provider")     ? "btrfs" :
                           streq(property, "Consistency")  ? "application" :
                           streq(property, "State")        ? "available" :
                           streq(property, "Path") && from ? from :
                                                             "";
        return sd_bus_message_append(reply, "s", text);
}

static const sd_bus_vtable copy_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("Mount", "sa{sv}", "s", copy_mount, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("Unmount", "sa{sv}", "", copy_unmount, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("Open", "sa{sv}", "h", copy_open, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("Delete", "a{sv}", "", copy_delete, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_PROPERTY("Id", "s", copy_property, 0, 0),
        SD_BUS_PROPERTY("Set", "o", copy_property, 0, 0),
        SD_BUS_PROPERTY("VolumeName", "s", copy_property, 0, 0),
        SD_BUS_PROPERTY("Provider", "s", copy_property, 0, 0),
        SD_BUS_PROPERTY("CreatedAt", "t", copy_property, 0, 0),
        SD_BUS_PROPERTY("SizeBytes", "t", copy_property, 0, 0),
        SD_BUS_PROPERTY("ChangeToken", "s", copy_property, 0, 0),
        SD_BUS_PROPERTY("Consistency", "s", copy_property, 0, 0),
        SD_BUS_PROPERTY("State", "s", copy_property, 0, 0),
        SD_BUS_PROPERTY("Device", "s", copy_property, 0, 0),
        SD_BUS_PROPERTY("Path", "s", copy_property, 0, 0),
        SD_BUS_PROPERTY("Mounts", "as", copy_property, 0, 0),
        SD_BUS_VTABLE_END,
};

/* ---- sets ---- */

static const char *json_escaped(const char *text, char *buffer, size_t size) {
        char *q = buffer;
        for (; *text && q + 3 < buffer + size; text++) {
                if (*text == '\\' || *text == '"')
                        *q++ = '\\';
                *q++ = *text;
        }
        *q = 0;
        return buffer;
}

static int set_wait_call(sd_bus_message *m, void *userdata, sd_bus_error *e) {
        FakeSet *s = userdata;
        log_call(m);
        s->waiter = sd_bus_message_ref(m);
        if (!streq(s->state, "running"))
                reply_wait(s);
        return 1;
}

static int on_late(sd_event_source *source, uint64_t usec, void *userdata) {
        FakeSet *s = userdata;
        set_state(s, "created");
        reply_wait(s);
        return 0;
}

static int set_cancel_call(sd_bus_message *m, void *userdata, sd_bus_error *e) {
        FakeSet *s = userdata;
        log_call(m);
        if (s->refuse[0])
                return refuse(e, s->refuse);
        if (!streq(s->state, "running"))
                return refuse(e, "TooLate");
        if (s->late) {
                (void) sd_event_add_time_relative(fake.event, &s->timer, CLOCK_MONOTONIC, 200000, 0, on_late, s);
                return refuse(e, "TooLate");
        }
        (void) snprintf(s->error, sizeof(s->error), "Cancelled");
        set_state(s, "aborted");
        reply_wait(s);
        return sd_bus_reply_method_return(m, "");
}

static int set_complete_call(sd_bus_message *m, void *userdata, sd_bus_error *e) {
        FakeSet *s = userdata;
        log_call(m);
        if (s->refuse[0])
                return refuse(e, s->refuse);
        if (!streq(s->state, "created"))
                return refuse(e, "BadState");
        set_state(s, "completed");
        return sd_bus_reply_method_return(m, "a(sss)", 1, "sqlite@book", s->flaky ? VSS_BUS_NAME ".Error.Vetoed" : "",
                                          s->flaky ? "cannot truncate the log" : "");
}

static int set_delete_call(sd_bus_message *m, void *userdata, sd_bus_error *e) {
        FakeSet *s = userdata;
        log_call(m);
        if (s->refuse[0])
                return refuse(e, s->refuse);
        if (is_dry_run(m))
                return sd_bus_reply_method_return(m, "a(sss)", 0);
        set_state(s, "deleted");
        for (size_t i = 0; i < s->n_copies; i++)
                s->copies[i].deleted = true;
        return sd_bus_reply_method_return(m, "a(sss)", 0);
}

static int set_manifest_call(sd_bus_message *m, void *userdata, sd_bus_error *e) {
        FakeSet *s = userdata;
        char id[sizeof(s->id)], created[] = "2026-11-22T10:00:00.123400Z", host[] = "fake",
                                machine[] = "5d1f0c3b9e7a4f6c8b2d1e0f9a8b7c6d";
        Manifest manifest = { .set = id,
                              .created = created,
                              .host_name = host,
                              .machine_id = machine,
                              .vss_version = host,
                              .requester = host,
                              .consistency = CONSISTENCY_CRASH };
        _cleanup_free_ char *text = NULL;
        log_call(m);
        (void) snprintf(id, sizeof(id), "%s", s->id);
        _cleanup_close_ int fd = memfd_create("manifest", MFD_CLOEXEC);
        if (fd < 0 || manifest_format(&manifest, &text) < 0 || write(fd, text, strlen(text)) != (ssize_t) strlen(text))
                return -EIO;
        return sd_bus_reply_method_return(m, "h", fd);
}

static int set_record_call(sd_bus_message *m, void *userdata, sd_bus_error *e) {
        FakeSet *s = userdata;
        char *text = NULL, full[300], volume[600];
        size_t size;
        FILE *f = open_memstream(&text, &size);
        (void) fprintf(
                f,
                "{\"schema\":1,\"kind\":\"set-record\",\"requires\":[],\"set\":\"%s\",\"state\":\"%s\",\"consistency\":\"application\","
                "\"one_instant\":true,\"forced\":false,\"error\":null,\"requester\":{\"name\":\"vssctl\",\"uid\":0,\"pid\":1},\"options\":{},"
                "\"started\":\"2026-11-22T10:00:00.000000Z\",\"instant\":\"2026-11-22T10:00:00.123400Z\","
                "\"timing\":{\"total_usec\":2493000,\"queue_usec\":0,\"prepare_usec\":2392000,\"freeze_usec\":52900,\"hold_usec\":42300,"
                "\"commit_usec\":12600},\"phases\":[[\"identify\",0,18200,10000000,\"ok\"],[\"prepare-backup\",18200,2392000,null,\"ok\"],"
                "[\"freeze\",2392000,2399800,58000000,\"ok\"],[\"hold\",2400300,2429100,10000000,\"ok\"],[\"commit\",2429100,2441700,9971200,"
                "\"ok\"],[\"thaw\",2443100,2444900,10000000,\"ok\"],[\"post-final\",2489000,null,null,\"running\"]],"
                "\"writers\":[{\"name\":\"sqlite\",\"instance\":\"book\",\"level\":\"front-end\",\"state\":\"%s\",\"freeze_usec\":52900,\"error\":",
                s->id, s->state, set_is_aborted(s) ? "failed-at-freeze" : "waiting-for-backup-complete");
        if (set_is_aborted(s))
                (void) fprintf(f, "{\"name\":\"%s\",\"message\":\"disk <on> & fire\",\"retryable\":false}",
                               error_name(s->error, full, sizeof(full)));
        else
                (void) fputs("null", f);
        (void) fputs(
                ",\"events\":[[\"freeze\",2392000,2394100,58000000,\"ok\"],[\"thaw\",2444200,2444900,10000000,\"ok\"]]}],\"volumes\":[",
                f);
        for (size_t i = 0; i < s->n_copies; i++)
                (void) fprintf(
                        f,
                        "%s{\"volume\":\"%s\",\"mountpoint\":\"%s\",\"snapshot\":\"%s\",\"provider\":\"btrfs\",\"held_by\":\"provider\","
                        "\"consistency\":\"application\",\"hold_usec\":12600,\"calls\":[[\"begin-prepare\",2204300,2231000,60000000,\"ok\"],"
                        "[\"commit\",2429100,2441700,9971200,\"ok\"]]}",
                        i > 0 ? "," : "", json_escaped(s->copies[i].volume, volume, sizeof(volume)), volume,
                        s->copies[i].id);
        (void) fputs("],\"warnings\":[]}", f);
        (void) fclose(f);
        _cleanup_free_ char *owned = text;
        return sd_bus_reply_method_return(m, "s", owned);
}

static int set_property(sd_bus *bus, const char *path, const char *interface, const char *property,
                        sd_bus_message *reply, void *userdata, sd_bus_error *e) {
        FakeSet *s = userdata;
        char full[300];
        if (streq(property, "Progress"))
                return sd_bus_message_append(reply, "d", 0.5);
        if (streq(property, "OneInstant"))
                return sd_bus_message_append(reply, "b", 1);
        if (streq(property, "CreatedAt"))
                return sd_bus_message_append(reply, "t", set_is_aborted(s) ? 0 : UINT64_C(1795341600123456));
        if (streq(property, "Timing"))
                return sd_bus_message_append(reply, "a{st}", 5, "total_usec", UINT64_C(2493000), "prepare_usec",
                                             UINT64_C(2392000), "freeze_usec", UINT64_C(52900), "hold_usec",
                                             UINT64_C(42300), "commit_usec", UINT64_C(12600));
        if (streq(property, "LastError"))
                return set_is_aborted(s) ?
                               sd_bus_message_append(reply, "(ssb)", error_name(s->error, full, sizeof(full)),
                                                     "the writer said no", 0) :
                               sd_bus_message_append(reply, "(ssb)", "", "", 0);
        if (streq(property, "Labels"))
                return s->alias[0] ? sd_bus_message_append(reply, "a{ss}", 1, "alias", s->alias) :
                                     sd_bus_message_append(reply, "a{ss}", 0);
        if (streq(property, "Writers"))
                return sd_bus_message_append(reply, "a(sss)", 1, "sqlite@book",
                                             set_is_aborted(s) ? "failed-at-freeze" : "stable", "");
        bool paths = streq(property, "Snapshots"), created = streq(s->state, "created") || streq(s->state, "completed");
        if (paths || streq(property, "Volumes")) {
                int r = sd_bus_message_open_container(reply, 'a', paths ? "o" : "s");
                for (size_t i = 0; r >= 0 && (created || !paths) && i < s->n_copies; i++)
                        if (!paths || !s->copies[i].deleted)
                                r = sd_bus_message_append(reply, paths ? "o" : "s",
                                                          paths ? s->copies[i].path : s->copies[i].volume);
                return r < 0 ? r : sd_bus_message_close_container(reply);
        }
        const char *text = streq(property, "Id")                     ? s->id :
                           streq(property, "State")                  ? s->state :
                           streq(property, "Phase")                  ? "freeze" :
                           streq(property, "Consistency") && created ? "application" :
                           streq(property, "Requester")              ? "vssctl" :
                           streq(property, "BackupType")             ? "copy" :
                           streq(property, "Lifetime")               ? "persistent" :
                           streq(property, "Session")                ? "detached" :
                                                                       "";
        return sd_bus_message_append(reply, "s", text);
}

static const sd_bus_vtable set_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("Wait", "a{sv}", "sa{sv}", set_wait_call, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("Cancel", "a{sv}", "", set_cancel_call, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("Complete", "ba(ssa{sv})a{sv}", "a(sss)", set_complete_call, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("Delete", "a{sv}", "a(sss)", set_delete_call, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("GetManifest", "a{sv}", "h", set_manifest_call, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("GetRecord", "a{sv}", "s", set_record_call, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_PROPERTY("Id", "s", set_property, 0, 0),
        SD_BUS_PROPERTY("Requester", "s", set_property, 0, 0),
        SD_BUS_PROPERTY("BackupType", "s", set_property, 0, 0),
        SD_BUS_PROPERTY("Lifetime", "s", set_property, 0, 0),
        SD_BUS_PROPERTY("State", "s", set_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Phase", "s", set_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Progress", "d", set_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Session", "s", set_property, 0, 0),
        SD_BUS_PROPERTY("LastError", "(ssb)", set_property, 0, 0),
        SD_BUS_PROPERTY("Labels", "a{ss}", set_property, 0, 0),
        SD_BUS_PROPERTY("Consistency", "s", set_property, 0, 0),
        SD_BUS_PROPERTY("OneInstant", "b", set_property, 0, 0),
        SD_BUS_PROPERTY("CreatedAt", "t", set_property, 0, 0),
        SD_BUS_PROPERTY("Timing", "a{st}", set_property, 0, 0),
        SD_BUS_PROPERTY("Volumes", "as", set_property, 0, 0),
        SD_BUS_PROPERTY("Snapshots", "ao", set_property, 0, 0),
        SD_BUS_PROPERTY("Writers", "a(sss)", set_property, 0, 0),
        SD_BUS_VTABLE_END,
};

/* ---- manager ---- */

static const char *after(const char *volume, const char *prefix) {
        size_t n = strlen(prefix);
        return strncmp(volume, prefix, n) == 0 ? volume + n : NULL;
}

/* What the names of the volumes say; the error name if the set shall not even begin. */
static const char *set_instruct(FakeSet *s, const char *volume) {
        const char *name = after(volume, "/fail/");
        if (name)
                return name;
        if ((name = after(volume, "/refuse/")))
                (void) snprintf(s->refuse, sizeof(s->refuse), "%s", name);
        if ((name = after(volume, "/abort/")) || ((name = after(volume, "/once/")) && fake.n_once++ == 0)) {
                (void) snprintf(s->error, sizeof(s->error), "%s", name);
                s->state = "aborted";
        }
        if (streq(volume, "/slow") || streq(volume, "/late"))
                s->state = "running";
        s->late = streq(volume, "/late");
        s->flaky = streq(volume, "/flaky");
        return NULL;
}

static int set_add_volume(FakeSet *s, const char *volume) {
        FakeCopy *copy = &s->copies[s->n_copies];
        copy->set = s;
        (void) snprintf(copy->volume, sizeof(copy->volume), "%s", volume);
        (void) snprintf(copy->id, sizeof(copy->id), "%08zx-5555-4555-8555-%012zx",
                        0xc0de0000 + fake.n_sets * 256 + s->n_copies, fake.n_sets);
        s->n_copies++;
        return sd_bus_path_encode(VSS_PATH_SNAPSHOTS, copy->id, &copy->path);
}

/* Reads a(sa{sv}) into a set; 1 and *ret_error if a volume says that it must not be. */
static int read_volumes(sd_bus_message *m, FakeSet *s, const char **ret_error) {
        const char *volume;
        int r = sd_bus_message_enter_container(m, 'a', "(sa{sv})");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'r', "sa{sv}")) > 0) {
                r = sd_bus_message_read(m, "s", &volume);
                if (r >= 0)
                        r = sd_bus_message_skip(m, "a{sv}");
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
                if (r < 0)
                        return r;
                *ret_error = set_instruct(s, volume);
                if (*ret_error)
                        return 1;
                r = s->n_copies < COPIES_MAX ? set_add_volume(s, volume) : -E2BIG;
        }
        return r < 0 ? r : 0;
}

static int set_publish(FakeSet *s) {
        fake.n_sets++;
        int r = sd_bus_path_encode(VSS_PATH_SETS, s->id, &s->path);
        if (r >= 0)
                r = sd_bus_add_object_vtable(fake.bus, NULL, s->path, VSS_IFACE_SET, set_vtable, s);
        for (size_t i = 0; r >= 0 && !set_is_aborted(s) && i < s->n_copies; i++)
                r = sd_bus_add_object_vtable(fake.bus, NULL, s->copies[i].path, VSS_IFACE_SNAPSHOT, copy_vtable,
                                             &s->copies[i]);
        return r < 0 ? r : sd_bus_emit_object_added(fake.bus, s->path);
}

static FakeSet *set_begin(void) {
        FakeSet *s = &fake.sets[fake.n_sets];
        *s = (FakeSet) { .state = "created" };
        (void) snprintf(s->id, sizeof(s->id), "%08zx-1111-4111-8111-%012zx", 0x5e700000 + fake.n_sets, fake.n_sets);
        return s;
}

static int manager_create(sd_bus_message *m, void *userdata, sd_bus_error *e) {
        const char *error = NULL;
        log_call(m);
        if (fake.n_sets >= SETS_MAX)
                return refuse(e, "LimitReached");
        FakeSet *s = set_begin();
        int r = read_volumes(m, s, &error);
        if (r > 0)
                return refuse(e, error);
        if (r >= 0)
                r = set_publish(s);
        return r < 0 ? r : sd_bus_reply_method_return(m, "so", s->id, s->path);
}

static int manager_plan(sd_bus_message *m, void *userdata, sd_bus_error *e) {
        const char *error = NULL;
        FakeSet s = {};
        log_call(m);
        int r = read_volumes(m, &s, &error);
        for (size_t i = 0; i < s.n_copies; i++)
                free(s.copies[i].path);
        if (r != 0)
                return r > 0 ? refuse(e, error) : r;
        return sd_bus_reply_method_return(
                m, "s",
                "{\"schema\":1,\"consistency\":\"application\",\"volumes\":[{\"volume\":\"/srv/db\","
                "\"provider\":\"btrfs\",\"consistency\":\"application\"}],\"writers\":[{\"name\":\"sqlite\"}]}");
}

static int manager_lookup_id(sd_bus_message *m, void *userdata, sd_bus_error *e) {
        const char *id;
        log_call(m);
        int r = sd_bus_message_read(m, "s", &id);
        for (size_t i = 0; r >= 0 && i < fake.n_sets; i++)
                if (streq(fake.sets[i].id, id))
                        return sd_bus_reply_method_return(m, "so", VSS_IFACE_SET, fake.sets[i].path);
        return r < 0 ? r : refuse(e, "NotFound");
}

static int manager_lookup_volume(sd_bus_message *m, void *userdata, sd_bus_error *e) {
        const char *path, *name;
        log_call(m);
        int r = sd_bus_message_read(m, "s", &path);
        if (r < 0)
                return r;
        if ((name = after(path, "/fail/")))
                return refuse(e, name);
        if (path[0] != '/') /* it has no engine volumes */
                return refuse(e, "NotFound");
        return sd_bus_reply_method_return(m, "so", path, VSS_PATH_VOLUMES "/_2fsrv_2fdb");
}

static int manager_delete(sd_bus_message *m, void *userdata, sd_bus_error *e) {
        log_call(m);
        return sd_bus_reply_method_return(m, "a(sss)", 2, "c0de0000-5555-4555-8555-000000000000", "", "",
                                          "c0de0001-5555-4555-8555-000000000000", VSS_BUS_NAME ".Error.Pinned",
                                          "it is pinned; unpin it first");
}

static int manager_property(sd_bus *bus, const char *path, const char *interface, const char *property,
                            sd_bus_message *reply, void *userdata, sd_bus_error *e) {
        return streq(property, "Features") ?
                       sd_bus_message_append(reply, "as", 1, "sets") :
                       sd_bus_message_append(reply, "s", streq(property, "Version") ? "1.0-fake" : "root-only");
}

static const sd_bus_vtable manager_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("CreateSet", "a(sa{sv})a{sv}", "so", manager_create, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("Plan", "a(sa{sv})a{sv}", "s", manager_plan, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("LookupId", "sa{sv}", "so", manager_lookup_id, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("LookupVolume", "sa{sv}", "so", manager_lookup_volume, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("DeleteSnapshots", "a{sv}a{sv}", "a(sss)", manager_delete, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_PROPERTY("Version", "s", manager_property, 0, 0),
        SD_BUS_PROPERTY("Features", "as", manager_property, 0, 0),
        SD_BUS_PROPERTY("Authorization", "s", manager_property, 0, 0),
        SD_BUS_VTABLE_END,
};

/* Set 0 is there from the start: two volumes, alias "nightly". */
static int add_first_set(void) {
        FakeSet *s = set_begin();
        (void) snprintf(s->alias, sizeof(s->alias), "nightly");
        int r = set_add_volume(s, "/srv/db");
        if (r >= 0)
                r = set_add_volume(s, "/srv/files");
        return r < 0 ? r : set_publish(s);
}

int main(void) {
        int r = sd_event_default(&fake.event);
        if (r >= 0)
                r = sd_bus_open_system(&fake.bus);
        if (r >= 0)
                r = sd_bus_attach_event(fake.bus, fake.event, 0);
        if (r >= 0)
                r = sd_bus_add_object_manager(fake.bus, NULL, VSS_ROOT_PATH);
        if (r >= 0)
                r = sd_bus_add_object_vtable(fake.bus, NULL, VSS_ROOT_PATH, VSS_IFACE_MANAGER, manager_vtable, NULL);
        if (r >= 0)
                r = fake_add_entries(fake.bus);
        if (r >= 0)
                r = add_first_set();
        if (r >= 0)
                r = sd_bus_request_name(fake.bus, VSS_BUS_NAME, 0);
        if (r >= 0) {
                (void) puts("ready fake");
                (void) fflush(stdout);
                r = sd_event_loop(fake.event);
        }
        (void) fprintf(stderr, "fake-manager: %s\n", strerror(-r));
        return r < 0;
}
