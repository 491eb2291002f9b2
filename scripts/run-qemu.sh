#!/bin/sh
# SPDX-License-Identifier: MIT
# Start a stick image on a PC with UEFI firmware, in QEMU: in a window where there is a display, else in this terminal.
#
#   run-qemu.sh IMAGE [more QEMU options, for instance -m 2G -smp 4]
set -eu

image=$1
shift

firmware=/usr/share/OVMF/OVMF_CODE_4M.fd
variables=/usr/share/OVMF/OVMF_VARS_4M.fd
for file in "$firmware" "$variables" "$image"; do
	if [ ! -e "$file" ]; then
		echo "run: $file is missing; make setup installs the firmware, make image makes the image" >&2
		exit 1
	fi
done

# With `enforce` QEMU ends at once when the processor behind /dev/kvm cannot be what the guest needs.
accelerator=tcg
if [ -r /dev/kvm ] && [ -w /dev/kvm ] &&
	echo quit | timeout 5 qemu-system-x86_64 -M q35,accel=kvm -cpu qemu64,enforce -S -display none -nodefaults \
		-monitor stdio >/dev/null 2>&1; then
	accelerator=kvm
fi

# Each run starts with fresh firmware variables: snapshot=on keeps changes for as long as QEMU runs. The image keeps what is written.
set -- -machine "q35,accel=$accelerator" -m 512M -nodefaults -net none \
	-drive "if=pflash,format=raw,unit=0,readonly=on,file=$firmware" \
	-drive "if=pflash,format=raw,unit=1,snapshot=on,file=$variables" \
	-device qemu-xhci -drive "if=none,id=stick,format=raw,file=$image" -device usb-storage,drive=stick \
	"$@"

window=
if [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then
	for kind in gtk sdl; do
		if [ -z "$window" ] && qemu-system-x86_64 -display help 2>/dev/null | grep -qx "$kind"; then
			window=$kind
		fi
	done
	[ -n "$window" ] || echo "run: this QEMU cannot open a window (package qemu-system-gui); using the terminal"
fi

if [ -n "$window" ]; then
	echo "run: the PC opens in a window ($accelerator)."
	echo "run: To leave: P in the menu, or close the window. Ctrl+Alt+G frees the mouse."
	exec qemu-system-x86_64 "$@" -vga std -display "$window" -serial none
fi

# The firmware takes a serial console for one of 80x50.
rows=$(stty size 2>/dev/null | cut -d' ' -f1)
if [ -t 1 ] && [ "${rows:-50}" -lt 50 ]; then
	printf '\033[8;50;80t' # ask the terminal to grow; not all can
	sleep 0.3
	rows=$(stty size | cut -d' ' -f1)
	if [ "$rows" -lt 50 ]; then
		echo "run: this terminal has $rows rows and the firmware draws 50: make it larger, or the"
		echo "run: lowest lines fall on top of each other."
	fi
fi

echo "run: the PC's serial console is this terminal ($accelerator)."
echo "run: To leave: P in the menu; or at any time Ctrl-A, then X."
echo "run: The firmware takes about five seconds."
status=0
qemu-system-x86_64 "$@" -display none -serial mon:stdio || status=$?
[ ! -t 1 ] || printf '\033[0m\033[?25h\n' # plain text and a cursor again
exit $status
