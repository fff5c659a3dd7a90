"""What a script of the ecosystem tests finds in its interpreter, under `python` and under `lossless run` alike.

torchvision can be imported where its operators cannot be loaded, as those of PyPI's build for CUDA beside a CPU
PyTorch: it insists on the names of two of them, which nothing here calls. A build that fits is left alone.

With ECOSYSTEM_CALLS=FILE the calls of losses are counted by the interpreter's own profiler, which shares nothing with
lossless, and written to that file.
"""

import atexit
import glob
import json
import os
import sys
from collections import Counter
from importlib.util import find_spec

import torch
from torch.nn import functional

found = find_spec("torchvision")
for library in glob.glob(f"{found.submodule_search_locations[0]}/_C*.so") if found else ():
    try:
        torch.ops.load_library(library)
    except OSError:
        names = torch.library.Library("torchvision", "DEF")
        names.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        names.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

LOSSES = {
    getattr(functional, name).__code__: f"torch.nn.functional.{name}"
    for name in (
        *("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div"),
        *("mse_loss", "log_softmax", "softmax"),
    )
}
BUILTIN = ("log_softmax", "logsumexp", "softmax")
HOME = os.path.dirname(torch.__file__)
calls = Counter()


def watch(frame, event, function):
    if event == "call":
        if frame.f_code.co_name not in NAMES:
            return
        if frame.f_code.co_filename.endswith("torchvision/ops/focal_loss.py"):
            label = "torchvision.ops.sigmoid_focal_loss"
        else:
            label = LOSSES.get(frame.f_code)
        caller = frame.f_back
    elif event == "c_call" and function.__name__ in BUILTIN:
        owner = "torch.Tensor" if isinstance(getattr(function, "__self__", None), torch.Tensor) else "torch"
        label, caller = f"{owner}.{function.__name__}", frame
    else:
        return
    inner = caller.f_code in LOSSES or caller.f_code.co_filename.endswith("torchvision/ops/focal_loss.py")
    if label is None or inner:
        return
    while caller.f_code.co_filename.startswith(HOME):
        caller = caller.f_back
    calls[label, caller.f_code.co_filename, caller.f_lineno] += 1


def write(path):
    sys.setprofile(None)
    with open(path, "w") as file:
        json.dump([[*place, number] for place, number in sorted(calls.items())], file)


NAMES = {code.co_name for code in LOSSES} | {"sigmoid_focal_loss"}
if path := os.environ.pop("ECOSYSTEM_CALLS", None):
    sys.setprofile(watch)
    atexit.register(write, path)
