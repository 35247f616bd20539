"""Settings for every test."""

from hypothesis import settings

# A shared machine may stall for longer than any deadline; no test here is about time.
settings.register_profile("gulliver", deadline=None)
settings.load_profile("gulliver")
