/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
#include "client/verbs.h"

/* One list: {"schema":1,KEY:[…]} in c->document, and as a table. empty: what to say when there is nothing. */
int list_fetch(Context *c, const char *interface, const char *key, json_object *(*describe)(json_object *) );
int list_print(Context *c, const char *key, const Column *columns, const char *empty);
