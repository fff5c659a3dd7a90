"""The compiled kernels, if there are any: `native` is the module or None, and `why` says why it is None.

Without a compiler lossless installs without them and runs on `reference`; `LOSSLESS_ISA=reference` asks for that.
"""

import os
from importlib import import_module
from typing import Any

native: Any = None
why = ""

forced = os.environ.get("LOSSLESS_ISA", "")
if forced == "reference":
    why = "LOSSLESS_ISA=reference"
else:
    try:
        native = import_module("lossless._native")
    except ImportError as error:
        if forced:  # who asks for one instruction set wants no other path
            raise ImportError(f"LOSSLESS_ISA={forced}: {error}") from None
        why = str(error)
