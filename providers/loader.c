/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The recipe is nbdkit's: a provider's table starts with its own size and the version of the interface it was built
 * for. Of that table as many bytes are copied as both sides know, into zeros, so a provider built years ago has NULL
 * for what came later, and one built later is cut to what we know. Only after that the members are looked at.
 */
#include "providers/loader.h"
#include "protocol/base.h"
#include "providers/builtin.h"
#include "providers/directory.h"
#include <dlfcn.h>
#include <stdio.h>

#define FAULT_PREFIX "fault:"

enum { VERSION_MAX = 79 }; /* what fits the wire */

/* The first interface had everything up to here: a smaller table was not built with our header. */
static const size_t table_size_min = offsetof(struct vss_provider, storage_clear_fault) + sizeof(void *);

typedef struct Need {
        bool present;
        uint64_t capabilities; /* any of these needs the call */
        const char *name;
} Need;

static int check_needs(const char *provider, const Need *needs, size_t n, uint64_t capabilities, Failure *reterr) {
        for (size_t i = 0; i < n; i++)
                if (!needs[i].present && needs[i].capabilities & capabilities)
                        return failure_set(reterr, CONDITION_PROVIDER_FAILED,
                                           "%s has no %s call, which the contract requires", provider, needs[i].name);
        return 0;
}

static int check_always_needed(const struct vss_provider *p, Failure *reterr) {
        const Need needs[] = {
                { p->capabilities, 1, "capabilities" },
                { p->probe, 1, "probe" },
                { p->begin_prepare, 1, "begin_prepare" },
                { p->commit, 1, "commit" },
                { p->abort, 1, "abort" },
                { p->list, 1, "list" },
                { p->remove, 1, "remove" },
        };
        return check_needs(p->name, needs, ELEMENTSOF(needs), 1, reterr);
}

static int check_needed_by_capabilities(const struct vss_provider *p, uint64_t capabilities, Failure *reterr) {
        const Need needs[] = {
                { p->hold, VSS_CAP_HOLDS, "hold" },
                { p->release, VSS_CAP_HOLDS, "release" },
                { p->pre_final, VSS_CAP_WRITABLE, "pre_final" },
                { p->post_final, VSS_CAP_WRITABLE, "post_final" },
                { p->mount, VSS_CAP_DIRECTORY, "mount" },
                { p->unmount, VSS_CAP_DIRECTORY, "unmount" },
                { p->open, VSS_CAP_DIRECTORY | VSS_CAP_DEVICE, "open" },
                { p->diff, VSS_CAP_CHANGED_BLOCKS | VSS_CAP_CHANGED_PATHS, "diff" },
                { p->revert, VSS_CAP_REVERT, "revert" },
                { p->export_nbd, VSS_CAP_EXPORT, "export_nbd" },
                { p->storage_list, VSS_CAP_STORAGE, "storage_list" },
                { p->volume_create, VSS_CAP_VOLUMES, "volume_create" },
                { p->volume_attach, VSS_CAP_VOLUMES, "volume_attach" },
                { p->volume_detach, VSS_CAP_VOLUMES, "volume_detach" },
                { p->volume_remove, VSS_CAP_VOLUMES, "volume_remove" },
                { p->volume_list, VSS_CAP_VOLUMES, "volume_list" },
        };
        return check_needs(p->name, needs, ELEMENTSOF(needs), capabilities, reterr);
}

int provider_table_check(const struct vss_provider *table, const char *name, struct vss_provider *ret,
                         Failure *reterr) {
        struct vss_provider p = {};
        if (!table)
                return failure_set(reterr, CONDITION_PROVIDER_FAILED, "%s: its entry function gave no table", name);
        if (table->api_version < PROVIDER_API_OLDEST || table->api_version > VSS_PROVIDER_API_VERSION)
                return failure_set(
                        reterr, CONDITION_NOT_SUPPORTED,
                        "%s was built for version %u of the provider interface, this vss knows %u to %u: build it again",
                        name, table->api_version, (unsigned) PROVIDER_API_OLDEST, VSS_PROVIDER_API_VERSION);
        if (table->struct_size < table_size_min)
                return failure_set(reterr, CONDITION_PROVIDER_FAILED,
                                   "%s: its table has %llu bytes, at least %zu are needed", name,
                                   (unsigned long long) table->struct_size, table_size_min);
        memcpy(&p, table, MIN_OF((size_t) table->struct_size, sizeof(p)));
        p.struct_size = sizeof(p);
        if (!p.name || !streq(p.name, name))
                return failure_set(reterr, CONDITION_PROVIDER_FAILED,
                                   "%s calls itself %s: the name must be that of its file", name,
                                   p.name && provider_name_is_valid(p.name) ? p.name : "something else");
        if (!p.version || strnlen(p.version, VERSION_MAX + 1) > VERSION_MAX)
                return failure_set(reterr, CONDITION_PROVIDER_FAILED, "%s has no version of at most %d bytes", name,
                                   (int) VERSION_MAX);
        int r = check_always_needed(&p, reterr);
        if (r < 0)
                return r;
        *ret = p;
        return 0;
}

