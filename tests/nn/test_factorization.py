import torch

from finerank.nn.factorization import FactorizationMachine

# Pairs: 1 * 3 + 2 * -1 = 1; 1 * -2 + 2 * 5 = 8; 3 * -2 + -1 * 5 = -11.
FIELDS = torch.tensor([[[1.0, 2.0], [3.0, -1.0], [-2.0, 5.0]]])


def test_by_hand():
    machine = FactorizationMachine()
    assert machine(FIELDS).tolist() == [[-2.0]]
    assert machine.output_dim == 1


def test_is_a_loop_over_pairs():
    fields = torch.randn(4, 5, 3, dtype=torch.float64)
    expected = sum((fields[:, i] * fields[:, j]).sum(1) for i in range(5) for j in range(i))
    torch.testing.assert_close(FactorizationMachine()(fields), expected.unsqueeze(1))


def test_gradients(check_gradients):
    fields = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    machine = FactorizationMachine()
    check_gradients(machine, lambda: machine(fields), fields)


def test_rows_apart(check_rows_apart):
    check_rows_apart(FactorizationMachine(), torch.randn(4, 3, 2, dtype=torch.float64))
