"""vLLM's load format `sllm_gds`: `vllm serve MODEL --load-format sllm_gds`.

It takes directories of safetensors as Hugging Face has them, and ours. All that vLLM does with weights (tensor parallelism,
quantization, fused layers) stays vLLM's: only where they come from is another. Settings go by
`--model-loader-extra-config '{"window_bytes": 536870912}'`.
"""

from __future__ import annotations

import copy
import os
import time
from pathlib import Path
from typing import Any, Iterator

FORMAT = "sllm_gds"


def register() -> None:
    """Registers the load format; vLLM calls it in each of its processes (entry point `vllm.general_plugins`)."""
    from vllm.model_executor.model_loader import _LOAD_FORMAT_TO_MODEL_LOADER, register_model_loader

    if FORMAT not in _LOAD_FORMAT_TO_MODEL_LOADER:
        register_model_loader(FORMAT)(_make())


def _make() -> type:
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    class SllmGdsModelLoader(DefaultModelLoader):
        """vLLM's own loader, with weights by `sllm_gds.stream`."""

        def __init__(self, load_config: Any):
            extra = dict(load_config.model_loader_extra_config or {})
            self._window_bytes = int(extra.pop("window_bytes", 512 << 20))
            # What vLLM's loader asks of a format it asks of safetensors.
            load_config = copy.copy(load_config)
            load_config.load_format = "safetensors"
            load_config.model_loader_extra_config = extra
            super().__init__(load_config)

        def download_model(self, model_config: Any) -> None:
            if not _is_ours(model_config.model):
                super().download_model(model_config)

        def _get_weights_iterator(self, source: Any) -> Iterator[tuple[str, Any]]:
            if _is_ours(source.model_or_path) and source.subfolder is None:
                paths = [source.model_or_path]
            else:
                # Later versions say more.
                folder, files, *_ = self._prepare_weights(
                    source.model_or_path,
                    source.subfolder,
                    source.revision,
                    source.fall_back_to_pt,
                    source.allow_patterns_overrides,
                )
                paths = _paths(folder, files)
            if self.counter_before_loading_weights == 0.0:
                self.counter_before_loading_weights = time.perf_counter()
            return ((source.prefix + name, tensor) for name, tensor in self._stream(paths))

        def _stream(self, paths: list[str]) -> Iterator[tuple[str, Any]]:
            import torch
            from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size

            from ._core import Checkpoint
            from ._stream import stream

            device = self.load_config.device or torch.device("cuda", torch.cuda.current_device())
            ranks = {"rank": get_tensor_model_parallel_rank(), "world_size": get_tensor_model_parallel_world_size()}
            skip = _skipped(getattr(self, "local_expert_ids", None))
            for path in paths:
                names = None
                if skip is not None:
                    names = [row[0] for row in Checkpoint(path).tensors() if not skip(row[0])]
                    if not names:
                        continue
                yield from stream(path, device, self._window_bytes, names, **ranks)

    return SllmGdsModelLoader


def _is_ours(path: Any) -> bool:
    return (Path(path) / "tensor_index.json").is_file()


def _paths(folder: str, files: list[str]) -> list[str]:
    """The folder, where what it holds as a model is just these files; else the files."""
    from ._core import Checkpoint
    from ._errors import SllmGdsError

    try:
        own = {os.path.realpath(file) for file in Checkpoint(folder).files}
    except SllmGdsError:
        own = set()
    return [folder] if own == {os.path.realpath(file) for file in files} else sorted(files)


def _skipped(local_expert_ids: Any) -> Any:
    """vLLM's own choice of experts that this rank does not hold."""
    if local_expert_ids is None:
        return None
    from vllm.model_executor.model_loader.ep_weight_filter import should_skip_weight

    return lambda name: should_skip_weight(name, local_expert_ids)
