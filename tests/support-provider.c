/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/support-provider.h"
#include "tests/support.h"
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>

#define ANSWER_USEC (30 * USEC_PER_SEC)

static Answer answer;

void id_make(char ret[static VSS_WIRE_ID]) {
        uint8_t b[16];
        if (getrandom(b, sizeof(b), 0) != sizeof(b))
                test_die("no random numbers");
        (void) snprintf(ret, VSS_WIRE_ID, "%02x%02x%02x%02x-%02x%02x-4%01x%02x-a%01x%02x-%02x%02x%02x%02x%02x%02x",
                        b[0], b[1], b[2], b[3], b[4], b[5], b[6] & 15, b[7], b[8] & 15, b[9], b[10], b[11], b[12],
                        b[13], b[14], b[15]);
}

ProviderHost *host_new_empty(const char *provider) {
        ProviderHost *h;
        errno = -provider_host_new(provider, &h);
        if (errno != 0)
                test_die("cannot start vss-provider-host for %s", provider);
        return h;
}

ProviderHost *host_new(const char *provider) {
        ProviderHost *h = host_new_empty(provider);
        struct vss_wire_request load;
        provider_fill_load(&load, provider);
        const Answer *a = host_ask(h, &load, -1);
        errno = 0;
        if (a->result != 0)
                test_die("cannot load %s: %d, %s", provider, a->result, a->reply.message);
        return h;
}

const Answer *host_ask(ProviderHost *h, struct vss_wire_request *request, int fd) {
        answer = (Answer) { .fd = -EBADF };
        uint64_t give_up = now_usec() + ANSWER_USEC;
        answer.result = provider_host_send(h, request, give_up, fd);
        while (answer.result == 0) {
                int r = provider_host_receive(h, &answer.reply, &answer.fd);
                if (r == 0) {
                        struct pollfd p = { .fd = h->child.socket, .events = POLLIN };
                        if (now_usec() > give_up)
                                test_die("no answer to request %u in time", request->op);
                        (void) poll(&p, 1, 100);
                } else if (r < 0)
                        answer.result = r;
                else if (!answer.reply.more) {
                        answer.result = answer.reply.result;
                        break;
                } else if (answer.n_listed < LISTED_MAX)
                        answer.listed[answer.n_listed++] = answer.reply;
        }
        return &answer;
}

struct vss_wire_request *request_new(enum vss_wire_op op, const char *set, const char *snapshot) {
        static struct vss_wire_request q;
        q = (struct vss_wire_request) { .op = op };
        (void) snprintf(q.set, sizeof(q.set), "%s", set ? set : "");
        (void) snprintf(q.snapshot, sizeof(q.snapshot), "%s", snapshot ? snapshot : "");
        return &q;
}

int host_step(ProviderHost *h, enum vss_wire_op op, const char *set, const char *snapshot) {
        return host_ask(h, request_new(op, set, snapshot), -1)->result;
}

void host_wait_gone(ProviderHost *h) {
        int status;
        for (unsigned i = 0; !child_reap(&h->child, &status); i++) {
                if (i == 2000)
                        test_die("a host does not go");
                nap_msec(5);
        }
}

static char engine_area[] = "/var/tmp/vss-XXXXXX"; /* a store must not lie on tmpfs */

static void engine_volume_new(ProviderHost *h, EngineVolume *v, unsigned i) {
        if (asprintf(&v->image, "%s/origin%u", engine_area, i) < 0 ||
            asprintf(&v->path, "%s/engine%u", sandbox_directory(), i) < 0)
                test_die("out of memory");
        _cleanup_close_ int fd = open(v->image, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0 || ftruncate(fd, 64 << 20) < 0 || mkdir(v->path, 0755) < 0)
                test_die("cannot make %s", v->image);
        struct vss_wire_request *q = request_new(VSS_WIRE_VOLUME_CREATE, NULL, NULL);
        (void) snprintf(q->name, sizeof(q->name), "contract%u", i);
        (void) snprintf(q->path, sizeof(q->path), "%s", v->image);
        (void) snprintf(q->volume, sizeof(q->volume), "%s/store%u", engine_area, i > 0 ? i - 1 : 0);
        q->size_bytes = i == 1 ? 0 : 256 << 20;
        const Answer *a = host_ask(h, q, -1);
        if (a->result != 0)
                test_die("volume %u cannot be made: %s", i, a->reply.message);
        q = request_new(VSS_WIRE_VOLUME_ATTACH, NULL, NULL);
        (void) snprintf(q->name, sizeof(q->name), "contract%u", i);
        a = host_ask(h, q, -1);
        if (a->result != 0)
                test_die("volume %u cannot be attached: %s", i, a->reply.message);
        memcpy(v->device, a->reply.device, sizeof(v->device));
        char *make[] = { (char *) "mkfs.ext4", (char *) "-q", v->device, NULL };
        if (run_command(make) != 0 || mount(v->device, v->path, "ext4", 0, NULL) < 0)
                test_die("no file system on %s", v->device);
}

void engine_volumes_new(EngineVolume *ret, unsigned n) {
        if (!mkdtemp(engine_area))
                test_die("no directory in /var/tmp");
        ProviderHost *h = host_new("cow");
        for (unsigned i = 0; i < n; i++)
                engine_volume_new(h, &ret[i], i);
        (void) provider_host_free(h);
}

void engine_volumes_free(EngineVolume *volumes, unsigned n) {
        _cleanup_free_ char *tool = NULL, *runtime = NULL;
        for (unsigned i = 0; i < n; i++) {
                if (umount2(volumes[i].path, 0) < 0)
                        test_die("cannot unmount %s", volumes[i].path);
                free(volumes[i].path);
                free(volumes[i].image);
        }
        if (asprintf(&tool, "%s/tests/cow-control", getenv("VSS_SOURCE")) < 0 ||
            asprintf(&runtime, "%s/cow", getenv("RUNTIME_DIRECTORY")) < 0)
                test_die("out of memory");
        char *end[] = { tool, (char *) "--end", runtime, NULL };
        char *clean[] = { (char *) "rm", (char *) "-rf", engine_area, NULL };
        if (run_command(end) != 0 || run_command(clean) != 0)
                test_die("the engine does not end");
}
