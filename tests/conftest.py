"""What every test shares."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from finerank import cli
from finerank.data.batch import Batch, Column, Jagged
from finerank.data.events import EventStore
from finerank.data.examples import Examples
from finerank.data.schema import Feature, History, Schema
from finerank.nn.kernels import library
from finerank.run import train
from finerank.training import device


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Small work goes faster on one thread, and the same way on every machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _on_the_cpu():
    """What is left open is the same on every machine; a test that is about a GPU asks for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "_default", lambda: "cpu")
        patch.setattr(device, "_computes_bfloat16", lambda device: False)
        yield


@pytest.fixture(params=["AVX512", "AVX2"])
def instructions(request, monkeypatch) -> None:
    """The compiled functions of either set of instructions; skipped where there are none."""
    if (
        request.param > torch.backends.cpu.get_cpu_capability()
    ):  # the wider comes later in the alphabet
        pytest.skip("this processor has none of them")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    found = library.functions.__wrapped__()
    if found is None:
        pytest.skip("no functions are compiled for this machine")
    monkeypatch.setattr(library, "functions", lambda: found)


PRODUCTS = [getattr(torch.ops.aten, name) for name in ("mm", "addmm", "bmm", "baddbmm")]


class ShortProducts(TorchDispatchMode):
    """Notes the shapes of every matrix product in bfloat16."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in PRODUCTS:
            *_, first, second = args
            if first.dtype == torch.bfloat16:
                self.shapes.add((tuple(first.shape), tuple(second.shape)))
        return func(*args, **kwargs or {})


@pytest.fixture
def short_products():
    return ShortProducts


class Made:
    """Small schemas, and examples of them with random content, without any file."""

    @staticmethod
    def features(*names: str) -> tuple[Feature, ...]:
        """Features by name; a name tells side, type and space, as in ``item:ids:tags@tag``."""
        made = []
        for each in names:
            spec, _, space = each.partition("@")
            side, kind, name = spec.split(":")
            size = {"id": 5, "ids": 6, "number": 1, "vector": 3}[kind]
            is_id = kind in ("id", "ids")
            made.append(
                Feature(
                    name,
                    side,
                    kind,
                    "log",
                    name,
                    {"tag": 6}.get(space, size),
                    (space or name) if is_id else None,
                )
            )
        return tuple(made)

    @staticmethod
    def column(feature: Feature, rows: int, random: torch.Generator) -> Column:
        """Random values, with missing numbers and empty lists among them."""
        if feature.type == "id":
            return torch.randint(0, feature.size, (rows,), generator=random, dtype=torch.int32)
        if feature.type == "ids":
            lengths = torch.randint(0, 4, (rows,), generator=random)
            offsets = functional.pad(lengths.cumsum(0), (1, 0))
            size = (int(offsets[-1]),)
            values = torch.randint(0, feature.size, size, generator=random, dtype=torch.int32)
            return Jagged(values, offsets)
        width = () if feature.type == "number" else (feature.size,)
        values = torch.randn((rows, *width), generator=random)
        if feature.type == "number":
            values[1::4] = torch.nan
        return values

    def examples(
        self,
        schema: Schema,
        *,
        candidates: Sequence[int],
        steps: Sequence[int],
        seed: int = 0,
    ) -> Examples:
        """Random examples.

        Args:
            candidates: how many each request has.
            steps: how long each request's histories are; a history after the first is shorter.
        """
        random = torch.Generator().manual_seed(seed)
        total = sum(candidates)
        stores, windows = {}, {}
        for index, history in enumerate(schema.histories):
            lengths = torch.tensor([max(0, length - index) for length in steps])
            offsets = functional.pad(lengths.cumsum(0), (1, 0))
            events = int(offsets[-1])
            columns = {
                name: self.column(schema.feature(name), events, random) for name in history.features
            }
            stores[history.name] = EventStore(torch.arange(events), None, columns, offsets)
            windows[history.name] = (offsets[:-1], offsets[1:])
        return Examples(
            schema=schema,
            users=None,
            items=None,
            stores=stores,
            user=torch.arange(len(candidates), dtype=torch.int32),
            request={
                f.name: self.column(f, len(candidates), random) for f in schema.request_features
            },
            windows=windows,
            first_candidate=functional.pad(torch.tensor(candidates).cumsum(0), (1, 0)),
            item=None,
            candidate={f.name: self.column(f, total, random) for f in schema.candidate_features},
            labels=[torch.randint(0, 2, (total,), generator=random).float() for _ in schema.tasks],
        )

    @staticmethod
    def batch(examples: Examples) -> Batch:
        """All the examples in one batch."""
        return examples.batch(torch.arange(examples.num_requests))

    @property
    def schemas(self) -> dict[str, Schema]:
        """Schemas that differ in what they have and lack.

        Each has three fields or more: two make one pair, whose share of an attention is always 1.
        """
        one = ("click",)
        every_type = self.features(
            "user:id:user",
            "user:ids:groups",
            "user:number:age",
            "user:vector:user_vector",
            "context:id:device",
            "context:number:hour",
            "item:id:item",
            "item:ids:tags@tag",
            "item:id:tag@tag",
            "item:number:price",
            "item:vector:item_vector",
            "history:id:event",
            "history:number:dwell",
        )
        clicked = History(
            "clicked", ("event", "item", "tags", "dwell", "price", "item_vector"), max_length=9
        )
        return {
            "flat": Schema(self.features("context:id:c1", "item:id:c2", "item:number:i1"), (), one),
            "items only": Schema(
                self.features("item:id:item", "item:id:category", "item:number:price"), (), one
            ),
            "numbers only": Schema(
                self.features("context:number:hour", "item:number:price", "item:number:stock"),
                (),
                one,
            ),
            "users only": Schema(
                self.features("user:id:user", "user:ids:groups", "user:number:age"), (), one
            ),
            "one history": Schema(
                self.features("user:id:user", "context:number:hour", "item:id:item"),
                (History("clicked", ("item",), max_length=9),),
                one,
            ),
            "history without user features": Schema(
                self.features("item:id:item", "item:id:category"),
                (History("clicked", ("category", "item"), max_length=9),),
                one,
            ),
            "steps of their own": Schema(
                self.features("user:id:user", "item:id:item", "history:id:event"),
                (History("acted", ("event",), max_length=9),),
                one,
            ),
            "every type": Schema(
                every_type,
                (clicked, History("carted", ("tag",), max_length=9)),
                ("click", "cart", "order"),
            ),
        }


@pytest.fixture(scope="session")
def made() -> Made:
    return Made()


SHOP_RECIPE = """
name: shop
log:
  path: raw/log.parquet
  user: user_id
  item: item_id
  time: time_s
  derive: {hour: "(time_s // 3600) % 24"}
