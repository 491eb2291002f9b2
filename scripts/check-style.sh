#!/bin/sh
# SPDX-License-Identifier: MIT
# Formatting, lengths and licence lines of the sources. Prints what is wrong; the exit status is 1 when anything is.
set -u
cd "$(dirname "$0")/.." || exit 1

status=0
complain() {
	echo "check-style: $1"
	status=1
}

sources=$(find app include scripts -name '*.[ch]' | sort)
# shellcheck disable=SC2086
clang-format --dry-run -Werror $sources || status=1

for file in $sources scripts/* Makefile .ci/run; do
	[ -f "$file" ] || continue
	n=$(wc -l <"$file")
	[ "$n" -le 600 ] || complain "$file has $n lines; over 600 a file is to be split"
	head -n 2 "$file" | grep -q 'SPDX-License-Identifier: MIT' || complain "$file does not begin with its licence line"
	if grep -nE '[[:space:]]+$' "$file"; then
		complain "$file has blanks at the end of the lines above"
	fi
done

# A function ends at the first "}" in column one after the "{" in column one that begins it.
# shellcheck disable=SC2086
long=$(awk '/^{/ { begin = FNR } /^}/ && begin { if (FNR - begin > 60) print FILENAME ":" begin ": " FNR - begin " lines"; begin = 0 }' $sources)
[ -z "$long" ] || complain "functions over 60 lines, which is more than a screen:
$long"

[ $status -ne 0 ] || echo "check-style: $(echo "$sources" | wc -l) sources are fine"
exit $status
