import pytest
import torch
from torch.nn import functional

from finerank.nn.jagged import segment_sum
from finerank.nn.target_attention import TargetAttention

DIM, PADS = 3, 2
KINDS = [{"softmax": s, "step_dim": d} for s in (False, True) for d in (None, 5)]


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def scattered(attention):
    """Return the block in float64 with slopes and biases set apart from each other."""
    for parameter in attention.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter)
    return attention.double()


def padded_dice(s, alpha, mask):
    """Dice over the real entries of a padded tensor (B, L, H)."""
    count = mask.sum()
    mean = (s * mask).sum((0, 1)) / count
    variance = ((s - mean).square() * mask).sum((0, 1)) / count
    p = torch.sigmoid((s - mean) / (variance + 1e-8).sqrt())
    return p * s + (1 - p) * alpha * s


def padded_attention(attention, candidate, values, histories):
    """Target attention the plain way: padded, masked, repeated, concatenated with c - h."""
    lengths = histories.offsets.diff().tolist()
    longest = max(lengths) + PADS
    rows = [
        torch.cat([part, part.new_full((longest - part.shape[0], part.shape[1]), 7.0)])
        for part in values.split(lengths)
    ]
    h = torch.stack(rows)[histories.request_of_candidate]  # (B, L, S)
    real = torch.arange(longest) < torch.tensor(lengths)[histories.request_of_candidate, None]
    mask = real.unsqueeze(2)  # (B, L, 1)
    c = candidate.unsqueeze(1).expand(-1, longest, -1)  # (B, L, D)
    shared = h[..., :DIM]

    # Any W3 will do: what c - h takes through it, W1 and W2 give back.
    first = attention.mlp.linears[0]
    of_candidate, of_step, w4 = first.weight.split([DIM, h.shape[2], DIM], dim=1)
    w3 = torch.randn_like(w4)
    w1 = of_candidate - w3
    w2 = of_step + torch.nn.functional.pad(w3, (0, h.shape[2] - DIM))
    weight = torch.cat([w1, w2, w3, w4], dim=1)

    x = torch.cat([c, h, c - shared, c * shared], dim=2) @ weight.T + first.bias
    x = padded_dice(x, attention.mlp.finishes[0][0].alpha, mask)
    x = attention.mlp.linears[1](x)
    x = padded_dice(x, attention.mlp.finishes[1][0].alpha, mask)
    weights = attention.logit(x).squeeze(2)  # (B, L)
    if attention.softmax:
        weights = weights.masked_fill(~real, -1e300).softmax(dim=1)
    return torch.einsum("bl,bls->bs", weights * real, h)


def test_by_hand(set_parameters):
    attention = TargetAttention(1, step_dim=2, hidden_units=(2,), activation="relu")
    set_parameters(
        attention,
        # columns: the candidate, the step's two, their product
        mlp__linears__0__weight=[[1.0, 2.0, -1.0, 0.5], [-3.0, 1.0, 4.0, -2.0]],
        mlp__linears__0__bias=[0.5, 1.0],
        logit__weight=[[0.5, -0.25]],
        logit__bias=[0.125],
    )
    candidate, offsets = torch.tensor([[2.0]]), torch.tensor([0, 2])
    values = torch.tensor([[3.0, 5.0], [-1.0, 2.0]])
    of_candidate = torch.tensor([0])
    # Step 1, product 6: 2 + 6 - 5 + 3 + 0.5 = 6.5 and -6 + 3 + 20 - 12 + 1 = 6;
    #   weight 3.25 - 1.5 + 0.125 = 1.875.
    # Step 2, product -2: 2 - 2 - 2 - 1 + 0.5 < 0 and -6 - 1 + 8 + 4 + 1 = 6;
    #   weight -1.5 + 0.125 = -1.375.
    weights, pair_offsets = attention.weights(candidate, values, offsets, of_candidate)
    assert weights.tolist() == [1.875, -1.375]
    assert pair_offsets.tolist() == [0, 2]
    # 1.875 (3, 5) - 1.375 (-1, 2)
    assert attention(candidate, values, offsets, of_candidate).tolist() == [[7.0, 6.625]]


