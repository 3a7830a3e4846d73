/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The commands of vss-cow that need no engine. argv[0] is the command's own word. They return the exit status: 0, 1 it
 * could not be done, 2 usage, 8 the store is in use, 11 it is damaged (check only).
 */
enum { TOOL_OK = 0, TOOL_CANNOT = 1, TOOL_USAGE = 2, TOOL_BUSY = 8, TOOL_DAMAGED = 11 };

int cow_check_main(int argc, char **argv);
int cow_dump_main(int argc, char **argv);
