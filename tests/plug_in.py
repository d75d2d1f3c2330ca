"""A plug-in with two operators, as a user writes one."""

PLUGIN = '''
import torch
from prunerzero import register_operator


def soft_row(x):
    """How much a value stands out in its row."""
    return torch.softmax(x, dim=-1)


register_operator("softrow", soft_row, meaning="the softmax of {0} in its row", reads="row")
register_operator("log1p", lambda x: torch.log1p(x.abs()), meaning="the logarithm of 1 plus {0}")
'''
