"""What is measured: each case's model, sizes and data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["din", "dnn", "dcn", "mmoe", "evaluate", "prepare"]
TRAINING = ("end to end", "step")
OURS = ("finerank", "default")  # in the precision of all; as it is set where nothing is said
PEERS = ("fuxictr", "rechub", "deepctr", "nextrec")
LIBRARIES = (*OURS, *PEERS)


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        letter: cases of one letter run together.
        rows: examples of the training set.
        measures: what is timed, each in a process of its own.
        history: ``tailed``: lognormal lengths from 0 to ``max_length``, mean 9; ``full``: all of
            ``max_length``; None: no history.
        candidates: of a request.
        requests_per_user: of the training set.
        items, categories: ids of the two item columns, before those that never occur are left out.
        id_sizes: ids of each id column of a flat table; the column's own unknown id is one of them.
        numbers: number columns of a flat table.
        most_rounds: where a measurement is long.
        user_column: whether the first id column is the user, for GAUC.
    """

    name: str
    letter: str
    kind: Kind
    about: str
    rows: int
    measures: tuple[str, ...] = TRAINING
    libraries: tuple[str, ...] = LIBRARIES
    embedding_dim: int = 64
    hidden_units: tuple[int, ...] = (512, 128, 64)
    batch_size: int = 1024
    history: Literal["tailed", "full"] | None = None
    max_length: int = 100
    candidates: int = 1
    requests_per_user: int = 5
    items: int = 100_000
    categories: int = 1000
    id_sizes: tuple[int, ...] = ()
    numbers: int = 0
    user_column: bool = False
    tasks: tuple[str, ...] = ("click",)
    most_rounds: int = 3

    def scaled(self, scale: float) -> Case:
        """The same case with fewer rows, and fewer ids where there are many."""
        if scale == 1:
            return self
        sizes = tuple(max(min(size, 10), int(size * scale)) for size in self.id_sizes)
        return replace(
            self,
            rows=max(4 * self.batch_size, int(self.rows * scale)),
            items=max(1000, int(self.items * scale)),
            id_sizes=sizes,
        )

    @property
    def data_name(self) -> str:
        """The same for all cases that train on the same data."""
        if self.history is not None:
            shape = f"{self.history}{self.max_length}-{self.candidates}x{self.requests_per_user}"
            return f"log-{shape}-{self.rows}-{self.items}"
        users = "user-" if self.user_column else ""
        shape = f"{len(self.id_sizes)}x{sum(self.id_sizes)}-{self.numbers}"
        return f"flat-{users}{shape}-{len(self.tasks)}-{self.rows}"


ATTENTION_UNITS = (80, 40)  # with Dice, as in the paper
CROSS_LAYERS = 3
EXPERTS, EXPERT_UNITS, TOWER_UNITS = 8, (128, 64), (32,)
EVALUATION_BATCH = 8192


def criteo_like(ids: int, columns: int = 26) -> tuple[int, ...]:
    """Sizes of id columns that add up to about ``ids``: few have almost all, as in Criteo."""
    shares = [0.65**column for column in range(columns)]
    return tuple(max(4, int(ids * share / sum(shares))) for share in shares)


_CENSUS = (9, 52, 47, 17, 3, 7, 24, 15, 5, 10, 2, 3, 6, 8, 6, 6, 51, 38, 8, 10, 9, 10, 3, 4, 5, 43)
_CENSUS = (*_CENSUS, 43, 43, 5, 3, 3, 2)  # 32 id columns, sizes as in Census-Income


def _flat(kind: Literal["dnn", "dcn"], ids: int, label: str) -> Case:
    cross = f"{CROSS_LAYERS} cross layers beside " if kind == "dcn" else ""
    return Case(
        f"{kind}-{label}",
        "d",
        kind,
        f"{kind.upper()}, 26 id columns with {label} ids in all, 13 numbers, embedding 16, "
        f"{cross}an MLP of 400-400-400 with ReLU",
        rows=400_000,
        embedding_dim=16,
        hidden_units=(400, 400, 400),
        id_sizes=criteo_like(ids),
        numbers=13,
        most_rounds=3 if ids < 10_000_000 else 2,
    )


_NOT_TRAINING = ("finerank", *PEERS)  # where precision is float32 in any case
_DIN = "embedding 64, attention 80-40 with Dice, MLP 512-128-64; user, item, category"
CASES = (
    Case("din-tailed", "a", "din", f"DIN, histories of mean 9 and at most 100 steps; {_DIN}",
         rows=200_000, history="tailed"),
    Case("din-full", "b", "din", f"DIN, every history has 50 steps; {_DIN}",
         rows=200_000, history="full", max_length=50, requests_per_user=20),
    Case("din-impressions", "c", "din",
         f"DIN, requests of ten candidates, histories as in (a); {_DIN}",
         rows=200_000, history="tailed", candidates=10),
    _flat("dcn", 1_000_000, "1M"),
    _flat("dnn", 1_000_000, "1M"),
    _flat("dcn", 10_000_000, "10M"),
    _flat("dnn", 10_000_000, "10M"),
    Case("mmoe", "e", "mmoe", "MMoE, 8 experts of 128-64, 3 tasks with towers of 32, 32 id columns "
         "with sizes as in Census-Income, embedding 8, ReLU",
         rows=400_000, embedding_dim=8, id_sizes=_CENSUS, tasks=("a", "b", "c")),
    Case("evaluation", "f", "evaluate", "AUC, GAUC and log loss of a million rows of 20,000 users, "
         "DNN over user, item and category, embedding 64, MLP 512-128-64",
         rows=1_000_000, measures=("predict and metrics", "metrics"), libraries=_NOT_TRAINING,
         id_sizes=(20_001, 100_001, 1001), user_column=True, most_rounds=2),
    Case("preparation", "g", "prepare", "Parquet log of impressions and past events to trainable "
         "data with histories as in (a)",
         rows=1_000_000, history="tailed", measures=("prepare",), libraries=_NOT_TRAINING),
)  # fmt: skip

_SCALING_ROWS = {"0.1M": 100_000, "1M": 1_000_000, "10M": 10_000_000}
_SCALING_IDS = {"10k": 10_000, "100k": 100_000, "1M": 1_000_000, "10M": 10_000_000}
SCALING = (
    *(
        replace(CASES[0], name=f"scaling-{label}-examples", letter="scaling", rows=rows,
                measures=("end to end",), libraries=("finerank",),
                about=f"DIN as in (a), {label} examples")
        for label, rows in _SCALING_ROWS.items()
    ),
    *(
        replace(_flat("dnn", ids, label), name=f"scaling-{label}-ids", letter="scaling",
                measures=("end to end",), libraries=("finerank",), most_rounds=3,
                about=f"DNN as in (d), {label} ids")
        for label, ids in _SCALING_IDS.items()
    ),
)  # fmt: skip
ALL = {case.name: case for case in (*CASES, *SCALING)}


def chosen(names: list[str]) -> list[Case]:
    """The cases of some names or letters; all but the scaling where none is given."""
    if not names:
        return list(CASES)
    return [case for case in ALL.values() if case.name in names or case.letter in names]
