/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What `vssctl restore` is made of: the source (a directory that shows what was backed up), the work (components with
 * their file sets and files, each with its place), and what happens to it: staged beside its place, then swapped in.
 * All of a component is staged before anything of it is swapped, so a source that cannot be read or a disk that is full
 * leaves everything as it was.
 */
#include "client/restore-file.h"
#include "client/verbs.h"
#include "protocol/restore.h"

enum {
        RESTORE_FILES_MAX = 4 * 1024 * 1024, /* of one restore: a gigabyte of memory or so */
        RESTORE_DEPTH_MAX = 256,             /* of directories */
        RESTORE_FILES_SHOWN = 10000,         /* per component in the document; failures come first */
        RESTORE_ADDED_MAX = 64,              /* files that a writer adds to a component */
        RESTORE_ADDED_BYTES = 65536,         /* in all of these */
        RESTORE_PARTIAL_MAX = 65536,         /* partial files of a component, and ranges of one of them */
};

typedef struct RestoreSource { /* what volume ("" for /) was, is below fd */
        char *volume;
        int fd;
        char *mounted; /* snapshot object that we mounted for this, or NULL */
        char *where;   /* the mount as the bus names it, whoever else has mounted the snapshot */
} RestoreSource;

typedef enum ItemState { ITEM_WAITS, ITEM_STAGED, ITEM_DONE, ITEM_FAILED } ItemState;

typedef struct PartialFile { /* only these ranges of it were saved */
        char *path;          /* as on disk */
        FileRange *ranges;
        size_t n_ranges;
        bool used;
} PartialFile;

typedef enum AddedHow { ADDED_REPLACE, ADDED_APPEND, ADDED_ABSENT, _ADDED_HOW_MAX } AddedHow;

typedef struct AddedFile { /* a writer wants it with the rest */
        char *path;        /* as on disk, where the component was */
        char *text;
        AddedHow how;
} AddedFile;

typedef struct RestoreItem {
        size_t set;  /* of RestorePart.sets */
        char *path;  /* below the root of its set; "" is the root itself */
        mode_t mode; /* its kind */
        uint64_t size;
        ItemState state;
        bool made;                  /* a directory that is new */
        const PartialFile *partial; /* NULL: all of it was saved */
        const AddedFile *added;     /* with this text behind it */
        bool only_added;            /* nothing of it comes from the backup */
        StagedFile staged;
        char *message;
} RestoreItem;

typedef struct RestoreSet {
        const FileSet *files; /* of the saved document */
        char *root, *to;      /* as they are on disk: where it was, where it goes */
        char *source;         /* where the backup shows it: root, or the writer's other place */
        int target;           /* directory; -1: not open */
        bool mirror;          /* what is too much there goes away */
        bool log;             /* there may be none of it */
        bool made;            /* the directory is new */
} RestoreSet;

typedef struct DirectedTarget {
        char *path, *to; /* as they are on disk */
        FileRange *ranges, *to_ranges;
        size_t n_ranges, n_to_ranges;
        StagedFile staged;
        int target; /* directory of to */
} DirectedTarget;

typedef struct RestoreTo { /* one --to */
        char *root, *to;   /* root NULL: what holds everything that is restored */
        bool used;
} RestoreTo;

typedef struct RestoreExtra { /* what a database's directory has and its backup has not */
        size_t set;
        char *path; /* below the root of its set */
        bool directory;
} RestoreExtra;

typedef struct Plan Plan; /* restore-plan.h */
typedef struct RestoreRecord RestoreRecord;
typedef struct RestoreWork RestoreWork;

typedef struct RestorePart { /* one component that was asked for */
        const RestoreWork *work;
        const ManifestWriter *writer;
        const ManifestComponent *component;
        Metadata *saved;
        char *reference, *path; /* as they go to vssd */
        RestoreWishes wishes;
        RestoreMethod method;
        bool with_writer, refused, alternate_used;
        bool touched;                 /* not all as before the swap */
        bool only_new;                /* what is there stays */
        bool stopped;                 /* its unit, by us */
        bool service_waits;           /* its unit is not started: more follows */
        bool at_boot;                 /* it is swapped by the next start of the machine */
        char plan[VSS_ID_LENGTH + 1]; /* for that */
        RestoreTarget target;
        uid_t uid; /* the writer's */
        RestoreSet *sets;
        size_t n_sets;
        RestoreItem *items;
        size_t n_items, allocated;
        DirectedTarget *directed;
        size_t n_directed;
        RestoreExtra *extras; /* as mirror_set() has seen them last */
        size_t n_extras;
        RestoreRecord *record;
        PartialFile *partial;
        size_t n_partial;
        AddedFile *added;
        size_t n_added;
        bool takes_part; /* the writer: it hears of the restore */
        bool by_writer;  /* the files are its business: nothing is copied */
        RestoreStatus status;
        char *service;
        Condition condition; /* why it is not restored */
        char message[LIMIT_MESSAGE_BYTES];
        char *writer_message;
        Failure post; /* what its writer said in the end */
} RestorePart;

struct RestoreWork {
        Context *context;
        char *manifest_text;
        size_t manifest_size;
        Manifest manifest;
        RestoreSource *sources;
        size_t n_sources;
        RestorePart *parts;
        size_t n_parts;
        RestoreTo *to;
        size_t n_to;
        FileSet *excluded; /* by the administrator, from the backup or from the copies */
        size_t n_excluded;
        char session[VSS_ID_LENGTH + 1];
        bool cancelled; /* by a signal, before anything was swapped */
        bool lost;      /* the session, before anything was swapped */
        Failure end;    /* of PostRestore as a whole */
};

