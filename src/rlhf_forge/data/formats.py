"""All formats that are told apart; what one is stands in `rlhf_forge.data.format`.

The prompt of two answers is never guessed from their common beginning: "The sky is blue" and "The
sky is black" have no prompt.
"""

from rlhf_forge.data.families.arenas import ARENAS
from rlhf_forge.data.families.demonstrations import DEMONSTRATIONS
from rlhf_forge.data.families.explicit import EXPLICIT
from rlhf_forge.data.families.instructions import INSTRUCTIONS
from rlhf_forge.data.families.labelled import LABELLED
from rlhf_forge.data.families.rankings import RANKINGS
from rlhf_forge.data.families.tools import TOOLS
from rlhf_forge.data.families.unpaired import UNPAIRED
from rlhf_forge.data.families.whole import WHOLE

FORMATS = (
    *EXPLICIT,
    *WHOLE,
    *INSTRUCTIONS,
    *LABELLED,
    *RANKINGS,
    *ARENAS,
    *TOOLS,
    *DEMONSTRATIONS,
    *UNPAIRED,
)
