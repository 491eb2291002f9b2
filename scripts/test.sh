#!/bin/sh
# SPDX-License-Identifier: MIT
# Run each test command given as an argument, all of them even when one fails, and print the sum of their "N passed, N failed".
set -u

log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0
failed=0
status=0
for command in "$@"; do
	echo "== $command"
	{
		$command 2>&1
		echo $? >"$log.status"
	} | tee "$log"
	result=$(cat "$log.status")
	rm -f "$log.status"
	line=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$log" | tail -n 1)
	if [ -z "$line" ]; then
		echo "test: \`$command\` ended with $result and no count of its cases; counted as a failure"
		line="0 passed, 1 failed"
	fi
	passed=$((passed + ${line%% passed*}))
	line=${line#*, }
	failed=$((failed + ${line%% failed*}))
	[ "$result" -eq 0 ] || status=1
done
[ "$failed" -eq 0 ] || status=1
echo
echo "$passed passed, $failed failed"
exit $status
