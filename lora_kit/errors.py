"""The one error that a user meets: what is wrong, the value, and the way out."""


class KitError(RuntimeError):
    """Something that the user can fix. The command line prints it in one line; a notebook shows it last."""

    def __init__(self, message: str) -> None:
        super().__init__(message.encode("utf-8", "backslashreplace").decode())  # printable, whatever the data held
