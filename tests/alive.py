"""Memory of tensors, counted while a network runs."""

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


class Alive(TorchDispatchMode):
    """Counts the values of all tensors that were made and are still alive."""

    def __init__(self):
        super().__init__()
        self.peak = 0
        self.storages = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor):
            storage = output.untyped_storage()
            size = storage.nbytes() // output.element_size()
            self.storages = {
                key: item for key, item in self.storages.items() if not item[0].expired()
            }
            self.storages[storage._cdata] = StorageWeakRef(storage), size
            self.peak = max(self.peak, sum(size for _, size in self.storages.values()))
        return output
