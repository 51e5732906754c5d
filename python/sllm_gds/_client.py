"""Models from a store server (`sllm-gds serve`)."""

from __future__ import annotations

import json
from typing import Any

from . import _core
from ._errors import refuse
from ._load import _gpu_of


class Client:
    """A store server, connected to.

        client = sllm_gds.Client("127.0.0.1:8073")
        tensors = {name: torch.from_dlpack(tensor) for name, tensor in client.load("llama", "cuda:0").items()}

    It may be shared by threads.

    Args:
        address: where the server listens: `"HOST:PORT"`, or `"unix:PATH"`.

    Raises:
        UnreachableError: no server answers there.
        RefusedError: that is no address.
    """

    def __init__(self, address: str = "127.0.0.1:8073"):
        self._core = _core.Client(address)

    def status(self) -> dict[str, Any]:
        """What the server holds and does: `version`, `storage_path`, `uptime_s`, `gpus`, `pool`, `models`, `loads`. Sizes are
        bytes, times seconds.

        Raises:
            UnreachableError: the server went away.
        """
        return json.loads(self._core.status())

    def load(self, model: str, device: Any = "cuda:0") -> dict[str, _core.OwnTensor]:
        """Brings a model into memory of this process's own on a GPU, and returns when every byte is there.

        float8 and float4 cross as uint8: view them. Ctrl-C ends the load.

        Args:
            model: its path below the server's storage path.
            device: a GPU, `"cuda:0"` or its number.

        Returns:
            By name, objects with `__dlpack__` and `__dlpack_device__`: `torch.from_dlpack(tensors["w"])`. The memory lives as
            long as any of them, or of what was made of them.

        Raises:
            NotFoundError: the server has no such model, or there is no such GPU here.
            OutOfMemoryError: device memory is short.
            RefusedError: the server does not see the GPU, or the model's files do not fit together.
            BusyError: the server takes no more loads at the moment.
            CorruptError: bytes arrived that are not those that were saved.
            ServerError: something failed within the server.
            UnreachableError: the server went away.
        """
        gpu = _gpu_of(device)
        if gpu is None:
            raise refuse("a store server loads into device memory: name a GPU, as cuda:0, or load the model's directory by sllm_gds.load")
        return dict(self._core.load(model, gpu))
