"""Many devices, one step: the only file that knows pmap.

Why pmap and not a sharded jit: XLA's partitioner gathers the whole batch around grouped
convolutions, which this project is made of; a mapped step never does. State is replicated, batches
are split along a leading device axis, and what must be summed over replicas says so itself
(ops.replicas).
"""

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from flax import jax_utils
from jax.experimental import multihost_utils

from jaxdet.ops.replicas import AXIS


def start_processes() -> None:
    """Joins the other processes of this job, if the launcher says that there are any.

    Slurm, Open MPI and Cloud TPU are recognised by JAX itself; elsewhere set JAXDET_COORDINATOR
    (host:port), JAXDET_PROCESSES and JAXDET_PROCESS. Alone, nothing happens.
    """
    coordinator = os.environ.get("JAXDET_COORDINATOR")
    if coordinator:
        jax.distributed.initialize(
            coordinator,
            num_processes=int(os.environ["JAXDET_PROCESSES"]),
            process_id=int(os.environ["JAXDET_PROCESS"]),
        )
    elif int(os.environ.get("SLURM_NTASKS", "1")) > 1 or "TPU_WORKER_HOSTNAMES" in os.environ:
        jax.distributed.initialize()


def keep_memory() -> None:
    """Makes glibc keep freed memory for the next step instead of giving it back to the system.

    XLA on CPU allocates and frees its buffers at every step. Each time the system must hand out
    zeroed pages anew, which takes about a quarter of a YOLOv8n step. Elsewhere than on Linux
    nothing happens.
    """
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # of malloc.h
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # no glibc here
        return
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(arena_max, 1)


def memory() -> int | None:
    """Bytes of the device, or of the machine where it is a CPU; None where nobody says."""
    told = jax.devices()[0].memory_stats()
    if told and "bytes_limit" in told:
        return told["bytes_limit"]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not of this system
        return None


def check_batch(batch_size: int, field: str) -> None:
    """Refuses a global batch that the devices of all processes cannot share evenly."""
    if batch_size % jax.device_count():
        legal = max(batch_size // jax.device_count(), 1) * jax.device_count()
        raise ValueError(
            f"{field}={batch_size} cannot be split over {jax.device_count()} devices; "
            f"the nearest legal size is {legal}"
        )


def replicate(tree: Any) -> Any:
    """A host tree on every local device, with a leading device axis."""
    return jax_utils.replicate(tree, axis_name=AXIS)


def to_host(tree: Any) -> Any:
    """The first replica as NumPy arrays of its own: what checkpoints hold.

    Copied, because on CPU the array would share memory with a buffer that the next step is given.
    """
    return jax.tree.map(lambda x: np.array(x.addressable_data(0)[0]), tree)


def map_step(step: Callable) -> Callable:
    """(state, batch) -> (state, scalars) on all devices; the state that goes in is given up."""
    return jax.pmap(step, axis_name=AXIS, donate_argnums=0)


def map_detect(detect: Callable) -> Callable:
    """(variables, images) -> Detections on the local devices, without any talk between them."""
    return jax.pmap(detect)


def split(tree: Any) -> Any:
    """Host arrays [B, ...] as [devices, B / devices, ...]."""
    devices = jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), tree)


def join(tree: Any) -> Any:
    """[devices, b, ...] from the devices as host arrays [devices * b, ...]."""
    return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), tree)


def prefetch(batches: Iterable[Any]) -> Iterator[Any]:
    """Host batches as device batches, two of them already on their way while a step computes."""
    return jax_utils.prefetch_to_device(map(split, batches), size=2, axis_name=AXIS)


def gather(tree: Any) -> Any:
    """Every process's arrays, joined along a new leading axis of processes; alone, of length 1."""
    if jax.process_count() == 1:
        return jax.tree.map(lambda x: np.asarray(x)[None], tree)
    return multihost_utils.process_allgather(tree)


def process() -> tuple[int, int]:
    """This process's number and how many there are."""
    return jax.process_index(), jax.process_count()


def wait(name: str) -> None:
    """Every process gets here before any goes on."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
