# SPDX-License-Identifier: GPL-2.0
# Shared by the shell scripts of this folder: where things are, messages, locks, long steps.
# shellcheck shell=bash

set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
SCRIPTS=$TOP/scripts
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/burrow

die() {
	echo "${0##*/}: $*" >&2
	exit 1
}

note() {
	echo "$*" >&2
}

# hash_of: eight hex digits that name what is read on stdin
hash_of() {
	sha256sum | cut -c1-8
}

# with_lock NAME COMMAND...: one run at a time of what makes the part NAME of the cache
with_lock() {
	local name=$1 fd rc=0
	shift
	mkdir -p "$CACHE"
	exec {fd}>"$CACHE/lock.$name"
	if ! flock -n "$fd"; then
		note "waiting for another run that makes: $name"
		flock "$fd"
	fi
	"$@" || rc=$?
	exec {fd}>&-
	return "$rc"
}

# need_disk GIB: refuse to start what would fill the disk
need_disk() {
	local free
	mkdir -p "$CACHE"
	free=$(df -Pk "$CACHE" | awk 'NR == 2 { print int($4 / 1048576) }')
	[ "$free" -ge "$1" ] ||
		die "$CACHE has $free GB free, $1 GB are needed: free some, or set XDG_CACHE_HOME to a larger disk"
}

# need_host COMMAND PACKAGE: a tool that has to be there before the tool root is
need_host() {
	command -v "$1" >/dev/null && return
	if [ "$(id -u)" = 0 ] && [ "${CI:-}" = true ]; then
		note "installing $2"
		{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$2"; } \
			</dev/null >/dev/null 2>&1 || true
		command -v "$1" >/dev/null && return
	fi
	die "$1 is missing: apt-get install $2"
}

# long_step LABEL LINES LOG COMMAND...: run COMMAND with its output in LOG and show how far it is,
# from the number of lines that it is known to print. On a terminal a bar, elsewhere a line per 10%.
long_step() {
	local label=$1 total=$2 log=$3 rc=0
	shift 3
	mkdir -p "$(dirname "$log")"
	"$@" 2>&1 </dev/null | tee "$log" | show_progress "$label" "$total" || rc=$?
	if [ "$rc" != 0 ]; then
		tail -n 15 "$log" >&2
		if grep -qE 'Could not resolve|Temporary failure|Could not connect|Unable to connect|Network is unreachable' "$log"; then
			die "$label: no network: check the connection, the resolver and http_proxy (log: $log)"
		fi
		if grep -q 'No space left on device' "$log"; then
			die "$label: the disk is full (log: $log)"
		fi
		die "$label failed (log: $log)"
	fi
}

show_progress() {
	local label=$1 total=$2 n=0 pct=0 last=-1 start=$SECONDS bar='########################################'
	[ -t 2 ] || note "$label ..."
	while read -r _; do
		n=$((n + 1))
		pct=$((n * 100 / total))
		[ "$pct" -lt 100 ] || pct=99
		[ "$pct" = "$last" ] && continue
		if [ -t 2 ]; then
			printf '\r%-28s [%-40s] %2d%%' "$label" "${bar:0:$((pct * 40 / 100))}" "$pct" >&2
		elif [ $((pct / 10)) != $((last / 10)) ] && [ "$pct" -ge 10 ]; then
			note "$label: $((pct / 10 * 10))%"
		fi
		last=$pct
	done
	[ -t 2 ] && printf '\r\033[K' >&2
	note "$label: $((SECONDS - start)) s"
}
