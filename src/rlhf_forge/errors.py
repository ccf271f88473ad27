"""The one error a person's mistake raises: a line to read and a way out, never a traceback."""


class UserError(Exception):
    """A mistake in a command, a config or data that its author can mend.

    Args:
        message: One line: what is wrong, where, the value got, the rule it breaks.
        hint: At most one further line: the way out.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
