/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vss-cow: the commands, their options, and the parent of `serve`, who stays until there is something to say. */
#include "providers/cow/control.h"
#include "providers/cow/holder.h"
#include "providers/cow/origin.h"
#include "providers/cow/parse.h"
#include "providers/cow/ring.h"
#include "providers/cow/tools.h"
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_SPACE = 7, EXIT_BUSY = 8, EXIT_UNSUITABLE = 10 };

static int help(void) {
        puts("vss-cow: the copy-on-write engine of vss\n\n"
             "  vss-cow format --store=PATH --size=BYTES [--segment-blocks=N]\n"
             "  vss-cow serve --store=PATH --directory=DIR [--links=DIR] [--foreground]\n"
             "  vss-cow check STORE [--json] [--volume-data]\n"
             "  vss-cow dump STORE [--json] [PART]\n\n"
             "People use vssctl volume …, which starts and asks it. See vss-cow(8).\n\n"
             "  vss-cow format --store=/var/lib/vss/cow/default.store --size=10737418240\n"
             "  vss-cow check /var/lib/vss/cow/default.store");
        return EXIT_SUCCESS;
}

static int usage(const char *why) {
        fprintf(stderr, "vss-cow: %s; see vss-cow --help\n", why);
        return EXIT_USAGE;
}

static bool number_parse(const char *s, uint64_t *ret) {
        char *end;
        errno = 0;
        *ret = strtoull(s, &end, 10);
        return s[0] >= '0' && s[0] <= '9' && !*end && errno == 0;
}

/* --- format ------------------------------------------------------------------------------------------------------- */

typedef struct Formatted {
        Reply reply;
        bool came;
        int result;
} Formatted;

static void formatted(Reply *r, int result) {
        Formatted *f = r->owner;
        f->came = true;
        f->result = result;
}

static int format_store(int fd, uint64_t bytes, uint32_t segment_blocks) {
        _cleanup_(ring_freep) Ring *ring = NULL;
        Formatted f = { .reply = { .done = formatted, .owner = &f } };
        uint8_t uuid[16];
        int r = ring_new(&ring);
        r = r < 0 ? r : ring_set_file(ring, DISK_STORE, fd);
        if (r < 0 || getrandom(uuid, sizeof(uuid), 0) != sizeof(uuid))
                return r < 0 ? r : -EIO;
        uuid[6] = (uuid[6] & 0x0f) | 0x40;
        uuid[8] = (uuid[8] & 0x3f) | 0x80;
        Engine *e;
        r = engine_new(&(EngineOptions) { .disk = ring_disk(ring), .store_bytes = bytes }, &e);
        if (r < 0)
                return r;
        engine_format(e, uuid, (uint32_t) (bytes / BLOCK_SIZE / segment_blocks), segment_blocks, &f.reply);
        while (!f.came && r >= 0)
                r = ring_wait(ring);
        engine_free(e);
        return r < 0 ? r : f.result;
}

/* Nothing but zeros where file systems and tables of partitions begin. */
static bool is_blank(int fd) {
        static uint8_t head[1024 * 1024];
        ssize_t n = pread(fd, head, sizeof(head), 0);
        return n == (ssize_t) sizeof(head) && head[0] == 0 && memcmp(head, head + 1, sizeof(head) - 1) == 0;
}

/* An empty file, a blank device, one that is not there yet, or a store; what holds anything else is somebody's. */
static int format_open(const char *path, uint64_t bytes, char *text, size_t n) {
        uint8_t uuid[16];
        struct stat st;
        bool made = false;
        _cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 && errno == ENOENT) {
                fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
                made = true;
        }
        if (fd < 0 || fstat(fd, &st) < 0) {
                (void) snprintf(text, n, "%s: %s", path, strerror(errno));
                return -errno;
        }
        bool empty = S_ISBLK(st.st_mode) ? is_blank(fd) : st.st_size == 0;
        if (!empty && store_identify(path, uuid, text, n) < 0) {
                (void) snprintf(text, n, "%s is not empty and not a store: nothing was changed; give another path%s",
                                path, S_ISBLK(st.st_mode) ? ", or write zeros to its first MiB" : "");
                return -EEXIST;
        }
        _cleanup_close_ int kept = store_open(path, text, n);
        int r = kept < 0 ? kept : 0;
        _cleanup_close_ int claimed = r < 0 ? -EBADF : file_claim(kept, 0); /* before anything of it changes */
        if (r == 0 && claimed < 0) {
                r = claimed;
                (void) snprintf(text, n, "%s is in use: %s", path,
                                claimed == -EWOULDBLOCK ? "a vss-cow serves it" : strerror(-claimed));
        }
        if (r == 0 && S_ISREG(st.st_mode) && ftruncate(claimed, (off_t) bytes) < 0) {
                r = -errno;
                (void) snprintf(text, n, "%s cannot be made %lu bytes long: %s", path, bytes, strerror(errno));
        }
        if (r < 0 && made)
                (void) unlink(path);
        return r < 0 ? r : TAKE_FD(claimed);
}

static int exit_of(int r) {
        switch (-r) {
        case ENOENT:
                return 4;
        case ENOSPC:
        case EFBIG:
        case EDQUOT:
                return EXIT_SPACE;
        case EBUSY:
        case EWOULDBLOCK:
                return EXIT_BUSY;
        case EINVAL:
        case EEXIST:
                return EXIT_UNSUITABLE;
        default:
                return EXIT_FAILED;
        }
}

