from .doctor import *  # noqa: F403
