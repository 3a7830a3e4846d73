/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/peers.h"
#include <stdio.h>

#define DBUS_NAME "org.freedesktop.DBus"
#define DBUS_PATH "/org/freedesktop/DBus"

typedef struct Peer {
        LIST_ENTRY(Peer) entries;
        Peers *peers;
        char *name;
        unsigned n_ref;
        sd_bus_slot *match, *question;
} Peer;

struct Peers {
        Manager *manager;
        LIST_HEAD(, Peer) list;
        unsigned n_matches, n_unmatched;
        sd_bus_slot *match_all;
};

int peers_new(Manager *m, Peers **ret) {
        Peers *p = calloc(1, sizeof(*p));
        if (!p)
                return -ENOMEM;
        p->manager = m;
        LIST_INIT(&p->list);
        *ret = p;
        return 0;
}

static Peer *peer_find(Peers *p, const char *name) {
        Peer *peer;
        LIST_FOREACH(peer, &p->list, entries)
                if (streq(peer->name, name))
                        return peer;
        return NULL;
}

static void peer_free(Peer *peer) {
        Peers *p = peer->peers;
        if (peer->match)
                p->n_matches--;
        else if (--p->n_unmatched == 0)
                p->match_all = sd_bus_slot_unref(p->match_all);
        LIST_REMOVE(peer, entries);
        (void) sd_bus_slot_unref(peer->match);
        (void) sd_bus_slot_unref(peer->question);
        free(peer->name);
        free(peer);
}

Peers *peers_free(Peers *p) {
        if (!p)
                return NULL;
        while (!LIST_EMPTY(&p->list))
                peer_free(LIST_FIRST(&p->list));
        free(p);
        return NULL;
}

static void peer_gone(Peers *p, const char *name) {
        Peer *peer = peer_find(p, name);
        char gone[64];
        if (!peer)
                return;
        (void) snprintf(gone, sizeof(gone), "%s", name);
        peer_free(peer);
        manager_peer_gone(p->manager, gone);
}

static int on_name_owner_changed(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        const char *name, *old, *new;
        if (sd_bus_message_read(m, "sss", &name, &old, &new) >= 0 && new[0] == '\0')
                peer_gone(userdata, name);
        return 0;
}

static int on_has_owner(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Peer *peer = userdata;
        int owned = 0;
        peer->question = sd_bus_slot_unref(peer->question);
        if (sd_bus_message_is_method_error(m, NULL) || sd_bus_message_read(m, "b", &owned) < 0 || !owned)
                peer_gone(peer->peers, peer->name);
        return 0;
}

static int peers_match(Peers *p, const char *name, sd_bus_slot **ret) {
        char rule[320];
        (void) snprintf(rule, sizeof(rule),
                        "type='signal',sender='" DBUS_NAME "',path='" DBUS_PATH "',interface='" DBUS_NAME
                        "',member='NameOwnerChanged'%s%s%s,arg2=''",
                        name ? ",arg0='" : "", name ? name : "", name ? "'" : "");
        return sd_bus_add_match_async(p->manager->bus, ret, rule, on_name_owner_changed, NULL, p);
}

static int peer_new(Peers *p, const char *name, Peer **ret) {
        Peer *peer = calloc(1, sizeof(*peer));
        if (!peer)
                return -ENOMEM;
        peer->peers = p;
        peer->name = strdup(name);
        int r = peer->name ? 0 : -ENOMEM;
        if (r >= 0 && p->n_matches < PEER_MATCHES_MAX)
                r = peers_match(p, name, &peer->match);
        else if (r >= 0 && !p->match_all)
                r = peers_match(p, NULL, &p->match_all);
        LIST_INSERT_HEAD(&p->list, peer, entries);
        if (peer->match)
                p->n_matches++;
        else
                p->n_unmatched++;
        /* Behind the match on the same connection: either this answer or the signal tells. */
        if (r >= 0)
                r = sd_bus_call_method_async(p->manager->bus, &peer->question, DBUS_NAME, DBUS_PATH, DBUS_NAME,
                                             "NameHasOwner", on_has_owner, peer, "s", name);
        if (r < 0) {
                peer_free(peer);
                return r;
        }
        *ret = peer;
        return 0;
}

int peers_watch(Peers *p, const char *bus_name) {
        Peer *peer = peer_find(p, bus_name);
        int r = peer ? 0 : peer_new(p, bus_name, &peer);
        if (r >= 0)
                peer->n_ref++;
        return r;
}

void peers_unwatch(Peers *p, const char *bus_name) {
        Peer *peer = peer_find(p, bus_name);
        if (peer && --peer->n_ref == 0)
                peer_free(peer);
}
