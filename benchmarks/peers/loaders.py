"""Ways to load safetensors files in Python, each as its own documentation says: safetensors' `load_file`, which is
the baseline, and its peers. `bench` runs this text with src/bench/serve.py behind it; benchmarks/peers/tune.py
imports it.

A loader has
  install        what to pip install
  choices        by page cache, "warm" or "cold": its documented settings that are worth a try, the default first
  prepare(devices) imports its package and returns its version; anything that lasts is set up here, off the clock
  load(paths, device, settings) -> ({name: tensor}, path): the files on one device, and what the load went by

The settings of a load are the first of `choices`, or what SLLM_GDS_PEER_SETTINGS says:
  {"fastsafetensors": {"warm": {...}, "cold": {...}}}
"""

import contextlib
import importlib.metadata
import json
import os


class LoadFile:
    """safetensors' own way, one file after another."""

    install = "safetensors, and torch or numpy"
    choices = {"warm": [{}], "cold": [{}]}

    def prepare(self, devices):
        try:
            from safetensors.torch import load_file

            self.on_torch = True
        except ImportError:
            from safetensors.numpy import load_file

            self.on_torch = False
        self.load_file = load_file
        return importlib.metadata.version("safetensors")

    def load(self, paths, device, settings):
        tensors = {}
        for path in paths:
            shard = self.load_file(path, device=device) if self.on_torch else self.load_file(path)
            if self.on_torch and device == "cpu":
                # On the CPU torch's tensors are views of a mapped file: nothing is read until it is touched.
                shard = {name: tensor.clone() for name, tensor in shard.items()}
            tensors.update(shard)
        return tensors, "python-torch" if self.on_torch else "python-numpy"


class Prefetch:
    """safetensors from 0.9 on: all files at once, read in the background by threads of its own."""

    install = "safetensors==0.9.0rc1"
    choices = {
        state: [
            {"threads": 8, "backend": "mmap"},
            {"threads": 8, "backend": "pread"},
            {"threads": 4, "backend": "pread"},
            {"threads": 16, "backend": "pread"},
        ]
        for state in ("warm", "cold")
    }

    def prepare(self, devices):
        import safetensors

        if not hasattr(safetensors.safe_open, "prefetch"):
            raise ImportError(f"safetensors {safetensors.__version__} has no prefetch: 0.9 brings it")
        self.safe_open = safetensors.safe_open
        return safetensors.__version__

    def load(self, paths, device, settings):
        tensors = {}
        with contextlib.ExitStack() as stack:
            loading = []
            for path in paths:
                file = self.safe_open(path, framework="pt", device=device, backend=settings["backend"])
                loading.append(stack.enter_context(stack.enter_context(file).prefetch(threads=settings["threads"])))
            for loader in loading:
                tensors.update(loader)
        return tensors, "safetensors-prefetch"


class FastSafetensors:
    """Reader threads with bounce buffers, or cuFile (`nogds` false); `odirect` is FASTSAFETENSORS_ODIRECT."""

    install = "fastsafetensors==0.5.0"
    # Slots are bbuf_size_kb / threads / 2: 0.5, 2, 8 and 16 MiB.
    choices = {
        state: [
            {"nogds": True, "odirect": odirect, "max_threads": 16, "bbuf_size_kb": 16 << 10},
            {"nogds": True, "odirect": odirect, "max_threads": 16, "bbuf_size_kb": 64 << 10},
            {"nogds": True, "odirect": odirect, "max_threads": 16, "bbuf_size_kb": 256 << 10},
            {"nogds": True, "odirect": odirect, "max_threads": 8, "bbuf_size_kb": 256 << 10},
        ]
        for state, odirect in (("warm", 0), ("cold", 1))
    }
    # cuFile goes past the page cache.
    choices["cold"].append({"nogds": False, "odirect": 1, "max_threads": 16, "bbuf_size_kb": 16 << 10})

    def prepare(self, devices):
        import fastsafetensors

        self.library = fastsafetensors
        return fastsafetensors.__version__

    def load(self, paths, device, settings):
        arguments = dict(settings)
        direct = arguments.pop("odirect")
        os.environ["FASTSAFETENSORS_ODIRECT"] = str(direct)
        loader = self.library.SafeTensorsFileLoader(self.library.SingleGroup(), device, **arguments)
        try:
            loader.add_filenames({0: list(paths)})
            buffers = loader.copy_files_to_device()
            try:
                # Views of the buffers, which live as long as they do.
                tensors = {name: buffers.get_tensor(name) for name in loader.get_keys()}
            finally:
                buffers.close()
        finally:
            loader.close()
        way = ("direct" if direct else "buffered") if settings["nogds"] else "gds"
        return tensors, f"fastsafetensors-{way}"


