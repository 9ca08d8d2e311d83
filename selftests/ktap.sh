# SPDX-License-Identifier: GPL-2.0
# For tests that are shell scripts: results, which they print as they come. The plan is theirs to print.
# shellcheck shell=sh
count=0 failed=0

# check NAME COMMAND...: one result
check() {
	name=$1
	shift
	count=$((count + 1))
	if "$@"; then
		echo "ok $count $name"
	else
		echo "not ok $count $name"
		failed=1
	fi
}