/* restore-source.c */
int sources_open(RestoreWork *w); /* --from, or the snapshots of the manifest */
void sources_close(RestoreWork *w);
/* The directory that shows root (an absolute path as on disk). -ENOENT. */
int sources_open_root(const RestoreWork *w, const char *root);
bool sources_have_volume(const RestoreWork *w, const char *path); /* whose root is path */
/* A volume of the backup that is mounted below root is shown, too. */
int sources_check_nested(RestorePart *p, const char *root);
/* What shows the directory path, which is below the set's root; or the one that holds it. A volume may be in between.
 */
int sources_open_directory(const RestorePart *p, const RestoreSet *s, const char *path);
int sources_open_parent(const RestorePart *p, const RestoreSet *s, const char *path);

/* restore-target.c */
int targets_read(RestoreWork *w);
int targets_check(RestoreWork *w);                                   /* of the components that were chosen */
int targets_map(const RestoreWork *w, const char *root, char **ret); /* 1: by --to */
void targets_done(RestoreWork *w);

/* restore-mirror.c */
bool restore_owns_directory(const RestorePart *p, const Component *c, const FileSet *f); /* a database's own */
bool restore_mirrors(const RestorePart *p, const RestoreSet *s);
int mirror_set(RestorePart *p, size_t set, bool check); /* check: lists p->extras, and could they go? */
void extras_done(RestorePart *p);

/* restore-tree.c: fills p->items from p->sets[set] */
int tree_list(RestorePart *p, size_t set, Failure *reterr);
int tree_read_excluded(RestoreWork *w); /* the manifest's lists */
void tree_excluded_done(RestoreWork *w);
bool tree_matches(const RestorePart *p, size_t set, const char *path, bool directory);

/* restore-partial.c */
int partial_read(RestorePart *p); /* what the manifest says; refuses what is no list of ranges */
void partial_done(RestorePart *p);
int partial_check(RestorePart *p); /* finds their items: each is a file of the component and of the backup */
/* A new version of what is at its place, with the ranges of the backup. -ENOENT: there is nothing there; -ENODATA: the
 * backup has less than the ranges. */
int partial_stage(RestorePart *p, RestoreItem *i);

/* restore-added.c: what writers add to their components */
int added_read(RestorePart *p, json_object *list); /* as the writer answered */
void added_done(RestorePart *p);
int added_apply(RestorePart *p);                 /* to the items of all sets */
int added_stage(RestorePart *p, RestoreItem *i); /* one with i->added; what the backup has of it is staged */

/* restore-select.c */
int restore_select(RestoreWork *w);              /* what is restored, and how it is asked for */
int restore_map(RestoreWork *w, RestorePart *p); /* sets with their places, by target and method; opens the sources */
void part_done(RestorePart *p);
int part_fail(RestorePart *p, Condition condition, const char *format, ...) _printf_(3, 4);

/* restore-place.c */
int open_parent(int dfd, const char *path); /* the directory that holds path, below dfd */
const char *base_name(const char *path);
int item_fail(RestorePart *p, RestoreItem *i, int error, const char *what);
int part_check_there(RestorePart *p);   /* 1: a file of it exists already */
int part_check_replace(RestorePart *p); /* -EBUSY, -EPERM …: one cannot be replaced, said in p->message */
int part_check_place(RestorePart *p);   /* what no method can replace stands where a file goes */
int part_stage(RestorePart *p);
void part_unstage(RestorePart *p);

/* restore-swap.c: all of it or nothing; p->touched: neither */
int part_swap(RestorePart *p);

/* restore-fill.c: of what is staged; -EOPNOTSUPP: its file system keeps no numbers of files */
int part_fill_plan(const RestorePart *p, Plan *plan);

/* restore-record.c: the plan of a restore of this moment */
int record_begin(RestorePart *p);          /* before anything changes places; 0: there is none */
int record_replace(RestorePart *p);        /* all of it or nothing, p->touched: neither */
void record_release_older(RestorePart *p); /* that this one stands for, too */
void record_end(RestorePart *p);           /* nothing needs it any more */
void record_free(RestoreRecord *r);

/* restore-schedule.c: what waits for the next start of the machine */
int schedule_check(RestorePart *p); /* could it? */
int schedule_check_none(RestorePart *p,
                        bool elsewhere);            /* no plan for it waits already, or was cut off where it goes */
int part_schedule(RestorePart *p);                  /* what is staged is left for it */
int plans_check_replacing(RestorePart *p, int dfd); /* nobody is at it, or was cut off */
int plans_make_room(RestorePart *p, int dfd);
bool plan_is_of(const Plan *plan, const RestorePart *p);

/* restore-pending.c: --pending and --cancel, which need no manifest */
int restore_check_pending(Context *c);
int restore_run_pending(Context *c);

/* restore-session.c */
int restore_begin(RestoreWork *w);  /* PreRestore */
void restore_lives(RestoreWork *w); /* refuses what must not be touched any more: the session or a writer is lost */
int restore_end(RestoreWork *w);    /* PostRestore */

/* restore-report.c: the manifest with the outcome, where --report says */
int restore_save_report(RestoreWork *w);

/* restore-service.c */
int service_find(RestoreWork *w, RestorePart *p);
int systemctl(const char *verb, const char *unit); /* unit NULL: of none; 1: it failed */
int service_call(Context *c, const char *verb, const char *unit);
/* The writer's account instead of root's, where the writer decided where files go; and back. */
int rights_take(const RestorePart *p);
void rights_drop(void);
