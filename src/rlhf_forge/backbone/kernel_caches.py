"""Few compiled kernels are kept: on a CPU every new shape of a product by oneDNN brings its own.

Rows packed without padding have new shapes in every step. oneDNN keeps the kernels of the last 1024
shapes and torch what describes them, half a MiB together for each. In bf16 all products are its
own. In float32 only the wide ones are, whose kernels lie between the tensors of a step: what these
free is cut into pieces that the next step's do not fit into.
"""

import os

import torch

# Enough for what a step comes back to, in every layer, forward and backward.
KERNELS_KEPT = {torch.bfloat16: 128, torch.float32: 16}
# oneDNN's, and that of ideep, which torch calls it through.
CAPACITIES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def keep_few_kernels(dtype: torch.dtype) -> None:
    """Have this process keep the kernels of its last few shapes.

    Both caches read their capacity at oneDNN's first product in a process and never again: it must
    be called before, and the first base decides. A capacity that the user has set stands. Numbers
    do not change, only how often a kernel is compiled, in a third of a millisecond.

    Args:
        dtype: That a base computes in.
    """
    for name in CAPACITIES:
        os.environ.setdefault(name, str(KERNELS_KEPT[dtype]))
