/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The command line: one table of options per verb, global ones before or after the verb, everything checked before
 * anything else happens. Not getopt_long(): that one takes abbreviations (which break when an option is added) and
 * prints its own lines.
 */
#include "client/verbs.h"

static const Option globals[] = {
        { "json", 'j', NULL, true, NULL, "print one JSON document on standard output" },
        { "no-pager", 0, NULL, true, NULL, "do not pipe text into a pager" },
        { "quiet", 'q', NULL, true, NULL, "print nothing but errors and what was asked for" },
        { "host", 'H', "[USER@]HOST", false, check_any, "do it on another host, through ssh" },
        { "timeout", 0, "SEC", false, check_seconds, "give up after SEC seconds (default: the service's own budgets)" },
        { "no-ask-password", 0, NULL, true, NULL, "never ask for a password" },
        { "help", 'h', NULL, true, NULL, "show this" },
        { "version", 0, NULL, true, NULL, "show the version" },
        {},
};
static const Option changing[] = {
        { "dry-run", 'n', NULL, true, NULL, "do all the checks and change nothing" },
        {},
};
static const Option *const all_globals[] = { globals, changing, NULL };

const Option *const *global_options(void) {
        return all_globals;
}

static const Option *table_find(const Option *table, const char *name, size_t length, char letter) {
        for (const Option *o = table; o && o->name; o++)
                if (letter ? o->letter == letter : strlen(o->name) == length && strncmp(o->name, name, length) == 0)
                        return o;
        return NULL;
}

static const Option *option_find(const Verb *verb, const char *name, size_t length, char letter) {
        const Option *o = table_find(globals, name, length, letter);
        if (!o)
                o = table_find(changing, name, length, letter);
        for (size_t i = 0; !o && verb && i < ELEMENTSOF(verb->options); i++)
                o = table_find(verb->options[i], name, length, letter);
        return o;
}

static int check_text(Context *c, const char *what, const char *value, ArgumentCheck check) {
        char *visible = NULL;
        const char *takes = NULL;
        if (isempty(value))
                takes = "must not be empty";
        else if (strlen(value) > LIMIT_STRING_BYTES)
                takes = "must not be over 4096 bytes";
        else if (check)
                takes = check(value);
        if (!takes)
                return 0;
        visible = isempty(value) || strlen(value) > 200 ? NULL : text_visible(value);
        int r = visible ? context_usage(c, "%s %s, not \"%s\"", what, takes, visible) :
                          context_usage(c, "%s %s", what, takes);
        free(visible);
        return r;
}

static int given_add(Context *c, const Option *o, const char *value) {
        char what[64];
        (void) snprintf(what, sizeof(what), "option --%s", o->name);
        if (o->value && check_text(c, what, value, o->check) < 0)
                return -EINVAL;
        if (!o->many)
                for (size_t i = 0; i < c->n_given; i++)
                        if (c->given[i].option == o)
                                return context_usage(c, "option --%s is given twice", o->name);
        c->given[c->n_given++] = (Given) { o, value };
        return 0;
}

/* "--name", "--name=VALUE", "--name VALUE"; *i may move on. */
static int parse_long(Context *c, const Verb *verb, char **argv, size_t *i) {
        const char *text = argv[*i] + 2, *equals = strchr(text, '=');
        size_t length = equals ? (size_t) (equals - text) : strlen(text);
        const Option *o = option_find(verb, text, length, 0);
        if (!o) {
                _cleanup_free_ char *visible = strndup(text, MIN_OF(length, 64u)),
                                    *shown = visible ? text_visible(visible) : NULL;
                return context_usage(c, "unknown option --%s", shown ? shown : "");
        }
        if (!o->value && equals)
                return context_usage(c, "option --%s takes no value", o->name);
        if (o->value && !equals && !argv[*i + 1])
                return context_usage(c, "option --%s needs %s", o->name, o->value);
        return given_add(c, o, !o->value ? NULL : equals ? equals + 1 : argv[++*i]);
}

/* "-q", "-qj", "-Hhost", "-H host" */
static int parse_short(Context *c, const Verb *verb, char **argv, size_t *i) {
        for (const char *p = argv[*i] + 1; *p; p++) {
                const Option *o = option_find(verb, NULL, 0, *p);
                if (!o)
                        return *p > ' ' && *p < 0x7f ? context_usage(c, "unknown option -%c", *p) :
                                                       context_usage(c, "unknown option");
                if (!o->value) {
                        if (given_add(c, o, NULL) < 0)
                                return -EINVAL;
                        continue;
                }
                if (!p[1] && !argv[*i + 1])
                        return context_usage(c, "option -%c needs %s", *p, o->value);
                return given_add(c, o, p[1] ? p + 1 : argv[++*i]);
        }
        return 0;
}

/* The verb decides which options there are, so it is found first: the first word that is no option and no option's
 * value. */
