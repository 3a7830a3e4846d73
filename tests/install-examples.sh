#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What is installed is enough to build and run other people's programs: headers as C11 and C++17, vss.pc, the library with nothing
# in it but its interface, and the example programs, which run against the installed daemon.
VSS_TEST_SECONDS=170
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/fake-vssd.sh"
requires meson pkg-config cc nm sqlite3 tar

[ -z "$(meson introspect --buildoptions "$VSS_BUILD" | jq -r '.[] | select(.name == "b_sanitize" and .value != "none").value')" ] ||
        skip "built with a sanitizer: programs without it cannot load the library"
root=$VSS_TEST_DIR/root
prefix=$(meson introspect --buildoptions "$VSS_BUILD" | jq -r '.[] | select(.name == "prefix").value')
note "installs into a directory of its own"
meson install -C "$VSS_BUILD" --no-rebuild --quiet --destdir "$root"
pc=$(find "$root" -name vss.pc)
[ -n "$pc" ] || die "vss.pc is not installed"
libdir=$(cd "$(dirname "$pc")/.." && pwd)
export PKG_CONFIG_PATH=${pc%/*}
pkg() { pkg-config --define-variable=prefix="$root$prefix" "$@"; }
read -ra flags <<<"$(pkg --cflags vss)"
read -ra libs <<<"$(pkg --libs vss)"
expect_equal "$root$prefix/lib" "$(pkg --variable=libdir vss | sed 's,/lib/.*,/lib,')" "libdir of vss.pc"

note "headers compile alone and together, as C11 and C++17"
for h in vss-writer.h vss-requester.h vss-provider.h; do echo "#include <$h>"; done >"$VSS_TEST_DIR/all.c"
for h in vss-writer.h vss-requester.h vss-provider.h; do
        echo "#include <$h>" >"$VSS_TEST_DIR/one.c"
        cc -std=c11 -Wall -Wextra -Wpedantic -Werror "${flags[@]}" -fsyntax-only "$VSS_TEST_DIR/one.c" || die "$h as C11"
done
cc -std=c11 -Wall -Wextra -Wpedantic -Werror "${flags[@]}" -fsyntax-only "$VSS_TEST_DIR/all.c" || die "all headers as C11"
if command -v c++ >/dev/null; then
        c++ -x c++ -std=c++17 -Wall -Wextra -Wpedantic -Werror "${flags[@]}" -fsyntax-only "$VSS_TEST_DIR/all.c" || die "headers as C++17"
fi

note "the library exports what the headers declare and nothing else"
lib=$(readlink -f "$libdir/libvss.so")
expect_equal libvss.so.1 "$(objdump -p "$lib" | awk '$1 == "SONAME" {print $2}')" soname
nm -D --defined-only "$lib" | awk '$2 != "A" {sub(/@.*/, "", $3); print $3}' | sort >"$VSS_TEST_DIR/exported"
expect_equal '' "$(grep -v '^vss_' "$VSS_TEST_DIR/exported" || :)" "foreign names"
cat "$root$prefix/include/vss-writer.h" "$root$prefix/include/vss-requester.h" | tr '\n' ' ' |
        sed 's,/\*[^*]*\*\+\([^/*][^*]*\*\+\)*/,,g' | grep -oE '\*?\bvss_[a-z_]+\(' | tr -d '*(' | sort -u |
        grep -vxE 'vss_(event|progress)_fn' >"$VSS_TEST_DIR/declared"
expect_equal '' "$(comm -23 "$VSS_TEST_DIR/declared" "$VSS_TEST_DIR/exported")" "declared but not exported"
expect_equal '' "$(comm -13 "$VSS_TEST_DIR/declared" "$VSS_TEST_DIR/exported")" "exported but not declared"

note "man pages, documents and programs are there"
for f in share/man/man3/vss-writer.3 share/man/man8/vss-writer-sqlite.8 share/man/man8/vss-writer-exec.8 share/man/man1/vss-testwriter.1 \
        share/man/man5/vss-writers.d.5 libexec/vss/vss-writer-sqlite libexec/vss/vss-writer-exec libexec/vss/vss-testwriter; do
        [ -e "$root$prefix/$f" ] || die "$f is not installed"
done

note "the examples compile without a warning against what is installed"
cd "$VSS_TEST_DIR" || die "cannot go to $VSS_TEST_DIR"
examples=$(find "$root" -type d -path '*/vss/examples')
cc -std=c11 -Wall -Wextra -Werror "${flags[@]}" "$examples/address-book.c" "${libs[@]}" -lsqlite3 -o address-book
cc -std=gnu11 -Wall -Wextra -Werror "${flags[@]}" "$examples/nightly.c" "${libs[@]}" -o nightly
export LD_LIBRARY_PATH=$libdir

note "address-book against a coordinator: document, freeze, its own end"
start_bus
start_fake
mkdir book
sqlite3 book/book.db 'CREATE TABLE t(v)'
./address-book "$PWD/book" &
example=$!
cleanup_fn stop_process $example
must_hear '^registered address-book '
ask address-book identify ok
grep '^document address-book ' "$FAKE_LOG" | grep -q '"pattern":"book.db\*"' || die "wrong document"
ask address-book freeze ok 3000 4000
! sqlite3 book/book.db 'INSERT INTO t VALUES(1)' 2>/dev/null || die "the database can be written while frozen"
kill -TERM $example
wait $example || die "address-book ended with $?"
sqlite3 book/book.db 'INSERT INTO t VALUES(1)' || die "the database cannot be written after its end"
kill -KILL "$FAKE_PID"

note "both against the daemon: a backup of a database that is written to, at level application"
new_fs data btrfs 200M
mkdir "$data/book"
sqlite3 "$data/book/book.db" 'CREATE TABLE t(v); INSERT INTO t VALUES(42)'
expect_exit 1 ./nightly "$data" nightly.tar
start_vssd
./address-book "$data/book" &
example=$!
cleanup_fn stop_process $example
_listed() { vssctl writers | grep -q '^address-book '; }
wait_until 10 _listed || die "address-book did not register"
expect_exit 0 ./nightly "$data" "$PWD/nightly.tar"
mkdir restored
tar -C restored -xf nightly.tar
expect_equal 42 "$(sqlite3 restored/book/book.db 'SELECT v FROM t')" "what was saved"
_released() { [ "$(vssctl --json snapshots | jq '.snapshots | length')" -eq 0 ]; } # it goes once vssd sees the requester go
wait_until 5 _released || die "a copy was left behind by a requester that ended"
kill -TERM $example
wait $example || die "address-book ended with $?"
