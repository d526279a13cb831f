from .machine import *  # noqa: F403
