"""The interface of safetensors 0.9.0rc1 as far as bench uses it; loads through fake_files."""

from fake_files import tensors_of

__version__ = "0.9.0rc1"


class safe_open:
    def __init__(self, filename, framework, device="cpu", *, backend="mmap"):
        assert framework == "pt" and backend in ("mmap", "pread")
        self.filename, self.device, self.open = filename, device, False

    def __enter__(self):
        self.open = True
        return self

    def __exit__(self, exc_type, exc_value, traceback):
        self.open = False

    def prefetch(self, plan=None, *, device=None, threads=8):
        assert self.open and plan is None and threads > 0
        if not (device or self.device).startswith("cuda"):
            raise ValueError("prefetch loads to cuda devices, not cpu")
        return PrefetchLoader(self.filename, device or self.device)


class PrefetchLoader:
    """Hands each tensor out once; has no keys(), so a dict takes it as pairs."""

    def __init__(self, path, device):
        self.tensors = dict(tensors_of(path, device))

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc_value, traceback):
        self.tensors.clear()

    def __len__(self):
        return len(self.tensors)

    def __iter__(self):
        while self.tensors:
            yield self.tensors.popitem()
