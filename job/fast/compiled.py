"""torch.compile for the decoder layers (TORCH_COMPILE): fewer passes over memory and fewer kernel launches.

The stock layer is compiled without its attention, because sample lengths in a packed row differ in every batch. In the
rest only the number of positions (talker) or of frames (sub-talker) varies. All layers of a kind share their graphs, so
the cost of compiling does not grow with depth.

Modules, names and weights stay the same; only a layer's `forward` is replaced, and only in training: without gradients
or with a cache (evaluation, generation) the stock code runs.

What cannot be compiled after all costs speed, not the run: a forward pass goes on with the stock code, and after a
backward pass, of which torch compiles the code only at its first use, the step is repeated (`step.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from traceback import walk_tb
from types import MethodType
from typing import Any

import torch

from job.core.console import say, warn
from job.core.errors import BadInput, first_line
from job.fast import attention
from job.fast.changes import Changes

#: Graphs that torch may compile per piece of a layer: for trained and frozen inputs and weights, for every phase of
#: PROGRESSIVE_STAGES, and on a CPU for a few ranges of lengths, because sums of more than 4096 values are computed
#: differently there. Beyond that it runs uncompiled, so that no run recompiles forever.
MOST_GRAPHS = 32
#: Attribute set on a layer that is compiled: the `Compiled` of its kind.
_MARK = "compiled_code"
#: Packages in which an error arises that only compiled code has.
_COMPILERS = ("torch._dynamo.", "torch._functorch.", "torch._inductor.", "triton.")


class Compiled:
    """The compiled code of all layers of a kind.

    Attributes:
        usable: whether it is still used.
    """

    def __init__(self) -> None:
        self.usable = True


def use(talker: Any, device: torch.device, changes: Changes) -> list[torch.nn.Module]:
    """Compile the decoder layers of a talker and its sub-talker for training, each piece on first use.

    If compiling does not work on this machine, a warning is printed and the layers stay unchanged: that must cost
    speed, not the run.

    Returns:
        the layers that are compiled.
    """
    import torch._dynamo

    before = torch._dynamo.config.recompile_limit
    changes.also(partial(setattr, torch._dynamo.config, "recompile_limit", before))
    torch._dynamo.config.recompile_limit = max(before, MOST_GRAPHS)
    try:
        check(device)
    except BadInput as error:
        warn("train", f"training continues uncompiled: {error}")
        return []
    attention.leave_uncompiled(changes)
    # It prints a traceback where a backward graph cannot be made in advance; if that is needed, we say so in one line.
    logging.getLogger("torch._functorch._aot_autograd.graph_compile").setLevel(logging.ERROR)
    layers: list[torch.nn.Module] = []
    for decoder in (talker.model, talker.code_predictor.model):
        if decoder.config._attn_implementation == "eager":  # its mask has a different size in every batch
            continue
        code = Compiled()
        forward = _forward(type(decoder.layers[0]).forward, code)
        for layer in decoder.layers:
            changes.set(layer, _MARK, code)
            changes.set(layer, "forward", MethodType(forward, layer))
            layers.append(layer)
    say("train", f"{len(layers)} layers are compiled in the first steps, which take longer")
    return layers


def failed(module: torch.nn.Module, error: BaseException) -> bool:
    """Return whether an error in a training pass arose in compiled code, and so may not without it."""
    names = [f"{frame.f_globals.get('__name__')}." for frame, _ in walk_tb(error.__traceback__)]
    return any(name.startswith(_COMPILERS) for name in names) and any(code.usable for code in _codes(module))


def give_up(module: torch.nn.Module) -> None:
    """Use the stock code of all layers from now on."""
    for code in _codes(module):
        code.usable = False


def _codes(module: torch.nn.Module) -> set[Compiled]:
    return {vars(layer)[_MARK] for layer in module.modules() if _MARK in vars(layer)}


def _forward(stock: Callable[..., Any], code: Compiled) -> Callable[..., Any]:
    """Make a layer's `forward` that is compiled in training; all layers that share it share their graphs."""
    from torch._dynamo.exc import TorchDynamoException

    # Compile in one thread: otherwise torch starts a pool of processes that stays alive for the whole run.
    compiled = torch.compile(stock, dynamic=True, options={"compile_threads": 1})

    def forward(self: Any, hidden_states: torch.Tensor, *others: Any, **named: Any) -> Any:
        """The layer's `forward`."""
        if code.usable and self.training and torch.is_grad_enabled() and named.get("past_key_values") is None:
            try:
                return compiled(self, hidden_states, *others, **named)
            except TorchDynamoException as error:  # compiler gone, or out of memory while compiling
                code.usable = False
                warn("train", f"TORCH_COMPILE: layers stay uncompiled: {first_line(error)}")
        return stock(self, hidden_states, *others, **named)

    return forward


def check(device: torch.device) -> None:
    """Check forward and backward of a small compiled function, which needs a compiler, headers and a cache directory.

    Raises:
        BadInput: it does not work.
    """
    x = torch.linspace(-1, 1, 64, device=device).requires_grad_()
    try:
        function = torch.compile(lambda t: torch.sin(t) * t, options={"compile_threads": 1})
        (found,) = torch.autograd.grad(function(x).sum(), x)
        right = torch.allclose(found, torch.cos(x) * x + torch.sin(x), atol=1e-5)
        problem = "" if right else "a compiled function gives wrong values"
    except Exception as error:  # compilers and the file system may raise anything
        problem = first_line(error)
        if _no_compiler(error):
            raise BadInput(
                f"TORCH_COMPILE=true: there is no {'C' if device.type == 'cuda' else 'C++'} compiler (gcc and g++, or "
                "what CC and CXX name); install one, build the image with WITH_COMPILER=1, or unset it"
            ) from error
    if problem:
        raise BadInput(f"TORCH_COMPILE=true: nothing can be compiled here: {problem}; unset it")


def _no_compiler(error: BaseException | None) -> bool:
    """Return whether an error or one of its causes is Inductor's or triton's report of a missing compiler."""
    while error is not None:
        if type(error).__name__ == "InvalidCxxCompiler" or "Failed to find C compiler" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
