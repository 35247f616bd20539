"""The one error that a user's input can cause."""


class InputError(ValueError):
    """Bad input: one line that names the thing, the rule and the choices; commands exit with status 2."""
