#!/bin/sh
# SPDX-License-Identifier: MIT
# Record what real programs do with malloc, for `kmalloc replay`: one file a program, FOLDER/NAME.trace.
#
#   record-traces.sh [-p RECORDER.so] FOLDER [NAME ...]     only these; without names, all
#
# Programs of Debian that are not installed are left out, with a line that says so. Their input is made here or is this
# tree, so the runs can be repeated.
set -eu

recorder=build/linux/libkmalloc-record.so
if [ "${1:-}" = -p ]; then
	recorder=$2
	shift 2
fi
if [ $# -lt 1 ] || [ ! -f "$recorder" ]; then
	echo "usage: record-traces.sh [-p RECORDER.so] FOLDER [NAME ...]   (and $recorder must have been built)" >&2
	exit 2
fi
folder=$1
shift
wanted=" $* "
recorder=$(realpath "$recorder")
tree=$(realpath "$(dirname "$0")/..")
mkdir -p "$folder"
folder=$(realpath "$folder")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LC_ALL=C.UTF-8 TZ=UTC PATH="/usr/bin:/bin:$PATH" HOME="$work"
unset LD_PRELOAD

# record NAME PROGRAM COMMAND...: COMMAND runs PROGRAM somewhere; the largest trace of PROGRAM becomes NAME.trace.
record() {
	name=$1
	program=$2
	shift 2
	case $wanted in
	"  " | *" $name "*) ;;
	*) return 0 ;;
	esac
	if ! command -v "$1" >/dev/null 2>&1; then
		echo "record-traces: $name is left out, because there is no $1 here" >&2
		return 0
	fi
	rm -rf "$work/traces"
	mkdir "$work/traces"
	if ! (cd "$work" && LD_PRELOAD=$recorder KMALLOC_TRACE=$work/traces timeout 300 "$@" >"$work/out" 2>"$work/errors" </dev/null); then
		echo "record-traces: $name is left out, because $1 failed: $(head -n 1 "$work/errors")" >&2
		return 0
	fi
	# shellcheck disable=SC2012
	trace=$(ls -S "$work/traces/$program"-*.trace 2>/dev/null | head -n 1)
	if [ -z "$trace" ]; then
		echo "record-traces: $name is left out, because $program was not run" >&2
		return 0
	fi
	mv "$trace" "$folder/$name.trace"
	printf '  %-16s %9s bytes\n' "$name" "$(stat -c %s "$folder/$name.trace")"
}

# -- what the programs work on --------------------------------------------------------------------------------------

awk 'BEGIN {
	srand(7)
	for (i = 0; i < 20000; i++) {
		line = i
		for (j = int(rand() * 12); j >= 0; j--)
			line = line " w" int(rand() * rand() * 5000)
		print line
	}
}' >"$work/words.txt"
head -n 400 "$work/words.txt" >"$work/few.txt"

page() {
	echo '<!DOCTYPE html><html><head><title>A page</title><style>p { margin: 1em } .a { color: red }</style></head><body>'
	awk '{
		printf "<h2 id=\"s%d\">Section %d</h2><p class=\"a\">%s <a href=\"#s%d\">back</a> <b>%s</b></p>\n", NR, NR, $0, NR - 1, $2
		if (NR % 20 == 0) print "<table><tr><td>" $1 "</td><td>" $2 "</td></tr><tr><td colspan=2>" $3 "</td></tr></table>"
	}' "$1"
	echo '</body></html>'
}
head -n 3000 "$work/words.txt" | page - >"$work/page.html"
page "$work/few.txt" >"$work/small.html"
{
	echo '<?xml version="1.0"?><list>'
	awk '{ printf "<item id=\"%d\" kind=\"%s\"><name>%s</name><text>%s</text></item>\n", NR, $2, $3, $0 }' "$work/words.txt"
	echo '</list>'
} >"$work/list.xml"

cat >"$work/words.py" <<'END'
import collections, json, re
words = collections.Counter()
lines = {}
for number, line in enumerate(open("words.txt")):
    for word in re.findall(r"w\d+", line):
        words[word] += 1
        lines.setdefault(word, []).append(number)
text = json.dumps({"words": words, "lines": lines}, sort_keys=True)
back = json.loads(text)
print(len(text), back["words"] == words, sorted(words.items(), key=lambda pair: -pair[1])[:3])
END

cat >"$work/words.pl" <<'END'
my (%count, %lines);
open my $file, '<', 'words.txt' or die;
while (<$file>) { while (/(w\d+)/g) { $count{$1}++; push @{$lines{$1}}, $.; } }
my @best = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
print "$_ $count{$_} $#{$lines{$_}}\n" for @best[0..9];
print length(join ',', map { "$_=" . join(':', @{$lines{$_}}) } @best), "\n";
END

