#!/bin/sh
# Installs the distribution packages that are missing for one purpose. Does nothing when all are there.
#
#   packaging/install-packages.sh build   to compile Throughway (beside a stable Rust toolchain)
#   packaging/install-packages.sh demo    to run `throughway lab demo`
#   packaging/install-packages.sh test    to run every test
#   packaging/install-packages.sh vm      to run tests in a virtual machine
#   packaging/install-packages.sh bench   to run the benchmarks beside every peer; bench-short: beside the kernel alone
#   packaging/install-packages.sh ebpf    to rebuild the XDP programs, bpf-linker included
#
# Debian and Ubuntu: apt-get, through sudo when not root. Elsewhere: says what is missing and fails.
set -eu

say() { echo "install-packages.sh: $*" >&2; }

# A user's PATH often lacks the system's own directories, where ip and ethtool are.
PATH=$PATH:/usr/sbin:/sbin

# package:what proves that it is there (a command, or the path of a file, which may be a pattern)
build="gcc:gcc make:make clang:clang m4:m4 pkgconf:pkg-config
    libc6-dev:/usr/include/stdio.h libelf-dev:/usr/include/libelf.h zlib1g-dev:/usr/include/zlib.h"
demo="iproute2:ip ethtool:ethtool iputils-ping:ping traceroute:traceroute curl:curl iperf3:iperf3"
test="$demo iputils-tracepath:tracepath mtr-tiny:mtr tcpdump:tcpdump bird2:bird frr:/usr/lib/frr/zebra dnsmasq-base:dnsmasq
    isc-dhcp-client:dhclient systemd:systemd-analyze nftables:nft nmap:nmap hping3:hping3
    stun-client:stun coturn:turnserver dnsperf:dnsperf vsftpd:vsftpd
    nginx:nginx wrk:wrk openssl:openssl ca-certificates:/etc/ssl/certs/ca-certificates.crt"
vm="qemu-system-x86:qemu-system-x86_64 busybox-static:busybox cpio:cpio binutils:strip dpkg:dpkg-deb iproute2:ip
    ethtool:ethtool"
bench_short="$demo nftables:nft valgrind:valgrind librsvg2-bin:rsvg-convert fonts-dejavu-core:/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"
bench="$bench_short clang:clang dpdk:dpdk-testpmd librte-net-af-xdp23:/usr/lib/*/librte_net_af_xdp.so.*
    linux-libc-dev:/usr/include/linux/bpf.h"
ebpf="rustc-web:/usr/bin/rustc cargo-web:/usr/bin/cargo rust-web-src:/usr/src/rustc-*/library
    llvm-22:/usr/lib/llvm-22/bin/llvm-config llvm-22-dev:/usr/include/llvm-22/llvm/Config/llvm-config.h"

has_nightly() {
    command -v rustup >/dev/null 2>&1 || return 1
    nightly=$(rustup which --toolchain nightly rustc 2>/dev/null) || return 1
    [ -d "$("$nightly" --print sysroot)/lib/rustlib/src/rust/library" ]
}

case ${1:-} in
build) wanted=$build ;;
demo) wanted=$demo ;;
test) wanted=$test ;;
vm) wanted=$vm ;;
bench) wanted=$bench ;;
bench-short) wanted=$bench_short ;;
ebpf) if has_nightly; then wanted=; else wanted=$ebpf; fi ;;
*)
    say "usage: packaging/install-packages.sh build|demo|test|vm|bench|bench-short|ebpf"
    exit 2
    ;;
esac

there() {
    case $1 in
    /*)
        # Unquoted: the pattern may match any number of paths.
        for path in $1; do
            if [ -e "$path" ]; then return 0; fi
        done
        return 1
        ;;
    *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

missing=
set -f
for entry in $wanted; do
    set +f
    there "${entry#*:}" || missing="$missing ${entry%%:*}"
    set -f
done
set +f

if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        say "missing for $1:$missing (names as in Debian); install them with your package manager"
        exit 1
    fi
    root=
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null 2>&1; then
            say "missing for $1:$missing; as root: apt-get install --no-install-recommends$missing"
            exit 1
        fi
        root=sudo
    fi
    say "installing for $1:$missing"
    # Only the programs are wanted, not the daemons that their packages start on this machine.
    daemons=
    if [ -d /run/systemd/system ]; then
        for entry in bird2:bird coturn:coturn vsftpd:vsftpd nginx:nginx; do
            case "$missing " in *" ${entry%%:*} "*) daemons="$daemons ${entry#*:}.service" ;; esac
        done
    fi
    for daemon in $daemons; do $root systemctl --quiet mask --runtime "$daemon"; done
    $root apt-get -q update
    # Word splitting is meant: one argument for each package.
    # shellcheck disable=SC2086
    $root env DEBIAN_FRONTEND=noninteractive apt-get -q install --yes --no-install-recommends $missing
    for daemon in $daemons; do
        $root systemctl --quiet unmask --runtime "$daemon"
        $root systemctl --quiet disable "$daemon"
    done
fi

if [ "$1" = ebpf ]; then
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    if ! command -v bpf-linker >/dev/null 2>&1; then
        say "installing bpf-linker 0.13.0 from crates.io"
        if has_nightly; then
            cargo install --quiet --locked bpf-linker --version 0.13.0
        else
            PATH=/usr/lib/llvm-22/bin:$PATH cargo install --quiet --locked bpf-linker --version 0.13.0 \
                --no-default-features --features llvm-22
        fi
    fi
fi