@pytest.mark.parametrize("kind", KINDS)
def test_is_padded_attention_with_a_mask(kind, histories):
    attention = scattered(TargetAttention(DIM, hidden_units=(6, 4), **kind))
    candidate, values = randn(6, DIM), randn(histories.num_steps, attention.output_dim)
    inputs = (candidate, values, *attention.parameters())
    jagged = attention(candidate, values, *histories)
    padded = padded_attention(attention, candidate, values, histories)
    torch.testing.assert_close(jagged, padded, rtol=0, atol=1e-10)
    assert jagged[2].tolist() == [0] * attention.output_dim  # its request has no history
    cotangent = torch.randn_like(padded)
    torch.testing.assert_close(
        torch.autograd.grad(jagged, inputs, cotangent),
        torch.autograd.grad(padded, inputs, cotangent),
        rtol=0,
        atol=1e-10,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_gradients(kind, training, histories, check_gradients):
    attention = scattered(TargetAttention(DIM, hidden_units=(3, 2), **kind)).train(training)
    candidate, values = randn(6, DIM), randn(histories.num_steps, attention.output_dim)
    check_gradients(attention, lambda: attention(candidate, values, *histories), candidate, values)


@pytest.mark.parametrize("kind", KINDS)
def test_a_candidate_scores_the_same_alone_or_in_any_batch(kind, histories):
    attention = scattered(TargetAttention(DIM, **kind))
    candidate, values = randn(6, DIM), randn(histories.num_steps, attention.output_dim)
    attention(candidate, values, *histories)  # running statistics away from their start
    attention.eval()
    together = attention(candidate, values, *histories)
    for row, request in enumerate(histories.request_of_candidate):
        history = values[histories.offsets[request] : histories.offsets[request + 1]]
        alone = attention(
            candidate[row : row + 1],
            history,
            torch.tensor([0, history.shape[0]]),
            torch.zeros(1, dtype=torch.int64),
        )
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("num_candidates", "num_requests"), [(0, 0), (0, 1), (1, 1), (3, 2)])
def test_no_history_at_all(training, num_candidates, num_requests):
    attention = TargetAttention(DIM).train(training)
    before = {name: value.clone() for name, value in attention.state_dict().items()}
    candidate = torch.randn(num_candidates, DIM, requires_grad=True)
    values = torch.zeros(0, DIM, requires_grad=True)
    offsets = torch.zeros(num_requests + 1, dtype=torch.int64)
    out = attention(candidate, values, offsets, torch.zeros(num_candidates, dtype=torch.int64))
    assert out.tolist() == [[0.0] * DIM] * num_candidates
    out.sum().backward()
    assert all(p.grad.abs().sum() == 0 for p in attention.parameters())
    torch.testing.assert_close(attention.state_dict(), before)


@pytest.mark.parametrize("training", [True, False])
def test_one_candidate_with_one_step(training):
    attention = TargetAttention(DIM).train(training)
    candidate, values = torch.randn(1, DIM), torch.randn(1, DIM)
    weights, _ = attention.weights(candidate, values, torch.tensor([0, 1]), torch.tensor([0]))
    out = attention(candidate, values, torch.tensor([0, 1]), torch.tensor([0]))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, weights * values)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_forward(kind, histories):
    attention = scattered(TargetAttention(DIM, **kind)).eval()
    candidate, values = randn(6, DIM), randn(histories.num_steps, attention.output_dim)
    weights, pair_offsets = attention.weights(candidate, values, *histories)
    assert pair_offsets.tolist() == [0, 3, 5, 5, 8, 9, 11]
    steps = torch.tensor([2, 3, 4, 0, 1, 2, 3, 4, 5, 0, 1])
    summed = segment_sum(weights.unsqueeze(1) * values[steps], pair_offsets)
    torch.testing.assert_close(summed, attention(candidate, values, *histories))
    totals = segment_sum(weights, pair_offsets)
    if kind["softmax"]:
        torch.testing.assert_close(totals, totals.new_tensor([1, 1, 0, 1, 1, 1]))
    else:
        assert (totals - 1).abs().min() > 1e-3


