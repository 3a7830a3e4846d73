/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A requester: takes a consistent copy of a volume, saves it with tar, and tells the writers whether that went well.
 * cc nightly.c $(pkg-config --cflags --libs vss)
 *
 *      nightly VOLUME ARCHIVE [LEVEL]          LEVEL: application (default), filesystem, crash
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vss-requester.h>

static bool save(const char *directory, const char *archive) {
        int status = 1;
        pid_t pid = fork();

        if (pid == 0) {
                execlp("tar", "tar", "-C", directory, "-cf", archive, ".", (char *) NULL);
                _exit(127);
        }
        return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int main(int argc, char *argv[]) {
        struct vss_requester *r = NULL;
        struct vss_set *s = NULL;
        const struct vss_snapshot_info *i;
        char *path = NULL;
        bool saved = false, ok = false;

        if (argc < 3) {
                fprintf(stderr, "usage: nightly VOLUME ARCHIVE [LEVEL]\n");
                return 2;
        }
        if (vss_requester_open("nightly", &r) < 0 || vss_set_new(r, &s) < 0 ||
            vss_set_add_volume(s, argv[1], NULL) < 0 || vss_set_option(s, "backup_type", "full") < 0 ||
            vss_set_option(s, "require", argc > 3 ? argv[3] : "application") < 0 || vss_set_create(s) < 0 ||
            vss_set_wait(s, UINT64_MAX, NULL, NULL) < 0 || vss_set_snapshot(s, 0, &i) < 0 ||
            vss_snapshot_mount(s, i->id, NULL, &path) < 0)
                goto out;
        saved = save(path, argv[2]);
        ok = vss_set_complete(s, saved) == 0 && saved; /* only now, and only if saved, may logs be truncated */
        if (ok)
                printf("nightly: %s saved at level %s\n", argv[1], vss_set_consistency(s));
out:
        if (path && !saved)
                fprintf(stderr, "nightly: tar failed\n");
        else if (!ok)
                fprintf(stderr, "nightly: %s\n", r ? vss_requester_error(r)->message : "cannot reach vssd");
        free(path);
        vss_set_free(s);
        vss_requester_close(r); /* auto-release: the copy goes here, whatever happened */
        return !ok;
}