cat >"$work/words.awk" <<'END'
{ for (i = 2; i <= NF; i++) { count[$i]++; where[$i] = where[$i] " " NR } }
END { for (word in count) total += length(where[word]); print length(count), total }
END

cat >"$work/shell.sh" <<'END'
fill() { local i; for i in $(seq "$1"); do list[$i]="value $i of ${#list[@]}"; done; }
declare -a list; declare -A map
fill 300
while read -r number word rest; do map[$word]="${map[$word]} $number"; done <few.txt
for word in "${!map[@]}"; do text+="${word//w/W}:${map[$word]%% *} "; done
for i in 1 2 3 4 5; do copy=$(echo "$text" | tr a-z A-Z); done
case $text in *W1*) echo "${#text} ${#map[@]} ${#copy}" ;; esac
END

cat >"$work/table.sql" <<'END'
create table t (id integer primary key, name text, size integer);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)
insert into t select i, 'name ' || (i * 7919 % 20011), i * i % 997 from n;
create index by_name on t (name); create index by_size on t (size, name);
select size, count(*), group_concat(substr(name, 6), ',') from t group by size order by 2 desc limit 5;
update t set name = name || ' more' where size < 500; delete from t where size > 900;
select count(*), max(length(name)) from t join (select size as s, count(*) as c from t group by size) on s = size;
END
printf '%s\n' 'create table a (x, y);' "insert into a values (1, 'one'), (2, 'two'), (3, 'three');" \
	'select a.x, b.y from a join a b on a.x = b.x + 1 order by 1;' >"$work/small.sql"

cat >"$work/program.cc" <<'END'
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <regex>
#include <string>
#include <unordered_map>
#include <vector>
template <int N> struct tower { std::map<int, std::vector<tower<N - 1>>> floors; int count() const { int n = 1; for (auto &f : floors) for (auto &t : f.second) n += t.count(); return n; } };
template <> struct tower<0> { int count() const { return 1; } };
int main() { tower<12> t; std::unordered_map<std::string, std::function<int()>> calls{{"count", [&] { return t.count(); }}};
	std::regex pattern("w[0-9]+"); std::string line; int n = 0; while (std::getline(std::cin, line)) n += std::regex_search(line, pattern); std::cout << n + calls["count"]() << "\n"; }
END

cat >"$work/words.lua" <<'END'
local count, lines, number = {}, {}, 0
for line in io.lines("words.txt") do
	number = number + 1
	for word in line:gmatch("w%d+") do
		count[word] = (count[word] or 0) + 1
		lines[word] = lines[word] or {}
		table.insert(lines[word], number)
	end
