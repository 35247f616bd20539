"""The one error that a user's input can cause, and what any error says in one line."""


class InputError(ValueError):
    """Bad input: one line that names the thing, the rule and the choices; commands exit with status 2."""


def one_line(text: object) -> str:
    """Return the text without line breaks and repeated spaces."""
    return " ".join(str(text).split())


def named(error: Exception) -> str:
    """Return the error's class and what it says, in one line."""
    return one_line(f"{type(error).__name__}: {error}")
