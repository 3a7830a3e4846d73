/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sandbox SECONDS COMMAND…: the shell tests' way into sandbox_enter(). */
#include "tests/support.h"

int main(int argc, char *argv[]) {
        if (argc < 3 || atoi(argv[1]) <= 0) {
                fprintf(stderr, "usage: sandbox SECONDS COMMAND…\n");
                return 2;
        }
        sandbox_enter((unsigned) atoi(argv[1]));
        (void) execvp(argv[2], argv + 2);
        test_die("cannot run %s", argv[2]);
}
