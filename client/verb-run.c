/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * run: a set, a command that sees it where the volumes are, BackupComplete by the command's success, and the copies go.
 * The exit status is the command's; ours are 2 for wrong usage and 125 for everything else that is not the command's
 * doing.
 */
#include "client/backup-list.h"
#include "client/private-mounts.h"
#include "client/verbs.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

static const Option run_options[] = {
        { "keep", 0, NULL, true, NULL, "keep the set afterwards" },
        {},
};

static int run_fail(Context *c, int r) {
        char message[LIMIT_MESSAGE_BYTES];
        int code = condition_exit_code(c->condition);
        if (c->exit_status < 0 || c->exit_status < 128)
                c->exit_status = EXIT_CODE_RUN_FAILED;
        (void) snprintf(message, sizeof(message), "%.440s (exit code %d)", c->error_message, code);
        (void) snprintf(c->error_message, sizeof(c->error_message), "%s", message);
        return r;
}

/* Where a volume is seen: its mount point or subvolume; a device that is mounted nowhere is seen nowhere. */
static int add_copy(Context *c, struct vss_set *s, PrivateMounts *mounts, json_object *snapshot) {
        const char *id = member_text(snapshot, "id"), *name = member_text(snapshot, "mountpoint");
        _cleanup_free_ char *path = NULL;
        struct stat st;
        if (path_from_bus(name, &path) < 0)
                return context_fail(c, CONDITION_LIMIT_REACHED, "out of memory");
        if (path[0] != '/' || stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
                return 0;
        int fd = vss_snapshot_open(s, id, VSS_OPEN_MOUNT);
        if (fd < 0)
                return context_fail_requester(c);
        return private_mounts_add(mounts, path, fd, true) < 0 ?
                       context_fail(c, CONDITION_LIMIT_REACHED, "out of memory") :
                       0;
}

static int add_copies(Context *c, struct vss_set *s, PrivateMounts *mounts) {
        json_object *snapshots = member(c->document, "snapshots");
        int r = 0;
        for (size_t i = 0; r >= 0 && i < json_object_array_length(snapshots); i++)
                r = add_copy(c, s, mounts, json_object_array_get_idx(snapshots, i));
        if (r >= 0 && mounts->n_mounts == 0)
                return context_fail(c, CONDITION_NOT_SUPPORTED,
                                    "none of the volumes is mounted, so there is no path that could show its copy");
        return r;
}

/*
 * Documents for the backup program, in memory of ours: a path below /proc reaches them whatever the copy covers, and
 * they go with us.
 */
typedef struct Lists {
        int manifest, files, excludes;
} Lists;

static void lists_done(Lists *l) {
        (void) close_fd(l->manifest);
        (void) close_fd(l->files);
        (void) close_fd(l->excludes);
}

static int write_list(const Manifest *m, void (*list)(const Manifest *m, FILE *f), int fd) {
        int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        FILE *f = copy < 0 ? NULL : fdopen(copy, "w");
        if (!f) {
                (void) close_fd(copy);
                return -ENOMEM;
        }
        list(m, f);
        return fclose(f) == EOF ? -ENOSPC : 0;
}

static int make_lists(Context *c, struct vss_set *s, Lists *l) {
        _cleanup_(manifest_done) Manifest m = {};
        l->manifest = memfd_create("vss-manifest", MFD_CLOEXEC);
        l->files = memfd_create("vss-files", MFD_CLOEXEC);
        l->excludes = memfd_create("vss-excludes", MFD_CLOEXEC);
        if (l->manifest < 0 || l->files < 0 || l->excludes < 0)
                return context_fail(c, CONDITION_FAILED, "no memory for the lists of files: %s", strerror(errno));
        if (vss_set_manifest(s, l->manifest) < 0)
                return context_fail_requester(c);
        int r = make_set_read_manifest(c, l->manifest, &m);
        if (r < 0)
                return r;
        if (write_list(&m, backup_list_files, l->files) < 0 || write_list(&m, backup_list_excludes, l->excludes) < 0)
                return context_fail(c, CONDITION_FAILED, "the lists of files cannot be written");
        return 0;
}

typedef struct Setup {
        PrivateMounts *mounts;
        const Lists *lists;
        const char *set;
        pid_t pid; /* ours */
} Setup;

static void export_list(const Setup *setup, const char *name, int fd) {
        char path[64];
        (void) snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int) setup->pid, fd);
        (void) setenv(name, path, 1);
}

