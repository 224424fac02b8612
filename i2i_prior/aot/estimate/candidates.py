"""Candidate meshes, remat policies and micro-batches for a machine.

A rough model of memory and time, only good enough to choose what the real
compiler is asked about.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from i2i_prior.aot.estimate.roofline import ATTAINABLE
from i2i_prior.aot.topologies import Topology

# Values a token and layer that a policy keeps, over the width, beside the
# layer's input: attention's result; and the MLP's hidden channels (4); all
# products; and all that lies between.
KEPT = {"full": 0, "attention": 1, "hidden": 5, "dots": 10, "none": 24}
# Values a token of the one layer that is at work, forward and backward.
WORKING = 40
# Float32 copies of an image's widest feature map in the frozen autoencoder.
IMAGE_COPIES = 3
HEADROOM = 0.92  # of a chip's memory: the model above errs by some percent


@dataclass(frozen=True)
class Workload:
    """Sizes of a training step."""

    batch: int  # images of the global batch
    depth: int  # of the DiT, as the next three
    width: int
    tokens: int  # of an image
    heads: int
    trained: int  # parameters
    frozen: int  # parameters
    stacked: int  # parameters in the DiT's layers
    state_bytes: int  # of a trained parameter: itself, moments and EMA
    value_bytes: int  # of an activation
    image_values: int  # of the autoencoder's widest feature map, an image
    flops: dict[str, float]  # of all chips in a step, by remat policy


@dataclass(frozen=True)
class Candidate:
    """Layout of a step: sizes of the mesh axes, remat policy, micro-batches."""

    replica: int
    fsdp: int
    context: int
    tensor: int
    remat: str
    accumulate: int

    @property
    def mesh(self) -> tuple[int, int, int, int]:
        """Sizes in the mesh's order."""
        return self.replica, self.fsdp, self.context, self.tensor

    @property
    def shards(self) -> int:
        """Chips that a parameter is sharded over."""
        return self.fsdp * self.context * self.tensor

    def micro_batch(self, work: Workload) -> float:
        """Images of one micro-batch on one data-parallel shard."""
        return work.batch / (self.replica * self.fsdp * self.accumulate)


def candidates(work: Workload, topology: Topology) -> Iterator[Candidate]:
    """Yields the layouts with sizes that divide what they shard."""
    chips = topology.chips
    fast = chips // topology.slices
    widest = topology.shape[0] if topology.chip.axes == 0 else fast
    for tensor, context in itertools.product(_powers(16), _powers(16)):
        cut = tensor * context
        if work.heads % tensor or work.tokens % cut or widest % cut:
            continue
        rest = chips // cut
        for fsdp in (n for n in range(1, rest + 1) if rest % n == 0):
            replica = rest // fsdp
            # Slow links carry one gradient sum a step, no gathers.
            if replica % topology.slices or work.batch % rest:
                continue
            if work.width % (fsdp * cut):
                continue  # parameters that do not divide stay whole
            for accumulate in _powers(work.batch // rest):
                if work.batch // rest % accumulate == 0:
                    for remat in work.flops:
                        yield Candidate(
                            replica, fsdp, context, tensor, remat, accumulate
                        )


def _powers(limit: int) -> list[int]:
    return [2**n for n in range(limit.bit_length()) if 2**n <= limit]


def memory(work: Workload, choice: Candidate) -> float:
    """Estimated bytes on one chip."""
    gradients = 4 * (2 if choice.accumulate > 1 else 1)
    state = (work.state_bytes + gradients) * work.trained + 4 * work.frozen
    layer = work.stacked / work.depth / choice.tensor
    # One layer at work, the next one on its way, and a gradient.
    gathered = layer * (2 * 2 + 4)
    micro = choice.micro_batch(work)
    # Each value is cut over tensor too: by tokens, heads or channels.
    share = micro / (choice.context * choice.tensor)
    value = share * work.tokens * work.width * work.value_bytes
    activations = value * (work.depth * (1 + KEPT[choice.remat]) + WORKING)
    activations += IMAGE_COPIES * 4 * max(share, 1) * work.image_values
    return state / choice.shards + gathered + activations


def seconds(work: Workload, choice: Candidate, topology: Topology) -> float:
    """Estimated seconds of one step."""
    chip = topology.chip
    rate = chip.flops * ATTAINABLE[chip.platform] * topology.chips
    compute = work.flops[choice.remat] / rate
    update = 2 * work.state_bytes * work.trained / choice.shards
    # The residual stream is read and written some times a layer.
    micro = choice.micro_batch(work) * choice.accumulate
    tokens = micro * work.tokens / (choice.context * choice.tensor)
    stream = 12 * work.depth * tokens * work.width * work.value_bytes
    memory_seconds = (update + stream) / chip.memory_bandwidth
    kernels, stream, last = _link_bytes(work, choice)
    fast = slow = chip.link_bandwidth * 2 * _spanned(topology, choice.fsdp)
    near = chip.link_bandwidth * (2 if chip.axes else 1)
    if topology.slices > 1:
        slow = chip.slow_bandwidth
    if chip.axes == 0 and choice.shards > topology.shape[0]:
        fast = slow
    core = compute + memory_seconds
    return max(core, kernels / fast) + stream / near + last / slow


def _spanned(topology: Topology, shards: int) -> float:
    """Estimated number of physical axes that a group of chips spans."""
    if not topology.chip.axes:
        return 0.5  # one way in, as NVLink's figure is
    axes, reached = 0, 1
    for side in sorted(topology.shape, reverse=True):
        if reached < shards or not axes:
            axes, reached = axes + 1, reached * side
    return axes


def _link_bytes(
    work: Workload, choice: Candidate
) -> tuple[float, float, float]:
    """Bytes that a chip sends: kernels and gradients in the layer loop,
    activations there, gradients after it."""
    zero = choice.fsdp * choice.context
    layers = work.stacked / choice.tensor
    # bfloat16 gathers forward and backward, a float32 gradient scattered.
    kernels = layers * (2 + 2 + 4) * choice.accumulate * (1 - 1 / zero)
    tokens = work.batch / (choice.replica * choice.fsdp) * work.tokens
    tokens /= choice.context
    stream = tokens * work.width * work.value_bytes * work.depth
    # Two gathers and two scatters a layer: forward, again, and backward.
    sent = stream * 12 * (1 - 1 / choice.tensor)
    # Keys and values of all context shards, and their gradients.
    share = 2 * stream * choice.context / choice.tensor
    sent += 3 * share * (1 - 1 / choice.context)
    last = 8 * work.trained / (zero * choice.tensor) * (1 - 1 / choice.replica)
    return kernels, sent, last


def best(work: Workload, topology: Topology, count: int) -> list[Candidate]:
    """Fastest candidates that should fit, at most two of one mesh.

    Where none should fit, those with the lowest estimated memory.
    """
    capacity = HEADROOM * topology.chip.usable_memory
    every = list(candidates(work, topology))
    fitting = [c for c in every if memory(work, c) <= capacity]
    if not fitting:
        ranked = sorted(every, key=lambda c: memory(work, c))
    else:  # of equals to a thousandth, the plainest
        ranked = sorted(
            fitting,
            key=lambda c: (
                float(f"{seconds(work, c, topology):.3g}"),
                c.tensor * c.context,
                c.accumulate,
                memory(work, c),
            ),
        )
    chosen: list[Candidate] = []
    for choice in ranked:
        if sum(other.mesh == choice.mesh for other in chosen) < 2:
            chosen.append(choice)
    return chosen[:count]
