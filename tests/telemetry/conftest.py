from tests.receivers.fixtures import *  # noqa: F403
