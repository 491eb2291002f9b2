#!/bin/sh
# SPDX-License-Identifier: MIT
# Make a bootable stick image, without root: GPT, one FAT32 ESP with \EFI\BOOT\BOOTX64.EFI, kmalloc.efi and what is in esp/.
#
#   make-image.sh IMAGE PROGRAM.efi [FOLDER]     FOLDER instead of esp/
#
# Equal input gives an equal image: identifiers and times are fixed.
set -eu

image=$1
program=$2
folder=${3:-$(dirname "$0")/../esp}

PATH=$PATH:/usr/sbin:/sbin
export SOURCE_DATE_EPOCH=1767225600 # 2026-01-01
export TZ=UTC
export MTOOLS_SKIP_CHECK=1

size_mib=64 # FAT32 begins at 65,525 clusters: 32 MiB with clusters of one sector
first_sector=2048
last_sector=$((size_mib * 2048 - 2048))
kib=$(((last_sector - first_sector + 1) / 2))

new=$image.new
trap 'rm -f "$new"' EXIT
rm -f "$new"
truncate -s "${size_mib}M" "$new"
sgdisk --clear --disk-guid=6B6D616C-6C6F-4300-8000-000000000001 \
	--new=1:$first_sector:$last_sector --typecode=1:ef00 --change-name=1:kmalloc \
	--partition-guid=1:6B6D616C-6C6F-4300-8000-000000000002 "$new" >/dev/null
# It warns on each run that the image goes on behind the partition, which is where GPT keeps its second table.
if ! said=$(mkfs.fat -F 32 -s 1 -n KMALLOC --invariant -h $first_sector --offset=$first_sector "$new" $kib 2>&1); then
	echo "$said" >&2
	exit 1
fi

esp=$new@@$((first_sector * 512))
mmd -i "$esp" ::/EFI ::/EFI/BOOT
mcopy -i "$esp" "$program" ::/EFI/BOOT/BOOTX64.EFI
mcopy -i "$esp" "$program" ::/kmalloc.efi
for entry in "$folder"/*; do
	if [ -e "$entry" ]; then
		mcopy -s -i "$esp" "$entry" ::/
	fi
done

trap - EXIT
mv "$new" "$image"
