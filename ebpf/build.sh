#!/bin/sh
# Builds the XDP programs and puts the objects where the loaders embed them from.
#
#   ebpf/build.sh           build; write ebpf/object/throughway.bpf.o, ebpf/object/pktgen.bpf.o and ebpf/object/BUILT-WITH
#   ebpf/build.sh --check   build into a temporary folder and print the path of throughway.bpf.o there on stdout; fail if
#                           a committed one was built with the same toolchain and is not the same byte for byte
#
# Toolchain: rustup's nightly where its rust-src is installed, else Debian's rustc-web, cargo-web and rust-web-src;
# and bpf-linker with an LLVM at least as new as that of rustc. THROUGHWAY_BPF_TOOLCHAIN=nightly|debian chooses.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# folder of the source:name of the object
objects="steer:throughway pktgen:pktgen"
built_with=$here/object/BUILT-WITH

say() { echo "ebpf/build.sh: $*" >&2; }
fail() { say "$@"; exit 1; }

help_toolchain() {
    say "no toolchain for the BPF target. One of these two will do:"
    say "  rustup toolchain install nightly --component rust-src"
    say "  apt-get install rustc-web cargo-web rust-web-src   (Debian 12 and newer)"
    exit 1
}

help_linker() {
    say "bpf-linker is missing or does not start. Either of these will do:"
    say "  cargo install bpf-linker --version 0.13.0"
    say "  apt-get install llvm-22-dev && PATH=/usr/lib/llvm-22/bin:\$PATH \\"
    say "    cargo install bpf-linker --version 0.13.0 --no-default-features --features llvm-22"
    exit 1
}

case ${1:-} in
"") check=no ;;
--check) check=yes ;;
*) fail "usage: ebpf/build.sh [--check]" ;;
esac

has_nightly() {
    command -v rustup >/dev/null 2>&1 || return 1
    nightly=$(rustup which --toolchain nightly rustc 2>/dev/null) || return 1
    [ -f "$("$nightly" --print sysroot)/lib/rustlib/src/rust/library/core/src/lib.rs" ]
}
has_debian() {
    [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] &&
        [ -f "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library/core/src/lib.rs" ]
}

# In which order toolchains are tried: the one that the committed object was built with, if it can be compared to.
toolchains=${THROUGHWAY_BPF_TOOLCHAIN:-}
case $toolchains in
nightly) has_nightly || help_toolchain ;;
debian) has_debian || help_toolchain ;;
"")
    if has_nightly; then toolchains=nightly; fi
    if has_debian; then
        if [ "$(/usr/bin/rustc --version)" = "$(sed -n 1p "$built_with" 2>/dev/null)" ]; then
            toolchains="debian $toolchains"
        else
            toolchains="$toolchains debian"
        fi
    fi
    [ -n "$toolchains" ] || help_toolchain
    ;;
*) fail "THROUGHWAY_BPF_TOOLCHAIN must be nightly or debian" ;;
esac

# rustup's proxies put a toolchain's name and library path into the environment of what they start.
unset RUSTUP_TOOLCHAIN LD_LIBRARY_PATH RUSTFLAGS CARGO_BUILD_TARGET RUSTC_BOOTSTRAP 2>/dev/null || true
cargo_home=${CARGO_HOME:-$HOME/.cargo}
original_path=$PATH

if [ "$check" = yes ]; then
    target=$(mktemp -d "${TMPDIR:-/tmp}/throughway-bpf.XXXXXX")
else
    target=$here/steer/target
fi
built=$target/bpfel-unknown-none/release

