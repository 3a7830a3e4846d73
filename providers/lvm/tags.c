/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copies are known by their tags, which lie in the metadata of the volume group and so outlive us, our catalogue and
 * the machine. Anybody may tag his volumes as he likes, so a copy is ours only if its name says the same as its tags,
 * each of which is there once: clean-up must never touch what is not (hazards B4).
 */
#include "providers/lvm/lvm.h"
#include <ctype.h>
#include <stdio.h>

static bool is_plain(char c) {
        return isalnum((unsigned char) c) || (c && strchr("_+./=!-", c));
}

int lvm_tag_of_volume(const char *name, char *ret, size_t size) {
        size_t n = (size_t) snprintf(ret, size, LVM_TAG_VOLUME);
        for (; *name; name++) {
                if (n + 4 > size)
                        return -ENAMETOOLONG;
                if (is_plain(*name))
                        ret[n++] = *name;
                else
                        n += (size_t) snprintf(ret + n, size - n, ":%02x", (unsigned char) *name);
        }
        ret[n] = '\0';
        return 0;
}

static int hex(char c) {
        return isdigit((unsigned char) c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* n bytes of a tag's value, taken back; false if they were never ours. */
static bool read_volume(const char *s, size_t n, char ret[static LVM_TAG_BYTES]) {
        size_t k = 0;
        for (size_t i = 0; i < n; i++) {
                char c = s[i];
                if (c == ':') {
                        int high = i + 2 < n ? hex(s[i + 1]) : -1, low = i + 2 < n ? hex(s[i + 2]) : -1;
                        if (high < 0 || low < 0 || (c = (char) (high << 4 | low)) == '\0' || is_plain(c))
                                return false;
                        i += 2;
                } else if (!is_plain(c))
                        return false;
                if (k == LVM_TAG_BYTES - 1)
                        return false;
                ret[k++] = c;
        }
        ret[k] = '\0';
        return k > 0;
}

static bool read_id(const char *s, size_t n, char ret[static VSS_ID_SIZE]) {
        if (ret[0] || n != VSS_ID_SIZE - 1)
                return false;
        memcpy(ret, s, n);
        ret[n] = '\0';
        return id_is_valid(ret);
}

static bool read_decimal(const char *s, size_t n, uint64_t *ret) {
        uint64_t value = 0;
        if (*ret != UINT64_MAX || n == 0 || n > 18)
                return false;
        for (size_t i = 0; i < n; i++) {
                if (!isdigit((unsigned char) s[i]))
                        return false;
                value = value * 10 + (uint64_t) (s[i] - '0');
        }
        *ret = value;
        return true;
}

static bool read_uuid(const char *s, size_t n, char ret[static LVM_UUID_BYTES]) {
        char text[LVM_UUID_BYTES];
        if (n != sizeof(text) - 1)
                return false;
        memcpy(text, s, n);
        text[n] = '\0';
        return lvm_uuid_read(text, ret) >= 0;
}

static bool begins(const char *s, size_t n, const char *prefix) {
        return n >= strlen(prefix) && memcmp(s, prefix, strlen(prefix)) == 0;
}

#define VALUE(prefix) s + sizeof(prefix) - 1, n - (sizeof(prefix) - 1)

/* Tags that are not ours are somebody else's and say nothing. */
static bool take_tag(const char *s, size_t n, LvmMark *m, uint64_t *flags) {
        if (begins(s, n, LVM_TAG_ID))
                return read_id(VALUE(LVM_TAG_ID), m->id);
        if (begins(s, n, LVM_TAG_SET))
                return read_id(VALUE(LVM_TAG_SET), m->set);
        if (begins(s, n, LVM_TAG_VOLUME))
                return !m->volume[0] && read_volume(VALUE(LVM_TAG_VOLUME), m->volume);
        if (begins(s, n, LVM_TAG_CREATED))
                return read_decimal(VALUE(LVM_TAG_CREATED), &m->created_usec);
        if (begins(s, n, LVM_TAG_FLAGS))
                return read_decimal(VALUE(LVM_TAG_FLAGS), flags);
        if (begins(s, n, LVM_TAG_ORIGIN))
                return !m->origin[0] && read_uuid(VALUE(LVM_TAG_ORIGIN), m->origin);
        if (n == strlen(LVM_TAG_PENDING) && begins(s, n, LVM_TAG_PENDING))
                m->pending = true;
        return true;
}

bool lvm_mark_read(const LvmVolume *v, LvmMark *ret) {
        LvmMark m = { .created_usec = UINT64_MAX };
        uint64_t flags = UINT64_MAX;
        if (strncmp(v->name, LVM_COPY_PREFIX, sizeof(LVM_COPY_PREFIX) - 1) != 0 || !v->tags)
                return false;
        for (const char *s = v->tags; *s;) {
                size_t n = strcspn(s, ",");
                if (!take_tag(s, n, &m, &flags))
                        return false;
                s += n + (s[n] == ',');
        }
        if (!m.id[0] || !m.set[0] || !m.volume[0] || m.created_usec == UINT64_MAX || flags > UINT32_MAX)
                return false;
        m.flags = (uint32_t) flags & (VSS_REQUEST_PERSISTENT | VSS_REQUEST_WRITABLE);
        if (!streq(v->name + sizeof(LVM_COPY_PREFIX) - 1, m.id))
                return false;
        *ret = m;
        return true;
}

bool lvm_revert_mark(const LvmVolume *v, char *ret_snapshot, char *ret_set) {
        const size_t half = VSS_ID_SIZE - 1;
        for (const char *s = v->tags; s && *s;) {
                size_t n = strcspn(s, ","), prefix = sizeof(LVM_TAG_REVERT) - 1;
                char snapshot[VSS_ID_SIZE] = "", set[VSS_ID_SIZE] = "";
                if (begins(s, n, LVM_TAG_REVERT) && n == prefix + 2 * half + 1 && s[prefix + half] == '/' &&
                    read_id(s + prefix, half, snapshot) && read_id(s + prefix + half + 1, half, set)) {
                        if (ret_snapshot)
                                memcpy(ret_snapshot, snapshot, sizeof(snapshot));
                        if (ret_set)
                                memcpy(ret_set, set, sizeof(set));
                        return true;
                }
                s += n + (s[n] == ',');
        }
        return false;
}
