#!/bin/sh
# Records the traces of this folder anew: all of them, or those that are named.
#
#     benches/traces/record.sh [NAME…]
#
# Everything that the programs read is made here, so that a trace depends on nothing but the programs' versions.
set -eu

folder=$(cd "$(dirname "$0")" && pwd)
export LC_ALL=C.UTF-8 GIT_CONFIG_GLOBAL=/dev/null PYTHONHASHSEED=0 PERL_HASH_SEED=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# record NAME VERSION COMMAND… ; what is recorded has relative paths only, for the command line is kept in the trace, and
# so is the version.
record() {
    name=$1
    note=$2
    shift 2
    cargo run --quiet --manifest-path "$folder/../../Cargo.toml" --package xtask -- \
        record -o "$folder/$name.hwt" --note "$note." -- "$@"
}

# A C compiler, optimising a file of small functions, loops, switches and calls.
trace_gcc() {
    awk 'function number(limit) { r = r * 16807 % 2147483647; return r % limit }
    BEGIN {
        r = 1
        print "typedef struct node { struct node *next, *prev; double weight; int key, tags[8]; char name[24]; } node;"
        for (f = 0; f < 8; f++) {
            printf "static inline int mix%d(int a, int b) ", f
            printf "{ return (a << %d ^ b * %d) + (a > b ? a %% 7 : b >> 2); }\n", f % 5 + 1, number(999)
            printf "static const char *const words%d[] = {", f
            for (i = 0; i < 6; i++) printf "\"%c%d\",", 97 + i, number(1000000)
            printf "};\nint f%d(node *p, int x, double y) {\n  int sum = 0;\n", f
            for (i = 0; i < 4; i++) {
                printf "  for (int i = 0; i < x; i++) { sum += mix%d(p->tags[i & 7], i * %d); ", number(f + 1), number(99)
                printf "if (sum > %d) p = p->next; }\n", number(9999)
            }
            printf "  while (p && p->weight < y * .%d) { p->weight += y; sum += p->key; p = p->prev; }\n", number(99)
            printf "  switch (x) {"
            for (i = 0; i < 9; i++) printf " case %d: return sum ^ words%d[%d][0];", i * 3, f, number(6)
            printf " }\n  return %s + sum;\n}\n", f ? "f" f - 1 "(p, x - 1, y / 2)" : "x"
        }
    }' > input.c
    record gcc "$(gcc --version | head -n 1)" gcc -O2 -S input.c -o output.s
}

# CPython with every object from malloc: objects, dictionaries, JSON, regular expressions, an SQL table.
trace_python() {
    cat > work.py <<'EOF'
import collections, json, re, sqlite3

class Person:
    def __init__(self, number):
        self.name = "person %d" % number
        self.friends = [(number * k) % 997 for k in range(1, 5)]
        self.tags = {"t%d" % (number % 13): number, "even": number % 2 == 0}

people = [Person(n) for n in range(1500)]
text = json.dumps([vars(p) for p in people])
copies = json.loads(text)
words = collections.Counter(re.findall(r"\w+", text))
upper = re.sub(r"person (\d+)", lambda m: "P" + m.group(1), text)
table = sqlite3.connect(":memory:")
table.execute("create table people (name text, tag text, weight real)")
table.executemany("insert into people values (?, ?, ?)", ((p.name, str(p.tags), len(p.friends) / 3) for p in people))
rows = table.execute("select tag, count(*), max(name) from people group by tag order by 2 desc").fetchall()
graph = {p.name: {people[f].name for f in p.friends} for p in people}
print(len(text), len(words), len(upper), len(rows), sum(len(v) for v in graph.values()), len(copies))
EOF
    PYTHONMALLOC=malloc record python "$(/usr/bin/python3 --version), PYTHONMALLOC=malloc" /usr/bin/python3 work.py
}

