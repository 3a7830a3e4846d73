/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "client/archive.h"
#include <ctype.h>

typedef struct TarHeader {
        char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100], magic[6],
                version[2], user[32], group[32], major[8], minor[8], prefix[155], pad[12];
} TarHeader;
_Static_assert(sizeof(TarHeader) == 512, "a tar header is one block");

int archive_add(FILE *f, const char *name, const void *data, size_t size) {
        static const char zeros[512];
        TarHeader h = {};
        size_t length = strlen(name);
        unsigned sum = 0;
        size = MIN_OF(size, (size_t) ARCHIVE_FILE_MAX);
        memcpy(h.name, length > 99 ? name + length - 99 : name, MIN_OF(length, (size_t) 99));
        (void) snprintf(h.mode, sizeof(h.mode), "0000600");
        (void) snprintf(h.uid, sizeof(h.uid), "0000000");
        (void) snprintf(h.gid, sizeof(h.gid), "0000000");
        (void) snprintf(h.size, sizeof(h.size), "%011o", (unsigned) size);
        (void) snprintf(h.mtime, sizeof(h.mtime), "%011llo", (unsigned long long) time(NULL) & 077777777777ULL);
        memset(h.checksum, ' ', sizeof(h.checksum));
        h.type = '0';
        memcpy(h.magic, "ustar", 6);
        memcpy(h.version, "00", 2);
        for (size_t i = 0; i < sizeof(h); i++)
                sum += ((const unsigned char *) &h)[i];
        (void) snprintf(h.checksum, sizeof(h.checksum), "%06o", sum);
        bool good = fwrite(&h, sizeof(h), 1, f) == 1 && (size == 0 || fwrite(data, size, 1, f) == 1);
        size_t rest = (512 - size % 512) % 512;
        return good && (rest == 0 || fwrite(zeros, rest, 1, f) == 1) ? 0 : -EIO;
}

int archive_end(FILE *f) {
        static const char zeros[1024];
        return fwrite(zeros, sizeof(zeros), 1, f) == 1 && fflush(f) == 0 ? 0 : -EIO;
}

static bool word_is_secret(const char *word, size_t length) {
        static const char *const parts[] = { "passw",      "passphrase",  "passwd",     "secret",
                                             "credential", "apikey",      "api_key",    "api-key",
                                             "privatekey", "private_key", "auth_token", "access_token" };
        for (size_t i = 0; i < ELEMENTSOF(parts); i++)
                for (size_t k = 0; k + strlen(parts[i]) <= length; k++)
                        if (strncasecmp(word + k, parts[i], strlen(parts[i])) == 0)
                                return true;
        return length == 5 && strncasecmp(word, "token", 5) == 0;
}

/* Where the value behind "key=", "key: " or "\"key\":" begins, if that key is at p; else NULL. */
static char *secret_value(char *p) {
        char *end = p;
        while (isalnum((unsigned char) *end) || (*end && strchr("_-.", *end)))
                end++;
        if (end == p || !word_is_secret(p, (size_t) (end - p)))
                return NULL;
        char *q = end + (*end == '"');
        q += strspn(q, " \t");
        if (*q != '=' && *q != ':')
                return NULL;
        q++;
        return q + strspn(q, " \t");
}

size_t secrets_remove(char *text) {
        char *q = text;
        for (char *p = text; *p;) {
                bool begins = p == text || !(isalnum((unsigned char) p[-1]) || strchr("_-.", p[-1]));
                char *value = begins ? secret_value(p) : NULL;
                if (!value) {
                        *q++ = *p++;
                        continue;
                }
                /* A quoted value ends at its quote, another one with its word. */
                char quote = *value == '"' || *value == '\'' ? *value++ : 0, *end = value;
                while (*end && (quote ? *end != quote : !isspace((unsigned char) *end) && !strchr(",}&", *end)))
                        end += 1 + (quote && *end == '\\' && end[1]);
                memmove(q, p, (size_t) (value - p));
                q += value - p;
                size_t n = MIN_OF((size_t) (end - value), (size_t) 3);
                memset(q, '*', n);
                q += n;
                p = end;
        }
        *q = 0;
        return (size_t) (q - text);
}
