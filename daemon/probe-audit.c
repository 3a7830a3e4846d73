/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/probe-audit.h"
#include <ctype.h>
#include <dirent.h>
#include <strings.h>

#define AUDITD_CONF "/etc/audit/auditd.conf"
#define AUDITD_LOG "/var/log/audit/audit.log"

/* "key = value": cut at the first blank behind the value, as auditd does. NULL: no such line. */
static const char *value_of(char *line, const char *key) {
        size_t n = strlen(key);
        char *p = line + strspn(line, " \t");

        if (strncasecmp(p, key, n) != 0)
                return NULL;
        p += n;
        p += strspn(p, " \t");
        if (*p++ != '=')
                return NULL;
        p += strspn(p, " \t");
        p[strcspn(p, " \t\r\n")] = '\0';
        return p;
}

bool audit_log_of(FILE *f, char ret[AUDIT_PATH_MAX]) {
        char line[AUDIT_PATH_MAX + 64];
        bool writes = true;

        (void) snprintf(ret, AUDIT_PATH_MAX, "%s", AUDITD_LOG);
        for (unsigned i = 0; f && i < AUDIT_LINES_MAX && fgets(line, sizeof(line), f); i++) {
                const char *log = value_of(line, "log_file"), *write = log ? NULL : value_of(line, "write_logs");

                if (log && log[0] == '/' && strlen(log) < AUDIT_PATH_MAX)
                        (void) snprintf(ret, AUDIT_PATH_MAX, "%s", log);
                if (write)
                        writes = strcasecmp(write, "no") != 0;
        }
        return writes;
}

static bool is_auditd(const char *pid) {
        char path[64], name[16] = "";
        FILE *f;

        (void) snprintf(path, sizeof(path), "/proc/%.20s/comm", pid);
        f = fopen(path, "re");
        if (!f)
                return false;
        if (fgets(name, sizeof(name), f))
                name[strcspn(name, "\n")] = '\0';
        (void) fclose(f);
        return streq(name, "auditd");
}

bool auditd_runs(void) {
        struct dirent *entry;
        bool found = false;
        DIR *proc = opendir("/proc");

        while (proc && !found && (entry = readdir(proc)))
                found = isdigit((unsigned char) entry->d_name[0]) && is_auditd(entry->d_name);
        if (proc)
                (void) closedir(proc);
        return found;
}

bool audit_log_find(char ret[AUDIT_PATH_MAX]) {
        FILE *f = fopen(AUDITD_CONF, "re");
        bool writes = audit_log_of(f, ret);

        if (f)
                (void) fclose(f);
        return writes;
}