# CPython with threads that make objects, others that turn them into text, and one that collects: most objects are
# freed by another thread than the one that made them.
trace_python_threads() {
    cat > threads.py <<'EOF'
import json, queue, threading

inbox, outbox = queue.Queue(64), queue.Queue(64)

def maker(base):
    for n in range(700):
        inbox.put({"id": base + n, "name": "item %d" % (base + n), "parts": list(range(n % 30, n % 30 + 8))})
    inbox.put(None)

def worker():
    while (item := inbox.get()) is not None:
        outbox.put(json.dumps(item))
    outbox.put(None)

threads = [threading.Thread(target=maker, args=(base,)) for base in (0, 10000, 20000)]
threads += [threading.Thread(target=worker) for _ in range(3)]
for thread in threads:
    thread.start()
seen, left = {}, 3
while left:
    text = outbox.get()
    if text is None:
        left -= 1
    else:
        item = json.loads(text)
        seen[item["name"]] = item
for thread in threads:
    thread.join()
print(len(seen))
EOF
    PYTHONMALLOC=malloc record python-threads "$(/usr/bin/python3 --version), PYTHONMALLOC=malloc" /usr/bin/python3 threads.py
}

# A repository of 400 commits to 40 files.
make_repository() {
    rm -rf repository
    git init --quiet --initial-branch=main repository
    awk 'BEGIN {
        r = 1
        for (c = 1; c <= 400; c++) {
            printf "commit refs/heads/main\ncommitter A U Thor <author@example.com> %d +0000\n", 1700000000 + c * 60
            printf "data 10\nchange %03d\n", c
            for (k = 0; k < 3; k++) {
                r = r * 16807 % 2147483647
                text = ""
                lines[f = r % 40] += 5
                for (l = 0; l < lines[f]; l++)
                    text = text "line " l " of file " f " as of change " (l % 7 ? l : c) "\n"
                printf "M 100644 inline src/d%d/file%d.c\ndata %d\n%s\n", f % 5, f, length(text), text
            }
        }
    }' | git -C repository fast-import --quiet
}

# git, showing every change of a history.
trace_git_log() {
    make_repository
    cd repository
    record git-log "$(git --version)" git --no-pager log -p --stat main > ../log.txt
    cd ..
}

# git, packing the same repository with two threads (its process `git pack-objects`).
trace_git_repack() {
    make_repository
    cd repository
    record git-repack "$(git --version)" git -c pack.threads=2 repack -a -d -f --depth=50 --window=50
    cd ..
}

# sqlite3 in memory: indexes, full text, joins, JSON, updates.
trace_sqlite() {
    cat > work.sql <<'EOF'
create table item (id integer primary key, name text, class integer, price real);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 16000)
  insert into item select i, 'item ' || (i * 7919 % 20011), i % 97, i % 1000 / 7.0 from n;
create index by_name on item (name);
create index by_class on item (class, price);
create virtual table words using fts5(text);
insert into words select name || ' of class ' || class || ' for ' || round(price, 2) from item limit 6000;
select count(*) from words where words match 'class AND 42';
select class, count(*), round(avg(price), 2), max(name) from item group by class order by 3 desc limit 5;
select count(*) from item a join item b on a.name = 'item ' || b.id where b.class < 20;
select length(group_concat(name, '; ')) from (select name from item order by name desc);
select sum(json_extract(o, '$.c') + json_array_length(o, '$.l'))
  from (select json_object('c', class, 'l', json_array(id, name, price)) as o from item limit 10000);
update item set name = name || ' (old)' where class % 3 = 0;
delete from item where class % 5 = 1;
select upper(substr(name, 3)) as u, count(*) from item group by u having count(*) > 1 limit 3;
EOF
    record sqlite "sqlite3 $(sqlite3 --version | cut -c 1-6)" sqlite3 :memory: '.read work.sql'
}

# redis-server with two threads for input and output and its background threads, under its own benchmark, which is not
# recorded.
trace_redis() {
    cat > drive.sh <<'EOF'
until redis-cli -p 7391 ping > /dev/null 2>&1; do sleep 0.1; done
redis-benchmark -p 7391 -q -n 2500 -c 20 -P 4 -d 120 -r 2000 -t set,get,incr,lpush,rpop,sadd,hset,zadd,lrange_100
redis-cli -p 7391 flushall async
redis-benchmark -p 7391 -q -n 2500 -c 20 -P 4 -d 900 -r 1500 -t set,hset
redis-cli -p 7391 shutdown nosave
EOF
    record redis "$(redis-server --version | cut -d " " -f 1-3)" sh -c '(unset LD_PRELOAD; exec sh drive.sh > drive.txt) & exec redis-server --port 7391 --save "" --appendonly no --io-threads 3 --io-threads-do-reads yes --logfile redis.log'
    wait
}

