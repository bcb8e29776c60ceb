#!/usr/bin/env bash
# Runs the Rust tests at the AVX-512 level on a machine without AVX-512: `make test-avx512`.
#
# No qemu emulates AVX-512; Bochs does (its CPU model corei7_icelake_u has all
# that the level asks for). It emulates a whole machine, so this boots
# Debian's kernel from a CD image that holds nothing else but busybox and the tests, which print to the serial port,
# here a file. Nothing is installed but what the list below names, and nothing runs as another user.
#
# State: it does not get to the tests yet. The level asks for all of Ice Lake's AVX-512. With the model of Skylake-X
# Linux 6.1 turns AVX-512 on, but that CPU has too little; with the model of Ice Lake in Bochs 2.7 Linux finds the save
# area inconsistent ("misordered xstate at 1664") and turns all vectors off, with nopku too. Another Bochs or kernel may
# agree; the first line that the guest prints says whether AVX-512 is there.
#
#     apt-get install bochs bochsbios vgabios busybox-static cpio isolinux syslinux-common xorriso
#
# Usage: tools/test_avx512.sh [FOLDER FOR WHAT IS MADE]. MINUTES is how long the tests may take (90).
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(realpath -m "${1:-target/avx512}")
minutes=${MINUTES:-90}
for tool in bochs busybox cpio xorriso dpkg-deb; do
    command -v "$tool" >/dev/null || { echo "no '$tool' found: the head of $0 lists what is needed"; exit 1; }
done
mkdir -p "$work"/root/{bin,proc,dev} "$work"/disk/isolinux "$work"/kernel

# The tests, statically linked, with two levels: all that the CPU has but AVX-512 only costs time here.
export RUSTFLAGS="-C target-feature=+crt-static --cfg disable_dispatch_avx2 --cfg disable_dispatch_sse4_2"
export CARGO_TARGET_DIR="$work/cargo" CARGO_PROFILE_RELEASE_CODEGEN_UNITS=64
tests=(accuracy rows elements linear contract properties fuzz)
cargo test --no-run --release --target x86_64-unknown-linux-gnu --no-default-features --features std,f16,parallel \
    --message-format=json "${tests[@]/#/--test=}" | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' >"$work/tests.txt"
rm -f "$work"/root/bin/*
while read -r test; do
    name=$(basename "$test")
    strip -o "$work/root/bin/${name%-*}" "$test"
done <"$work/tests.txt"
mkdir -p "$work/root$PWD/fuzz"
cp -r fuzz/corpus "$work/root$PWD/fuzz/"
cp "$(command -v busybox)" "$work/root/bin/busybox"

# The kernel is Debian's for virtual machines: the smallest that has everything.
if [ ! -e "$work/disk/vmlinuz" ]; then
    package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends:/ { print $2; exit }')
    (cd "$work/kernel" && apt-get download -qq "$package" && dpkg-deb -x ./*.deb . && cp boot/vmlinuz-* "$work/disk/vmlinuz")
fi

# What takes hours at some fifty million instructions a second is left out: samples of millions, long products, waits.
cat >"$work/root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox grep -o -m1 'avx512[a-z]*' /proc/cpuinfo
export POLYGLOT_TEST_LEVEL=Avx512
run() {
    name=$1
    shift
    echo "== $name"
    /bin/$name --test-threads=1 "$@" && echo "== $name passed" || echo "== $name FAILED"
}
run rows
run elements
run contract
run linear
run accuracy --skip f32_sample --skip exhaustive
run properties
run fuzz
echo "== the end"
/bin/busybox sleep 1
/bin/busybox poweroff -f
INIT
chmod +x "$work/root/init"
(cd "$work/root" && find . | cpio --quiet -o -H newc | gzip -1 >"$work/disk/initrd.gz")
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/disk/isolinux/"
# Bochs and Linux disagree on how a thread's registers are saved: without protection keys and the compact form they
# agree, and Linux lets programs use the vectors.
cat >"$work/disk/isolinux/isolinux.cfg" <<'CONFIG'
DEFAULT tests
PROMPT 0
LABEL tests
KERNEL /vmlinuz
APPEND initrd=/initrd.gz console=ttyS0 quiet nokaslr no5lvl mitigations=off nosmp lpj=4000000 random.trust_cpu=on tsc=reliable nopku noxsaves clearcpuid=xsaves,xsavec
CONFIG
cd "$work"
xorriso -as mkisofs -quiet -o tests.iso -b isolinux/isolinux.bin -c isolinux/boot.cat \
    -no-emul-boot -boot-load-size 4 -boot-info-table disk
cat >bochsrc <<'CONFIG'
cpu: model=corei7_icelake_u, count=1, ips=50000000, reset_on_triple_fault=0
memory: guest=1024, host=1024
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=tests.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=serial.txt
log: bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore
display_library: rfb, options="timeout=0"
clock: sync=none
CONFIG
rm -f serial.txt
# Debian's Bochs begins in its debugger; c lets it go on.
bochs -q -f bochsrc >bochs.out 2>&1 < <(echo c; sleep $((minutes * 60))) &
bochs=$!
trap 'kill $bochs 2>/dev/null || true' EXIT
shown=0
for ((second = 0; second < minutes * 60; second += 5)); do
    sleep 5
    lines=$(wc -l 2>/dev/null <serial.txt || echo 0)
    [ "$lines" -gt "$shown" ] && sed -n "$((shown + 1)),${lines}p" serial.txt && shown=$lines
    grep -q '== the end' serial.txt 2>/dev/null && break
    kill -0 $bochs 2>/dev/null || break
done
grep -q '== the end' serial.txt || { echo "the emulated machine did not come to an end: see $work/serial.txt"; exit 1; }
! grep -q FAILED serial.txt
