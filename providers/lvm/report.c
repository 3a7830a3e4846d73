/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What lvm reports is text of another program about what other people named: it is read strictly, and one row that
 * makes no sense makes all of it worthless, because acting on half a report could delete the wrong volume. Every value
 * is a string there; numbers are bytes ("--units b --nosuffix") and must be exactly that. Columns of a later lvm are
 * skipped.
 */
#include "protocol/jsonutil.h"
#include "providers/lvm/lvm.h"
#include <ctype.h>

const char lvm_report_fields[] =
        "vg_name,vg_uuid,vg_free,vg_missing_pv_count,lv_name,lv_uuid,lv_attr,lv_size,origin_size,"
        "lv_tags,origin,pool_lv,lv_layout,lv_role,data_percent,metadata_percent,lv_kernel_major,"
        "lv_kernel_minor,lv_device_open,lv_snapshot_invalid,lv_health_status,lv_time,lv_metadata_size";

enum { ROW_TEXT_MAX = 256, ATTRIBUTES_MIN = 10 };

typedef struct Row {
        char *vg_name, *vg_uuid, *vg_free, *vg_missing, *name, *uuid, *attributes, *size, *origin_size, *tags, *origin,
                *pool, *layout, *role, *data, *metadata, *major, *minor, *open, *invalid, *health, *created,
                *metadata_size;
} Row;

#define TEXT(key, field, max) \
        { key, JSON_STRING, offsetof(Row, field), true, max, NULL, NULL, NULL, NULL }

static const JsonField row_fields[] = {
        TEXT("vg_name", vg_name, ROW_TEXT_MAX),
        TEXT("vg_uuid", vg_uuid, ROW_TEXT_MAX),
        TEXT("vg_free", vg_free, ROW_TEXT_MAX),
        TEXT("vg_missing_pv_count", vg_missing, ROW_TEXT_MAX),
        TEXT("lv_name", name, ROW_TEXT_MAX),
        TEXT("lv_uuid", uuid, ROW_TEXT_MAX),
        TEXT("lv_attr", attributes, ROW_TEXT_MAX),
        TEXT("lv_size", size, ROW_TEXT_MAX),
        TEXT("origin_size", origin_size, ROW_TEXT_MAX),
        TEXT("lv_tags", tags, LVM_TAGS_BYTES_MAX),
        TEXT("origin", origin, ROW_TEXT_MAX),
        TEXT("pool_lv", pool, ROW_TEXT_MAX),
        TEXT("lv_layout", layout, ROW_TEXT_MAX),
        TEXT("lv_role", role, ROW_TEXT_MAX),
        TEXT("data_percent", data, ROW_TEXT_MAX),
        TEXT("metadata_percent", metadata, ROW_TEXT_MAX),
        TEXT("lv_kernel_major", major, ROW_TEXT_MAX),
        TEXT("lv_kernel_minor", minor, ROW_TEXT_MAX),
        TEXT("lv_device_open", open, ROW_TEXT_MAX),
        TEXT("lv_snapshot_invalid", invalid, ROW_TEXT_MAX),
        TEXT("lv_health_status", health, ROW_TEXT_MAX),
        TEXT("lv_time", created, ROW_TEXT_MAX),
        TEXT("lv_metadata_size", metadata_size, ROW_TEXT_MAX),
};

static void row_done(Row *row) {
        for (size_t i = 0; i < ELEMENTSOF(row_fields); i++)
                free(*(char **) ((char *) row + row_fields[i].offset));
}

bool lvm_name_is_valid(const char *s) {
        size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-");
        return n > 0 && n < LVM_NAME_BYTES && !s[n] && s[0] != '-' && !streq(s, ".") && !streq(s, "..");
}

int lvm_uuid_read(const char *s, char ret[static LVM_UUID_BYTES]) {
        size_t n = 0;
        for (; *s; s++) {
                if (*s == '-')
                        continue;
                if (!isalnum((unsigned char) *s) || n == LVM_UUID_BYTES - 1)
                        return -EINVAL;
                ret[n++] = *s;
        }
        ret[n] = '\0';
        return n == LVM_UUID_BYTES - 1 ? 0 : -EINVAL;
}