# perl: words, hashes of hashes, lists, substitutions.
trace_perl() {
    cat > work.pl <<'EOF'
use strict; use warnings;
my ($r, %count, %index, @lines) = (1);
sub next_number { return $r = $r * 16807 % 2147483647 }
for my $n (1 .. 3000) { push @lines, join ' ', map { 'w' . next_number() % 3000 } 1 .. 3 + $n % 12 }
for my $line (@lines) {
    my $previous = '^';
    for my $word (split / /, $line) {
        $count{$word}++;
        push @{ $index{$previous}{$word} }, length $line;
        $previous = $word;
    }
}
my @top = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
my $text = join "\n", map { (my $copy = $_) =~ s/w(\d)(\d*)/"<$1>" . reverse $2/ge; ucfirst $copy } @lines;
my %tree;
for my $word (@top) {
    my $node = \%tree;
    $node = $node->{$_} //= {} for split //, $word;
    $node->{''} = $count{$word};
}
print scalar(@top), ' ', length $text, ' ', scalar(keys %index), "\n";
EOF
    record perl "$(perl -e 'print "perl $^V"')" perl work.pl
}

# Lua: trees that live and die, a table of strings, a sort, a substitution.
trace_lua() {
    cat > work.lua <<'EOF'
local r = 1
local function number(limit) r = r * 16807 % 2147483647; return r % limit end
local function tree(depth)
  if depth == 0 then return { leaf = "l" .. number(1000) } end
  return { tree(depth - 1), tree(depth - 1), key = number(1000000) }
end
local function sum(node) return node.leaf and #node.leaf or node.key + sum(node[1]) + sum(node[2]) end
local total, words = 0, {}
for round = 1, 12 do total = total + sum(tree(11)) end
for n = 1, 20000 do
  local word = "word" .. number(5000)
  words[word] = (words[word] or "") .. n % 10
end
local list = {}
for word, marks in pairs(words) do list[#list + 1] = word .. ":" .. marks:rep(3, ",") end
table.sort(list)
local joined = table.concat(list, "\n"):gsub("%d+", function(digits) return #digits .. digits end)
print(total, #list, #joined)
EOF
    record lua "$(lua5.4 -v | cut -d " " -f 1-2)" lua5.4 work.lua
}

# Ruby: structures, sets, JSON, strings, big numbers.
trace_ruby() {
    cat > work.rb <<'EOF'
require "set"
require "json"
r = 1
number = ->(limit) { (r = r * 16807 % 2147483647) % limit }
Item = Struct.new(:name, :parts, :price)
items = (1..8000).map do |n|
  Item.new("item #{number[20000]} of shelf #{n % 17}", Array.new(2 + n % 9) { number[500] }, n / 3.0)
end
by_part = Hash.new { |hash, key| hash[key] = Set.new }
items.each { |item| item.parts.each { |part| by_part[part] << item.name } }
text = JSON.generate(items.map { |item| { name: item.name, parts: item.parts, price: item.price.round(2) } })
back = JSON.parse(text, symbolize_names: true)
lines = back.sort_by { |item| [-item[:parts].size, item[:name]] }.map do |item|
  item[:name].gsub(/\d+/) { |digits| digits.reverse } + ": " + item[:parts].join(", ")
end
big = (1..600).inject(:*).to_s
puts text.size, by_part.size, lines.join("\n").size, big.size
EOF
    record ruby "$(ruby --version | cut -d " " -f 1-2)" ruby work.rb
}

# jq: a document of 5000 records, grouped.
trace_jq() {
    awk 'BEGIN {
        r = 1
        printf "["
        for (n = 0; n < 5000; n++) {
            r = r * 16807 % 2147483647
            printf "%s{\"id\": %d, \"name\": \"person %d\", ", n ? ", " : "", n, r % 9999
            printf "\"scores\": [%d, %d, %d], ", r % 7, r % 11, r % 13
            printf "\"home\": {\"city\": \"city %d\", \"zip\": \"%05d\"}}", r % 40, r % 99999
        }
        print "]"
    }' > people.json
    cat > work.jq <<'EOF'
group_by(.home.city)
| map({
    city: .[0].home.city,
    count: length,
    best: (map(.scores | add) | max),
    names: (map(.name | ascii_upcase) | sort | .[0:3] | join(", "))
  })
EOF
    record jq "$(jq --version)" jq -c -f work.jq people.json > cities.json
}

[ $# -gt 0 ] || set -- gcc python python-threads git-log git-repack sqlite redis perl lua ruby jq
for wanted; do
    "trace_$(echo "$wanted" | tr - _)"
done
