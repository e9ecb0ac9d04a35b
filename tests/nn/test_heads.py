import pytest
import torch
from torch import nn

from finerank.nn.heads import LinearHead, MixtureHead, ProgressiveHead, SharedBottomHead

ROWS, WIDTH, REQUEST_WIDTH, TASKS = 5, 3, 2, 2
REQUEST_OF_ROW = torch.tensor([1, 0, 2, 1, 0])


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def mlp(stack, member, x):
    """One member of a stacked ReLU MLP, layer by layer."""
    for linear in stack.linears:
        x = torch.relu(x @ linear.weight[member].T + linear.bias[member])
    return x


def towers(head, inputs):
    """Each task's input through its own tower."""
    stack, logit = head.towers.mlps, head.towers.logit
    columns = [
        mlp(stack, task, each) @ logit.weight[task].T + logit.bias[task]
        for task, each in enumerate(inputs)
    ]
    return torch.cat(columns, dim=1)


def mixture_head(**options):
    return MixtureHead(
        WIDTH, num_tasks=TASKS, num_experts=3, expert_units=(4, 2), tower_units=(3,), **options
    ).double()


def progressive_head(levels):
    return ProgressiveHead(
        WIDTH,
        num_tasks=TASKS,
        num_levels=levels,
        task_experts=2,
        shared_experts=1,
        expert_units=(4,),
        tower_units=(3,),
    ).double()


HEADS = {
    "linear": lambda: LinearHead(WIDTH, TASKS).double(),
    "shared_bottom": lambda: SharedBottomHead(
        WIDTH, num_tasks=TASKS, bottom_units=(4,), tower_units=(3,)
    ).double(),
    "one_gate": lambda: mixture_head(one_gate=True),
    "mmoe": mixture_head,
    "mmoe by request": lambda: mixture_head(request_dim=REQUEST_WIDTH),
    "ple of one level": lambda: progressive_head(1),
    "ple of two levels": lambda: progressive_head(2),
}


def positive(head):
    """Move weights to where no ReLU is at its corner or dead."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(parameter.abs() + 0.05)
    return head


@pytest.mark.parametrize("name", HEADS)
def test_gradients(name, check_gradients):
    head, x, request = positive(HEADS[name]()), randn(ROWS, WIDTH), randn(3, REQUEST_WIDTH)
    x = x.detach().abs().requires_grad_()
    read = [x, request] if name == "mmoe by request" else [x]
    check_gradients(head, lambda: head(x, request, REQUEST_OF_ROW), *read)


@pytest.mark.parametrize("name", HEADS)
def test_rows_are_scored_apart(name):
    head, x, request = HEADS[name](), randn(ROWS, WIDTH), randn(3, REQUEST_WIDTH)
    together = head(x, request, REQUEST_OF_ROW)
    assert together.shape == (ROWS, TASKS)
    for row in range(ROWS):
        alone = head(x[row : row + 1], request[REQUEST_OF_ROW[row]].unsqueeze(0), torch.tensor([0]))
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-12)
    assert head(x[:0], request, REQUEST_OF_ROW[:0]).shape == (0, TASKS)


def test_linear_head_without_input_is_its_bias():
    head = LinearHead(0, 2)
    assert head.bias.tolist() == [0.0, 0.0]
    with torch.no_grad():
        head.bias.copy_(torch.tensor([3.0, -2.0]))
    assert head(torch.zeros(2, 0)).tolist() == [[3.0, -2.0], [3.0, -2.0]]


def test_shared_bottom_equals_a_loop():
    head, x = HEADS["shared_bottom"](), randn(ROWS, WIDTH)
    bottom = torch.relu(head.bottom.linears[0](x))
    expected = towers(head, [bottom] * TASKS)
    torch.testing.assert_close(head(x, None, None), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["one_gate", "mmoe", "mmoe by request"])
def test_mixture_equals_a_loop(name):
    head, x, request = HEADS[name](), randn(ROWS, WIDTH), randn(3, REQUEST_WIDTH)
    read = request[REQUEST_OF_ROW] if name == "mmoe by request" else x
    inputs = []
    for task in range(TASKS):
        gate = head.gate_logits.weight[0 if name == "one_gate" else task]
        shares = torch.softmax(read @ gate.T, dim=1)
        inputs.append(sum(shares[:, e : e + 1] * mlp(head.experts.mlps, e, x) for e in range(3)))
    expected = towers(head, inputs)
    torch.testing.assert_close(head(x, request, REQUEST_OF_ROW), expected, rtol=0, atol=1e-12)


def test_gates_of_a_mixture():
    head, x, request = HEADS["mmoe"](), randn(ROWS, WIDTH), randn(3, REQUEST_WIDTH)
    gates = head.gates(x, request, REQUEST_OF_ROW)
    expected = torch.softmax(x @ head.gate_logits.weight[1].T, dim=1)
    torch.testing.assert_close(gates[:, 1], expected, rtol=0, atol=1e-12)
    one = HEADS["one_gate"]().gates(x, request, REQUEST_OF_ROW)
    assert one.shape == (ROWS, TASKS, 3)
    torch.testing.assert_close(one[:, 0], one[:, 1])


@pytest.mark.parametrize("levels", [1, 2])
def test_progressive_equals_a_loop(levels):
    """Experts 0 and 1 are of task 0, 2 and 3 of task 1, 4 is shared."""
    head, x = progressive_head(levels), randn(ROWS, WIDTH)
    seen = {0: [0, 1, 4], 1: [2, 3, 4], 2: [0, 1, 2, 3, 4]}
    group_of = [0, 0, 1, 1, 2]
    groups = [x, x, x]
    for level in range(levels):
        outputs = [mlp(head.experts[level], e, groups[g]) for e, g in enumerate(group_of)]
        mixed = []
        for gate in range(TASKS + (level < levels - 1)):
            weight = head.gate_of_level[level].weight[gate][seen[gate]]
            shares = torch.softmax(groups[gate] @ weight.T, dim=1)
            mixed.append(sum(shares[:, [i]] * outputs[e] for i, e in enumerate(seen[gate])))
        groups = mixed
    expected = towers(head, groups)
    torch.testing.assert_close(head(x, None, None), expected, rtol=0, atol=1e-12)


def test_progressive_gates_leave_foreign_experts_out():
    gates = progressive_head(2).gates(randn(ROWS, WIDTH), None, None)
    assert gates.shape == (ROWS, TASKS, 5)
    assert (gates[:, 0, 2:4] == 0).all()
    assert (gates[:, 1, :2] == 0).all()
    assert (gates[:, 0, [0, 1, 4]] > 0).all()
    torch.testing.assert_close(gates.sum(dim=2), torch.ones(ROWS, TASKS, dtype=torch.float64))


def test_a_head_of_one_task():
    for build in (SharedBottomHead, MixtureHead, ProgressiveHead):
        options = {"num_tasks": 1, "tower_units": (2,)}
        if build is SharedBottomHead:
            options["bottom_units"] = (2,)
        if build is not SharedBottomHead:
            options["expert_units"] = (2,)
        if build is MixtureHead:
            options["num_experts"] = 2
        if build is ProgressiveHead:
            options |= {"num_levels": 2, "task_experts": 1, "shared_experts": 1}
        head = build(WIDTH, **options)
        assert isinstance(head, nn.Module)
        assert head(torch.zeros(1, WIDTH), torch.zeros(1, 2), torch.tensor([0])).shape == (1, 1)
