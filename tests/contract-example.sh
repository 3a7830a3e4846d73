#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A provider that knows nothing of our tree, built with nothing but the installed header, keeps the whole contract.
export VSS_TEST_SECONDS=170
. "$(dirname "$0")/functions.sh"
requires cc c++ meson

DESTDIR=$VSS_TEST_DIR/root meson install -C "$VSS_BUILD" --no-rebuild --tags devel >"$VSS_TEST_DIR/install.log" 2>&1 || {
        cat "$VSS_TEST_DIR/install.log" >&2
        die "meson install failed"
}
header=$(find "$VSS_TEST_DIR/root" -name vss-provider.h)
[ -n "$header" ] || die "vss-provider.h was not installed"

outside=$VSS_TEST_DIR/outside
mkdir -m 755 "$outside" "$VSS_TEST_DIR/providers"
cp "$VSS_SOURCE/providers/example/example.c" "$outside/"
cd "$outside" || exit 1
strict=(-Wall -Wextra -Wpedantic -Werror "-I$(dirname "$header")")
echo '#include <vss-provider.h>' >empty.c
cc -std=c11 -x c "${strict[@]}" -fsyntax-only empty.c || die "the header is not C11"
c++ -std=c++17 -x c++ "${strict[@]}" -fsyntax-only empty.c || die "the header is not C++17"
cc -std=c11 -D_GNU_SOURCE "${strict[@]}" -fPIC -shared -o "$VSS_TEST_DIR/providers/example.so" example.c
chmod 644 "$VSS_TEST_DIR/providers/example.so"

export VSS_PROVIDER_DIRECTORY=$VSS_TEST_DIR/providers VSS_EXAMPLE_DIRECTORY=$VSS_TEST_DIR/records VSS_CONTRACT=loaded
"$VSS_BUILD/tests/contract-provider"
[ -z "$(ls "$VSS_EXAMPLE_DIRECTORY")" ] || die "records are left: $(ls "$VSS_EXAMPLE_DIRECTORY")"

# made writable for others, it is a provider no more
chmod 666 "$VSS_TEST_DIR/providers/example.so"
if "$VSS_BUILD/tests/contract-provider" >"$VSS_TEST_DIR/refused.log" 2>&1; then
        die "a file that anybody can write was loaded"
fi
grep -q "nobody else can write" "$VSS_TEST_DIR/refused.log" || die "the refusal does not say why: $(tail -n 1 "$VSS_TEST_DIR/refused.log")"