users: {path: raw/users.parquet, key: user_id}
items: {path: raw/items.parquet, key: item_id, title: title}
features:
  user_id: {side: user, type: id}
  age: {side: user, type: number}
  device: {side: context, type: id}
  hour: {side: context, type: number}
  item_id: {side: item, type: id}
  category: {side: item, type: id}
  tags: {side: item, type: ids, separator: ","}
  look: {side: item, type: vector}
  price: {side: item, type: number}
  dwell: {side: history, type: number}
histories:
  clicked: {features: [item_id, tags, dwell], where: click = 1, max_length: 6}
  carted: {features: [category], where: cart = 1, max_length: 4}
tasks:
  click: {label: click = 1}
  cart: {label: "CASE WHEN click = 1 THEN cart END", weight: 0.5}
split: {by: time, valid_from: 1600000, test_from: 1800000}
model: {name: din, embedding_dim: 4, hidden_units: [8, 6], attention_hidden_units: [6]}
training: {epochs: 2, batch_size: 256, learning_rate: 0.01}
"""


@dataclass(frozen=True)
class Shop:
    """A shop's raw files with every kind of feature, its recipe, and a model trained on it.

    A request has three candidates at one second. Some users are not in the user table, one user
    and one item are met in the test period only, and one event of each user has no time.

    Attributes:
        folder: holds ``recipe.yaml`` and ``raw/``; the run is in ``run/``.
        log: what ``raw/log.parquet`` holds.
    """

    folder: Path
    log: pa.Table

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def run(self) -> Path:
        return self.folder / "run"


def _shop_log(random: np.random.Generator) -> pa.Table:
    users, requests, shown = 40, 20, 3
    user = np.repeat(np.arange(users), requests * shown)
    time = np.sort(random.choice(200_000, (users, requests)), axis=1) * 10  # some requests tie
    time_s = np.repeat(time.ravel(), shown)
    item = np.concatenate(
        [random.choice(30, shown, replace=False) for _ in range(users * requests)]
    )
    item[(item == 29) & (time_s < 1_800_000)] = 28  # met in the test period only
    click = (random.random(len(user)) < 0.2 + 0.5 * (item % 5 == user % 5)).astype(int)
    missing = np.zeros(len(user), bool)
    missing[:: requests * shown] = True
    return pa.table(
        {
            "user_id": [f"u{each}" for each in user],
            "item_id": 1000 + item,
            "time_s": pa.array(time_s, mask=missing),
            "click": click,
            "cart": click * (random.random(len(user)) < 0.4),
            "device": np.repeat(random.choice(["phone", "desk"], users * requests), shown),
            "price": random.random(len(user)).round(2) * 9,
            "dwell": random.random(len(user)).round(2),
        }
    )


@pytest.fixture(scope="session")
def shop(tmp_path_factory) -> Shop:
    folder, random = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    (folder / "raw").mkdir()
    log = _shop_log(random)
    pq.write_table(log, folder / "raw" / "log.parquet")
    users = pa.table({"user_id": [f"u{each}" for each in range(35)], "age": range(20, 55)})
    pq.write_table(users, folder / "raw" / "users.parquet")
    items = {
        "item_id": 1000 + np.arange(31),
        "title": [f"Thing [b]{each}" for each in range(31)],
        "category": np.arange(31) % 5,
        "tags": [",".join("abcdefg"[each % 4 : each % 7]) for each in range(31)],
        "look": random.standard_normal((31, 3)).round(2).tolist(),
    }
    pq.write_table(pa.table(items), folder / "raw" / "items.parquet")
    (folder / "recipe.yaml").write_text(SHOP_RECIPE)
    made = Shop(folder, log)
    train(made.recipe, made.run)
    return made


@pytest.fixture
def finerank(monkeypatch, capsys):
    """The command line, called in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def finerank(*arguments):
        """Exit code, standard output, standard error."""
        monkeypatch.setattr(sys, "argv", ["finerank", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return finerank
