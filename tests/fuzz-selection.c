/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The selection of `vssctl test-backup`, for libFuzzer (tests/fuzz runs it) and, without it, as a test that replays
 * what is in tests/corpus/selection. Whatever comes, the answer is one line, and what is taken can be given to create.
 */
#include "client/test-backup.h"
#include "protocol/text.h"
#include "tests/fuzz-target.h"

static void check_given(const SelectionPart *p) {
        size_t n = 0, expected = selection_count(p);
        _cleanup_free_ Given *given = calloc(expected + 1, sizeof(*given));
        MUST(given);
        selection_give(p, given, &n);
        MUST(n == expected);
        for (size_t i = 0; i < n; i++)
                MUST(given[i].option && !given[i].option->value == !given[i].value &&
                     (!given[i].value || (given[i].value[0] && text_is_valid(given[i].value, SIZE_MAX))));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_free_ char *text = malloc(MAX_OF(size, 1u)); /* exactly, so that reading on is found */
        Selection s = {};
        Context c = {};
        memcpy(text, data, size);
        int r = selection_parse(&c, "selection", text, size, &s);
        MUST((r < 0) == (c.condition != CONDITION_NONE) && (r < 0) == (c.error_message[0] != '\0'));
        MUST(text_is_valid(c.error_message, sizeof(c.error_message)));
        if (r >= 0) {
                check_given(&s.set);
                check_given(&s.restore);
                for (char **v = s.volumes; v && *v; v++)
                        MUST(**v);
        }
        selection_done(&s);
        return 0;
}

#ifndef FUZZING
int main(void) {
        return replay_corpus("selection", 20);
}
#endif
