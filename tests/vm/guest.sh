#!/bin/busybox sh
# The first and only process of the virtual machine: see run.sh. One core, whose clock counts instructions.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
ulimit -l unlimited
trap 'poweroff -f' EXIT

# BusyBox's shell takes its own `ip` whatever the PATH says.
ip() { /bin/ip "$@"; }

wrong=0
say() { echo "vm: $*"; }
# check WHAT COMMAND...: runs it and says how it went.
check() {
    what=$1
    shift
    if "$@" >/tmp/output 2>&1; then say "ok: $what"; else wrong=1; say "WRONG: $what"; fi
    sed 's/^/    /' /tmp/output
}

say "kernel $(uname -r)"
for module in /modules/*.ko; do insmod "$module"; done
ip link set lo up

check "the verifier takes our XDP program (throughway doctor)" throughway doctor

# --- The kernel's pktgen and ours: directly, and through the kernel's forwarding.

ip link add a0 address 02:00:00:00:00:a0 type veth peer name b0 address 02:00:00:00:00:b0
ip netns add dut
ip link add s0 address 02:00:00:00:00:50 type veth peer name d0 netns dut address 02:00:00:00:00:d0
ip link add e0 address 02:00:00:00:00:e0 type veth peer name d1 netns dut address 02:00:00:00:00:d1
for device in a0 b0 s0 e0; do
    ip link set $device addrgenmode none
    ip link set $device up
done
# Frames that come by XDP need NAPI where they arrive.
ip netns exec dut ethtool -K d0 gro on
ip netns exec dut sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
ip -n dut address add 198.18.0.254/24 dev d0
ip -n dut address add 10.99.0.1/24 dev d1
ip -n dut link set d0 up
ip -n dut link set d1 up
ip -n dut neighbour add 10.99.0.2 lladdr 02:00:00:00:00:e0 nud permanent dev d1
ip -n dut route add 198.19.0.0/16 via 10.99.0.2

# number KEY FILE: of one line of JSON.
number() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p" "$2"; }

# run BACKEND WAY RATE: sends into a sink. One line: sent per second, received per second, sent, received.
run() {
    case $2 in
    direct) out=a0 in=b0 mac=02:00:00:00:00:b0 ;;
    forwarded) out=s0 in=e0 mac=02:00:00:00:00:d0 ;;
    esac
    : >/tmp/ready
    throughway pktgen sink --device $in --json >/tmp/received 2>/tmp/ready &
    sink=$!
    until grep -q ready /tmp/ready; do
        kill -0 $sink || return 1
        usleep 10000
    done
    sent=0
    throughway pktgen send --device $out --backend "$1" --rate "$3" --duration 200ms --flows 64 --source-ports 1024-1087 \
        --destination-mac $mac --json >/tmp/sent || sent=1
    usleep 100000
    kill $sink
    wait $sink
    [ $sent = 0 ] || return 1
    seconds=$(number seconds /tmp/sent)
    awk -v s="$(number packets /tmp/sent)" -v r="$(number packets /tmp/received)" -v t="$seconds" \
        'BEGIN { printf "%.0f %.0f %d %d\n", s / t, r / t, s, r }'
}

# median COLUMN FILE
median() { cut -d' ' -f"$1" "$2" | sort -n | sed -n 2p; }

say "packets per second, medians of three interleaved runs:"
say "way        offered    pktgen sent, received    ours sent, received    ours/pktgen"
for way in direct forwarded; do
    # The emulated core forwards some 8000 packets a second.
    case $way in direct) rates="1000 10000" ;; forwarded) rates="1000 4000 max" ;; esac
    for rate in $rates; do
        rm -f /tmp/kernel /tmp/live-frames
        for turn in 1 2 3; do
            for backend in kernel live-frames; do
                run $backend $way $rate >>/tmp/$backend || { wrong=1; say "WRONG: $backend $way $rate"; }
            done
        done
        figures="-v theirs=$(median 1 /tmp/kernel) -v theirs_in=$(median 2 /tmp/kernel)
            -v ours=$(median 1 /tmp/live-frames) -v ours_in=$(median 2 /tmp/live-frames)"
        # Word splitting is meant: these are options.
        say "$(awk -v way=$way -v rate=$rate $figures 'BEGIN {
            printf "%-10s %7s %13d %10d %13d %10d      %.3f %.3f", way, rate, theirs, theirs_in, ours, ours_in,
                ours / theirs, ours_in / theirs_in }')"
        # As fast as it goes is not the same of both: one makes socket buffers, the other frames.
        if [ $rate != max ]; then
            check "$way at $rate/s: within 10 %" awk -v rate=$rate $figures '
                function near(a, b) { return a > 0.9 * b && a < 1.1 * b }
                BEGIN { exit !(near(ours, theirs) && near(ours_in, theirs_in) && near(ours, rate)) }'
        fi
    done
done

# --- The XDP tests.

for test in /tests/*; do
    if [ -x "$test" ]; then
        # An emulated core is slow: of random frames fewer.
        check "$(basename "$test")" env THROUGHWAY_REQUIRE_PRIVILEGED=1 THROUGHWAY_FUZZ=0.05 "$test" --test-threads=1
    fi
done

if [ $wrong = 0 ]; then say "all is well"; fi
