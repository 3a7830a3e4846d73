/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * create: a set that stays until it is deleted (or, with --auto-release, until we end). The set is complete before
 * --exec runs; BackupComplete is `vssctl complete`'s business.
 */
#include "client/verbs.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

static const Option create_options[] = {
        { "persistent", 0, NULL, true, NULL, "keep it until it is deleted (default)" },
        { "auto-release", 0, NULL, true, NULL,
          "stay in the foreground; it goes at a signal or the end of standard input" },
        { "exec", 0, "CMD", false, check_any,
          "run this in a shell once the copy is complete; if it fails the set is deleted" },
        {},
};

static int create_check(Context *c) {
        if (given_flag(c, "persistent") && given_flag(c, "auto-release"))
                return context_usage(c, "--persistent and --auto-release exclude each other");
        return make_set_check(c);
}

static void export_number(const char *name, size_t i, const char *value) {
        char variable[64];
        (void) snprintf(variable, sizeof(variable), "%s_%zu", name, i);
        (void) setenv(variable, value ? value : "", 1);
}

/* In the child. Paths and volumes are real bytes again. */
static void export_set(json_object *document, char **paths) {
        json_object *snapshots = member(document, "snapshots");
        char count[24];
        (void) setenv("VSS_SET", member_text(document, "set"), 1);
        (void) snprintf(count, sizeof(count), "%zu", json_object_array_length(snapshots));
        (void) setenv("VSS_SNAPSHOTS", count, 1);
        for (size_t i = 0; i < json_object_array_length(snapshots); i++) {
                json_object *snapshot = json_object_array_get_idx(snapshots, i);
                _cleanup_free_ char *path = NULL, *volume = NULL;
                (void) path_from_bus(paths[i] ? paths[i] : "", &path);
                (void) path_from_bus(member_text(snapshot, "mountpoint"), &volume);
                export_number("VSS_SNAPSHOT", i + 1, member_text(snapshot, "id"));
                export_number("VSS_PATH", i + 1, path);
                export_number("VSS_VOLUME", i + 1, volume);
                export_number("VSS_DEVICE", i + 1, member_text(snapshot, "device"));
        }
}

static pid_t exec_start(Context *c, const char *command, char **paths) {
        pid_t pid = fork();
        if (pid != 0)
                return pid;
        (void) signal(SIGINT, SIG_DFL);
        (void) signal(SIGTERM, SIG_DFL);
        (void) signal(SIGHUP, SIG_DFL);
        if (c->json) /* standard output belongs to the document */
                (void) dup2(STDERR_FILENO, STDOUT_FILENO);
        export_set(c->document, paths);
        (void) execl("/bin/sh", "sh", "-c", command, (char *) NULL);
        _exit(127);
}

static int exec_wait(Context *c, pid_t pid) {
        int status = 0;
        bool told = false;
        while (waitpid(pid, &status, 0) < 0)
                if (interrupted && !told) {
                        (void) kill(pid, SIGTERM);
                        told = true;
                }
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
                return 0;
        if (interrupted)
                c->exit_status = 128 + interrupted;
        return WIFEXITED(status) ?
                       context_fail(c, CONDITION_FAILED, "--exec ended with %d, so the set was deleted",
                                    WEXITSTATUS(status)) :
                       context_fail(c, CONDITION_FAILED, "--exec was ended by signal %d, so the set was deleted",
                                    WTERMSIG(status));
}

/* A copy without a directory of its own is mounted as long as the command runs. */
static int exec_run(Context *c, struct vss_set *s) {
        json_object *snapshots = member(c->document, "snapshots");
        size_t n = json_object_array_length(snapshots);
        char **paths = calloc(n + 1, sizeof(char *));
        bool *mounted = calloc(n + 1, sizeof(bool));
        int r = paths && mounted ? 0 : context_fail(c, CONDITION_LIMIT_REACHED, "out of memory");
        for (size_t i = 0; r >= 0 && i < n; i++) {
                json_object *snapshot = json_object_array_get_idx(snapshots, i);
                const char *path = member_text(snapshot, "path");
                if (!isempty(path))
                        paths[i] = strdup(path);
                else
                        mounted[i] = vss_snapshot_mount(s, member_text(snapshot, "id"), NULL, &paths[i]) >= 0;
        }
        pid_t pid = r < 0 ? -1 : exec_start(c, given_value(c, "exec"), paths);
        if (r >= 0)
                r = pid < 0 ? context_fail(c, CONDITION_LIMIT_REACHED, "cannot start --exec: %s", strerror(errno)) :
                              exec_wait(c, pid);
        for (size_t i = 0; paths && i < n; i++) {
                if (mounted[i])
                        (void) vss_snapshot_unmount(s, member_text(json_object_array_get_idx(snapshots, i), "id"));
                free(paths[i]);
        }
        free(paths);
        free(mounted);
        return r;
}

