/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What the files of the provider "cow" share. It is the side of the built-in engine that vssd knows: it keeps a
 * registry of stores, starts a vss-cow for each where none runs, and turns every call into a request to these. Nothing
 * about snapshots is remembered here: what exists is what the stores say.
 *
 *   STATE_DIRECTORY/cow/stores/UUID      one line, the path of the store; root only
 *   STATE_DIRECTORY/cow/finished/SET     a set over several stores that is good although not each of them knows yet
 *   STATE_DIRECTORY/cow/store            the store that is made where none is named
 *   RUNTIME_DIRECTORY/cow/UUID/control   where the vss-cow of a store listens
 *
 *   provider.c          the steps of a set
 *   provider-store.c    registry, starting, asking
 *   provider-list.c     copies: list, remove, open, abort, clear_mark
 *   provider-mount.c    mounting a copy
 *   provider-free.c     what a file system has free
 *   provider-volume.c   volumes and storage areas
 *   provider-origin.c   what may become an origin or a store
 */
#include "protocol/base.h"
#include "protocol/jsonutil.h"
#include "protocol/vocabulary.h"
#include "providers/cow/control.h"
#include "providers/vss-provider.h"

enum { COW_STORES_MAX = 64, COW_NAME_MAX = 63 };

typedef struct CowStore {
        char id[VSS_ID_SIZE], path[1024];
        char frontend[8]; /* "ublk" or "fuse" if that was asked for when it was made; else "" */
        int fd;           /* connection to its vss-cow; -EBADF: none */
} CowStore;
#define COW_STORE_NULL ((CowStore) { .fd = -EBADF })
void cow_store_done(CowStore *s);

/* Formats c->message as "cow: …" and returns r, mapped to what the contract knows. */
int cow_fail(struct vss_call *c, int r, const char *format, ...) _printf_(3, 4);

/* provider-store.c */
enum {
        COW_START = 1 << 0,    /* start the vss-cow of a store where none runs */
        COW_TOLERATE = 1 << 1, /* a store that cannot be reached is left out; c->message says so */
};
/* For every store that is registered, connected. Stops at the first result other than 0; -ENOENT in tolerance. */
typedef int (*CowStoreFunction)(struct vss_call *c, CowStore *s, void *userdata);
int cow_each_store(struct vss_call *c, unsigned flags, CowStoreFunction f, void *userdata);
int cow_store_connect(struct vss_call *c, CowStore *s, unsigned flags);
int cow_store_register(struct vss_call *c, const CowStore *s);
int cow_store_unregister(const CowStore *s);
/* A new request; NULL members are fine for cow_ask(), which then says -ENOMEM. */
json_object *cow_request(const char *command);
/* Takes request. ret may be NULL. A connection on which an answer may still come is closed: its gates open. */
int cow_ask(struct vss_call *c, CowStore *s, json_object *request, json_object **ret);
/* With a descriptor that goes along, and stays the caller's. */
int cow_ask_with(struct vss_call *c, CowStore *s, json_object *request, int fd, json_object **ret);
const char *cow_state_directory(void);
/* STATE_DIRECTORY/cow/NAME, its directories made. */
int cow_state_path(struct vss_call *c, const char *name, char *ret, size_t size);
/* Where device links go: two instances never meet. */
void cow_links_directory(char *ret, size_t size);
/* Runs vss-cow; first_line may be NULL. */
int cow_program(struct vss_call *c, char *const *arguments, char *first_line, size_t size);
/* The superblock's id of the store at path; -ENOENT: nothing there, -EMEDIUMTYPE: it is no store. */
int cow_store_identify(const char *path, char ret_id[static VSS_ID_SIZE]);

/* provider-list.c */
typedef struct CowCopy { /* one snapshot as its store says */
        struct vss_snapshot snapshot;
        char volume[COW_NAME_MAX + 1];
        bool frozen, damaged, unverified;
} CowCopy;
/* Finds it and connects ret_store. -ENOENT. */
int cow_copy_find(struct vss_call *c, const char *snapshot, CowStore *ret_store, CowCopy *ret);
/* Shows it as a read-only block device. */
int cow_copy_expose(struct vss_call *c, CowStore *s, const char *snapshot, char *ret, size_t size);
/* Shows it once more, as a device of the caller's own that can be written to: what is written goes with the device. */
int cow_copy_overlay(struct vss_call *c, CowStore *s, const char *snapshot, char *ret, size_t size);
static inline bool cow_device_is_ublk(const char *device) {
        return strncmp(device, "/dev/ublkb", strlen("/dev/ublkb")) == 0;
}
/* A ublk device of that kind: it goes when nobody uses it any more. */
int cow_copy_end_with_use(struct vss_call *c, CowStore *s, const char *snapshot, const char *device);
/* Takes that device down again. *ret_full: more was written to it than there is room for. */
int cow_copy_hide(struct vss_call *c, CowStore *s, const char *snapshot, const char *device, bool *ret_full);
int cow_abort(struct vss_call *c);
int cow_clear_mark(void *state, struct vss_call *c);
int cow_list(void *state, struct vss_call *c, vss_snapshot_fn found, void *userdata);
int cow_remove(void *state, struct vss_call *c, const char *snapshot);
int cow_open(void *state, struct vss_call *c, const char *snapshot);

/* provider-free.c */
/* True: the next snapshot of the volume may do without what its file system has free. */
bool cow_free_skip(struct vss_call *c, CowStore *s, const char *volume, const struct vss_volume *v);

/* provider-mount.c */
int cow_mount(void *state, struct vss_call *c, const char *snapshot, const char *directory);
int cow_unmount(void *state, struct vss_call *c, const char *directory);

/* provider-volume.c */
int cow_volume_create(void *state, struct vss_call *c, const char *name, const char *origin,
                      const struct vss_volume_options *o);
int cow_volume_attach(void *state, struct vss_call *c, const char *name, struct vss_engine_volume *ret);
int cow_volume_detach(void *state, struct vss_call *c, const char *name);
int cow_volume_remove(void *state, struct vss_call *c, const char *name);
int cow_volume_list(void *state, struct vss_call *c, vss_engine_volume_fn found, void *userdata);
int cow_storage_list(void *state, struct vss_call *c, vss_storage_fn found, void *userdata);
int cow_storage_set(void *state, struct vss_call *c, const char *id, uint64_t max_bytes, const char *policy);
int cow_storage_gc(void *state, struct vss_call *c, const char *id, uint64_t *ret_freed_bytes);
/* Which volume this device is, among the stores whose vss-cow runs. -ENOENT; ret_store is connected. */
int cow_volume_of_device(struct vss_call *c, const char *device, CowStore *ret_store, char *ret_name, size_t size);

/* provider-origin.c */
/* Canonical path and size of what may become an origin. */
int cow_origin_check(struct vss_call *c, const char *name, const char *origin, const struct vss_volume_options *o,
                     char *ret, size_t size, uint64_t *ret_bytes);
/* The store that options ask for: found, or to be made (*ret_make) with *ret_bytes. */
int cow_store_choose(struct vss_call *c, const struct vss_volume_options *o, uint64_t origin_bytes, CowStore *ret,
                     uint64_t *ret_bytes, bool *ret_make);
int cow_store_make(struct vss_call *c, CowStore *s, uint64_t bytes);