/* "" is fallback. */
static int read_number(const char *s, uint64_t fallback, uint64_t *ret) {
        uint64_t value = 0;
        if (!s[0]) {
                *ret = fallback;
                return 0;
        }
        for (; *s; s++)
                if (!isdigit((unsigned char) *s) || __builtin_mul_overflow(value, 10, &value) ||
                    __builtin_add_overflow(value, (uint64_t) (*s - '0'), &value))
                        return -EINVAL;
        *ret = value;
        return 0;
}

/* "-1" and "" are none. */
static int read_device_number(const char *s, int *ret) {
        uint64_t value = 0;
        *ret = -1;
        if (streq(s, "-1") || !s[0])
                return 0;
        if (read_number(s, 0, &value) < 0 || value > INT32_MAX)
                return -EINVAL;
        *ret = (int) value;
        return 0;
}

/* "12.34" as 1234; "" as -1. */
static int read_percent(const char *s, int *ret) {
        int value = 0, decimals = -1;
        *ret = -1;
        if (!s[0])
                return 0;
        for (; *s; s++) {
                if (*s == '.' && decimals < 0)
                        decimals = 0;
                else if (isdigit((unsigned char) *s) && decimals < 2) {
                        value = value * 10 + (*s - '0');
                        decimals += decimals >= 0;
                } else
                        return -EINVAL;
                if (value > 100 * 100)
                        return -EINVAL;
        }
        for (decimals = MAX_OF(decimals, 0); decimals < 2; decimals++)
                value *= 10;
        if (value > 100 * 100)
                return -EINVAL;
        *ret = value;
        return 0;
}

/* One of the words of "a,b,c". */
static bool has_word(const char *list, const char *word) {
        size_t n = strlen(word);
        for (const char *p = list; (p = strstr(p, word)); p += n)
                if ((p == list || p[-1] == ',') && (!p[n] || p[n] == ','))
                        return true;
        return false;
}

static int take_name(const char *s, bool may_be_empty, char *ret) {
        if (!s[0] && may_be_empty) {
                ret[0] = '\0';
                return 0;
        }
        /* what people cannot use themselves stands in brackets */
        size_t n = strlen(s);
        bool hidden = s[0] == '[' && n > 2 && s[n - 1] == ']';
        if (n - (hidden ? 2 : 0) >= LVM_NAME_BYTES)
                return -EINVAL;
        memcpy(ret, s + hidden, n - (hidden ? 2 : 0));
        ret[n - (hidden ? 2 : 0)] = '\0';
        return lvm_name_is_valid(ret) ? 0 : -EINVAL;
}

static const char *row_names(const Row *row, LvmVolume *v) {
        if (take_name(row->vg_name, false, v->vg_name) < 0)
                return "vg_name";
        if (take_name(row->name, false, v->name) < 0)
                return "lv_name";
        if (take_name(row->origin, true, v->origin) < 0)
                return "origin";
        if (take_name(row->pool, true, v->pool) < 0)
                return "pool_lv";
        if (lvm_uuid_read(row->vg_uuid, v->vg_uuid) < 0)
                return "vg_uuid";
        return lvm_uuid_read(row->uuid, v->uuid) < 0 ? "lv_uuid" : NULL;
}

static const char *row_numbers(const Row *row, LvmVolume *v) {
        if (read_number(row->vg_free, 0, &v->vg_free) < 0)
                return "vg_free";
        if (read_number(row->vg_missing, 0, &v->vg_missing) < 0)
                return "vg_missing_pv_count";
        if (read_number(row->size, 0, &v->size) < 0)
                return "lv_size";
        if (read_number(row->origin_size, 0, &v->origin_size) < 0)
                return "origin_size";
        if (read_number(row->metadata_size, 0, &v->metadata_size) < 0)
                return "lv_metadata_size";
        if (read_number(row->created, 0, &v->created) < 0)
                return "lv_time";
        if (read_percent(row->data, &v->data_centi) < 0)
                return "data_percent";
        if (read_percent(row->metadata, &v->metadata_centi) < 0)
                return "metadata_percent";
        if (read_device_number(row->major, &v->major) < 0)
                return "lv_kernel_major";
        return read_device_number(row->minor, &v->minor) < 0 ? "lv_kernel_minor" : NULL;
}

