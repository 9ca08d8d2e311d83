#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# `unsafe` in the module is for rust/sys alone (and EXCEPTIONS), and free to programs: samples, selftests,
# and the fuzz targets and host tests of core, a workspace of their own. Each unsafe block and impl, in all
# of the repository, has a SAFETY comment of its own, at most a few lines above it.
cd "$(dirname "$0")/.." || exit 1

# Files of the glue with one `unsafe` that cannot live elsewhere, with the reason.
EXCEPTIONS=(
)

faults=0
while read -r file; do
	case $file in
	rust/sys/* | rust/core/fuzz/* | samples/* | selftests/* | bench/*) may=1 ;;
	*) may=0 ;;
	esac
	for exception in "${EXCEPTIONS[@]}"; do
		[ "$file" = "$exception" ] && may=1
	done
	awk -v may="$may" '
	{
		line = $0
		comment = line ~ /^[ \t]*\/\//
		if (line ~ /\/\/.*SAFETY:/) { pending = 1; distance = 0 }
		sub(/\/\/.*/, "", line)
		gsub(/"([^"\\]|\\.)*"/, "", line)
		gsub(/unsafe_code/, "", line)
		if (line ~ /(^|[^A-Za-z0-9_])unsafe([^A-Za-z0-9_]|$)/ && !may) {
			print FILENAME ":" FNR ": unsafe outside rust/sys"; bad = 1
		}
		n = gsub(/unsafe[ \t]*(\{|impl[^A-Za-z0-9_])/, "", line)
		if (n > 0 && !pending) { print FILENAME ":" FNR ": unsafe without a SAFETY comment of its own"; bad = 1 }
		if (n > 1) { print FILENAME ":" FNR ": several unsafe blocks in one line"; bad = 1 }
		if (n > 0) pending = 0
		if (!comment && ++distance > 8) pending = 0
	}
	END { exit bad }' "$file" || faults=1
done < <(find rust samples selftests bench -name '*.rs' ! -path '*/target/*' ! -name '*_generated.rs' 2>/dev/null | LC_ALL=C sort)
exit $faults