end
local words, total = {}, 0
for word in pairs(count) do words[#words + 1] = word; total = total + #table.concat(lines[word], ",") end
table.sort(words, function(a, b) return count[a] > count[b] or count[a] == count[b] and a < b end)
print(words[1], count[words[1]], #words, total)
END

cat >"$work/threads.py" <<'END'
import queue, re, threading
tasks, results = queue.Queue(100), queue.Queue(100)
def work():
    while (task := tasks.get()) is not None:
        results.put({word: len(word) for word in re.findall(r"w\d+", task)})
def feed():
    for line in open("few.txt"):
        tasks.put(line)
    for _ in range(4):
        tasks.put(None)
threads = [threading.Thread(target=work) for _ in range(4)] + [threading.Thread(target=feed)]
for thread in threads:
    thread.start()
print(sum(len(results.get()) for _ in open("few.txt")))
for thread in threads:
    thread.join()
END

cat >"$work/redis.sh" <<'END'
# The package of the server would start one on this machine; the program itself is in the tools' package, too.
ln -s "$(command -v redis-check-rdb)" redis-server
./redis-server --port 0 --unixsocket "$PWD/redis.sock" --save "" --appendonly no --daemonize no --maxclients 100 &
unset LD_PRELOAD
for i in $(seq 100); do [ -S redis.sock ] && break; sleep 0.1; done
redis-benchmark -s redis.sock -q -n 8000 -r 5000 -c 10 -d 100 -t set,get,incr,lpush,rpop,sadd,hset,zadd,lrange_100 >/dev/null
redis-cli -s redis.sock shutdown nosave
wait
END

cat >"$work/small.c" <<'END'
#include <stdio.h>
#include <string.h>
static int compare(const char *a, const char *b) { return strcmp(a, b); }
int main(int argc, char **argv) { int n = 0; for (int i = 1; i < argc; i++) n += compare(argv[i - 1], argv[i]) < 0; return printf("%d\n", n) < 0; }
END

mkdir "$work/project"
cat >"$work/project/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.16)
project(example C)
foreach(i RANGE 1 60)
	file(WRITE ${CMAKE_BINARY_DIR}/part${i}.c "int part${i}(void) { return ${i}; }\n")
	add_library(part${i} STATIC ${CMAKE_BINARY_DIR}/part${i}.c)
	target_compile_definitions(part${i} PRIVATE PART=${i} NAME="part-${i}")
endforeach()
END

mkdir "$work/history"
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
export GIT_AUTHOR_DATE='2026-01-01T00:00:00Z' GIT_COMMITTER_DATE='2026-01-01T00:00:00Z'
if command -v git >/dev/null 2>&1; then
	git -C "$work/history" init -q
	cp -r "$tree/app" "$tree/include" "$work/history"
	git -C "$work/history" add .
	git -C "$work/history" commit -q -m first
	for i in 1 2 3 4 5 6 7 8 9 10; do
		find "$work/history/app" -name '*.c' -exec sed -i "$((i * 7))s/^/\/* $i *\/ /" {} +
		git -C "$work/history" commit -q -a -m "change $i"
	done
fi

# -- the programs ---------------------------------------------------------------------------------------------------

echo "recording into $folder:"
# Small heaps.
record ls ls ls -lR "$tree/app"
record uniq uniq uniq -c words.txt
record sed sed sed -n 's/w\([0-9]*\)/<\1>/gp' few.txt
record grep grep grep -E -c 'w(1|2)[0-9]+ .*w3' words.txt
record bash bash bash shell.sh
record dash dash dash -c 'for i in $(seq 200); do eval "v$i=\$i"; set -- "$@" "$i"; done; echo "$@" | tr " " "\n" | sort | head -n 3'
record find find find "$tree/app" -name '*.c' -size +4k -printf '%s %p\n'
record tar tar tar -cf archive.tar "$tree/app"
record bc bc sh -c "echo 'scale=200; 4*a(1); 2^4000/3^5' | bc -l"
record readelf readelf readelf -a "$tree/build/linux/libkmalloc.a"
record curl curl curl -s "file://$work/page.html"
record openssl openssl openssl version -a
record gcc gcc gcc -O1 -c small.c -o small.o
record sqlite3-small sqlite3 sqlite3 :memory: '.read small.sql'
record git-status git git -C history status
record make make make -C "$tree" -n BUILD="$work/build" BUILD_ID=x build/linux/libkmalloc.a
record perl-small perl perl -e 'my %h = map { $_ => [1 .. $_ % 7] } 1 .. 200; print scalar(keys %h), "\n"'
record xmllint-small xmllint xmllint --html --noout small.html
record gawk-small gawk gawk -f words.awk few.txt
record python3-small python3 env PYTHONMALLOC=malloc /usr/bin/python3 -S -c 'import json; print(json.dumps({str(i): [i] * 3 for i in range(500)})[:20])'
# Larger ones.
record cc1-small cc1 gcc -O1 -c small.c -o small.o
record cc1 cc1 gcc -O2 -I"$tree/include" -c "$tree/app/heap/region.c" -o region.o
record cc1plus cc1plus g++ -O1 -c program.cc -o program.o
record clang clang++ clang++ -O1 -c program.cc -o program.o
record ld ld ld -r --whole-archive "$tree/build/linux/libkmalloc.a" -o whole.o
record lld ld.lld ld.lld -r --threads=2 --whole-archive "$tree/build/linux/libkmalloc.a" -o whole.o
record python3 python3 env PYTHONMALLOC=malloc /usr/bin/python3 words.py
record python3-arenas python3 /usr/bin/python3 words.py
record python3-threads python3 env PYTHONMALLOC=malloc /usr/bin/python3 threads.py
record perl perl perl words.pl
record lua lua5.4 lua5.4 words.lua
record gawk gawk gawk -f words.awk words.txt
record sqlite3 sqlite3 sqlite3 :memory: '.read table.sql'
record git-log git git -C history log -p --stat
record git-repack git git -C history repack -adfq --window=20 --depth=20
record redis redis-server sh redis.sh
record sort sort sort -S 8M -k3 words.txt
record xz xz xz -k -6 -T2 words.txt
record xmllint xmllint xmllint --xpath 'count(//item[@kind="w1"])' list.xml
record tidy tidy sh -c 'tidy -q -asxml page.html >/dev/null 2>&1 || true'
record lynx lynx lynx -dump -width=100 page.html
record cmake cmake cmake -S project -B project/build
