/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Manager.Defaults and Manager.Limits. */
#include "daemon/options-bus.h"

int defaults_append(sd_bus_message *m, const Budgets *b) {
        uint64_t min, max;
        const char *name;
        int r = sd_bus_message_open_container(m, 'a', "{st}");
        for (size_t i = 0; r >= 0 && (name = budget_name(i, &min, &max)); i++)
                r = sd_bus_message_append(m, "{st}", name, ((const uint64_t *) b)[i]);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

int limits_append(sd_bus_message *m, const Settings *s) {
        const struct {
                const char *name;
                uint64_t value;
        } table[] = {
                { "volumes", LIMIT_VOLUMES },
                { "writers", s->writers_max },
                { "writers_per_uid", LIMIT_WRITERS_PER_UID },
                { "metadata_bytes", LIMIT_METADATA_BYTES },
                { "metadata_bytes_per_uid", LIMIT_METADATA_BYTES_PER_UID },
                { "manifest_bytes", LIMIT_MANIFEST_BYTES },
                { "components", LIMIT_COMPONENTS },
                { "file_sets", LIMIT_FILE_SETS },
                { "labels", LIMIT_LABELS },
                { "sets_running", LIMIT_SETS_RUNNING },
                { "sets", s->sets_max },
                { "restores", LIMIT_RESTORES },
                { "set_records", LIMIT_SET_RECORDS },
                { "waiters", LIMIT_WAITERS },
                { "window_max", s->window_max_usec },
                { "session_max", s->session_max_usec },
                { "freeze_timeout_min", BUDGET_MIN_FREEZE_USEC },
        };
        uint64_t min, max;
        const char *name;
        int r = sd_bus_message_open_container(m, 'a', "{st}");
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(table); i++)
                r = sd_bus_message_append(m, "{st}", table[i].name, table[i].value);
        for (size_t i = 0; r >= 0 && (name = budget_name(i, &min, &max)); i++)
                r = sd_bus_message_append(m, "{st}", name, max);
        return r < 0 ? r : sd_bus_message_close_container(m);
}