static const struct vss_provider *builtin_find(const char *name) {
        static const struct vss_provider *const builtins[] = {
#if HAVE_BTRFS
                &btrfs_provider,
#endif
                &lvm_provider,
                &cow_provider,
                &null_provider,
        };
        for (size_t i = 0; i < ELEMENTSOF(builtins); i++)
                if (streq(builtins[i]->name, name))
                        return builtins[i];
        return NULL;
}

static int load_open(const char *name, int *ret_fd, Failure *reterr) {
        _cleanup_free_ char *culprit = NULL;
        _cleanup_close_ int dir = -EBADF;
        int r = provider_directory_open(&dir, &culprit);
        if (r == -EPERM)
                return failure_set(reterr, CONDITION_NOT_AUTHORIZED,
                                   "%s not loaded: %s must belong to root and be writable by nobody else", name,
                                   culprit ? culprit : provider_directory());
        if (r >= 0)
                r = provider_file_open(dir, name, ret_fd);
        if (r == -ENOENT)
                return failure_set(reterr, CONDITION_NOT_FOUND,
                                   "%s does not exist: it is not built in and there is no %s/%s.so", name,
                                   provider_directory(), name);
        if (r == -EPERM || r == -ELOOP)
                return failure_set(reterr, CONDITION_NOT_AUTHORIZED,
                                   "%s not loaded: %s/%s.so must be a plain file of root that nobody else can write",
                                   name, provider_directory(), name);
        if (r < 0)
                return failure_set(reterr, CONDITION_FAILED, "%s: cannot open %s/%s.so: %s", name, provider_directory(),
                                   name, strerror(-r));
        return 0;
}

static int entry_call(const char *name, void *handle, struct vss_provider *ret, Failure *reterr) {
        const struct vss_provider *(*entry)(void);
        *(void **) &entry = dlsym(handle, "vss_provider_entry");
        if (!entry)
                return failure_set(reterr, CONDITION_PROVIDER_FAILED,
                                   "%s: its file has no vss_provider_entry, is VSS_REGISTER_PROVIDER missing?", name);
        return provider_table_check(entry(), name, ret, reterr);
}

static int load_file(const char *name, struct vss_provider *ret, Failure *reterr) {
        _cleanup_close_ int fd = -EBADF;
        int r = load_open(name, &fd, reterr);
        if (r < 0)
                return r;
        char path[64];
        (void) snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!handle)
                return failure_set(reterr, CONDITION_PROVIDER_FAILED, "%s cannot be loaded: %s", name, dlerror());
        r = entry_call(name, handle, ret, reterr);
        if (r < 0)
                (void) dlclose(handle); /* the next file may get the same descriptor, and with it the same name */
        return r;
}

int provider_load(const char *name, LoadedProvider *ret, Failure *reterr) {
        LoadedProvider p = {};
        if (!provider_name_is_valid(name))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "not a provider name");
        bool faulty = strncmp(name, FAULT_PREFIX, strlen(FAULT_PREFIX)) == 0;
        if (faulty)
                name += strlen(FAULT_PREFIX);
        const struct vss_provider *builtin = builtin_find(name);
        p.builtin = builtin;
        int r = builtin ? provider_table_check(builtin, name, &p.table, reterr) : load_file(name, &p.table, reterr);
        if (r < 0)
                return r;
        if (faulty) {
                const struct vss_provider inner = p.table;
                r = fault_wrap(&inner, &p.table, reterr);
                if (r < 0)
                        return r;
        }
        *ret = p;
        return 0;
}

int provider_start(LoadedProvider *p, Failure *reterr) {
        assert(!p->started);
        int r = p->table.load ? p->table.load(&p->state) : 0;
        if (r < 0)
                return failure_set(reterr, condition_from_errno(-r), "%s cannot work on this machine: %s",
                                   p->table.name, strerror(-r));
        p->started = true;
        p->capabilities = p->table.capabilities(p->state);
        return check_needed_by_capabilities(&p->table, p->capabilities, reterr);
}

void provider_stop(LoadedProvider *p) {
        if (p->started && p->table.unload)
                p->table.unload(p->state);
        p->started = false;
}
