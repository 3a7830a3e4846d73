# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# What tests/vm/run and tests/vm/shell share: our build as a disk, and the command line of QEMU.
#
# There is no KVM on the build machines. These options are the ones under which the guest was stable: with thread=multi its
# kernel crashed at random (code patched under the other processor), and with cmpxchg16b too.

vm_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
vm_source=$(cd "$vm_here/../.." && pwd)
vm_build=${VSS_BUILD:-$vm_source/build}
case $vm_build in /*) ;; *) vm_build=$PWD/$vm_build ;; esac
vm_memory=2048
# What costs emulation time and shows us nothing: precautions against a processor that is not there, pages cleared twice, and
# drivers that udev would load for what QEMU's machine seems to have (three quarters of a boot's second half).
vm_append='mitigations=off init_on_alloc=0'
vm_append+=' modprobe.blacklist=kvm_amd,powernow_k8,ata_piix,ata_generic,aesni_intel,ghash_clmulni_intel,sha512_ssse3,sha256_ssse3,sha1_ssse3'

vm_die() {
        echo "tests/vm: $*" >&2
        exit 1
}

# vm_prepare KERNEL…: associative array VM_IMAGE of what tests/vm/image prints
vm_prepare() {
        local what path lines
        command -v qemu-system-x86_64 >/dev/null || vm_die "qemu-system-x86_64 is not installed; tests/deps installs it"
        lines=$("$vm_here/image" "$@") || vm_die "there is no image to boot"
        declare -gA VM_IMAGE=()
        while read -r what path; do VM_IMAGE[$what]=$path; done <<<"$lines"
}

# vm_layer FILE: our build as the distribution would install it, and the tests, as a file system to be laid over the root
vm_layer() {
        local tree=$1.tree name
        [ -e "$vm_build/build.ninja" ] || timeout 300 meson setup "$vm_build" "$vm_source" -Dbuildtype=debugoptimized >"$1.log" 2>&1 ||
                vm_die "meson setup $vm_build failed: $(tail -n 1 "$1.log")"
        timeout 1200 ninja -C "$vm_build" >"$1.log" 2>&1 || vm_die "the build in $vm_build failed: $(grep -m1 error: "$1.log")"
        DESTDIR=$tree timeout 120 meson install -C "$vm_build" --no-rebuild >"$1.log" 2>&1 ||
                vm_die "meson install of $vm_build failed: $(tail -n 1 "$1.log")"
        rm -rf "$tree"/usr/share/{man,doc} "$tree"/usr/include
        mkdir -p "$tree"/usr/lib/vss-vm/{bin,guest} "$tree"/etc/systemd/system/{multi-user.target.wants,serial-getty@ttyS0.service.d}
        # scripts as they lie in the tree, so that a test finds its functions beside it
        cp "$vm_here"/guest/* "$tree/usr/lib/vss-vm/guest/"
        cp "$vm_source"/tests/{assertions,hazards,rows}.sh "$tree/usr/lib/vss-vm/"
        cp "$vm_here"/bin/* "$tree/usr/lib/vss-vm/bin/"
        for name in $(sed -n 's/^# programs: *//p' "$vm_here"/guest/*.sh | tr ' ' '\n' | sort -u); do
                cp "$vm_build/tests/$name" "$tree/usr/lib/vss-vm/bin/" 2>/dev/null || cp "$vm_source/tests/$name" "$tree/usr/lib/vss-vm/bin/" ||
                        vm_die "$name, which a test names in '# programs:', is neither in $vm_build/tests nor in tests"
        done
        cp "$vm_here/vm-test.service" "$tree/etc/systemd/system/"
        ln -s ../vm-test.service "$tree/etc/systemd/system/multi-user.target.wants/"
        printf '[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --keep-baud 115200 - $TERM\n' \
                >"$tree/etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf"
        mkfs.erofs --quiet -zlz4 "$1" "$tree" >"$1.log" 2>&1 || vm_die "mkfs.erofs: $(tail -n 1 "$1.log")"
        rm -rf --one-file-system "$tree" "$1.log"
}

# vm_drive SERIAL FILE OPTION…: adds a disk to QEMU
vm_drive() {
        QEMU+=(-drive "if=none,id=$1,format=raw,file=$2,$3" -device "virtio-blk-pci,drive=$1,serial=$1")
}

# vm_command DIRECTORY KERNEL ROOT APPEND…: QEMU becomes the command line of a machine; ROOT is tmpfs or ext4 (then DIRECTORY/root
# is its disk). LAYER is the disk of our build.
vm_command() {
        local dir=$1 kernel=${VM_IMAGE[$2]} root=$3
        shift 3
        # setpriv: whatever ends us, QEMU goes with us
        QEMU=(setpriv --pdeathsig KILL qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot
                -accel 'tcg,thread=single' -cpu 'max,-cx16' -smp 2 -m "$vm_memory"
                -kernel "$kernel/vmlinuz" -initrd "$kernel/initrd"
                -append "console=ttyS0 panic=-1 systemd.firstboot=off net.ifnames=0 $vm_append vm.root=$root $*"
                -device virtio-serial-pci -device 'vmgenid,guid=auto')
        vm_drive modules "$kernel/modules.erofs" readonly=on
        vm_drive vss "$LAYER" readonly=on
        # The end of QEMU is the power cut. Only writeback (or none) makes it one: the guest sees a disk with a volatile cache and
        # has to flush, and what QEMU has taken over is in the host's page cache, which survives QEMU as a medium would.
        # See the head of tests/vm/run for what it does not lose.
        if [ "$root" = ext4 ]; then
                vm_drive root "$dir/root" cache=writeback
        else
                vm_drive root "${VM_IMAGE[root]}" readonly=on
        fi
}

# vm_disks DIRECTORY: every file d0, d1, … in it is a disk more
vm_disks() {
        local disk
        for disk in "$1"/d[0-9]*; do
                [ ! -e "$disk" ] || vm_drive "${disk##*/}" "$disk" cache=writeback,discard=unmap
        done
}
