/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "writers/exec-identity.h"
#include "protocol/base.h"

/* "/srv/app/db*" is root and pattern. */
static int put_files(struct vss_metadata *m, const char *component, char *value, uint32_t flags, bool exclude) {
        char *slash = strrchr(value, '/');
        const char *root = value;

        if (!slash || value[0] != '/')
                return -EINVAL;
        *slash = 0;
        if (slash == value)
                root = "/";
        return exclude ? vss_metadata_exclude(m, root, slash + 1, flags) :
                         vss_metadata_files(m, component, root, slash + 1, flags);
}

static int put_line(struct vss_metadata *m, char *line, char **component) {
        char *value = strchr(line, '='), *caption;
        uint32_t flags = VSS_COMPONENT_SELECTABLE | VSS_COMPONENT_SELECTABLE_FOR_RESTORE |
                         VSS_COMPONENT_NOTIFY_COMPLETE;

        if (!value)
                return -EINVAL;
        *value++ = 0;
        if (streq(line, "component") || streq(line, "database")) {
                caption = strchr(value, ' ');
                if (caption)
                        *caption++ = 0;
                *component = value;
                return vss_metadata_component(m, value, flags | (streq(line, "database") ? VSS_COMPONENT_DATABASE : 0),
                                              caption);
        }
        if (streq(line, "files"))
                return put_files(m, *component, value, 0, false);
        if (streq(line, "tree"))
                return vss_metadata_files(m, *component, value, "*", VSS_FILES_RECURSIVE);
        if (streq(line, "log"))
                return put_files(m, *component, value, VSS_FILES_LOG, false);
        if (streq(line, "exclude"))
                return put_files(m, NULL, value, 0, true);
        if (streq(line, "exclude-from-snapshot"))
                return put_files(m, NULL, value, VSS_FILES_NO_SNAPSHOT_NEEDED, true);
        return vss_metadata_set(m, line, value);
}

int identity_put(struct vss_metadata *m, char *text) {
        char *state = NULL, *component = NULL;
        int r = 0;

        if (text[strspn(text, " \t\r\n")] == '{')
                return m ? vss_metadata_json(m, text) : 0;
        for (char *line = strtok_r(text, "\n", &state); line && r >= 0; line = strtok_r(NULL, "\n", &state)) {
                line += strspn(line, " \t");
                if (!line[0] || line[0] == '#')
                        continue;
                r = m ? put_line(m, line, &component) : strchr(line, '=') ? 0 : -EINVAL;
        }
        return r;
}