def test_indices_may_be_int32(histories):
    attention = TargetAttention(DIM).eval()
    candidate, values = torch.randn(6, DIM), torch.randn(histories.num_steps, DIM)
    narrow = [index.to(torch.int32) for index in histories]
    torch.testing.assert_close(
        attention(candidate, values, *narrow), attention(candidate, values, *histories)
    )


def test_trains_under_autocast(histories):
    attention = TargetAttention(DIM)
    values = torch.randn(histories.num_steps, DIM)
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(torch.randn(6, DIM), values, *histories)
    out.sum().backward()
    assert out.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in attention.parameters())


@pytest.mark.usefixtures("without_compiled")
@pytest.mark.parametrize("one_each", [True, False])
def test_in_short_numbers_it_differs_by_their_rounding(one_each):
    torch.manual_seed(0)
    lengths = torch.randint(0, 9, (40,))
    offsets = functional.pad(lengths.cumsum(0), (1, 0))
    of_candidate = torch.arange(40) if one_each else torch.randint(0, 40, (90,))
    attention = TargetAttention(64, step_dim=80).train()
    candidate = torch.randn(len(of_candidate), 64, requires_grad=True)
    values = torch.randn(int(offsets[-1]), 80, requires_grad=True)
    wanted = [candidate, values, *attention.parameters()]
    outputs, gradients = [], []
    for short in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=short):
            outputs.append(attention(candidate, values, offsets, of_candidate))
        gradients.append(torch.autograd.grad(outputs[-1].square().sum(), wanted))
    assert not torch.equal(*outputs)
    for short, full in [outputs, *zip(*gradients, strict=True)]:
        assert short.dtype == full.dtype == torch.float32
        assert (short - full).norm() < 0.05 * full.norm()


@pytest.mark.usefixtures("without_compiled")
def test_in_short_numbers_batches_of_near_sizes_share_their_products(short_products):
    attention, found = TargetAttention(64, hidden_units=(80, 70)), []
    for extra in (0, 5, 17):  # 20 requests, 60 candidates, up to 1088 pairs
        lengths = torch.tensor([18] * 19 + [15 + extra // 3])
        offsets = functional.pad(lengths.cumsum(0), (1, 0))
        values = torch.randn(int(offsets[-1]), 64, requires_grad=True)
        candidate = torch.randn(60, 64, requires_grad=True)
        with short_products() as seen:
            with torch.autocast("cpu", torch.bfloat16):
                out = attention(candidate, values, offsets, torch.arange(60) // 3)
            out.sum().backward()
        found.append(seen.shapes)
    assert found[0] == found[1] == found[2]
    assert len(found[0]) >= 9


@pytest.mark.usefixtures("without_compiled")
def test_narrow_attention_stays_float32(histories):
    attention = TargetAttention(DIM, hidden_units=(40, 20)).eval()
    candidate, values = torch.randn(6, DIM), torch.randn(histories.num_steps, DIM)
    expected = attention(candidate, values, *histories)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attention(candidate, values, *histories), expected)
        assert torch.is_autocast_enabled("cpu")


def test_first_layer_starts_with_the_fan_in_of_all_it_reads():
    weight = TargetAttention(30, step_dim=40).mlp.linears[0].weight
    assert weight.shape == (80, 100)
    for part in weight.split([30, 40, 30], dim=1):
        assert 0.09 < part.abs().max() <= 0.1  # 1 / sqrt(100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"step_dim": 2}, "step_dim of at least dim"), ({"hidden_units": ()}, "hidden layer")],
)
def test_what_cannot_be_built_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TargetAttention(DIM, **arguments)
