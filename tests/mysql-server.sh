# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# Sourced after functions.sh by the test of MySQL, which this system's packages do not have: the server of Debian's unstable, with
# the libraries it needs, in a directory of its own, where it is run by the dynamic linker from there. The directory is kept for
# the next run. Whatever keeps it from being there, the test is skipped.

MYSQL_HOME=${VSS_MYSQL_DIR:-/var/cache/vss-mysql}

# _mysql_apt DIR ARGUMENT…: apt-get with nothing of this system's
_mysql_apt() {
        timeout 80 apt-get -qq -o Dir::Etc::sourcelist="$1/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::Lists="$1/lists" \
                -o Dir::State::status="$1/status" -o Dir::Cache="$1/cache" -o APT::Sandbox::User=root -o Acquire::http::Timeout=15 \
                -o Acquire::Retries=1 -o Acquire::Languages=none -o APT::Install-Recommends=false "${@:2}" >"$1/log" 2>&1
}
# _mysql_fetch DIR: the server into DIR/system
_mysql_fetch() {
        local deb
        mkdir -p "$1/lists/partial" "$1/cache/archives/partial" "$1/system"
        printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main\n' >"$1/sources.list"
        : >"$1/status"
        _mysql_apt "$1" update || return 1
        _mysql_apt "$1" --download-only install mysql-server-core libgcc-s1 || return 1
        for deb in "$1"/cache/archives/*.deb; do
                case ${deb##*/} in perl* | libperl* | *gconv* | *openssl-provider*) continue ;; esac
                dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$1/system" --exclude='./usr/share/doc' --exclude='./usr/share/man' --exclude='./usr/share/locale' || return 1
        done
        rm -r "$1/cache" "$1/lists"
        [ -x "$1/system/usr/sbin/mysqld" ]
}
# mysql_get: makes sure of it, or skips the test; mysqld() runs it
mysql_get() {
        local new=$MYSQL_HOME.$$
        if [ ! -x "$MYSQL_HOME/system/usr/sbin/mysqld" ]; then
                mkdir -p "$new" || skip "$new cannot be made"
                if ! _mysql_fetch "$new"; then
                        tail -2 "$new/log" >&2 || :
                        rm -rf "$new"
                        skip "no MySQL can be had from deb.debian.org"
                fi
                mv -T "$new" "$MYSQL_HOME" 2>/dev/null || rm -rf "$new" # another run was first
        fi
        "$MYSQL_HOME/system/usr/lib64/ld-linux-x86-64.so.2" --library-path "$MYSQL_HOME/system/usr/lib/x86_64-linux-gnu" "$MYSQL_HOME/system/usr/sbin/mysqld" --no-defaults --version ||
                skip "the MySQL of unstable does not run here"
}
# mysqld DATA OPTION…: becomes a server on DATA, as the account mysql
mysqld() {
        local top=$MYSQL_HOME/system
        exec setpriv --reuid mysql --regid mysql --clear-groups "$top/usr/lib64/ld-linux-x86-64.so.2" --library-path "$top/usr/lib/x86_64-linux-gnu" \
                "$top/usr/sbin/mysqld" --no-defaults --basedir="$top/usr" --lc-messages-dir="$top/usr/share/mysql" \
                --character-sets-dir="$top/usr/share/mysql/charsets" --plugin-dir="$top/usr/lib/mysql/plugin" --datadir="$1" --secure-file-priv= \
                --skip-networking --mysqlx=OFF --innodb-buffer-pool-size=32M --innodb-redo-log-capacity=16M --server-id=1 "${@:2}"
}