/* lv_attr: type, permissions, allocation, fixed minor, state, open, target, zero, health, skip. */
static const char *row_kind(const Row *row, LvmVolume *v) {
        const char *a = row->attributes;
        if (strlen(a) < ATTRIBUTES_MIN)
                return "lv_attr";
        v->thin_pool = a[0] == 't';
        v->thin = a[0] == 'V';
        v->thick_copy = has_word(row->role, "thicksnapshot");
        v->has_thick_copies = has_word(row->role, "thickorigin");
        v->virtual = !strchr("-oOrRmMCsSVg", a[0]) && !v->thin_pool;
        v->open = streq(row->open, "open") || a[5] == 'o';
        v->invalid = streq(row->invalid, "snapshot invalid") || strchr("IS", a[4]);
        v->merging = strchr("SO", a[0]);
        v->merge_failed = strchr("mM", a[4]);
        v->half_made = strchr("diX", a[4]);
        v->broken = row->health[0] || a[8] == 'p';
        if (v->thin && !v->pool[0])
                return "pool_lv";
        if (v->thick_copy && !v->origin[0])
                return "origin";
        return NULL;
}

static int row_read(JsonReader *r, void *element) {
        LvmVolume *v = element;
        Row row = {};
        int k = json_read_object(r, row_fields, ELEMENTSOF(row_fields), true, &row);
        if (k >= 0) {
                const char *wrong = row_names(&row, v);
                if (!wrong)
                        wrong = row_numbers(&row, v);
                if (!wrong)
                        wrong = row_kind(&row, v);
                if (wrong)
                        k = json_fail(r, "%s is not what lvm writes there", wrong);
                else
                        v->tags = TAKE_PTR(row.tags);
        }
        row_done(&row);
        return k;
}

static int rows_read(JsonReader *r, void *field) {
        LvmReport *report = field;
        if (report->volumes || report->n > 0)
                return json_fail(r, "a second list");
        return json_read_array(r, LVM_VOLUMES_MAX, sizeof(LvmVolume), row_read, (void **) &report->volumes, &report->n);
}

static const JsonField part_fields[] = {
        { "lv", JSON_CUSTOM, 0, true, 0, NULL, rows_read, NULL, NULL },
};

static int part_read(JsonReader *r, void *userdata) {
        return json_read_object(r, part_fields, ELEMENTSOF(part_fields), true, userdata);
}

typedef struct Part {
        LvmReport report;
} Part;

typedef struct Document {
        Part *parts;
        size_t n_parts;
} Document;

static int parts_read(JsonReader *r, void *field) {
        Document *d = field;
        if (d->parts)
                return json_fail(r, "a second list");
        return json_read_array(r, 1, sizeof(Part), part_read, (void **) &d->parts, &d->n_parts);
}

static const JsonField document_fields[] = {
        { "report", JSON_CUSTOM, 0, true, 0, NULL, parts_read, NULL, NULL },
};

void lvm_report_done(LvmReport *r) {
        for (size_t i = 0; i < r->n; i++)
                free(r->volumes[i].tags);
        free(r->volumes);
        *r = (LvmReport) {};
}

int lvm_report_parse(const char *text, size_t size, LvmReport *ret, Failure *reterr) {
        JsonReader r;
        Document d = {};
        if (size > LVM_REPORT_BYTES_MAX)
                return failure_set(reterr, CONDITION_INVALID_DOCUMENT, "more than %d bytes", LVM_REPORT_BYTES_MAX);
        json_reader_init(&r, text, size, reterr);
        int k = json_read_object(&r, document_fields, ELEMENTSOF(document_fields), true, &d);
        if (k >= 0)
                k = json_end(&r);
        if (k >= 0 && d.n_parts != 1)
                k = failure_set(reterr, CONDITION_INVALID_DOCUMENT, "no list of logical volumes");
        if (k >= 0) {
                *ret = d.parts[0].report;
                d.parts[0].report = (LvmReport) {};
        }
        for (size_t i = 0; i < d.n_parts; i++)
                lvm_report_done(&d.parts[i].report);
        free(d.parts);
        return k;
}

const LvmVolume *lvm_report_find(const LvmReport *r, const char *vg_uuid, const char *lv_uuid) {
        for (size_t i = 0; i < r->n; i++)
                if (streq(r->volumes[i].vg_uuid, vg_uuid) && streq(r->volumes[i].uuid, lv_uuid))
                        return &r->volumes[i];
        return NULL;
}

const LvmVolume *lvm_report_find_name(const LvmReport *r, const char *vg_uuid, const char *name) {
        for (size_t i = 0; i < r->n; i++)
                if (streq(r->volumes[i].vg_uuid, vg_uuid) && streq(r->volumes[i].name, name))
                        return &r->volumes[i];
        return NULL;
}
