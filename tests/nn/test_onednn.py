"""Numbers of rows that come again, and zeros behind the rows."""

import torch

from finerank.nn.onednn import cut, even_rows, rounded_up


def test_numbers_near_each_other_are_rounded_up_to_one():
    assert {rounded_up(rows) for rows in range(1025, 1089)} == {1088}
    assert [rounded_up(rows) for rows in (0, 1, 31, 32, 33, 64, 65)] == [0, 1, 31, 32, 34, 64, 68]
    assert len({rounded_up(rows) for rows in range(1024, 2048)}) == 17


def test_zeros_behind_the_rows_and_off_again():
    x = torch.randn(33, 2, 3)
    even = even_rows(x)
    assert even.shape == (34, 2, 3)
    assert torch.equal(even[:33], x)
    assert not even[33:].any()
    assert torch.equal(cut(even, 33), x)
    assert even_rows(even) is even
    assert cut(x, 33) is x
