#!/bin/sh
# Boots Debian's kernel in a virtual machine and runs Throughway there: an older verifier, and a kernel that has pktgen.
#
#   tests/vm/run.sh BINARY [TEST...]    BINARY: target/release/throughway; TESTs: built test binaries to run there as root
#
# Without acceleration (TCG), and with a clock that counts instructions instead of time (-icount): what is measured inside
# does not depend on what else this machine does. Prints what the guest prints; exit code 0 when it says that all is well.
# Kernel and initramfs are kept in target/vm. THROUGHWAY_VM_KERNEL=FOLDER takes an unpacked kernel package from there.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
folder=${CARGO_TARGET_DIR:-$here/../../target}/vm
say() { echo "tests/vm/run.sh: $*" >&2; }

if [ $# = 0 ]; then
    say "usage: tests/vm/run.sh BINARY [TEST...]"
    exit 2
fi
mkdir -p "$folder"

kernel=${THROUGHWAY_VM_KERNEL:-$folder/kernel}
if [ ! -d "$kernel/boot" ]; then
    package=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: //p' | head -n 1)
    [ -n "$package" ] || { say "no package linux-image-amd64 here: set THROUGHWAY_VM_KERNEL"; exit 1; }
    say "fetching $package: unpacked, not installed"
    (cd "$folder" && apt-get -q download "$package" >&2)
    dpkg-deb -x "$folder/$package"_*.deb "$kernel"
    rm "$folder/$package"_*.deb
fi
image=$(echo "$kernel"/boot/vmlinuz-*)

root=$folder/root
rm -rf "$root"
for directory in bin dev proc run sys tmp tests modules var lib64 usr/sbin etc; do mkdir -p "$root/$directory"; done
ln -s ../run "$root/var/run"

# copy PROGRAM WHERE: the program and the libraries that it needs.
copy() {
    cp "$1" "$root/$2"
    for library in $(ldd "$1" 2>/dev/null | grep -o '/[^ ]*' || true); do
        mkdir -p "$root/$(dirname "$library")"
        cp -L "$library" "$root/$library"
    done
}
copy "$(command -v busybox)" bin/busybox
for program in ip ethtool; do copy "$(PATH=$PATH:/usr/sbin:/sbin command -v $program)" bin/$program; done
copy "$1" bin/throughway
# Line numbers are for debuggers; unpacking them takes memory.
strip "$root/bin/throughway"
shift
for test in "$@"; do
    name=$(basename "$test" | sed 's/-[0-9a-f]*$//')
    copy "$test" "tests/$name"
    strip "$root/tests/$name"
done
for module in drivers/net/veth net/core/pktgen; do cp "$kernel"/lib/modules/*/kernel/$module.ko "$root/modules"; done
cp "$here/guest.sh" "$root/init"
(cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) >"$folder/initramfs.gz"

say "booting $(basename "$image")"
timeout "${THROUGHWAY_VM_TIMEOUT:-1500}" qemu-system-x86_64 -accel tcg -cpu max -smp 1 -m 2048 -icount shift=3,sleep=off \
    -nographic -nodefaults -serial stdio -no-reboot -net none \
    -kernel "$image" -initrd "$folder/initramfs.gz" \
    -append "console=ttyS0 quiet panic=-1 tsc=reliable mitigations=off" </dev/null | tr -d '\r' | tee "$folder/log"
grep -q '^vm: all is well$' "$folder/log"
