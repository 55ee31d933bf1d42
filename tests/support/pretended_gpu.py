"""A pretended GPU: tensors that say they are on cuda:0, and compute on the CPU.

For finding what only a GPU would show. The training code runs as it is, takes its branches for a GPU, and autocast and
autograd treat its tensors as a GPU's. Meanwhile:

- an operation on tensors of both devices fails, as there;
- everything that makes the host wait for the GPU is noted with where in job/ that was (`Gpu.waits`): reading a value,
  shapes that depend on values, copies from and to memory that is not page-locked;
- a copy that does not wait is made as late as a GPU may make it: page-locked memory that is read too early holds
  NaN, and memory that is changed before it has been copied is reported;
- the GPU has a random number generator of its own;
- a CUDA graph runs the recorded operations again, on the memory they had; recording computes nothing.

What it cannot show: other kernels' rounding, their limits, streams beside the first, and how long anything takes.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
import torch._dynamo  # before anything of torch is replaced: it looks at what it replaces itself
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, _pop_mode, _push_mode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
#: What torch's own code takes for the device of a tensor of the pretended GPU.
_SEEN = torch.device("meta")
_JOB = str(Path(__file__).parents[2] / "job")
_aten = torch.ops.aten

#: What autocast on a GPU computes in the lower precision, and what in fp32 (torch's own lists, as far as used here).
_LOWERED = (
    "linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "addr", "prelu", "conv1d", "conv2d",
    "conv3d", "conv_transpose1d", "convolution", "_convolution", "scaled_dot_product_attention",
)  # fmt: skip
_RAISED = (
    "exp", "expm1", "log", "log1p", "log2", "log10", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar",
    "reciprocal", "rsqrt", "softplus", "layer_norm", "native_layer_norm", "group_norm", "nll_loss", "nll_loss_nd",
    "cross_entropy_loss", "mse_loss", "l1_loss", "cosine_similarity", "kl_div", "dist", "cdist", "renorm", "prod",
    "softmax.int", "log_softmax.int", "cumprod", "cumsum", "sum", "sum.dim_IntList", "linalg_vector_norm",
)  # fmt: skip
#: What copies between devices.
_COPIES = {_aten._to_copy.default, _aten.copy_.default, _aten._foreach_copy_.default}
#: What takes a number on the host from a tensor there, besides elementwise operations.
_TAKES_NUMBERS = {
    _aten.fill_.Tensor, _aten.masked_fill.Tensor, _aten.masked_fill_.Tensor, _aten.index_fill.int_Tensor,
    _aten.index_fill_.int_Tensor, _aten._foreach_mul_.Tensor, _aten._foreach_div_.Tensor, _aten._foreach_add_.Tensor,
}  # fmt: skip
_INDEXED = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
#: What has a result whose shape depends on values, or is a value on the host.
_READS = {
    _aten._local_scalar_dense.default, _aten.nonzero.default, _aten.masked_select.default, _aten.equal.default,
    _aten._unique2.default, _aten.unique_dim.default, _aten.unique_consecutive.default, _aten.bincount.default,
}  # fmt: skip


_STOCK_TO = torch.Tensor.to


class Wait(NamedTuple):
    """A time that the host waited for the GPU.

    Attributes:
        what: `item` (a value is read), `read` (values decide a shape), `upload`, `download`, `event`, `synchronize`.
        stack: the functions of job/ that led there, `module.function`, the innermost first.
    """

    what: str
    stack: tuple[str, ...]

    def within(self, *functions: str) -> bool:
        """Whether one of these functions led there."""
        return any(function in functions for function in self.stack)

    def __str__(self) -> str:
        return f"{self.what} {self.stack[0] if self.stack else 'elsewhere'}"


class GpuTensor(torch.Tensor):
    """A tensor of the pretended GPU; `inner` holds its values.

    To torch's own code it has no memory (device "meta"), since autograd asks the driver for a stream for a GPU's, and
    the dispatch keys of one, by which autocast and autograd choose.
    """

    inner: torch.Tensor  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> GpuTensor:
        with torch.no_grad():
            offset = inner.storage_offset()
            size = inner.untyped_storage().nbytes() // inner.element_size() if offset else 0
            empty = (
                torch.empty(size, dtype=inner.dtype, device="meta").as_strided(inner.size(), inner.stride(), offset)
                if offset
                else torch.empty_strided(inner.size(), inner.stride(), dtype=inner.dtype, device="meta")
            )
        tensor: GpuTensor = torch.Tensor._make_subclass(cls, empty, False, device_for_backend_keys=CUDA)  # type: ignore[call-arg]
        tensor.inner = inner
        return tensor

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    @property
    def data(self) -> GpuTensor:  # type: ignore[override]
        return torch.Tensor.data.__get__(self)  # type: ignore[attr-defined, no-any-return]

    @data.setter
    def data(self, other: torch.Tensor) -> None:
        assert isinstance(other, GpuTensor), "a tensor would change its device"
        torch.Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.inner = other.inner

    def get_device(self) -> int:
        return 0

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def to(self, *args: Any, **named: Any) -> torch.Tensor:
        copy = named.pop("copy", False)
        device, kind, non_blocking, layout = torch._C._nn._parse_to(*args, **named)  # type: ignore[attr-defined]
        if device is None or device.type == "cuda" or any(isinstance(x, GpuTensor) for x in args):
            more = {} if layout is None else {"memory_format": layout}
            return _STOCK_TO(self, kind or self.dtype, non_blocking=non_blocking, copy=copy, **more)
        return _STOCK_TO(self, device, kind or self.dtype, non_blocking=non_blocking, copy=copy)

    def cuda(self, *_: Any, **__: Any) -> GpuTensor:  # type: ignore[override]
        return self

    def new_tensor(self, data: Any, *, dtype: Any = None, **_: Any) -> torch.Tensor:  # type: ignore[override]
        return torch.tensor(data, dtype=dtype or self.dtype, device=CUDA)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it to host memory")

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"GpuTensor({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        assert Gpu.present is not None, "the pretended GPU is gone"
        return Gpu.present.compute(func, args, kwargs or {})


class _Generator(torch._C.Generator):
    """A generator that says which device it is on."""

    place: torch.device
    _cdata: int
    #: By address: torch hands on another object for the same generator.
    places: ClassVar[dict[int, torch.device]] = {}

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made = super().__new__(cls)
        made.place = _Generator.places[made._cdata] = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place

    def graphsafe_get_state(self) -> Any:
        return self.get_state()

    def graphsafe_set_state(self, state: Any) -> Any:
        return self.set_state(state)


class _Event:
    """What has been asked of the GPU before it was recorded has happened once it is waited for."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self._covers = gpu, 0

    def record(self, stream: Any = None) -> None:
        self._covers = self._gpu.asked

    def synchronize(self) -> None:
        self._gpu.note("event", "Event.synchronize")
        self._gpu.settle(self._covers)


