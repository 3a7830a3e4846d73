# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# bash completion of vssctl: verbs and options as `--help` tells them, ids, volumes, writers and providers as the service does.

# Options of a verb ("" for none), from its own help: one list, nothing to keep in step.
__vssctl_options() {
        # shellcheck disable=SC2086
        vssctl $1 --help 2>/dev/null | sed -n 's/^ *\(-., \)\? *\(--[a-z-]*=\?\).*/\2/p'
}

__vssctl_verbs() { vssctl --help 2>/dev/null | sed -n '/^Verbs:/,/^Options/s/^  \([a-z-]*\) .*/\1/p'; }

# __vssctl_ask VERB FILTER: what the service knows, never asking for a password, never for long
__vssctl_ask() {
        command -v jq >/dev/null || return 0
        # shellcheck disable=SC2086
        timeout 3 vssctl --json --no-ask-password --timeout=2 $1 2>/dev/null | jq -r "$2" 2>/dev/null
}

__vssctl_sets() { __vssctl_ask sets '.sets[] | select(.state != "deleted") | .id, (.labels.alias // empty)'; }
__vssctl_snapshots() { __vssctl_ask snapshots '.snapshots[].id'; }
__vssctl_writers() { __vssctl_ask writers '.writers[] | .name + (if (.instance // "") == "" then "" else "@" + .instance end)'; }
__vssctl_volumes() { __vssctl_ask volumes '.volumes[].name'; }
__vssctl_providers() { __vssctl_ask providers '.providers[].name'; }

# Values of an option: words on stdout, or the return value 1 for a file name.
__vssctl_values() {
        case $1 in
        --writer | --exclude-writer | --require-writer) __vssctl_writers ;;
        --component) __vssctl_writers | sed 's/$/:/' ;;
        --writer-option) __vssctl_writers | sed 's/$/:/' ;;
        --provider) __vssctl_providers ;;
        --volume) __vssctl_volumes ;;
        --cancel) __vssctl_ask 'restore --pending' '.plans[] | .id' ;;
        --require) printf '%s\n' application filesystem crash ;;
        --type) printf '%s\n' copy full incremental differential log ;;
        --auto-recovery) printf '%s\n' writers rollback force none ;;
        --mode) printf '%s\n' copy redirect clone ;;
        --closure) printf '%s\n' extend strict ignore ;;
        --on-writer-failure) printf '%s\n' abort degrade ;;
        --frontend) printf '%s\n' auto fuse ublk ;;
        --host | -H) compgen -A hostname ;;
        --manifest | --previous | --svg | --origin | --store | --into) return 1 ;;
        *) ;;
        esac
}

# __vssctl_reply CURRENT WORDS: those that begin with it
__vssctl_reply() {
        local word
        while IFS= read -r word; do
                [[ -n $word && $word == "$1"* ]] && COMPREPLY+=("$word")
        done <<<"$2"
        return 0
}

__vssctl_operands() {
        case $1 in
        create | plan | run)
                __vssctl_reply "$2" "$(__vssctl_volumes)"
                compopt -o default 2>/dev/null
                ;;
        show) __vssctl_reply "$2" "$(__vssctl_sets; __vssctl_snapshots; __vssctl_writers; __vssctl_volumes)" ;;
        revert) __vssctl_reply "$2" "$(__vssctl_snapshots)" ;;
        delete) __vssctl_reply "$2" "$(__vssctl_sets; __vssctl_snapshots)" ;;
        mount | umount)
                __vssctl_reply "$2" "$(__vssctl_snapshots; __vssctl_sets)"
                compopt -o default 2>/dev/null
                ;;
        complete | cancel | timeline) __vssctl_reply "$2" "$(__vssctl_sets)" ;;
        writers) __vssctl_reply "$2" "$(__vssctl_writers)" ;;
        volume) __vssctl_reply "$2" "$(printf '%s\n' create attach detach remove list; __vssctl_ask 'volume list' '.volumes[].name')" ;;
        storage) __vssctl_reply "$2" list ;;
        report | restore | test-backup) compopt -o default 2>/dev/null ;;
        *) ;;
        esac
        return 0
}

_vssctl() {
        local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} verb='' i word
        for ((i = 1; i < COMP_CWORD; i++)); do
                word=${COMP_WORDS[i]}
                if [[ $word == -- && $verb == run ]]; then
                        # from here on it is another command's line
                        if declare -F _command_offset >/dev/null; then
                                _command_offset $((i + 1))
                        else
                                compopt -o default 2>/dev/null
                        fi
                        return 0
                fi
                [[ $word == -H || $word == --host || $word == --timeout ]] && { ((i++)); continue; }
                [[ $word == -* || $word == = || -n $verb ]] || verb=$word
        done
        # "=" is a word of its own for readline: --option = value
        if [[ $current == --*=* ]]; then
                previous=${current%%=*} current=${current#*=}
                __vssctl_reply "$current" "$(__vssctl_values "$previous")"
                COMPREPLY=("${COMPREPLY[@]/#/$previous=}")
                return 0
        fi
        if [[ $current == = || $previous == = ]]; then
                [[ $current == = ]] && current='' || previous=${COMP_WORDS[COMP_CWORD - 2]}
                __vssctl_reply "$current" "$(__vssctl_values "$previous")" || compopt -o default 2>/dev/null
                return 0
        fi
        if [[ $current == -* ]]; then
                __vssctl_reply "$current" "$(__vssctl_options "$verb")"
                [[ ${COMPREPLY[0]-} == *= ]] && compopt -o nospace 2>/dev/null
        elif [[ -z $verb ]]; then
                __vssctl_reply "$current" "$(__vssctl_verbs)"
        else
                __vssctl_operands "$verb" "$current"
        fi
        return 0
}

complete -F _vssctl vssctl
