"""Which path multiplies packed matrices: for processes that have loaded no kernels yet."""

import torch

from prunerzero.errors import InputError
from prunerzero.packed import kernels
from prunerzero.packed.layout import VALUE_TYPES, pack_matrix


def tell_path() -> None:
    """Print it, or what is wrong, after the product of a small matrix."""
    try:
        matrix = pack_matrix(torch.eye(3), VALUE_TYPES["int8"])
        assert torch.equal(kernels.product(torch.eye(3), matrix), torch.eye(3))
        print(kernels.path(), "|", kernels.why_torch())
    except InputError as error:
        print(error)