class _Graph:
    """The operations of a recording, with the tensors they read and wrote."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def replay(self) -> None:
        for one in self.work:
            one()


class _WithoutMemory(TorchFunctionMode):
    """Tells who asks for a tensor without memory (device "meta"): Python code, or torch's own for the pretended GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asks = any(
            x == "meta" or x == _SEEN for x in (*args, *(kwargs or {}).values()) if isinstance(x, (str, torch.device))
        )
        self.asked += asks
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.asked -= asks


class Gpu(TorchDispatchMode):
    """The pretended GPU, as a context manager: what is asked to be on a GPU meanwhile is on this one.

    Attributes:
        waits: the times that the host waited for the GPU.
        asked: number of copies that did not wait.
    """

    present: Gpu | None = None

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[Wait] = []
        self.asked = 0
        self.generator = _Generator(CUDA)
        self.without_memory = _WithoutMemory()
        self._late: list[tuple[int, Callable[[], None]]] = []
        self._pinned: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()
        self._complain = 0
        self._capturing: _Graph | None = None
        self._patches = contextlib.ExitStack()

    # ---- what is noted -----------------------------------------------------------------------------------------------

    def note(self, what: str, how: str) -> None:
        """The host waits for the GPU."""
        if self._capturing is not None:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({how})")
        if self._complain == 2 and what != "event":
            raise RuntimeError(f"called a synchronizing CUDA operation ({how})")
        self.waits.append(Wait(what, _stack()))

    def settle(self, upto: int | None = None) -> None:
        """Everything that was asked before has happened."""
        waiting, self._late = self._late, []
        for number, happen in waiting:
            if upto is None or number <= upto:
                happen()
            else:
                self._late.append((number, happen))

    def _later(self, happen: Callable[[], None]) -> None:
        self.asked += 1
        self._late.append((self.asked, happen))

    # ---- operations --------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.compute(func, args, kwargs or {})

    def compute(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if _is_composed(func):  # as happens in inference mode, in which nothing has taken it apart before
            _push_mode(self)
            try:
                return func.decompose(*args, **kwargs)
            finally:
                _pop_mode()
        with _disable_current_modes(), torch.no_grad():
            return self._compute(func, args, kwargs)

    def _compute(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        ours = [x for x in given if isinstance(x, GpuTensor)]
        if ours or not self.without_memory.asked:  # torch's own code goes by the device that it sees
            args, kwargs = tree_map(lambda x: CUDA if isinstance(x, torch.device) and x == _SEEN else x, (args, kwargs))
        asked = kwargs.get("device")
        on = bool(ours) if asked is None else torch.device(asked).type == "cuda"
        if not (ours or on):
            pinned = bool(kwargs.pop("pin_memory", False))
            result = func(*args, **kwargs)
            return self.pin(result) if pinned else result
        if func in _COPIES:
            return self._copy(func, args, kwargs)
        self._check(func, given, ours, on, kwargs)
        if func in _READS or (func in _INDEXED and _by_mask(func, args)):
            self.note("item" if func is _aten._local_scalar_dense.default else "read", str(func))
            self.settle()
        if func in _INDEXED and ours and len(ours) != len(given):
            self.note("upload", str(func))  # indices are brought to the GPU first
        if func is _aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
            self.note("read", str(func))
        return self._run(func, args, kwargs, on)

    def _run(self, func: Any, args: Any, kwargs: dict[str, Any], on: bool) -> Any:
        emulated = _EMULATED.get(func.name(), func)
        inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
        inner_kwargs.pop("pin_memory", None)
        random = torch.Tag.nondeterministic_seeded in func.tags and inner_kwargs.get("generator") is None
        graph = self._capturing

        def call() -> Any:
            with self._own_randomness() if random else nullcontext():
                return emulated(*inner_args, **inner_kwargs)

        results = call()
        if graph is not None:
            self._record(graph, call, results, inner_args)
        if not on:
            return results
        known = {id(x.inner): x for x in tree_leaves((args, kwargs)) if isinstance(x, GpuTensor)}

        def outer(x: Any) -> Any:
            if not isinstance(x, torch.Tensor):
                return x
            return known[id(x)] if id(x) in known else GpuTensor(x)

        return tree_map(outer, results)

    @staticmethod
    def _record(graph: _Graph, call: Callable[[], Any], results: Any, given: Any) -> None:
        """An operation of a recording: it will be called again, and nothing is computed now."""
        storages = {x.untyped_storage().data_ptr() for x in tree_leaves(given) if isinstance(x, torch.Tensor)}
        made = [x for x in tree_leaves(results) if isinstance(x, torch.Tensor)]
        new = [x for x in made if x.untyped_storage().data_ptr() not in storages]

        def again() -> None:
            found = [x for x in tree_leaves(call()) if isinstance(x, torch.Tensor)]
            for mine, value in zip(made, found, strict=True):
                if any(mine is one for one in new):
                    mine.copy_(value)

        graph.work.append(again)

    def _check(self, func: Any, given: list[Any], ours: list[Any], on: bool, kwargs: dict[str, Any]) -> None:
        generator = kwargs.get("generator")
        if generator is not None and (_Generator.places.get(generator._cdata, CPU).type == "cuda") != on:
            raise RuntimeError(f"Expected a '{'cuda' if on else 'cpu'}' device type for generator ({func})")
        host = [x for x in given if not isinstance(x, GpuTensor)]
        if not (ours and host):
            return
        numbers = all(x.ndim == 0 for x in host)
        takes = torch.Tag.pointwise in func.tags or func in _TAKES_NUMBERS
        written = func._schema.is_mutable and given[0] is host[0] and func is not _aten.fill_.Tensor
        if func in _INDEXED and not written:
            return
        if not (numbers and takes) or written:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                f"({func}, {_place()})"
            )

    def _copy(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func is _aten._foreach_copy_.default:
            waiting = bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            for into, source in zip(args[0], args[1], strict=True):
                self._copy(_aten.copy_.default, (into, source, waiting), {})
            return None
        later = bool(kwargs.get("non_blocking", len(args) > 2 and args[2]))
        if func is _aten.copy_.default:
            into, source = args[0], args[1]
            if isinstance(into, GpuTensor) == isinstance(source, GpuTensor):
                return self._run(func, args, kwargs, True)
            target = _inner(into)
            if isinstance(into, GpuTensor):
                self._upload(target, source, later)
            else:
                self._download(target, source.inner, later and self.is_pinned(into))
            return into
        source = args[0]
        asked = kwargs.get("device")
        to_gpu = isinstance(source, GpuTensor) if asked is None else torch.device(asked).type == "cuda"
        if to_gpu == isinstance(source, GpuTensor):
            return self._run(func, args, kwargs, to_gpu)
        plain = {**kwargs, "device": CPU, "non_blocking": False}
        plain.pop("pin_memory", None)
        made = func(_inner(source), **plain)
        if to_gpu:
            self._upload(made, source, later)
            return GpuTensor(made)
        if later:
            self.pin(made)  # torch does so for a copy that is not waited for
        self._download(made, source.inner, later)
        return made

    def _upload(self, into: torch.Tensor, source: torch.Tensor, later: bool) -> None:
        if source.numel() == 0:
            return
        into.copy_(source)
        if not (later and self.is_pinned(source)):
            self.note("upload", "a copy from the host")
            return
        place, before = _place(), source.clone()

        def happen() -> None:
            assert torch.equal(before, source), f"changed before it was copied to the GPU: {place}"

        self._later(happen)

    def _download(self, into: torch.Tensor, source: torch.Tensor, later: bool) -> None:
        if source.numel() == 0:
            return
        if not later:
            self.note("download", "a copy to the host")
            self.settle()
            into.copy_(source)
            return
        value = source.clone()
        into.fill_(float("nan") if into.is_floating_point() else 77)
        self._later(lambda: _into(into, value))

    # ---- autocast ----------------------------------------------------------------------------------------------------

    def _autocast(self) -> None:
        """Autocast as on a GPU: torch's own asks a tensor whether it is on one, which these are not for it."""
        library = torch.library.Library("aten", "IMPL")
        self._patches.callback(library._destroy)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that kernels are replaced
            for names, lowers in ((_LOWERED, True), (_RAISED, False)):
                for name in names:
                    packet, _, overload = name.partition(".")
                    func = getattr(getattr(_aten, packet), overload or "default")
                    library.impl(name, _cast(func, lowers), "AutocastCUDA", allow_override=True)
            for key in ("AutogradCUDA", "CUDA"):  # torch's own would ask for tensors on the device that it sees
                library.impl("scaled_dot_product_attention", _attention, key, allow_override=True)

    # ---- memory and random numbers -----------------------------------------------------------------------------------

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Take a tensor's memory for page-locked."""
        self._pinned[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._pinned

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        host = torch.default_generator.get_state()
        torch.default_generator.set_state(self.generator.get_state())
        try:
            yield
        finally:
            self.generator.set_state(torch.default_generator.get_state())
            torch.default_generator.set_state(host)

    # ---- torch.cuda --------------------------------------------------------------------------------------------------

    def __enter__(self) -> Gpu:
        assert Gpu.present is None
        Gpu.present = self
        patch = self._patches.enter_context(pytest.MonkeyPatch.context())
        stream = SimpleNamespace(
            wait_stream=lambda other: None, wait_event=lambda event: None, synchronize=self._synchronize
        )

        def pinned(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
            if isinstance(tensor, GpuTensor):
                raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
            return self.pin(tensor.clone())

        @contextmanager
        def recording(graph: _Graph, **_: Any) -> Iterator[None]:
            self._capturing = graph
            try:
                yield
            finally:
                self._capturing = None
            for mine in self._made_by(graph):
                mine.fill_(0)

        replaced: dict[str, Any] = {
            "is_available": lambda: True, "is_initialized": lambda: True, "_lazy_init": lambda: None,
            "device_count": lambda: 1, "current_device": lambda: 0, "set_device": lambda device: None,
            "_exchange_device": lambda device: 0, "_maybe_exchange_device": lambda device: 0,
            "get_device_capability": lambda *_: (9, 0), "is_bf16_supported": lambda *_, **__: True,
            "get_device_name": lambda *_: "a pretended GPU", "mem_get_info": lambda *_: (80 << 30, 80 << 30),
            "get_device_properties": lambda *_: SimpleNamespace(total_memory=80 << 30, major=9, minor=0),
            "memory_allocated": lambda *_: 0, "memory_reserved": lambda *_: 0, "max_memory_allocated": lambda *_: 0,
            "empty_cache": lambda: None, "synchronize": lambda *_: self._synchronize(),
            "get_rng_state": lambda *_: self.generator.get_state(),
            "set_rng_state": lambda state, *_: self.generator.set_state(state),
            "manual_seed": self.generator.manual_seed, "manual_seed_all": self.generator.manual_seed,
            "default_generators": (self.generator,), "Event": lambda *_, **__: _Event(self),
            "Stream": lambda *_: stream, "current_stream": lambda *_: stream, "set_stream": lambda *_: None,
            "stream": lambda *_: nullcontext(),
            "is_current_stream_capturing": lambda: self._capturing is not None, "CUDAGraph": _Graph, "graph": recording,
            "get_sync_debug_mode": lambda: self._complain, "set_sync_debug_mode": self._set_complain,
        }  # fmt: skip
        for name, value in replaced.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch, "Generator", _Generator)
        patch.setattr(torch.Tensor, "pin_memory", pinned)
        patch.setattr(torch.Tensor, "is_pinned", lambda tensor, *_: self.is_pinned(tensor))
        patch.setattr(torch.Tensor, "to", _to)
        patch.setattr(torch, "inference_mode", torch.no_grad)  # whose tensors no Python code can stand for
        alike = torch._has_compatible_shallow_copy_type
        patch.setattr(
            torch, "_has_compatible_shallow_copy_type",
            lambda one, other: isinstance(one, GpuTensor) == isinstance(other, GpuTensor) and alike(one, other),
        )  # fmt: skip
        self._patch_groups(patch)
        self._autocast()
        before = torch._C._only_lift_cpu_tensors()  # type: ignore[attr-defined]
        torch._C._set_only_lift_cpu_tensors(True)  # type: ignore[attr-defined]
        self._patches.callback(torch._C._set_only_lift_cpu_tensors, before)  # type: ignore[attr-defined]
        self._patches.enter_context(self.without_memory)
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()
        Gpu.present = None

    @staticmethod
    def _made_by(graph: _Graph) -> list[torch.Tensor]:
        found = []
        for one in graph.work:
            names = dict(zip(one.__code__.co_freevars, one.__closure__ or (), strict=True))
            found += names["new"].cell_contents
        return found

    @staticmethod
    def _patch_groups(patch: pytest.MonkeyPatch) -> None:
        """torch groups tensors by the device that its own code sees."""
        from torch.nn.utils import clip_grad
        from torch.optim.optimizer import Optimizer
        from torch.utils import _foreach_utils

        def renamed(stock: Any) -> Any:
            def grouped(tensors: Any, with_indices: bool = False) -> Any:
                found = stock(tensors, with_indices)
                return {(CUDA if key[0] is not None and key[0].type == "meta" else key[0], *key[1:]): value
                        for key, value in found.items()}  # fmt: skip

            return grouped

        by_place = renamed(_foreach_utils._group_tensors_by_device_and_dtype)
        patch.setattr(_foreach_utils, "_group_tensors_by_device_and_dtype", by_place)
        patch.setattr(clip_grad, "_group_tensors_by_device_and_dtype", by_place)
        patch.setattr(
            Optimizer, "_group_tensors_by_device_and_dtype",
            staticmethod(renamed(Optimizer._group_tensors_by_device_and_dtype)),
        )  # fmt: skip

    def _synchronize(self) -> None:
        self.note("synchronize", "synchronize")
        self.settle()

    def _set_complain(self, mode: Any) -> None:
        self._complain = {"default": 0, "warn": 1, "error": 2}.get(mode, mode)


@cache
def _is_composed(func: Any) -> bool:
    """Whether an operation is only others, which are looked at one by one."""
    composed = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    return composed and func.name() not in _EMULATED


def _to(tensor: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
    """`Tensor.to`, which would take the device of another tensor for the one that it sees."""
    if args and isinstance(args[0], GpuTensor):
        return _STOCK_TO(tensor, CUDA, args[0].dtype, *args[1:], **named)
    return _STOCK_TO(tensor, *args, **named)


def _inner(x: Any) -> Any:
    if isinstance(x, GpuTensor):
        return x.inner
    return CPU if isinstance(x, torch.device) and x.type == "cuda" else x


def _cast(func: Any, lowers: bool) -> Callable[..., Any]:
    """An operation under autocast."""

    def call(*args: Any, **kwargs: Any) -> Any:
        kind = torch.get_autocast_dtype("cuda") if lowers else torch.float32

        def cast(x: Any) -> Any:
            inexact = isinstance(x, torch.Tensor) and x.is_floating_point() and x.dtype != torch.float64
            return x.to(kind) if inexact and isinstance(x, GpuTensor) else x

        with torch.autocast("cuda", enabled=False):
            args, kwargs = tree_map(cast, (args, kwargs))
            return func(*args, **kwargs)

    return call


def _attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False, *,
    scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """Attention by its definition."""
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for t in (key, value))
    scores = query @ key.transpose(-2, -1) * (scale or query.shape[-1] ** -0.5)
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    weights = scores.float().softmax(-1).to(value.dtype)
    return (torch.dropout(weights, dropout_p, True) if dropout_p else weights) @ value


def _into(target: torch.Tensor, value: torch.Tensor) -> None:
    with torch.no_grad(), _disable_current_modes():
        target.copy_(value)


def _by_mask(func: Any, args: Any) -> bool:
    """Whether it finds where a mask is true; a single number is written there without."""
    masks = [x for x in args[1] if isinstance(x, torch.Tensor) and x.dtype in (torch.bool, torch.uint8)]
    return bool(masks) and not (func is not _aten.index.Tensor and args[2].numel() == 1)


def _stack() -> tuple[str, ...]:
    found: list[str] = []
    frame: Any = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(_JOB):
            found.append(f"{Path(code.co_filename).stem}.{code.co_qualname.split('.<locals>')[0]}")
        frame = frame.f_back
    return tuple(found)


def _place() -> str:
    return next(iter(_stack()), "elsewhere")


def _varlen(
    query: Any, key: Any, value: Any, bounds: Any, _: Any, longest: int, __: int, causal: bool = False,
    scale: float | None = None, window_size: Any = None,
) -> Any:  # fmt: skip
    """torch's kernel for samples in a row, with what it requires."""
    assert query.dtype in (torch.bfloat16, torch.float16), "FlashAttention only support fp16 and bf16 data type"
    assert bounds.dtype == torch.int32 and bounds.is_contiguous()
    assert query.shape[1] % key.shape[1] == 0 and query.stride(-1) == 1
    assert causal and list(window_size) == [-1, 0] and longest == int(bounds.diff().max())
    found = [torch.einsum("hqk,khd->qhd", w, v) for w, _, _, v in _weights(query, key, value, bounds, scale)]
    return torch.cat(found).to(query.dtype), torch.zeros(query.shape[1], query.shape[0]), torch.zeros(2)


def _varlen_backward(
    gradient: Any, query: Any, key: Any, value: Any, out: Any, lse: Any, bounds: Any, *others: Any
) -> Any:
    scale = others[5] if len(others) > 5 else None
    factor, repeats = scale or query.shape[-1] ** -0.5, query.shape[1] // key.shape[1]
    parts, lengths = [], bounds.diff().tolist()
    for (w, q, k, v), by_out in zip(
        _weights(query, key, value, bounds, scale), gradient.float().split(lengths), strict=True
    ):
        by_w = torch.einsum("qhd,khd->hqk", by_out, v)
        by_scores = w * (by_w - (w * by_w).sum(-1, keepdim=True)) * factor
        by_k, by_v = torch.einsum("hqk,qhd->khd", by_scores, q), torch.einsum("hqk,qhd->khd", w, by_out)
        both = (t.unflatten(1, (-1, repeats)).sum(2) for t in (by_k, by_v))
        parts.append((torch.einsum("hqk,khd->qhd", by_scores, k), *both))
    return tuple(torch.cat(one).to(query.dtype) for one in zip(*parts, strict=True))


def _weights(query: Any, key: Any, value: Any, bounds: Any, scale: Any) -> Iterator[tuple[torch.Tensor, ...]]:
    """For each sample the weights (H, q, k) of its attention, and its queries, keys and values."""
    lengths, repeats = bounds.diff().tolist(), query.shape[1] // key.shape[1]
    shared = (t.float().repeat_interleave(repeats, 1).split(lengths) for t in (key, value))
    for q, k, v in zip(query.float().split(lengths), *shared, strict=True):
        scores = torch.einsum("qhd,khd->hqk", q, k) * (scale or query.shape[-1] ** -0.5)
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        yield scores.masked_fill(later, -torch.inf).softmax(-1), q, k, v


def _normed(x: Any, shape: Any, weight: Any, eps: Any) -> Any:
    """torch's kernel: sums in fp32, and one scale for each row."""
    scale = (x.float().square().mean(-1, keepdim=True) + (eps or torch.finfo(x.dtype).eps)).rsqrt()
    normed = x.float() * scale
    return (normed if weight is None else normed * weight.float()).to(x.dtype), scale


def _normed_backward(gradient: Any, x: Any, shape: Any, scale: Any, weight: Any, wanted: Any) -> Any:
    normed, by_result = x.float() * scale, gradient.float()
    scaled = by_result if weight is None else by_result * weight.float()
    by_x = scale * (scaled - normed * (scaled * normed).mean(-1, keepdim=True))
    by_weight = None
    if weight is not None and wanted[1]:
        by_weight = (by_result * normed).reshape(-1, x.shape[-1]).sum(0).to(weight.dtype)
    return by_x.to(x.dtype) if wanted[0] else None, by_weight


_EMULATED: dict[str, Any] = {
    "aten::scaled_dot_product_attention": _attention,
    "aten::_fused_rms_norm": _normed,
    "aten::_fused_rms_norm_backward": _normed_backward,
    "torch_attn::_varlen_attn": _varlen,
    "torch_attn::_varlen_attn_backward": _varlen_backward,
}
