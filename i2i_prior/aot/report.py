"""Tables that `i2i-prior compile` prints."""

from typing import Any

GIB = 2**30
SHOWN = 12  # collectives; the rest is summed up


def report(result: dict[str, Any]) -> str:
    """Report of one result of `compile_ahead`."""
    lines = [_verdict(result)]
    if "mesh" in result:
        lines += ["", *_program(result)]
    if result.get("compiled"):
        lines += ["", _memory(result), "", *_collectives(result)]
        lines += ["", *_time(result)]
    if result.get("assumptions"):
        lines += ["", "assumed:"]
        lines += [f"  - {text}" for text in result["assumptions"]]
    return "\n".join(lines)


def _verdict(result: dict[str, Any]) -> str:
    where = f"{result['topology']} ({result['chips']} chips)"
    if not result["compiled"]:
        return f"does not compile for {where}: {result['reason']}"
    if not result["fits"]:
        return f"compiles for {where} but does not fit: {result['reason']}"
    return f"compiles and fits: {result['name']} on {where}"


def _program(result: dict[str, Any]) -> list[str]:
    mesh = " x ".join(f"{n} {s}" for n, s in result["mesh"].items())
    flops = result["flops_per_step"]
    parts = result["flops_per_step_prior"], result["flops_per_step_autoencoder"]
    return [
        f"mesh {mesh}; remat {result['remat']}; batch "
        f"{result['batch_size']}, {result['batch_per_shard']:g} a "
        f"data-parallel shard and micro-batch ({result['accumulate']} "
        "micro-batches)",
        f"{result['trained_parameters'] / 1e6:.1f}M trained parameters, "
        f"{result['frozen_parameters'] / 1e6:.1f}M frozen",
        f"{flops:.4g} model FLOPs a step ({parts[0]:.4g} the prior, "
        f"{parts[1]:.4g} the frozen autoencoder), "
        f"{result['flops_per_step_recomputed']:.4g} recomputed",
    ]


def _memory(result: dict[str, Any]) -> str:
    peak = result["peak_bytes_per_chip"]
    capacity = result["capacity_bytes_per_chip"]
    parts = (f"{name} {s / GIB:.2f}" for name, s in result["memory"].items())
    return (
        f"peak memory {peak / GIB:.2f} of {capacity / GIB:.2f} GiB a chip "
        f"({peak / capacity:.0%}): {', '.join(parts)}"
    )


def _collectives(result: dict[str, Any]) -> list[str]:
    rows = result["collectives"]
    if not rows:
        return ["no collectives"]
    lines = [
        f"{'collective':18} {'where':10} {'axes':16} {'chips':>6} "
        f"{'MiB each':>9} {'a step':>7} {'GiB a step':>10}"
    ]
    for row in rows[:SHOWN]:
        lines.append(
            f"{row['kind']:18} {row['where']:10} {'+'.join(row['axes']):16} "
            f"{row['group']:>6} {row['bytes'] / 2**20:>9.3f} "
            f"{row['count']:>7} {row['bytes'] * row['count'] / GIB:>10.3f}"
        )
    rest = rows[SHOWN:]
    if rest:
        size = sum(row["bytes"] * row["count"] for row in rest)
        lines.append(f"and {len(rest)} smaller ones, {size / GIB:.3f} GiB")
    whole = ", ".join(result["whole_parameters_gathered"])
    none = "no layer parameter is gathered whole outside the layer loop"
    named = f"gathered whole outside the layer loop: {whole}"
    return [*lines, named if whole else none]


def _time(result: dict[str, Any]) -> list[str]:
    parts, seconds = result["roofline"], result["step_seconds_estimate"]
    lines = [
        f"estimated step {_ms(seconds)}: "
        f"max(matmuls {_ms(parts['compute_seconds'])}, their memory traffic "
        f"{_ms(parts['overlapped_memory_seconds'])}) + other memory traffic "
        f"{_ms(parts['exposed_memory_seconds'])}, against links beside them "
        f"{_ms(parts['hidden_link_seconds'])}; + links waited for "
        f"{_ms(parts['exposed_link_seconds'])}"
    ]
    lines += [
        f"  links of {row['axes']:20} {row['where']:10} {_ms(row['seconds'])}"
        for row in parts["links"]
    ]
    lines.append(
        f"estimated {result['images_per_second_estimate']:.0f} images/s, MFU "
        f"{result['mfu_estimate']:.1%} "
        f"({result['mfu_estimate_prior']:.1%} counting the prior's FLOPs only)"
    )
    return lines


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def candidate_table(candidates: list[dict[str, Any]]) -> str:
    """Table of `--auto`: compiled layouts, best first, then those that were
    only estimated."""
    lines = [
        f"{'mesh r x f x c x t':20} {'remat':10} {'micro':>6} {'accum':>6} "
        f"{'GiB':>7} {'images/s':>9} {'MFU':>6}  "
    ]
    for row in candidates:
        mesh = " x ".join(str(size) for size in row["mesh"].values())
        peak = row["peak_bytes_per_chip"]
        mfu = row["mfu_estimate"]
        rate = row["images_per_second_estimate"]
        lines.append(
            f"{mesh:20} {row['remat']:10} {row['batch_per_shard']:>6g} "
            f"{row['accumulate']:>6} "
            f"{'-' if peak is None else f'{peak / GIB:.2f}':>7} "
            f"{'-' if rate is None else f'{rate:.0f}':>9} "
            f"{'-' if mfu is None else f'{mfu:.1%}':>6}  {row['state']}"
        )
    return "\n".join(lines)
