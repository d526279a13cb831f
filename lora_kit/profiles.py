from .config import *  # noqa: F403
from .presets import *  # noqa: F403
