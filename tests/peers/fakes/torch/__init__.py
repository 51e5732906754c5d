"""As much of torch as bench's Python side and the fakes of the peers need, on numpy. A "GPU" here is a name."""

import numpy as np

__version__ = "2.0.fake"
int64, uint8 = np.int64, np.uint8


class Tensor(np.ndarray):
    device = "cpu"

    def __array_finalize__(self, source):
        self.device = getattr(source, "device", "cpu")

    def contiguous(self):
        return on(np.ascontiguousarray(self), self.device)

    def clone(self):
        return on(self.copy(), self.device)

    def to(self, device):
        return on(self.copy(), device)

    def new_zeros(self, count):
        return on(np.zeros(count, self.dtype), self.device)

    def fill_(self, value):
        self[...] = value


def on(array, device):
    tensor = np.asarray(array).view(Tensor)
    tensor.device = device
    return tensor


def cat(tensors):
    return on(np.concatenate(tensors), tensors[0].device)


def arange(count, device):
    return on(np.arange(count, dtype=np.int64), device)


def zeros(count, device):
    cuda.used = True
    return on(np.zeros(count, np.float32), device)


class cuda:
    used = False

    @staticmethod
    def is_initialized():
        return cuda.used

    @staticmethod
    def synchronize(device=None):
        assert cuda.used

    @staticmethod
    def empty_cache():
        pass