static int format_main(int argc, char **argv) {
        static const struct option options[] = { { "store", required_argument, NULL, 's' },
                                                 { "size", required_argument, NULL, 'z' },
                                                 { "segment-blocks", required_argument, NULL, 'b' },
                                                 {} };
        const char *store = NULL;
        uint64_t bytes = 0, segment_blocks = SEGMENT_BLOCKS;
        char text[HOLDER_TEXT_MAX] = "";
        for (int c; (c = getopt_long(argc, argv, "", options, NULL)) >= 0;)
                if (c == 's')
                        store = optarg;
                else if (c == '?' || !number_parse(optarg, c == 'z' ? &bytes : &segment_blocks))
                        return usage("a size is a number of bytes");
        if (!store || optind < argc || bytes == 0)
                return usage("format needs --store=PATH and --size=BYTES");
        if (segment_blocks < SEGMENT_BLOCKS_MIN || segment_blocks > SEGMENT_BLOCKS_MAX ||
            bytes / BLOCK_SIZE / segment_blocks < STORE_SEGMENTS_MIN ||
            bytes / BLOCK_SIZE / segment_blocks > STORE_SEGMENTS_MAX)
                return usage("a store has 16 to 1048576 segments, of 8 MiB unless told otherwise");
        _cleanup_close_ int fd = format_open(store, bytes, text, sizeof(text));
        int r = fd < 0 ? fd : format_store(fd, bytes, (uint32_t) segment_blocks);
        if (r == 0)
                return EXIT_SUCCESS;
        fprintf(stderr, "vss-cow: %s\n", text[0] ? text : strerror(-r));
        return exit_of(r);
}

/* --- serve -------------------------------------------------------------------------------------------------------- */

/* Waits for what the first server says: "STATUS TEXT". Nothing: the holder has said why itself, and ended. */
static int serve_wait(pid_t pid, int fd) {
        char line[HOLDER_PATH_MAX + 16] = "";
        size_t n = 0;
        for (ssize_t got = 1; got > 0 && n < sizeof(line) - 1 && !memchr(line, '\n', n);
             n += got > 0 ? (size_t) got : 0)
                got = read(fd, line + n, sizeof(line) - 1 - n);
        line[strcspn(line, "\n")] = '\0';
        const char *text = strchr(line, ' ');
        int status;
        if (!text)
                return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) ?
                               WEXITSTATUS(status) :
                               EXIT_FAILED;
        if (line[0] != '0' || line[1] != ' ') {
                fprintf(stderr, "vss-cow: %s\n", text + 1);
                return atoi(line);
        }
        printf("ready%s\n", text);
        return EXIT_SUCCESS;
}

static int serve_start(ServeOptions *o, bool foreground) {
        int ready[2];
        if (pipe2(ready, O_CLOEXEC) < 0)
                return EXIT_FAILED;
        pid_t pid = fork();
        if (pid < 0)
                return EXIT_FAILED;
        if (pid == 0) {
                int null = open("/dev/null", O_RDWR | O_CLOEXEC);
                (void) dup2(null, STDIN_FILENO);
                (void) dup2(null, STDOUT_FILENO);
                (void) close(ready[0]);
                if (!foreground)
                        (void) setsid();
                o->ready = ready[1];
                exit(holder_main(o));
        }
        (void) close(ready[1]);
        int r = serve_wait(pid, ready[0]);
        (void) fflush(stdout);
        int status;
        if (!foreground || r != EXIT_SUCCESS)
                return r;
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILED;
}

static int serve_main(int argc, char **argv) {
        static const struct option options[] = { { "store", required_argument, NULL, 's' },
                                                 { "directory", required_argument, NULL, 'd' },
                                                 { "links", required_argument, NULL, 'l' },
                                                 { "foreground", no_argument, NULL, 'f' },
                                                 {} };
        ServeOptions o = { .links = "" };
        bool foreground = false;
        for (int c; (c = getopt_long(argc, argv, "", options, NULL)) >= 0;)
                if (c == 's')
                        o.store = optarg;
                else if (c == 'd')
                        o.directory = optarg;
                else if (c == 'l')
                        o.links = optarg;
                else if (c == 'f')
                        foreground = true;
                else
                        return usage("serve does not know that option");
        if (!o.store || o.store[0] != '/' || !o.directory || o.directory[0] != '/' || optind < argc ||
            (o.links[0] && o.links[0] != '/'))
                return usage("serve needs --store=PATH and --directory=DIR, both absolute");
        return serve_start(&o, foreground);
}

int main(int argc, char **argv) {
        static const struct {
                const char *name;
                int (*main)(int argc, char **argv);
        } verbs[] = { { "format", format_main },
                      { "serve", serve_main },
                      { "check", cow_check_main },
                      { "dump", cow_dump_main } };
        if (argc < 2)
                return usage("what is it to do?");
        if (streq(argv[1], "--help") || streq(argv[1], "-h"))
                return help();
        if (streq(argv[1], "--version")) {
                puts("vss-cow " VSS_VERSION);
                return EXIT_SUCCESS;
        }
        for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
                if (streq(argv[1], verbs[i].name))
                        return verbs[i].main(argc - 1, argv + 1);
        return usage("there is no such command");
}