static int find_verb(Context *c, char **argv, const Verb *const *verbs) {
        for (size_t i = 1; argv[i] && !streq(argv[i], "--"); i++) {
                const char *word = argv[i];
                if (word[0] == '-' && word[1]) {
                        const char *name = word + 2, *equals = strchr(word, '=');
                        const Option *o = word[1] == '-' ? table_find(globals, name, strlen(name), 0) :
                                                           table_find(globals, NULL, 0, word[1]);
                        i += o && o->value && !equals && (word[1] == '-' || !word[2]) && argv[i + 1];
                        continue;
                }
                for (size_t k = 0; verbs[k]; k++)
                        if (streq(verbs[k]->name, word)) {
                                c->verb = verbs[k];
                                return (int) i;
                        }
                _cleanup_free_ char *shown = strlen(word) <= 64 ? text_visible(word) : NULL;
                return context_usage(c, "there is no verb \"%s\"; `vssctl --help` lists them", shown ? shown : "…");
        }
        return 0;
}

static void take_globals(Context *c) {
        c->json = given_flag(c, "json");
        c->quiet = given_flag(c, "quiet");
        c->no_pager = given_flag(c, "no-pager");
        c->no_ask_password = given_flag(c, "no-ask-password");
        c->dry_run = given_flag(c, "dry-run");
        if (given_value(c, "timeout"))
                (void) parse_seconds(given_value(c, "timeout"), &c->timeout_usec);
}

static int check_operands(Context *c) {
        const Verb *v = c->verb;
        for (size_t i = 0; i < c->n_operands; i++)
                if (check_text(c, v->operands, c->operands[i], v->operand_check) < 0)
                        return -EINVAL;
        if (c->n_operands < v->min_operands)
                return context_usage(c, "needs %s", v->operands);
        if (c->n_operands > v->max_operands)
                return v->max_operands == 0 ? context_usage(c, "takes no operands") :
                                              context_usage(c, "takes at most %u operand%s", v->max_operands,
                                                            v->max_operands == 1 ? "" : "s");
        if (v->command && (!c->command || !c->command[0]))
                return context_usage(c, "needs a command after \"--\"");
        if (c->dry_run && !v->changes)
                return context_usage(c, "changes nothing, so --dry-run means nothing");
        return v->check ? v->check(c) : 0;
}

int arguments_parse(Context *c, char **argv, const Verb *const *verbs) {
        size_t n = 0;
        while (argv[n])
                n++;
        c->given = calloc(2 * n + 64, sizeof(*c->given)); /* "-qqq": a flag per letter is bounded below */
        c->operands = calloc(n + 1, sizeof(*c->operands));
        if (!c->given || !c->operands)
                return context_fail(c, CONDITION_LIMIT_REACHED, "out of memory");
        for (size_t i = 1; i < n; i++) /* an error must come in the form that was asked for */
                if (streq(argv[i], "--"))
                        break;
                else if (streq(argv[i], "--json") || streq(argv[i], "-j"))
                        c->json = true;
        int at = find_verb(c, argv, verbs);
        if (at < 0)
                return at;
        for (size_t i = 1; argv[i]; i++) {
                int r = 0;
                if (streq(argv[i], "--") && c->verb && c->verb->command) {
                        c->command = argv + i + 1;
                        break;
                }
                if (argv[i][0] == '-' && argv[i][1] && strlen(argv[i]) > LIMIT_STRING_BYTES + 64)
                        r = context_usage(c, "an argument is over 4096 bytes");
                else if (streq(argv[i], "--"))
                        while (argv[i + 1])
                                c->operands[c->n_operands++] = argv[++i];
                else if (argv[i][0] == '-' && argv[i][1] == '-')
                        r = parse_long(c, c->verb, argv, &i);
                else if (argv[i][0] == '-' && argv[i][1])
                        r = strlen(argv[i]) > 32 && !strchr("H", argv[i][1]) ? context_usage(c, "unknown option") :
                                                                               parse_short(c, c->verb, argv, &i);
                else if ((int) i != at)
                        c->operands[c->n_operands++] = argv[i];
                if (r < 0)
                        return r;
                if (c->n_given > 2 * n + 30)
                        return context_usage(c, "too many options");
        }
        take_globals(c);
        if (given_flag(c, "help") || given_flag(c, "version"))
                return 0;
        return c->verb ? check_operands(c) : context_usage(c, "says no verb; `vssctl --help` lists them");
}

bool given_flag(const Context *c, const char *name) {
        size_t i = 0;
        for (; i < c->n_given; i++)
                if (streq(c->given[i].option->name, name))
                        return true;
        return false;
}

const char *given_value(const Context *c, const char *name) {
        for (size_t i = c->n_given; i > 0; i--)
                if (streq(c->given[i - 1].option->name, name))
                        return c->given[i - 1].value;
        return NULL;
}

const char *given_next(const Context *c, const char *name, size_t *i) {
        while (*i < c->n_given) {
                const Given *g = &c->given[(*i)++];
                if (streq(g->option->name, name))
                        return g->value;
        }
        return NULL;
}
