import pytest
import torch

from finerank.nn.normalization import BatchNorm


def test_is_torch_batch_norm_from_two_rows_on():
    ours, theirs = BatchNorm(3), torch.nn.BatchNorm1d(3)
    for rows in (2, 5):
        x = torch.randn(rows, 3)
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_rows_use_running_statistics_and_leave_them(rows):
    norm = BatchNorm(2)
    norm(torch.tensor([[1.0, -4.0], [3.0, 8.0]]))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    x = torch.randn(rows, 2)
    training = norm.train()(x)
    torch.testing.assert_close(norm.state_dict(), before)
    torch.testing.assert_close(training, norm.eval()(x))
    assert training.shape == (rows, 2)