/* The service was given an absolute path for what is relative on the command line. */
static void name_volumes_as_given(Context *c) {
        json_object *snapshots = member(c->document, "snapshots");
        for (size_t i = 0; snapshots && i < json_object_array_length(snapshots); i++) {
                json_object *snapshot = json_object_array_get_idx(snapshots, i);
                for (size_t k = 0; k < c->n_operands; k++) {
                        _cleanup_free_ char *sent = NULL;
                        if (c->operands[k][0] != '/' && volume_to_bus(c->operands[k], &sent) >= 0 &&
                            streq(sent, member_text(snapshot, "volume"))) {
                                json_object_object_add(snapshot, "volume", json_object_new_string(c->operands[k]));
                                break;
                        }
                }
        }
}

static void print_set(Context *c) {
        static const Column columns[] = {
                { "SNAPSHOT", "id", FORMAT_TEXT },       { "VOLUME", "volume", FORMAT_TEXT },
                { "PROVIDER", "provider", FORMAT_TEXT }, { "LEVEL", "consistency", FORMAT_STATE },
                { "PATH", "path", FORMAT_TEXT },         {}
        };
        char freeze[32], hold[32];
        json_object *d = c->document;
        if (!output_people(c))
                return;
        output_line(c, "Set %s: %s, writers at rest for %s, writes held for %s", member_text(d, "set"),
                    member_text(d, "consistency"),
                    format_duration((uint64_t) member_number(d, "timing.freeze_usec"), freeze, sizeof(freeze)),
                    format_duration((uint64_t) member_number(d, "timing.hold_usec"), hold, sizeof(hold)));
        output_table(c, member(d, "snapshots"), columns);
        json_object *writers = member(d, "writers");
        for (size_t i = 0; writers && i < json_object_array_length(writers); i++) {
                json_object *w = json_object_array_get_idx(writers, i);
                if (member(w, "error"))
                        output_note(c, "warning: writer %s: %s", member_text(w, "name"),
                                    member_text(w, "error.message"));
        }
        (void) fflush(stdout);
}

/* Until somebody ends us: a signal, the end of standard input, or the service going away. */
static int stay(Context *c, struct vss_set *s) {
        output_document(c);
        (void) fflush(stdout);
        while (!interrupted) {
                struct pollfd fds[] = { { .fd = STDIN_FILENO, .events = POLLIN },
                                        { .fd = sd_bus_get_fd(c->requester->bus), .events = POLLIN } };
                char buffer[4096];
                if (poll(fds, ELEMENTSOF(fds), -1) < 0 && errno == EINTR)
                        continue;
                if (fds[0].revents && read(STDIN_FILENO, buffer, sizeof(buffer)) <= 0)
                        break;
                int k = fds[1].revents ? sd_bus_process(c->requester->bus, NULL) : 0;
                if (k < 0) {
                        c->printed = true;
                        return context_fail(c, CONDITION_UNAVAILABLE,
                                            "the connection to the service was lost, and with it set %s",
                                            vss_set_id(s));
                }
        }
        /* It would go with the connection too; this way it is gone when we are. */
        (void) vss_set_delete(s, VSS_DELETE_FORCE);
        return 0;
}

static int create_failed(Context *c, struct vss_set *s, int r) {
        (void) vss_set_delete(s, VSS_DELETE_FORCE);
        json_object_object_add(c->document, "state", json_object_new_string("deleted"));
        json_object_object_add(c->document, "snapshots", json_object_new_array());
        return r;
}

static int create_run(Context *c) {
        _cleanup_(set_handle_freep) struct vss_set *s = NULL;
        if (c->dry_run)
                return verb_plan.run(c);
        int r = make_set(c, &s);
        if (r < 0)
                return r;
        r = describe_set_full(c, s->path, false, &c->document);
        if (r >= 0)
                name_volumes_as_given(c);
        if (r < 0)
                return r; /* it is there, but vssd does not answer any more */
        r = make_set_manifest(c, s);
        if (r >= 0 && given_value(c, "exec"))
                r = exec_run(c, s);
        if (r < 0)
                return create_failed(c, s, r);
        print_set(c);
        return given_flag(c, "auto-release") ? stay(c, s) : 0;
}

const Verb verb_create = {
        .name = "create",
        .operands = "VOLUME...",
        .summary = "make a snapshot set: one instant over all volumes, with every application on them at rest",
        .options = { create_options, set_options },
        .max_operands = UINT32_MAX,
        .operand_check = check_volume,
        .changes = true,
        .examples =
                "  vssctl create /srv/db\n"
                "  vssctl create / /home --require=application --label=alias=nightly\n"
                "  vssctl create /srv/db --manifest=/backup/db.json --exec='tar -C \"$VSS_PATH_1\" -cf /backup/db.tar .'\n",
        .check = create_check,
        .run = create_run,
};
