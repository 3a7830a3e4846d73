/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The commands of vss-cow that serve nobody. argv[0] is the command's own word. They return the exit status: 0, 1 it
 * could not be done, 2 usage, 8 the store is in use; format only: 3 it holds something, 4 there is no such directory,
 * 7 no space, 10 it cannot be a store; check only: 11 it is damaged.
 */
enum {
        TOOL_OK = 0,
        TOOL_CANNOT = 1,
        TOOL_USAGE = 2,
        TOOL_HOLDS = 3,
        TOOL_NOT_THERE = 4,
        TOOL_SPACE = 7,
        TOOL_BUSY = 8,
        TOOL_UNSUITABLE = 10,
        TOOL_DAMAGED = 11,
};

int cow_format_main(int argc, char **argv);
int cow_check_main(int argc, char **argv);
int cow_dump_main(int argc, char **argv);
int cow_attach_main(int argc, char **argv);
int cow_stop_main(int argc, char **argv);
