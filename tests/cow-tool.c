/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* cow-tool check|dump|make STORE: the commands of vss-cow that need no server, and a small store to try them on. */
#include "protocol/base.h"
#include "providers/cow/tools.h"
#include "tests/store-maker.h"
#include <stdio.h>

int main(int argc, char **argv) {
        if (argc >= 2 && streq(argv[1], "check"))
                return cow_check_main(argc - 1, argv + 1);
        if (argc >= 2 && streq(argv[1], "dump"))
                return cow_dump_main(argc - 1, argv + 1);
        if (argc != 3 || !streq(argv[1], "make"))
                return TOOL_USAGE;
        Made m;
        made_example(&m);
        FILE *f = fopen(argv[2], "we");
        bool good = f && fwrite(m.bytes, 1, m.size, f) == m.size;
        if (f && fclose(f) != 0)
                good = false;
        made_done(&m);
        return good ? 0 : 1;
}
