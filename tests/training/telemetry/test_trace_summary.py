"""Traces of TPU, GPU and CPU as XLA names their parts, summed up."""

from __future__ import annotations

import pytest
from jax.profiler import ProfileData

from i2i_prior.training.telemetry.profiler import (
    describe,
    kind_of,
    read_devices,
    summarise,
)


def plane(name: str, lines: dict[str, list[tuple]]) -> str:
    """An XPlane in text: line -> (event, start ns, ns, {stat: value})."""
    names: dict[str, int] = {}
    stats: dict[str, int] = {}
    text = f'name: "{name}"\n'
    for line, events in lines.items():
        text += f'lines {{ name: "{line}" timestamp_ns: 0\n'
        for event, start, duration, values in events:
            number = names.setdefault(event, len(names) + 1)
            text += (
                f"events {{ metadata_id: {number} offset_ps: {start * 1000} "
                f"duration_ps: {duration * 1000} "
            )
            for stat, value in values.items():
                number = stats.setdefault(stat, len(stats) + 1)
                text += (
                    f'stats {{ metadata_id: {number} str_value: "{value}" }} '
                )
            text += "}\n"
        text += "}\n"
    for kind, table in (("event", names), ("stat", stats)):
        for entry, number in table.items():
            text += (
                f"{kind}_metadata {{ key: {number} value {{ id: {number} "
                f'name: "{entry}" }} }}\n'
            )
    return f"planes {{ {text} }}\n"


def devices(*planes: str):
    return read_devices(ProfileData.from_text_proto("".join(planes)))


def kinds(*planes: str) -> dict[str, float]:
    """kind -> nanoseconds, over all devices."""
    found: dict[str, float] = {}
    for operation in (one for device in devices(*planes) for one in device):
        found[operation.kind] = found.get(operation.kind, 0) + operation.own
    return found


def category(name: str, path: str = "") -> dict[str, str]:
    return {"hlo_category": name, "tf_op": path}


TPU = plane(
    "/device:TPU:0",
    {
        "Steps": [("10", 0, 1000, {})],
        "XLA Modules": [("jit_step(1)", 0, 1000, {})],
        "XLA Ops": [
            ("while.3", 0, 900, category("while")),
            ("fusion.1", 0, 500, category("convolution fusion")),
            ("all-gather.7", 500, 100, category("all-gather")),
            ("custom-call.2", 600, 200, category("custom-call", "jit/splash")),
            ("copy.9", 800, 50, category("data formatting")),
            ("fusion.2", 900, 100, category("loop fusion")),
        ],
        "Async XLA Ops": [("all-gather-start", 0, 900, {})],
    },
)


def test_a_tpu():
    assert kinds(TPU, plane("/host:CPU", {"python": []})) == {
        "matmul": 500,
        "collective": 100,
        "attention": 200,
        "copy": 50,
        "elementwise": 100,
    }


def test_a_gpu_with_two_streams():
    gemm, nccl = "nvjet_hsh_128x256", "ncclDevKernel_AllGather_RING_LL"
    assert kinds(
        plane(
            "/device:GPU:1",
            {
                "Stream #7(Compute)": [
                    (gemm, 0, 400, {"hlo_op": "custom-call.4"}),
                    ("loop_add_fusion_3", 400, 50, {"hlo_op": "fusion.3"}),
                    ("cudnn_generated_fmha_fprop", 450, 150, {"hlo_op": "c"}),
                    ("MemcpyD2D", 600, 10, {}),
                ],
                "Stream #9(Collective)": [(nccl, 100, 300, {})],
                "XLA Modules": [("jit_step", 0, 610, {})],
            },
        )
    ) == {
        "matmul": 400,
        "elementwise": 50,
        "attention": 150,
        "copy": 10,
        "collective": 300,
    }


def test_a_cpu_counts_nested_operations_once():
    host = plane(
        "/host:CPU",
        {
            "python": [("train", 0, 5000, {})],
            "tf_XLAPjRtCpuClient/1": [
                ("while.1", 0, 900, {"hlo_op": "while.1"}),
                ("dot.2", 100, 500, {"hlo_op": "dot.2"}),
                ("tanh.5", 200, 100, {"hlo_op": "tanh.5"}),
                ("ThreadpoolListener::Record", 650, 0, {}),
            ],
        },
    )
    assert kinds(host) == {"matmul": 400, "elementwise": 100}


def test_the_tables():
    text = describe(devices(TPU, TPU.replace("TPU:0", "TPU:1")), top=2)
    rows = [line.split() for line in text.splitlines()]
    # 950 ns of 1000 each: 50 ns have no operation.
    assert rows[1] == ["50.0%", "0.001", "ms", "2", "matmul", "fusion.1"]
    assert rows[2][-1] == "custom-call.2"
    assert rows[3] == []
    assert ["5.0%", "0.000", "ms", "host"] in rows
    assert sum(float(row[0][:-1]) for row in rows[5:]) == pytest.approx(100)


def test_no_trace(tmp_path):
    assert summarise(tmp_path) == f"no trace in {tmp_path}"
    assert describe(devices(), 5) == "the trace holds no operations"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("dot_general.12", "matmul"),
        ("gemm_fusion_dot_4", "matmul"),
        ("convolution.3", "matmul"),
        ("convert_fusion.3", "elementwise"),
        ("reduce-scatter-done.1", "collective"),
        ("collective-permute-start", "collective"),
        ("transpose_copy_fusion", "copy"),
        ("broadcast_add_fusion", "elementwise"),
        ("dynamic-update-slice.8", "copy"),
        ("flash_attention_kernel", "attention"),
    ],
)
def test_kinds_by_name(name, wanted):
    assert kind_of(name) == wanted
