/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reports of lvm, for libFuzzer (`tests/fuzz SECONDS lvm`) and, without it, as a test that replays what is in
 * tests/corpus/lvm. What is taken must keep what the rest of the provider relies on: names that can stand in a command,
 * whole ids, percentages that are some.
 */
#include "providers/lvm/lvm.h"
#include "tests/fuzz-target.h"

static void check_volume(const LvmReport *r, const LvmVolume *v) {
        LvmMark m;
        char again[LVM_UUID_BYTES], tag[4 * LVM_TAG_BYTES];
        MUST(lvm_name_is_valid(v->name) && lvm_name_is_valid(v->vg_name));
        MUST(!v->origin[0] || lvm_name_is_valid(v->origin));
        MUST(lvm_uuid_read(v->uuid, again) == 0 && streq(again, v->uuid));
        MUST(v->data_centi >= -1 && v->data_centi <= 10000 && v->metadata_centi >= -1 && v->metadata_centi <= 10000);
        MUST(lvm_part_of(v->size, v->data_centi) <= v->size && v->minor >= -1);
        MUST(lvm_report_find(r, v->vg_uuid, v->uuid) && lvm_report_find_name(r, v->vg_uuid, v->name));
        if (lvm_mark_read(v, &m)) {
                MUST(id_is_valid(m.id) && id_is_valid(m.set) && m.volume[0]);
                MUST(lvm_tag_of_volume(m.volume, tag, sizeof(tag)) == 0 && strstr(v->tags, tag));
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        LvmReport r = {};
        Failure f = {};
        int k = lvm_report_parse((const char *) data, size, &r, &f);
        MUST(k == 0 ? !f.message[0] : k == -EBADMSG && f.message[0] && !r.volumes);
        for (size_t i = 0; i < r.n; i++)
                check_volume(&r, &r.volumes[i]);
        lvm_report_done(&r);
        return 0;
}

#ifndef FUZZING
int main(void) {
        return replay_corpus("lvm", 8);
}
#endif
