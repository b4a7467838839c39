"""Stands in for PyTorch in a worker whose engine does without: TorchServe's worker imports all of it to ask one thing.

`training.archive` puts it into such archives as `torch.py`, where the worker finds it before the real one: 150 MB and
more than a second less for each. It holds what TorchServe's worker touches (ts/protocol/otf_message_handler.py).
"""


class Tensor:
    """The kind of answer that TorchServe would have to serialise; the handler gives bytes."""
