"""Models of transformers (5.0 or later), their weights loaded while they are built."""

from __future__ import annotations

import os
from typing import Any

from . import _core
from ._errors import refuse
from ._load import Block
from ._loader import Loader, loader as loader_of
from ._memory import Torch
from ._parts import PathLike, find, parts_of
from ._save import save

__all__ = ["from_pretrained", "save"]


def from_pretrained(
    model_class: Any,
    name: PathLike,
    device: Any = "cuda:0",
    *,
    dtype: Any = None,
    verify: bool = False,
    storage_path: PathLike | None = None,
    loader: Loader | None = None,
    **kwargs: Any,
) -> Any:
    """A model as `model_class.from_pretrained(name, device_map=device)` makes it, its weights loaded by sllm-gds.

    The model is built without memory while its weights come; then they are assigned. Buffers that no checkpoint holds (as
    rotary `inv_freq`) are made as transformers makes them, tied weights are tied, the generation configuration is kept, and
    the model is in evaluation mode. Where the names in the files are not the model's own (as of experts that transformers
    joins), the tensors are handed to transformers, which converts them: that costs more time, and for a moment more memory.

    Args:
        model_class: `AutoModelForCausalLM` or another of transformers' classes.
        name: as of `sllm_gds.load`.
        device: one device, as of `load_file`.
        dtype: converts floats to this. Default: the configuration's, or else that of the first float of the checkpoint.
        verify, storage_path, loader: as of `sllm_gds.load`.
        kwargs: set attributes of the configuration, as `attn_implementation="sdpa"` does.

    Raises:
        RefusedError: transformers is not there or older than 5, or the model is quantized in a way that changes it while
            it is loaded: `model_class.from_pretrained` takes that one.
        As `sllm_gds.load`.
    """
    try:
        import transformers
    except ImportError as error:
        raise refuse("transformers is not installed: pip install transformers") from error
    if int(transformers.__version__.split(".")[0]) < 5:
        raise refuse(f"transformers {transformers.__version__} is older than 5.0: pip install -U transformers, or take sllm_gds.load")
    path = find(name, storage_path)
    memory = Torch(device)
    keeper = loader_of(loader, memory)
    checkpoint = _core.Checkpoint(path)
    config = transformers.AutoConfig.from_pretrained(os.fspath(path), **kwargs)
    if getattr(config, "quantization_config", None) is not None:
        raise refuse(f"{path} is quantized, and transformers changes such a model while it loads it: take {model_class.__name__}.from_pretrained")
    parts = parts_of(checkpoint)
    dtype = _dtype(memory, config, parts, dtype)
    block = Block(checkpoint, parts, memory, keeper, verify)
    with block:
        state = block.tensors()
        model = _build(model_class, config, dtype, memory)
        model.config.name_or_path = os.fspath(path)
        fits = _fits(model, state)
    # What is left of the block is what the tensors hold.
    del block
    if not fits or not _assign(model, state, memory):
        kind = type(model)
        del model
        # Only accelerate lets transformers load to a device at once.
        there = {"device_map": {"": memory.device}} if transformers.utils.is_accelerate_available() else {}
        model = kind.from_pretrained(None, config=config, state_dict=state, dtype=dtype, **there).to(memory.device)
        model.config.name_or_path = os.fspath(path)
    model.eval()
    if model.can_generate() and os.path.isfile(os.path.join(path, "generation_config.json")):
        model.generation_config = transformers.GenerationConfig.from_pretrained(os.fspath(path))
    return model


def _dtype(memory: Torch, config: Any, parts: Any, wanted: Any) -> Any:
    if isinstance(wanted, str) and wanted != "auto":
        wanted = getattr(memory.torch, wanted)
    if wanted is None or wanted == "auto":
        wanted = getattr(config, "dtype", None)
    if wanted is None:
        floats = (memory.dtype(part.dtype, part.name) for part in parts)
        wanted = next((kind for kind in floats if kind.is_floating_point), memory.torch.float32)
    return getattr(memory.torch, wanted) if isinstance(wanted, str) else wanted


def _build(model_class: Any, config: Any, dtype: Any, memory: Torch) -> Any:
    """The model, without memory."""
    make = getattr(model_class, "from_config", None) or model_class._from_config
    with memory.torch.device("meta"):
        return make(config, dtype=dtype)


def _fits(model: Any, state: dict[str, Any]) -> bool:
    """Whether the tensors are the model's own, one for one, but for tied ones."""
    own = model.state_dict()
    tied = set(getattr(model, "all_tied_weights_keys", {}) or {})
    if any(name not in own for name in state) or any(name not in state for name in own if name not in tied):
        return False
    keeps_fp32 = getattr(model, "_keep_in_fp32_modules", None) or getattr(model, "_keep_in_fp32_modules_strict", None)
    return not keeps_fp32 and all(state[name].shape == own[name].shape for name in state)


def _assign(model: Any, state: dict[str, Any], memory: Torch) -> bool:
    """Gives the model its tensors, and makes those that no checkpoint holds. False where something is left without memory."""
    torch = memory.torch
    own = model.state_dict()
    cast = {
        name: tensor.to(own[name].dtype) if tensor.dtype != own[name].dtype else tensor for name, tensor in state.items()
    }
    needs_grad = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.load_state_dict(cast, strict=False, assign=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(needs_grad.get(name, parameter.requires_grad))
    model.tie_weights()
    for tensor in model.state_dict(keep_vars=True).values():
        tensor._is_hf_initialized = True
    for module in model.modules():
        for name in module._non_persistent_buffers_set:
            buffer = module._buffers.get(name)
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.empty_like(buffer, device=memory.device)
    # transformers makes such buffers where it makes weights, and passes over what is marked.
    with torch.device(memory.device):
        model.initialize_weights()
    everything = [*model.parameters(), *model.buffers()]
    return not any(tensor.is_meta for tensor in everything)
