#!/usr/bin/env bash
# What one would think: `grain.MapDataset.source(records)[i]` hands out
# records[i]. Reading costs the same for a record of two numbers and for one
# of ten thousand, and nothing is measured while no exporter, no debug mode
# and no execution tracking is switched on.
#
# What is so (grain 0.2.18 with prometheus_client 0.25.0): each read estimates
# the record's size in bytes by a walk over all of its leaves, and adds it to a
# counter and a histogram of Prometheus, although no server was started. The
# walk is four Python calls a leaf where JAX is not installed, so a record of
# 10,000 numbers costs 40,000 calls at every read, in every epoch, in each
# worker. Records that are bytes or text, which are not walked, still cost
# some thirty calls, half of them Prometheus's.
# Where a pipeline has small records (thumbnails, prepared embeddings, rows of
# metadata) this is most of its time. Keep nested lists out of what a source
# returns: give it indices or bytes, and build the record in `map`, whose
# results are not walked.
#
# Source: grain/_src/python/dataset/transformations/source.py (the reads),
# grain/_src/core/tree_lib.py (`estimate_byte_size`) and
# grain/_src/core/prometheus_monitoring.py of the wheel grain 0.2.18.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet \
  grain==0.2.18 prometheus_client==0.25.0 numpy==2.4.1
cat >count.py <<'P'
import collections
import sys
from importlib.metadata import version

import grain

calls = collections.Counter()


def note(frame, event, _):
    if event == "call":
        calls[frame.f_code.co_qualname.rpartition(".")[2]] += 1
        calls["all"] += 1
        if "prometheus_client" in frame.f_code.co_filename:
            calls["prometheus"] += 1


def read(dataset):
    dataset[0], dataset[1]  # whatever the first ones set up
    calls.clear()
    sys.setprofile(note)
    dataset[2]
    sys.setprofile(None)
    return dict(calls)


def small(_=None):
    return {"numbers": [1, 2]}


def large(_=None):
    return {"numbers": list(range(10_000))}


source = grain.MapDataset.source
found = {
    "bytes": read(source([b"x"] * 4)),
    "small": read(source([small()] * 4)),
    "large": read(source([large()] * 4)),
    "index, large by map": read(source([0] * 4).map(large)),
}
for name in ("grain", "prometheus_client", "numpy"):
    print(name, version(name))
print("Python calls of one read, those for sizes, those of Prometheus:")
for name, one in found.items():
    sizes = one.get("add_byte_size", 0)
    print(f"{name:20} {one['all']:7} {sizes:7} {one.get('prometheus', 0):4}")
assert found["large"]["add_byte_size"] == 10_000
assert found["small"]["add_byte_size"] == 2
assert found["large"]["all"] > 10_000 + found["small"]["all"]
assert found["index, large by map"].get("add_byte_size", 0) == 1
assert all(one["prometheus"] > 5 for one in found.values())
P
venv/bin/python count.py
