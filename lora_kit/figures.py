from .plots import *  # noqa: F403
