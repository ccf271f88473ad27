"""Few compiled kernels are kept: on a CPU every new shape of a bf16 product brings one of its own.

Rows packed without padding have new shapes in every step. oneDNN keeps the kernels of the last 1024
shapes and torch what describes them, half a MiB together for each; a step of training comes back to
fewer than a hundred.
"""

import os

KERNELS_KEPT = 128
# oneDNN's, and that of ideep, which torch calls it through.
CAPACITIES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def keep_few_kernels() -> None:
    """Have this process keep the kernels of its last ``KERNELS_KEPT`` shapes.

    Both caches read their capacity at the first bf16 product of a process and never again: it must
    be called before. A capacity that the user has set stands. Numbers do not change, only how often
    a kernel is compiled, in a third of a millisecond.
    """
    for name in CAPACITIES:
        os.environ.setdefault(name, str(KERNELS_KEPT))