# build TOOLCHAIN: leaves the objects in $built, and $RUSTC and $linker set.
build() {
    case $1 in
    nightly)
        RUSTC=$nightly
        CARGO=$(rustup which --toolchain nightly cargo)
        ;;
    debian)
        RUSTC=/usr/bin/rustc
        CARGO=/usr/bin/cargo
        # build-std is unstable; Debian's rustc is a stable release.
        export RUSTC_BOOTSTRAP=1
        ;;
    esac
    export RUSTC

    PATH=$cargo_home/bin:$original_path
    llvm=$("$RUSTC" -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
    for version in "$llvm" 22; do
        if [ -d "/usr/lib/llvm-$version/bin" ]; then PATH=/usr/lib/llvm-$version/bin:$PATH; fi
    done
    export PATH
    linker=$(bpf-linker --version 2>/dev/null) || help_linker
    sysroot=$("$RUSTC" --print sysroot)
    objcopy=
    for candidate in llvm-objcopy "$sysroot"/lib/rustlib/*/bin/rust-objcopy; do
        if [ -z "$objcopy" ] && command -v "$candidate" >/dev/null 2>&1; then objcopy=$candidate; fi
    done
    [ -n "$objcopy" ] || fail "llvm-objcopy is missing: apt-get install llvm, or rustup component add llvm-tools"

    # No path of the machine it was built on may reach the object. --btf: type information, which the kernel wants.
    # Misaligned access: headers are read by words rather than by bytes, as x86-64 and arm64 can.
    separator=$(printf '\037')
    flags=
    for flag in \
        "--remap-path-prefix=$here=/throughway/ebpf" \
        "--remap-path-prefix=$cargo_home=/cargo" \
        "--remap-path-prefix=$sysroot/lib/rustlib/src/rust=/rust" \
        "-Cdebuginfo=2" \
        "-Clink-arg=--btf" \
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access"; do
        flags=$flags${flags:+$separator}$flag
    done
    export CARGO_ENCODED_RUSTFLAGS="$flags"

    say "building with $("$RUSTC" --version) and $linker"
    for entry in $objects; do
        (cd "$here/${entry%:*}" && "$CARGO" build --quiet --locked --release -Z build-std=core \
            --target bpfel-unknown-none --target-dir "$target") >&2 || return 1
        # Debug sections are for debuggers only; BTF, which the kernel reads, stays.
        "$objcopy" --strip-debug "$built/${entry#*:}"
        # Functions that are not inlined carry in their name a hash of the folder they were built in.
        for name in $(grep -ao '_R[A-Za-z0-9_]*Cs[A-Za-z0-9]*_[A-Za-z0-9_]*' "$built/${entry#*:}" | sort -u); do
            "$objcopy" --redefine-sym "$name=$(printf '%s' "$name" | sed 's/Cs[A-Za-z0-9]*_/C/')" "$built/${entry#*:}"
        done
    done
}

done=
for toolchain in $toolchains; do
    if build "$toolchain"; then
        done=$toolchain
        break
    fi
    say "the build with the toolchain '$toolchain' failed (\"Invalid record\": its LLVM is newer than bpf-linker's)"
done
[ -n "$done" ] || fail "nothing was built"

used="$("$RUSTC" --version)
$linker"

if [ "$check" = no ]; then
    mkdir -p "$here/object"
    for entry in $objects; do
        object=$here/object/${entry#*:}.bpf.o
        cp "$built/${entry#*:}" "$object"
        chmod 644 "$object"
        say "wrote ebpf/object/${entry#*:}.bpf.o ($(wc -c <"$object") bytes)"
    done
    printf '%s\n' "$used" >"$built_with"
    exit 0
fi

for entry in $objects; do mv "$built/${entry#*:}" "$target/${entry#*:}.bpf.o"; done
rm -rf "$target/release" "$target/bpfel-unknown-none"
if [ "$used" != "$(cat "$built_with" 2>/dev/null)" ]; then
    say "built with another toolchain than the committed objects: bytes not compared"
else
    for entry in $objects; do
        object=${entry#*:}.bpf.o
        if ! cmp "$target/$object" "$here/object/$object" >&2; then
            fail "the committed $object is not what the source gives: run ebpf/build.sh and commit ebpf/object ($target/$object)"
        fi
    done
    say "the committed objects are what the source gives, byte for byte"
fi
echo "$target/throughway.bpf.o"
