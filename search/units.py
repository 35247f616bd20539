"""Numbers as they are shown."""


def ms(value: float) -> str:
    """Return milliseconds with two decimals, or four where there is less than one."""
    return f"{value:.2f}" if value >= 1 else f"{value:.4f}"
