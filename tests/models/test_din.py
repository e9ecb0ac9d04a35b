"""The whole DIN against one that pads, masks and repeats, written without any block of ours.

Shapes: ``B`` candidates, ``L`` longest history, ``D`` what a step shares with the candidate,
``S`` a step, ``W`` widths.
"""

import pytest
import torch

from finerank.data.batch import Jagged


def embed(model, feature, column):
    """Every row of a column as a vector, one row at a time."""
    weights = model.state_dict(keep_vars=True)
    rows = []
    for row in range(len(column.offsets) - 1 if isinstance(column, Jagged) else len(column)):
        if isinstance(column, Jagged):
            ids = column.values[column.offsets[row] : column.offsets[row + 1]].tolist()
            table = weights[f"inputs.tables.of_{feature.space}"]
            zero = torch.zeros(table.shape[1], dtype=table.dtype)
            rows.append(sum((table[each] for each in ids), zero) / max(1, len(ids)))
        elif feature.type == "id":
            rows.append(weights[f"inputs.tables.of_{feature.space}"][int(column[row])])
        elif feature.type == "number":
            missing = bool(column[row].isnan())
            value = 0.0 if missing else float(column[row])
            rows.append(torch.tensor([value, float(missing)], dtype=torch.float64))
        else:
            rows.append(weights[f"inputs.projections.of_{feature.name}.weight"] @ column[row])
    return torch.stack(rows) if rows else None


def masked_dice(x, mask, prefix, model):
    """Dice over ``(..., H)`` whose statistics see only the places of the mask ``(...)``."""
    weights = dict(model.named_parameters()) | dict(model.named_buffers())
    alpha = weights[f"{prefix}.alpha"]
    if model.training:
        real = x[mask]
        mean = real.mean(dim=0)
        variance = (real - mean).square().mean(dim=0)
    else:
        mean = weights[f"{prefix}.normalization.running_mean"]
        variance = weights[f"{prefix}.normalization.running_var"]
    p = torch.sigmoid((x - mean) / torch.sqrt(variance + 1e-8))
    return p * x + (1 - p) * alpha * x


def padded_attention(model, name, candidate, steps, offsets, request_of_candidate, shift):
    """Attention over ``[c, h, c - h, c * h]``, histories padded to the longest."""
    prefix = f"pooling.of_{name}"
    weights = dict(model.named_parameters())
    lengths = offsets.diff()[request_of_candidate]
    longest, dim, width = int(lengths.max()), candidate.shape[1], steps.shape[1]
    padding = torch.full((width,), 7.0, dtype=torch.float64)  # what stands there must not matter
    padded = torch.stack(
        [
            torch.stack([steps[offsets[r] + t] if t < n else padding for t in range(longest)])
            for r, n in zip(request_of_candidate.tolist(), lengths.tolist(), strict=True)
        ]
    )  # (B, L, S)
    mask = torch.arange(longest) < lengths[:, None]  # (B, L)
    c = candidate[:, None].expand(-1, longest, -1)  # (B, L, D)
    shared = padded[..., :dim]
    of_candidate, of_step, of_product = weights[f"{prefix}.mlp.linears.0.weight"].split(
        [dim, width, dim], dim=1
    )
    first = torch.cat(  # the four blocks that fold into the model's three, whatever the shift
        [
            of_candidate - shift,
            of_step + torch.nn.functional.pad(shift, (0, width - dim)),
            shift,
            of_product,
        ],
        dim=1,
    )
    x = torch.cat([c, padded, c - shared, c * shared], dim=-1)
    x = x @ first.T + weights[f"{prefix}.mlp.linears.0.bias"]
    x = masked_dice(x, mask, f"{prefix}.mlp.finishes.0.0", model)
    x = x @ weights[f"{prefix}.mlp.linears.1.weight"].T + weights[f"{prefix}.mlp.linears.1.bias"]
    x = masked_dice(x, mask, f"{prefix}.mlp.finishes.1.0", model)
    logit = x @ weights[f"{prefix}.logit.weight"].T + weights[f"{prefix}.logit.bias"]  # (B, L, 1)
    return (logit * padded * mask[..., None]).sum(dim=1)  # (B, S)


def padded_din(model, schema, batch):
    """The logits ``(B, T)``."""
    weights, request = dict(model.named_parameters()), batch.request_of_candidate
    columns = [embed(model, f, batch.request[f.name])[request] for f in schema.request_features]
    candidate = {
        f.name: embed(model, f, batch.candidate[f.name]) for f in schema.candidate_features
    }
    columns += candidate.values()
    for history in schema.histories:
        steps = batch.histories[history.name]
        features = [schema.feature(name) for name in history.features]
        shared = [f for f in features if f.side == "item"]
        own = [f for f in features if f.side != "item"]
        target = torch.cat([candidate[f.name] for f in shared], dim=1)
        values = torch.cat([embed(model, f, steps.columns[f.name]) for f in shared + own], dim=1)
        shift = torch.randn(4, target.shape[1], dtype=torch.float64)
        columns.append(
            padded_attention(model, history.name, target, values, steps.offsets, request, shift)
        )
    x = torch.cat(columns, dim=1)
    everyone = torch.ones(len(x), dtype=torch.bool)
    for layer in (0, 1):
        prefix = f"interaction.mlp.linears.{layer}"
        x = x @ weights[f"{prefix}.weight"].T + weights[f"{prefix}.bias"]
        x = masked_dice(x, everyone, f"interaction.mlp.finishes.{layer}.0", model)
    return x @ weights["head.weight"].T + weights["head.bias"]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("schema_name", ["one history", "every type"])
def test_equals_a_padded_and_masked_implementation(small, made, schema_name, training):
    schema = made.schemas[schema_name]
    examples = made.examples(schema, candidates=(3, 1, 2, 4, 1), steps=(2, 0, 7, 1, 3))
    columns = {f.name for f in schema.features if f.type == "vector"}
    batch = made.batch(examples)
    for side in (batch.request, batch.candidate, *(h.columns for h in batch.histories.values())):
        side.update({name: column.double() for name, column in side.items() if name in columns})
    model = small("din", schema).double().train(training)
    expected = padded_din(model, schema, batch)  # before the forward moves running statistics
    logits = model(batch)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
    weights = torch.randn_like(logits)
    parameters = tuple(model.parameters())
    gradients, naive = (
        torch.autograd.grad((each * weights).sum(), parameters) for each in (logits, expected)
    )
    for (name, _), gradient, other in zip(model.named_parameters(), gradients, naive, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-10, msg=name)
