"""The interface of fastsafetensors 0.5.0 as far as bench uses it; loads through fake_files."""

import os

from fake_files import tensors_of

__version__ = "0.5.0"


class SingleGroup:
    def size(self):
        return 1

    def rank(self):
        return 0


class SafeTensorsFileLoader:
    def __init__(self, pg, device="cpu", bbuf_size_kb=16 * 1024, max_threads=16, nogds=False):
        assert isinstance(pg, SingleGroup) and bbuf_size_kb > 0 and max_threads > 0
        assert os.environ["FASTSAFETENSORS_ODIRECT"] in ("0", "1")
        self.device, self.nogds, self.paths, self.closed = device, nogds, [], False

    def add_filenames(self, filenames):
        assert list(filenames) == [0] and isinstance(filenames[0], list)
        self.paths += filenames[0]

    def get_keys(self):
        return [name for path in self.paths for name, _ in tensors_of(path, self.device)]

    def copy_files_to_device(self):
        assert not self.closed
        return FilesBufferOnDevice(self.paths, self.device)

    def close(self):
        self.closed = True


class FilesBufferOnDevice:
    def __init__(self, paths, device):
        self.tensors = {name: tensor for path in paths for name, tensor in tensors_of(path, device)}

    def get_tensor(self, tensor_name):
        return self.tensors[tensor_name]

    def close(self):
        self.tensors = {}
