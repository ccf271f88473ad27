"""Several processes, each with the whole model: Lightning starts and counts them."""

from lightning.pytorch.strategies import DDPStrategy
from typing_extensions import override


class SharedRows(DDPStrategy):
    """Lightning's DDP without the wrapper around the module.

    Which rows a process works on, and what is added up, the modules say themselves; see
    `rlhf_forge.ranks`. A step has many forwards and backwards, of several roles, and may leave a
    role out: the wrapper, which expects one of each with all parameters, does not fit it.
    """

    @override
    def configure_ddp(self) -> None:
        pass
