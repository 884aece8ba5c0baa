"""json, re, sqlite3, collections, threads and processes at work; says digests of what came of it."""
import collections
import concurrent.futures
import decimal
import gc
import hashlib
import json
import multiprocessing
import re
import sqlite3
import sys
import threading
import zlib

SCALE = int(sys.argv[1])


def digest(value):
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def numbers(seed, count):
    state = seed
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        yield state >> 33


def documents():
    values = [
        {"id": n, "name": "item-%d" % n, "tags": ["t%d" % (n % k) for k in range(1, 6)], "deep": {"x": [n, [n, {}]]}}
        for n in range(1500 * SCALE)
    ]
    text = json.dumps(values, indent=1, sort_keys=True)
    again = json.loads(text)
    assert again == values
    return len(text), digest(text)


def expressions():
    text = " ".join("word%d=%x;" % (n % 97, n) for n in numbers(1, 4000 * SCALE))
    found = re.findall(r"word(\d+)=([0-9a-f]+);", text)
    counted = collections.Counter(word for word, _ in found)
    replaced = re.sub(r"(\w+)=(\w+);", lambda match: match.group(2) + ":" + match.group(1), text)
    return len(found), counted.most_common(5), digest(replaced)


def database():
    base = sqlite3.connect(":memory:")
    base.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, k TEXT, v INTEGER)")
    base.executemany("INSERT INTO t (k, v) VALUES (?, ?)", (("key%d" % (n % 500), n) for n in numbers(2, 3000 * SCALE)))
    base.execute("CREATE INDEX by_k ON t (k, v)")
    rows = base.execute("SELECT k, count(*), max(v) FROM t GROUP BY k ORDER BY k").fetchall()
    base.execute("DELETE FROM t WHERE v % 3 = 0")
    left = base.execute("SELECT count(*), total(v) FROM t").fetchone()
    return len(rows), digest(rows), left


def threads():
    results = {}

    def work(name):
        kept = collections.OrderedDict()
        for n in numbers(name, 2500 * SCALE):
            kept[n % 300] = b"x" * (n % 2000)
            if n % 7 == 0:
                kept.popitem(last=False)
        packed = zlib.compress(b"".join(kept.values()))
        results[name] = (len(kept), hashlib.sha256(zlib.decompress(packed)).hexdigest()[:16])

    running = [threading.Thread(target=work, args=(name,)) for name in range(1, 6)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sorted(results.items())


def child(seed):
    values = sorted("%x" % n for n in numbers(seed, 500 * SCALE))
    return seed, digest(values)


def processes(method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(child, range(8 if method == "fork" else 2))


def cycles():
    class Node:
        def __init__(self):
            self.others = [self]
            self.text = "n" * 100

    for _ in range(3):
        for _ in range(500 * SCALE):
            Node().others.append(Node())
        gc.collect()
    return gc.collect()


def digits():
    decimal.getcontext().prec = 100 * SCALE
    return digest((decimal.Decimal(2).sqrt(), 3 ** (2000 * SCALE), str(7 ** (300 * SCALE))))


if __name__ == "__main__":
    print("json", documents())
    print("re", expressions())
    print("sqlite3", database())
    print("threads", threads())
    print("fork", processes("fork"))
    print("spawn", processes("spawn"))
    print("cycles", cycles())
    print("digits", digits())
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        print("pool", list(pool.map(child, range(6))))
