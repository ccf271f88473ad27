"""Several processes, each with the whole model: Lightning starts and counts them."""

import atexit

from lightning.pytorch.strategies import DDPStrategy
from torch import distributed
from typing_extensions import override


class SharedRows(DDPStrategy):
    """Lightning's DDP without the wrapper around the module.

    Which rows a process works on, and what is added up, the modules say themselves; see
    `rlhf_forge.ranks`. A step has many forwards and backwards, of several roles, and may leave a
    role out: the wrapper, which expects one of each with all parameters, does not fit it.
    """

    @override
    def setup_distributed(self) -> None:
        """Join the group of processes, and leave it before the interpreter ends.

        Lightning leaves gloo's group to the end. If a thread of the group then drops a tensor, it
        asks for an interpreter that is gone, and a process that has done its work is aborted.
        """
        super().setup_distributed()
        atexit.register(_leave)

    @override
    def configure_ddp(self) -> None:
        pass


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
