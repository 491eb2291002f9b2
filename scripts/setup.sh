#!/bin/sh
# SPDX-License-Identifier: MIT
# Install what the build and the tests need and this machine lacks. Says what and why; does nothing when all is there.
set -eu

# Package, a file or command that shows it is there, and why it is needed.
needed() {
	cat <<-'END'
	gcc                 gcc                                   compiles everything
	libc6-dev           /usr/include/stdio.h                  the Linux command
	make                make                                  runs the build
	binutils            ld                                    links the UEFI program
	python3             /usr/bin/python3                      makes the PE file, drives the tests
	gnu-efi             /usr/include/efi/efi.h                the UEFI program: headers, start-up code
	gdisk               sgdisk                                makes the stick image: partition table
	dosfstools          mkfs.fat                              makes the stick image: file system
	mtools              mcopy                                 makes the stick image: files
	qemu-system-x86     qemu-system-x86_64                    make run, make test-efi: the PC
	ovmf                /usr/share/OVMF/OVMF_CODE_4M.fd       make run, make test-efi: its firmware
	clang               clang                                 make test-host: the second compiler
	libclang-rt-14-dev  /usr/lib/llvm-14/lib/clang/14.0.6/lib/linux/libclang_rt.asan-x86_64.a   sanitizers of the second compiler
	clang-format        clang-format                          make check-style
	g++                 g++                                   make test-preload: C++'s operators
	libpython3.11-testsuite /usr/lib/python3.11/test/test_json    make test-preload: python3's own tests
	sqlite3             sqlite3                               make test-preload: a real program
	git                 git                                   make test-preload: likewise
	perl                shasum                                make test-preload: likewise
	cmake               cmake                                 make test-preload: likewise
	redis-tools         redis-benchmark                       make test-preload: likewise, with the server in it
	lua5.4              lua5.4                                make traces: a program to record
	lynx                lynx                                  make traces: likewise
	tidy                tidy                                  make traces: likewise
	libxml2-utils       xmllint                               make traces: likewise
	gawk                gawk                                  make traces: likewise
	bc                  bc                                    make traces: likewise
	curl                curl                                  make traces: likewise
	openssl             openssl                               make traces: likewise
	xz-utils            xz                                    make traces: likewise
	lld                 ld.lld                                make traces: likewise
	valgrind            valgrind                              make test-host: the gate on instructions; make bench
	libjemalloc2        /usr/lib/x86_64-linux-gnu/libjemalloc.so.2           make bench: to compare with
	libmimalloc2.0      /usr/lib/x86_64-linux-gnu/libmimalloc.so.2           make bench: to compare with
	libtcmalloc-minimal4 /usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4  make bench: to compare with
	libtbbmalloc2       /usr/lib/x86_64-linux-gnu/libtbbmalloc_proxy.so.2    make bench: to compare with
	gnuplot-nox         gnuplot                               make bench: the charts
	END
	# A window needs QEMU's display modules.
	if [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then
		echo "qemu-system-gui /usr/lib/x86_64-linux-gnu/qemu/ui-gtk.so make run: the window"
	fi
}

PATH=$PATH:/usr/sbin:/sbin
is_there() {
	case $1 in
	/*) [ -e "$1" ] ;;
	*) command -v "$1" >/dev/null 2>&1 ;;
	esac
}

missing=
list=
while read -r package sign reason; do
	is_there "$sign" && continue
	missing="$missing $package"
	list="$list$(printf '  %-20s %s' "$package" "$reason")
"
done <<END
$(needed)
END

if [ -z "$missing" ]; then
	echo "setup: everything that is needed is installed"
	exit 0
fi

printf 'setup: missing packages:\n%s' "$list"

if ! command -v apt-get >/dev/null 2>&1 || ! grep -qs '^ID=debian' /etc/os-release; then
	echo "setup: this is not Debian, so please install these packages (Debian's names) with this system's package manager" >&2
	exit 1
fi

as_root=
if [ "$(id -u)" -ne 0 ]; then
	if ! command -v sudo >/dev/null 2>&1; then
		echo "setup: please run as root: apt-get install$missing" >&2
		exit 1
	fi
	as_root=sudo
fi

echo "setup: installing them with apt-get${as_root:+ (through sudo)}"
$as_root apt-get -q update
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends $missing

while read -r package sign reason; do
	if ! is_there "$sign"; then
		echo "setup: $package is installed, but $sign is not there; needed because: $reason" >&2
		exit 1
	fi
done <<END
$(needed)
END
echo "setup: done"
