import pytest
import torch

from finerank.data.ahead import made_ahead


def test_batches_are_made_ahead_in_order_and_no_further():
    made = []

    def numbers():
        for number in range(1, 8):
            made.append(number)
            yield number

    ahead = made_ahead(numbers())
    assert next(ahead) == 1
    ahead.close()  # waits for what is begun
    assert made == [1, 2, 3]
    assert list(made_ahead(iter(range(1, 8)))) == list(range(1, 8))
    made.clear()
    ahead = made_ahead(numbers(), ahead=1)
    assert next(ahead) == 1
    ahead.close()
    assert made == [1, 2]


def test_an_error_in_a_batch_is_raised_where_it_is_used():
    def numbers():
        yield 1
        raise ValueError("of the second")

    ahead = made_ahead(numbers())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="of the second"):
        next(ahead)


def test_torch_has_one_thread_where_batches_are_made_and_as_many_as_before_elsewhere():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        made = made_ahead(torch.get_num_threads() for _ in range(4))
        assert list(made) == [1] * 4
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
