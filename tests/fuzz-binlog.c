/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two files of MariaDB's binary log, the second as the one that follows the first, for libFuzzer (`tests/fuzz SECONDS
 * binlog`) and, without it, as a test that replays what is in tests/corpus/binlog: the first two bytes are the length
 * of the first file. Events lie within their file, one behind the other, and what is refused is told in words.
 */
#include "tests/fuzz-target.h"
#include "writers/mariadb-chain.h"

static void read_one(BinlogChain *chain, const uint8_t *data, size_t size) {
        static const char path[] = "/dev/shm/vss-fuzz-binlog";
        char name[64];
        BinlogFile f;
        BinlogEvent e;
        Failure failure = {};
        uint64_t end = 0;
        (void) snprintf(name, sizeof(name), "%s.%d", path, (int) getpid());
        _cleanup_close_ int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
        MUST(fd >= 0 && write(fd, data, size) == (ssize_t) size);
        int r = binlog_open(AT_FDCWD, name, &f, &failure);
        (void) unlink(name);
        MUST(r < 0 ? failure.message[0] && !f.file : !failure.message[0]);
        if (r < 0)
                return;
        while ((r = binlog_next(&f, &e, &failure)) > 0) {
                MUST(e.at >= end && e.next > e.at && e.next <= size);
                end = e.next;
                r = binlog_chain_take(chain, &f, &e, &failure);
                if (r < 0)
                        break;
                MUST(chain->n <= BINLOG_GTIDS_MAX && (chain->n == 0 || chain->begun));
        }
        MUST((r < 0) == (failure.message[0] != '\0'));
        if (r >= 0)
                binlog_chain_end(chain, &f);
        binlog_close(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        BinlogChain chain = BINLOG_CHAIN_NONE;
        if (size < 2)
                return 0;
        size_t first = MIN_OF((size_t) data[0] | (size_t) data[1] << 8, size - 2);
        read_one(&chain, data + 2, first);
        read_one(&chain, data + 2 + first, size - 2 - first);
        (void) binlog_chain_is_at(&chain, "0-1-1,5-7-2");
        binlog_chain_done(&chain);
        return 0;
}

#ifndef FUZZING
int main(void) {
        return replay_corpus("binlog", 8);
}
#endif