static int enter(void *userdata, char *reterr, size_t size) {
        Setup *setup = userdata;
        (void) setenv("VSS_SET", setup->set, 1);
        export_list(setup, "VSS_MANIFEST", setup->lists->manifest);
        export_list(setup, "VSS_FILES", setup->lists->files);
        export_list(setup, "VSS_EXCLUDES", setup->lists->excludes);
        return private_mounts_enter(setup->mounts, reterr, size);
}

static int run_command(Context *c, struct vss_set *s, int *ret_status) {
        _cleanup_(private_mounts_done) PrivateMounts mounts = {};
        _cleanup_(lists_done) Lists lists = { -EBADF, -EBADF, -EBADF };
        Setup setup = { &mounts, &lists, vss_set_id(s), getpid() };
        char message[LIMIT_MESSAGE_BYTES] = "";
        int status = 0, exec_error = 0, r = add_copies(c, s, &mounts);
        if (r >= 0)
                r = make_lists(c, s, &lists);
        if (r < 0)
                return r;
        agent_stop(c); /* supervise() ends every child */
        /* With --json standard output belongs to the document. */
        r = supervise(c->command, enter, &setup, c->json ? STDERR_FILENO : -EBADF, &status, &exec_error, message,
                      sizeof(message));
        if (r < 0)
                return context_fail(c, CONDITION_FAILED, "%s",
                                    message[0] ? message : "the command was lost, with all it had started");
        if (exec_error != 0) {
                c->exit_status = exec_error == ENOENT ? 127 : 126;
                *ret_status = c->exit_status;
                return context_fail(c, exec_error == ENOENT ? CONDITION_NOT_FOUND : CONDITION_FAILED,
                                    "cannot run %s: %s", c->command[0], strerror(exec_error));
        }
        *ret_status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        return 0;
}

/* Whatever happened, the set is told and goes. The first failure is the error. */
static int run_end(Context *c, struct vss_set *s, bool succeeded, int r) {
        int completed = vss_set_complete(s, succeeded && r >= 0);
        if (completed < 0 && r >= 0)
                r = context_fail_requester(c);
        if (r >= 0)
                r = make_set_manifest(c, s);
        if (given_flag(c, "keep"))
                return r;
        int deleted = vss_set_delete(s, VSS_DELETE_FORCE);
        return deleted < 0 && r >= 0 ? context_fail_requester(c) : r;
}

static int run_set(Context *c, struct vss_set *s) {
        int status = 0;
        int r = describe_set_full(c, s->path, false, &c->document);
        if (r >= 0)
                r = make_set_manifest(c, s);
        if (r >= 0 && output_people(c) && isatty(STDERR_FILENO) > 0)
                output_note(c, "Set %s, level %s", vss_set_id(s), vss_set_consistency(s));
        if (r >= 0)
                r = run_command(c, s, &status);
        bool could_not_exec = r < 0 && c->exit_status >= 0;
        r = run_end(c, s, r >= 0 && status == 0, r);
        if (could_not_exec)
                return r;
        if (r < 0)
                return run_fail(c, r);
        json_object_object_add(c->document, "command_status", json_object_new_int(status));
        json_object_object_add(c->document, "kept", json_object_new_boolean(given_flag(c, "keep")));
        c->exit_status = status;
        return 0;
}

static int run_run(Context *c) {
        _cleanup_(set_handle_freep) struct vss_set *s = NULL;
        if (c->dry_run) {
                int r = verb_plan.run(c);
                return r < 0 ? run_fail(c, r) : r;
        }
        int r = make_set(c, &s);
        return r < 0 ? run_fail(c, r) : run_set(c, s);
}

const Verb verb_run = {
        .name = "run",
        .operands = "VOLUME...",
        .summary = "run a command that sees the copy where the volumes are, then drop the copy",
        .options = { run_options, set_options },
        .max_operands = UINT32_MAX,
        .operand_check = check_volume,
        .changes = true,
        .command = true,
        .examples = "  vssctl run /srv/db -- restic backup /srv/db\n"
                    "  vssctl run / /home --require=application -- tar -cf /backup/all.tar / /home\n",
        .check = make_set_check,
        .run = run_run,
};
