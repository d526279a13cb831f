from .checkup import *  # noqa: F403
