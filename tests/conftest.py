"""What every test runs under."""

from hypothesis import settings

# How long an example takes says something about the machine, not about the code.
settings.register_profile("resilient", deadline=None)
settings.load_profile("resilient")