class RunaiStreamer:
    """Reads into host memory by threads or io_uring, and copies tensor by tensor to the device."""

    install = "runai-model-streamer==0.17.0"
    # Environment variables, without RUNAI_STREAMER_ before.
    choices = {
        "warm": [
            {"CONCURRENCY": "16", "FS_STRATEGY": "sync_buffered"},
            {"CONCURRENCY": "32", "FS_STRATEGY": "sync_buffered"},
            {"CONCURRENCY": "32", "FS_STRATEGY": "io_uring_buffered,sync_buffered"},
        ],
        "cold": [
            {"CONCURRENCY": "16", "FS_STRATEGY": "sync_buffered"},
            {"CONCURRENCY": "32", "FS_STRATEGY": "sync_buffered"},
            {"CONCURRENCY": "512", "FS_STRATEGY": "io_uring_direct,libaio_direct,sync_buffered"},
        ],
    }

    def prepare(self, devices):
        from runai_model_streamer import SafetensorsStreamer

        self.streamer = SafetensorsStreamer
        return importlib.metadata.version("runai-model-streamer")

    def load(self, paths, device, settings):
        os.environ.update({f"RUNAI_STREAMER_{name}": value for name, value in settings.items()})
        with self.streamer() as streamer:
            streamer.stream_files(list(paths), device=device)
            tensors = dict(streamer.get_tensors())
        return tensors, f"runai-{settings['FS_STRATEGY'].split(',')[0]}".replace("_", "-")


class InstantTensor:
    """Reads ahead into a ring on the GPU; the tensors handed out are copies of their own."""

    install = "instanttensor==0.2.2"
    choices = {
        "warm": [
            {"backend": "BUFFERED"},
            {"backend": "BUFFERED", "io_depth": 32},
            {"backend": "MMAP"},
            {"backend": "URING,AIO"},
        ],
        "cold": [{"backend": "URING,AIO"}, {"backend": "AIO"}, {"backend": "BUFFERED", "io_depth": 32}],
    }

    def prepare(self, devices):
        # Else it pins up to 4 GiB of host memory anew for each load.
        os.environ["INSTANTTENSOR_CACHE_BUFFER"] = "1"
        import instanttensor

        self.library = instanttensor
        return importlib.metadata.version("instanttensor")

    def load(self, paths, device, settings):
        arguments = dict(settings)
        names = {**self.library.Backend.__members__, **self.library.BackendPolicy.__members__}
        backend = [names[name] for name in arguments.pop("backend").split(",")]
        with self.library.safe_open(list(paths), framework="pt", device=device, backend=backend, **arguments) as file:
            tensors = dict(file.tensors())
        return tensors, f"instanttensor-{file.backend.name.lower().replace('_', '-')}"


LOADERS = {
    "safetensors": LoadFile,
    "safetensors-prefetch": Prefetch,
    "fastsafetensors": FastSafetensors,
    "runai-streamer": RunaiStreamer,
    "instanttensor": InstantTensor,
}


def settings_of(name, cold):
    """The settings of a load: those asked for, else the loader's default."""
    state = "cold" if cold else "warm"
    asked = json.loads(os.environ.get("SLLM_GDS_PEER_SETTINGS") or "{}").get(name, {})
    return asked.get(state, LOADERS[name].choices[state][0])
