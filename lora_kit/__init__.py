"""lora_kit: fine-tune a chat model with LoRA on one small GPU, and prove that it worked.

`import lora_kit` is quick and touches no GPU: large libraries are imported in the functions that use them.
"""

from .adapters import attach_lora, load_adapter, save_adapter, set_adapter
from .base import load_tokenizer
from .chatting import chat
from .checkup import doctor
from .correction import correct, pairs
from .data.prepare import prepare
from .errors import KitError
from .evaluation.evaluate import evaluate, read_answers
from .exporting import export, push
from .generation import answers
from .hosted import download, keep_on_drive, upload
from .machine import environment_report
from .merging.merge import merge
from .pipeline import make, summary
from .presets import PROFILES
from .quantization import load_base, release
from .runs import Run
from .training.plan import plan
from .training.train import train, trained_adapter
from .widgets import settings

__version__ = "0.1.0"
