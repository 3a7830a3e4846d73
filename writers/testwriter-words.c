/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a test writer says and is told: a document of a file's own, answers from the command line, the session on
 * stdout.
 */
#include "writers/testwriter.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

int answer_add(Test *t, const char *value, Failure *reterr) {
        _cleanup_free_ char *copy = strdup(value);
        char *component = copy ? strchr(copy, ':') : NULL, *key = component ? strchr(component + 1, ':') : NULL,
             *equals = key ? strchr(key, '=') : NULL;
        Answer a = {};
        int event;

        if (!equals)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s is not EVENT:COMPONENT:KEY=VALUE", value);
        *component++ = *key++ = *equals++ = '\0';
        event = writer_event_from_string(copy);
        if (event < 0)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s does not begin with an event such as freeze",
                                   value);
        if (t->n_answers >= ANSWERS_MAX)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "more than %d answers", ANSWERS_MAX);
        a = (Answer) { (WriterEvent) event, strdup(component), strdup(key), strdup(equals) };
        t->answers[t->n_answers++] = a;
        return a.component && a.key && a.value ? 0 : -ENOMEM;
}

/* A restore may be of a part: what would be said of something else is not said. */
static bool is_asked(const struct vss_event *e, const char *component) {
        if (e->kind != EVENT_PRE_RESTORE && e->kind != EVENT_POST_RESTORE)
                return true;
        for (size_t i = 0; i < e->n_components; i++)
                if (streq(e->components[i].path, component))
                        return true;
        return false;
}

void answers_put(const Test *t, struct vss_event *e) {
        for (size_t i = 0; i < t->n_answers; i++) {
                const Answer *a = &t->answers[i];
                if (a->event == e->kind && is_asked(e, a->component) &&
                    vss_event_put(e, a->component, a->key, a->value) < 0)
                        fprintf(stderr, "vss-testwriter: %s:%s cannot be said\n", a->component, a->key);
        }
}

void answers_done(Test *t) {
        for (size_t i = 0; i < t->n_answers; i++) {
                free(t->answers[i].component);
                free(t->answers[i].key);
                free(t->answers[i].value);
        }
}

/* told NAME EVENT COMPONENT|- KEY VALUE; lines of a list are joined by "|". */
void say_session(const TestWriter *t, const struct vss_event *e) {
        for (size_t i = 0; i < e->session.n; i++) {
                const EventValue *v = &e->session.v[i];
                printf("told %s %s %s %s ", t->name, writer_event_to_string(e->kind), v->component ? v->component : "-",
                       v->key);
                for (const char *p = v->text; *p; p++)
                        (void) putchar(*p == '\n' ? '|' : *p);
                (void) putchar('\n');
        }
}

int identify_by_document(const Test *t, struct vss_metadata *m) {
        _cleanup_close_ int fd = open(t->document, O_RDONLY | O_CLOEXEC);
        _cleanup_free_ char *text = NULL;
        struct stat st;
        ssize_t n;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (st.st_size > LIMIT_METADATA_BYTES)
                return -EFBIG;
        text = malloc((size_t) st.st_size + 1);
        if (!text)
                return -ENOMEM;
        n = read(fd, text, (size_t) st.st_size);
        if (n < 0)
                return -errno;
        text[n] = '\0';
        return vss_metadata_json(m, text);
}
